"""
An Ollama server's own API, for those who manage what the cache stores.

``OLLAMA_HOST=HOST:PORT ollama ls | pull | rm | show | cp | ps``, Open WebUI and the client
libraries speak it. A cache runs no models: whatever else they ask for is not found. Shapes are
those of https://github.com/ollama/ollama/blob/main/docs/api.md.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Optional

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.web.server import Request

from yukari import __version__
from yukari.errors import RegistryError, name_invalid
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Entry
from yukari.library.models.shown_names import ShownNames, Wanted
from yukari.library.pulls import Pull, Pulls
from yukari.library.upkeep.management import Management
from yukari.manifest import Manifest, Variant
from yukari.names import Repository, Tag
from yukari.storage.ports import StoredManifest
from yukari.web.json_api import Body, JsonApi, JsonLines, reply_nothing
from yukari.web.replies import reply_json, text_header

PAGE = 1000
"""Models that are listed at a time."""
PROGRESS_EVERY = 0.25
"""Seconds from one line of progress to the next."""
SILENCE = 15.0
"""Seconds without progress after which a line is sent: clients give up a silent pull."""


@frozen(eq=False, repr=False)
class OllamaApi:
    """Handles the API's requests."""

    _management: Management
    _pulls: Pulls
    _names: ShownNames
    _clock: IReactorTime

    def resource(self) -> JsonApi:
        """Return the resource at ``/api``."""
        return JsonApi(
            {
                (b"GET", b"version"): self._version,
                (b"GET", b"tags"): self._tags,
                (b"GET", b"ps"): self._ps,
                (b"POST", b"show"): self._show,
                (b"POST", b"pull"): self._pull,
                (b"DELETE", b"delete"): self._delete,
                (b"POST", b"copy"): self._copy,
            },
            "this is a cache of models, it runs none",
        )

    async def _version(self, request: Request, _: Body) -> None:
        reply_json(request, 200, {"version": __version__})

    # what is stored

    async def _tags(self, request: Request, _: Body) -> None:
        await self._management.index.listable()
        lines = JsonLines(request, "application/json; charset=utf-8")
        await lines.write(b'{"models":[')
        after, first = ("", ""), True

        # In the catalog's thread: 100,000 models at once would hold the reactor.
        def page(file: CatalogFile, after: tuple[str, str]) -> tuple[bytes, tuple[str, str], int]:
            found = file.page(after, PAGE)
            last = found[-1][:2] if found else after
            return ",".join(map(self._shown, found)).encode(), last, len(found)

        while True:
            body, after, count = await self._management.catalog.run(page, after)
            if not count:
                break
            await lines.write(body if first else b"," + body)
            first = False
        await lines.write(b"]}")
        lines.end()

    def _shown(self, entry: Entry) -> str:
        # Names and digests have no character that JSON escapes, and 100,000 dictionaries take long.
        name = self._names.show(entry.repository, entry.tag)
        return (
            f'{{"name":"{name}","model":"{name}","modified_at":"{timestamp(entry.stored_at)}",'
            f'"size":{entry.size},"digest":"{entry.digest}","details":{entry.details}}}'
        )

    async def _ps(self, request: Request, _: Body) -> None:
        models = []
        for fill in list(self._management.library.fills.values()):
            name = f"{self._names.show(str(fill.name), fill.digest.hex[:12])}"
            models.append(
                {
                    "name": name,
                    "model": name,
                    "size": fill.size,
                    "digest": fill.digest.hex,
                    "details": {},
                    "expires_at": timestamp(0.0),
                    "size_vram": fill.coverage.plan.covered.total,
                    "context_length": 0,
                }
            )
        reply_json(request, 200, {"models": models})

    async def _show(self, request: Request, body: Body) -> None:
        wanted, stored = await self._stored(self._named(body))
        manifest = stored.manifest
        if not isinstance(manifest, Manifest):
            raise _not_found(self._names.show(str(wanted.name), str(wanted.tag)))
        shown = await self._management.details.show(manifest)
        name = self._names.show(str(wanted.name), str(wanted.tag))
        shown["modified_at"] = timestamp(stored.checked_at)
        shown["modelfile"] = f"# This is a cache: pull the model to build on it.\nFROM {name}\n"
        reply_json(request, 200, shown)

    def _named(self, body: Body) -> Wanted:
        return self._names.parse(body.get("model") or body.get("name"))

    async def _stored(self, wanted: Wanted) -> tuple[Wanted, StoredManifest]:
        """Return a stored model by its name, whatever the case of its letters; `RegistryError`."""
        if wanted.digest is None:
            found = await self._management.stored(wanted.name, wanted.tag)
            wanted = wanted if found is None else Wanted(*found)
        reference = wanted.digest or wanted.tag
        stored = await self._management.library.store.get_manifest(wanted.name, reference)
        if stored is None:
            raise _not_found(self._names.show(str(wanted.name), str(reference)))
        return wanted, stored

    # what changes it

    async def _pull(self, request: Request, body: Body) -> None:
        agent = text_header(request, b"user-agent") or ""
        pull = self.pull(self._named(body), agent if agent.startswith("ollama/") else "")
        if body.get("stream") is False:
            if not pull.is_done:
                await pull.ended.wait()
            if pull.error is not None:
                raise pull.error
            reply_json(request, 200, {"status": "success"})
            return
        lines = JsonLines(request)
        await lines.line({"status": "pulling manifest"})
        await self._watch(pull, lines)
        lines.end()

    def pull(self, wanted: Wanted, user_agent: str = "") -> Pull:
        """Begin a pull, or join the one that is under way. `RegistryError`."""
        if wanted.digest is not None:
            raise name_invalid("a version is pulled by its tag")
        return self._pulls.start(wanted.name, wanted.tag, user_agent)

    async def _watch(self, pull: Pull, lines: JsonLines) -> None:
        said: dict[str, int] = {}
        silent = 0.0
        while not pull.is_done:
            any_more = await self._progress(pull, lines, said)
            silent = 0.0 if any_more else silent + PROGRESS_EVERY
            if silent >= SILENCE:
                await lines.line({"status": "pulling manifest"})
                silent = 0.0
            await deferLater(self._clock, PROGRESS_EVERY)
        if pull.error is not None:
            raise pull.error
        await self._progress(pull, lines, said, whole=True)
        if pull.note is not None:
            await lines.line({"status": pull.note, "note": True})
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            await lines.line({"status": status})

    async def _progress(
        self, pull: Pull, lines: JsonLines, said: dict[str, int], *, whole: bool = False
    ) -> bool:
        """Report each blob of which more is here than was reported; False if there is none."""
        any_more = False
        for blob in () if pull.manifest is None else pull.manifest.blobs:
            digest = str(blob.digest)
            completed = blob.size if whole else self._pulls.completed(blob)
            if completed <= said.get(digest, -1 if whole else 0):
                continue
            said[digest] = completed
            any_more = True
            await lines.line(
                {
                    "status": f"pulling {blob.digest.hex[:12]}",
                    "digest": digest,
                    "total": blob.size,
                    "completed": completed,
                }
            )
        return any_more

    async def _delete(self, request: Request, body: Body) -> None:
        await self.delete(body.get("model") or body.get("name"))
        reply_nothing(request)

    async def delete(self, model: object) -> None:
        """Remove a tag by the name that Ollama shows. `RegistryError`, OSError."""
        wanted, _ = await self._stored(self._names.parse(model))
        if wanted.digest is not None:
            raise name_invalid("a model is removed by its tag")
        await self._management.collector.remove(wanted.name, wanted.tag)

    async def _copy(self, request: Request, body: Body) -> None:
        await self.copy(body.get("source"), body.get("destination"))
        reply_nothing(request)

    async def copy(self, model: object, destination: object) -> None:
        """Copy a model to another tag, which then stays as it is. `RegistryError`, OSError."""
        source, stored = await self._stored(self._names.parse(model))
        target = self._names.parse(destination)
        if target.digest is not None:
            raise name_invalid("a copy is named by a tag")
        manifest = stored.manifest
        if not isinstance(manifest, Manifest):
            raise _not_found(f"a manifest of {source.name}:{source.tag}")
        await self._copy_to(target.name, target.tag, manifest, source)

    async def _copy_to(
        self, name: Repository, tag: Tag, manifest: Manifest, source: Wanted
    ) -> None:
        management, library = self._management, self._management.library
        for blob in manifest.blobs:
            if await library.blobs.stored_size(source.name, blob.digest) is None:
                raise RegistryError("BLOB_UNKNOWN", f"blob {blob.digest} is not stored", 409)
        # From here on upstream is not asked about the tag.
        await management.marks.set_copy(name, tag, f"{source.name}@{manifest.digest}")
        listed: Optional[StoredManifest] = None
        if source.digest is None:
            listed = await library.store.get_manifest(source.name, source.tag, Variant.LIST)
        now = management.now()
        await library.store.put_manifest(name, tag, manifest, now)
        if listed is not None and listed.checked_at and listed.manifest != manifest:
            await library.store.put_manifest(name, tag, listed.manifest, now, Variant.LIST)
        library.events.tag_stored(name, tag)


def _not_found(name: str) -> RegistryError:
    return RegistryError("NAME_UNKNOWN", f"model '{name}' not found", 404)


def timestamp(seconds: float) -> str:
    """Return a time, in seconds of the epoch, as Go writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
