"""
The API of the ``yukari`` command, beside Ollama's own.

::

    GET  /store/models       lines of JSON: the columns, then rows of stored tags; ``?columns=A,B``
    POST /store/model        {"model"}: one of them, what it named before, its own and shared bytes
    GET  /store/usage        what the bytes are for
    POST /store/pin          {"model", "by"}: it is never evicted
    POST /store/unpin        {"model"}
    POST /store/compare      {"model"}: what upstream has of it now
    POST /store/evictions    {"bytes"}: what would go if so many were needed
    PUT  /store/archive      an archive of models: they are stored
    POST /store/collect      {"dry_run"}: remove blobs that nothing stands on
"""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen
from twisted.web.server import Request

from yukari.errors import RegistryError, name_invalid
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.reads import LISTED
from yukari.library.catalog.rows import Entry, Version
from yukari.library.models.shown_names import ShownNames
from yukari.library.status import usage_json
from yukari.library.upkeep.management import Management
from yukari.manifest import Manifest
from yukari.names import Repository, Tag
from yukari.sources.offline import IsOffline
from yukari.web.importing import Imports
from yukari.web.json_api import Body, JsonApi, JsonLines
from yukari.web.ollama_api import PAGE
from yukari.web.replies import reply_json

MAX_SHOWN = 1000
"""Versions that a reply about evictions lists, at most."""


