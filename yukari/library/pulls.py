"""Pulls that an admin asks for: a model is brought into the store, or up to date, and watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Optional

from attrs import define, field
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.descriptors import Descriptor
from yukari.errors import RegistryError
from yukari.library.library import Library
from yukari.library.versions import NewVersion
from yukari.manifest import Manifest, ManifestList, Variant
from yukari.names import Repository, Tag
from yukari.storage.ports import NoRoom
from yukari.storage.readable import SpoolLost
from yukari.tasks import Background, Waiters

log = Logger()

Key = tuple[Repository, Tag]


@define(eq=False, repr=False)
class Pull:
    """A model on its way into the store."""

    name: Repository
    tag: Tag
    manifest: Optional[Manifest] = None
    """None until it is known."""
    note: Optional[str] = None
    """A note for people."""
    error: Optional[RegistryError] = None
    """Why it failed."""
    is_done: bool = False
    ended: Waiters = field(factory=Waiters, init=False)


@define(eq=False, repr=False)
class Pulls:
    """
    The pulls under way, one for each tag.

    They belong to the library: one that nobody watches any more goes on. None waits for
    PREFETCH_HOURS.
    """

    _library: Library
    _may_check: Callable[[Repository, Tag], bool]
    """Whether upstream is to be asked about a stored tag."""
    _now: Callable[[], float] = time.time
    running: dict[Key, Pull] = field(factory=dict, init=False)
    _tasks: Background = field(factory=Background, init=False)

    def start(self, name: Repository, tag: Tag, user_agent: str) -> Pull:
        """
        Begin to pull a tag's newest version, or join the pull that does so already.

        ``user_agent`` is the client's, if that is an Ollama.
        """
        pull = self.running.get((name, tag))
        if pull is None:
            pull = self.running[name, tag] = Pull(name, tag)
            self._tasks.start((name, tag), self._run(pull, user_agent), _failed)
        return pull

    def stop(self) -> None:
        """Cancel all pulls; the bytes that arrived stay for the next start."""
        self._tasks.stop()

    def completed(self, blob: Descriptor) -> int:
        """Return how many bytes of a blob are here, or 0 if it is not known to come."""
        fill = self._library.fills.get(blob.digest)
        return 0 if fill is None else fill.coverage.plan.covered.total

    async def _run(self, pull: Pull, user_agent: str) -> None:
        try:
            await self._pull(pull, user_agent)
        except RegistryError as error:
            pull.error = error
        except (OSError, NoRoom) as error:
            pull.error = RegistryError("UNAVAILABLE", str(error), 503)
        except Exception:
            pull.error = RegistryError("UNKNOWN", "an internal error; the log has more", 500)
            raise
        finally:
            pull.is_done = True
            del self.running[pull.name, pull.tag]
            pull.ended.fire()

    async def _pull(self, pull: Pull, user_agent: str) -> None:
        library, name, tag = self._library, pull.name, pull.tag
        library.rules.check(name)
        stored = await library.store.get_manifest(name, tag)
        if stored is None or not isinstance(stored.manifest, Manifest):
            found = await library.manifest(name, tag, user_agent, prefetch=True)
            assert isinstance(found.manifest, Manifest)  # As all get who do not accept lists.
            await self._bring(pull, found.manifest)
            await self._bring_list(name, tag, user_agent)
            return
        new = await self._newest(pull)
        if new is None or not new.fresh:
            await self._bring(pull, stored.manifest)
            return
        for manifest in new.fresh.values():
            if isinstance(manifest, Manifest):
                await self._bring(pull, manifest)
        assert library.versions is not None
        await library.versions.replace(new, at_any_hour=True)
        library.events.tag_stored(name, tag)

    async def _bring_list(self, name: Repository, tag: Tag, user_agent: str) -> None:
        """Store the list as well, for clients that accept lists, if there is one."""
        library = self._library
        try:
            found = await library.manifest(name, tag, user_agent, Variant.LIST, prefetch=False)
            if isinstance(found.manifest, ManifestList):
                child = await library.children.runnable(name, found.manifest)
                await library.prefetch.ensure_stored(name, child, at_any_hour=True)
        except RegistryError as error:
            log.info(
                "{name}:{tag}: no list: {error}", name=str(name), tag=str(tag), error=str(error)
            )

    async def _newest(self, pull: Pull) -> Optional[NewVersion]:
        """Return upstream's new version of a stored tag; None if there is none."""
        library, name, tag = self._library, pull.name, pull.tag
        if library.versions is None or not self._may_check(name, tag):
            pull.note = "kept as it is: upstream is not asked about it"
            return None
        try:
            new = await library.versions.check(name, tag, lambda _: True)
        except RegistryError as error:
            gone = error.status == 404
            if gone:
                library.events.checked(name, tag, self._now(), gone=True)
            pull.note = (
                "gone upstream: this cache keeps what it has" if gone else f"not checked: {error}"
            )
            return None
        if new is not None and not new.fresh:
            library.events.checked(name, tag, self._now(), gone=False)
        return new

    async def _bring(self, pull: Pull, manifest: Manifest) -> None:
        pull.manifest = manifest
        try:
            prefetch = self._library.prefetch
            await prefetch.ensure_stored(pull.name, manifest, at_any_hour=True)
        except RegistryError:
            for blob in manifest.blobs:
                fill = self._library.fills.get(blob.digest)
                if fill is not None and isinstance(fill.error, SpoolLost):
                    raise RegistryError("UNAVAILABLE", f"not stored: {fill.error}", 503) from None
            raise


def _failed(failure: Failure) -> None:
    log.failure("pulling", failure)
