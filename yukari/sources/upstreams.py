"""
All registries that are mirrored, each asked by itself.

A question is sent to the registry of its repository. If models of several registries name a blob,
these are asked for it one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Optional, TypeVar, Union

from attrs import define, field

from yukari.errors import RegistryError
from yukari.manifest import AnyManifest, Manifest, Variant
from yukari.names import DEFAULT, Digest, Reference, Repository, Tag
from yukari.sources.base import Answer, BlobSource, SourceFailed, SourceRefused
from yukari.sources.circuit import Reachability
from yukari.sources.host_facts import HostFacts
from yukari.sources.offline import Offline
from yukari.sources.pace import HostPace
from yukari.sources.patience import Patience
from yukari.sources.upstream import Upstream
from yukari.sources.ways import Access
from yukari.spans import Span

T = TypeVar("T")

One = Union[Upstream, Offline]

AnyUpstream = Union[Upstream, Offline, "Upstreams"]
"""One registry, or several."""

_NONE = Offline()
"""Answers for a registry that is not mirrored."""
FAILURES = 3
"""Failures in a row after which another registry is asked for a blob, if another has it."""


@define(eq=False, repr=False)
class Upstreams:
    """The registries, by what `Repository` calls them; the default one is among them."""

    each: Mapping[str, One]
    _patience: Mapping[str, Patience] = field(factory=dict)
    """By host, for registries that may wish to be left alone for a moment: questions wait."""

    def of(self, name: Repository) -> One:
        """Return the registry of a repository. `RegistryError` if it is not mirrored any more."""
        found = self.each.get(name.registry)
        if found is None:
            raise not_mirrored(name.registry)
        return found

    def state_of(self, registry: str) -> Reachability:
        """What is known of a registry now."""
        return self.each.get(registry, _NONE).state_of(registry)

    def access_of(self, registry: str) -> tuple[Access, ...]:
        """How requests get past a registry's challenges."""
        return self.each.get(registry, _NONE).access_of(registry)

    def hosts_of(self, registry: str) -> tuple[HostFacts, ...]:
        """The hosts that a registry's blobs have come from."""
        return self.each.get(registry, _NONE).hosts_of(registry)

    def is_down(self, name: Repository) -> bool:
        """Whether questions about a repository are answered without asking."""
        found = self.each.get(name.registry)
        return found is None or found.is_down(name)

    async def manifest(
        self,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
    ) -> AnyManifest:
        """As `Upstream.manifest`."""
        ask = partial(self.of(name).manifest, name, reference, user_agent, variant)
        return await self._ask(name, ask)

    async def manifest_digest(
        self,
        name: Repository,
        tag: Tag,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
    ) -> Optional[Digest]:
        """As `Upstream.manifest_digest`."""
        ask = partial(self.of(name).manifest_digest, name, tag, user_agent, variant)
        return await self._ask(name, ask)

    async def child(self, name: Repository, digest: Digest) -> Manifest:
        """As `Upstream.child`."""
        return await self._ask(name, partial(self.of(name).child, name, digest))

    async def blob_size(self, name: Repository, digest: Digest) -> int:
        """As `Upstream.blob_size`."""
        return await self._ask(name, partial(self.of(name).blob_size, name, digest))

    async def _ask(self, name: Repository, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        patience = self._patience.get(name.host)
        return await (ask() if patience is None else patience.ask(ask))

    def blob(self, digest: Digest, size: int, *repositories: Repository) -> BlobSource:
        """A blob as a fill's source."""
        source = BlobOfSeveral(self, digest, size)
        for name in repositories:
            source.add_repository(name)
        return source


def not_mirrored(registry: str) -> RegistryError:
    """Return the error for a model of a registry that is not, or no longer, mirrored."""
    return RegistryError("NAME_UNKNOWN", f"this cache does not mirror {registry[:100]}", 404)


@define(eq=False, repr=False)
class BlobOfSeveral:
    """
    One blob that models of several registries name (a `BlobSource`).

    The first of these is asked until it refuses the blob, fails several times in a row, or has had
    its time; then the next.
    """

    _upstreams: Upstreams
    _digest: Digest
    _size: int
    _sources: dict[str, BlobSource] = field(factory=dict, init=False)
    _refused: set[str] = field(factory=set, init=False)
    """Those that have refused it, or had their time."""
    _at: str = field(default=DEFAULT, init=False)
    """The registry that is asked."""
    _failures: int = field(default=0, init=False)

    @property
    def _now(self) -> BlobSource:
        return self._sources.get(self._at) or _NONE.blob(self._digest, self._size)

    @property
    def pace(self) -> HostPace:
        return self._now.pace

    @property
    def ranges(self) -> bool:
        return self._now.ranges

    async def fetch(self, span: Span) -> Answer:
        at = self._at
        try:
            answer = await self._now.fetch(span)
        except SourceRefused as refused:
            self._refused.add(at)
            if not self._go_on(at):
                self._refused.clear()
                raise
            # The next one has a budget of its own, and the caller took a turn of this one's.
            raise SourceFailed(str(refused), moved=True) from None
        except SourceFailed:
            if at == self._at:
                self._failures += 1
                if self._failures >= FAILURES:
                    self._go_on(at)
            raise
        if at == self._at:
            self._failures = 0
        return answer

    def _go_on(self, at: str) -> bool:
        """Turn from one registry to the next that has not refused; False if there is none."""
        if self._at != at:
            return self._at not in self._refused
        names = list(self._sources)
        first = names.index(at) + 1 if at in names else 0
        for each in names[first:] + names[:first]:
            if each not in self._refused and each != at:
                self._at, self._failures = each, 0
                return True
        return False

    def move_on(self, *, soon: bool = False) -> bool:
        if self._now.move_on(soon=soon):
            return True
        at = self._at
        if self._go_on(at):
            self._refused.add(at)
        return self._at != at

    def add_repository(self, name: Repository) -> None:
        source = self._sources.get(name.registry)
        if source is not None:
            source.add_repository(name)
            return
        upstream = self._upstreams.each.get(name.registry)
        if upstream is None:
            return
        self._sources[name.registry] = upstream.blob(self._digest, self._size, name)
        if self._at not in self._sources or self._at in self._refused:
            self._at, self._failures = name.registry, 0

    def describe(self) -> str:
        return self._now.describe()

    async def set_aside(self, *, alone: bool) -> bool:
        await self._now.set_aside(alone=alone)
        self._go_on(self._at)  # Another registry may have the right bytes.
        return False

    def retry(self) -> None:
        self._refused.clear()
        for source in self._sources.values():
            source.retry()