@frozen(eq=False, repr=False)
class StoreApi:
    """Handles the requests."""

    _management: Management
    _names: ShownNames
    _imports: Imports

    def resource(self) -> JsonApi:
        """Return the resource at ``/store``."""
        return JsonApi(
            {
                (b"GET", b"models"): self._models,
                (b"POST", b"model"): self._model,
                (b"GET", b"usage"): self._usage,
                (b"POST", b"pin"): self._pin,
                (b"POST", b"unpin"): self._unpin,
                (b"POST", b"compare"): self._compare,
                (b"POST", b"evictions"): self._evictions,
                (b"POST", b"collect"): self._collect,
                (b"PUT", b"archive"): self._imports.answer,
            },
            "see yukari help",
        )

    # reading

    async def _models(self, request: Any, _: Body) -> None:
        await self._management.marks.refresh()
        await self._management.index.listable()
        await self._management.catalog.flush()
        lines, after = JsonLines(request), ("", "")
        pinned, columns = self._management.marks.pinned(), _columns(request)
        run = self._management.catalog.run
        await lines.line({"columns": columns})
        while True:
            rows, last = await run(CatalogFile.listing, columns, after, PAGE, pinned)
            if last is None:
                break
            await lines.write(b'{"rows": ' + rows + b"}\n")
            after = last
        lines.end()

    def _facts(self, entry: Entry) -> dict[str, Any]:
        facts = entry._asdict()
        del facts["details"]
        name = self._names.show(entry.repository, entry.tag)
        pin = self._management.marks.pin(Repository.parse(entry.repository), Tag(entry.tag))
        pinned = None if pin is None else {"by": pin.by, "at": pin.at}
        return {"name": name, **facts, "own": bool(entry.own), "pinned": pinned}

    async def _model(self, request: Request, body: Body) -> None:
        key = self._tag(body)
        management = self._management
        await management.marks.refresh()
        await management.index.settled()
        await management.catalog.flush()
        found = await management.catalog.run(CatalogFile.find, *key)
        if not found:
            # Its name has another case, or another daemon has stored it.
            key = await self._stored_tag(body)
            management.index.tag_stored(*key)
            await management.index.settled()
            found = await management.catalog.run(CatalogFile.find, *key)
        if not found:
            raise _not_found(body)
        before = await management.catalog.run(CatalogFile.find, *key, superseded=True)
        own = await management.catalog.run(CatalogFile.own_bytes, *key)
        facts = {
            **self._facts(found[0]),
            "registry": key[0].registry or self._names.registry,
            "details": json.loads(found[0].details),
            "own_bytes": own,
            "shared_bytes": max(0, found[0].size - own),
            "superseded": [self._facts(each) for each in before],
        }
        reply_json(request, 200, facts)

    async def _usage(self, request: Request, _: Body) -> None:
        management = self._management
        await management.index.settled()
        totals, room = await management.totals(), await management.room.usage()
        reply_json(request, 200, usage_json(totals, room, complete=management.index.looked))

    # changing

    def _tag(self, body: Body) -> tuple[Repository, Tag]:
        wanted = self._names.parse(body.get("model"))
        if wanted.digest is not None:
            raise name_invalid("expected a tag: a version can only be copied")
        return wanted.name, wanted.tag

    async def _stored_tag(self, body: Body) -> tuple[Repository, Tag]:
        found = await self._management.stored(*self._tag(body))
        if found is None:
            raise _not_found(body)
        return found

    async def _pin(self, request: Request, body: Body) -> None:
        name, tag = await self._stored_tag(body)
        by = body.get("by") or "admin"
        if not isinstance(by, str) or len(by) > 200:
            raise RegistryError("UNSUPPORTED", "by: expected a name", 400)
        await self._management.marks.set_pin(name, tag, by)
        reply_json(request, 200, {"pinned": self._names.show(str(name), str(tag))})

    async def _unpin(self, request: Request, body: Body) -> None:
        name, tag = self._tag(body)
        # What was removed by hand may still be pinned.
        if self._management.marks.pin(name, tag) is None:
            name, tag = await self._stored_tag(body)
        await self._management.marks.set_pin(name, tag, None)
        reply_json(request, 200, {"unpinned": self._names.show(str(name), str(tag))})

    async def _compare(self, request: Request, body: Body) -> None:
        name, tag = await self._stored_tag(body)
        management = self._management
        stored = await management.library.store.get_manifest(name, tag)
        if stored is None:
            raise _not_found(body)
        facts: dict[str, Any] = {"stored": str(stored.manifest.digest)}
        if not management.marks.may_check(name, tag):
            reply_json(request, 200, {**facts, "state": "own"})
            return
        try:
            newest = await management.library.upstream.manifest(name, tag, "")
        except IsOffline:  # Its text is about what is not stored.
            raise RegistryError("UNAVAILABLE", "this cache is offline", 503) from None
        except RegistryError as error:
            if error.status != 404:
                raise
            management.library.events.checked(name, tag, management.now(), gone=True)
            reply_json(request, 200, {**facts, "state": "gone"})
            return
        facts["upstream"] = str(newest.digest)
        facts["state"] = "same" if newest.digest == stored.manifest.digest else "newer"
        if isinstance(newest, Manifest):
            facts["layers"] = await self._layers(stored.manifest, newest)
        reply_json(request, 200, facts)

    async def _layers(self, stored: Any, newest: Manifest) -> list[dict[str, Any]]:
        """Return the blobs that only one of two manifests has, and which are stored already."""
        before = stored.blobs if isinstance(stored, Manifest) else ()
        old, new = ({blob.digest for blob in blobs} for blobs in (before, newest.blobs))
        changes = [("removed", blob) for blob in before if blob.digest not in new]
        changes += [("added", blob) for blob in newest.blobs if blob.digest not in old]
        store = self._management.library.store
        return [
            {
                "change": change,
                "type": blob.media_type,
                "digest": str(blob.digest),
                "size": blob.size,
                "here": await store.blob_size(blob.digest) is not None,
            }
            for change, blob in changes
        ]

    async def _evictions(self, request: Request, body: Body) -> None:
        need = body.get("bytes", 0)
        if not isinstance(need, int) or isinstance(need, bool) or need < 0:
            raise RegistryError("UNSUPPORTED", "bytes: expected a number", 400)
        plan = await self._management.collector.plan(need)
        reply_json(
            request,
            200,
            {
                "frees": plan.frees,
                "goes": [
                    {**self._version(step.candidate.version), "reason": step.reason}
                    for step in plan.steps[:MAX_SHOWN]
                ],
                "stays": [
                    {**self._version(kept.version), "reason": kept.reason}
                    for kept in plan.kept[:MAX_SHOWN]
                ],
            },
        )

    def _version(self, version: Version) -> dict[str, Any]:
        return {
            "name": self._names.show(str(version.name), str(version.tag)),
            "digest": str(version.digest),
            "size": version.size,
        }

    async def _collect(self, request: Request, body: Body) -> None:
        collector = self._management.collector
        swept = await (collector.unneeded() if body.get("dry_run") else collector.collect())
        reply_json(request, 200, {"blobs": swept.blobs, "bytes": swept.bytes})


def _not_found(body: Body) -> RegistryError:
    return RegistryError("NAME_UNKNOWN", f"model '{body.get('model')}' not found", 404)


def _columns(request: Any) -> tuple[str, ...]:
    """Return the columns that are asked for, at least two; `RegistryError` if one is unknown."""
    asked = request.args.get(b"columns", [b""])[0].decode("latin-1")
    columns = tuple(asked.split(",")) if asked else tuple(LISTED)
    if len(columns) < 2 or not set(columns) <= set(LISTED):
        raise RegistryError("UNSUPPORTED", f"columns: expected some of {','.join(LISTED)}", 400)
    return columns
