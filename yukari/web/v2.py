"""
The resource tree, and the paths that clients pull from:

    /v2/                               200: a registry is here
    /v2/NS/MODEL/manifests/REFERENCE   a manifest by tag or digest, never a redirect
    /v2/NS/MODEL/blobs/DIGEST          a blob, whole or one range of it
    /v2/NS/MODEL/tags/list             the tags that are stored
    /v2/_catalog                       the models that are stored

`yukari.web.asked_registry` decides whose they are; a registry's host may stand before NS.
GET and HEAD only: a cache, not a place to push to.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Optional

from attrs import evolve, frozen
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from yukari.config.registry_names import RegistryNames
from yukari.errors import LOOP_DETECTED, RegistryError, looped, name_invalid
from yukari.library.catalog.catalog import Catalog
from yukari.library.library import Library
from yukari.manifest import MANIFEST_TYPES, KeptBytes
from yukari.names import InvalidName, Reference, Repository, Tag, parse_reference
from yukari.net.throttle import Lines
from yukari.sending.stall import Broken, InThread, ReaderGone
from yukari.sending.workers import Helpers
from yukari.storage.readable import StoredBlob
from yukari.web.accept import variant_accepted
from yukari.web.access import check_may_pull, check_own_name, check_same_site
from yukari.web.admin import Fills, Front, Health
from yukari.web.asked_registry import AskedRegistry
from yukari.web.blob import BlobRequest, Registry
from yukari.web.pagination import Page
from yukari.web.ranges import etag, names_digest
from yukari.web.replies import ReadOnly, read_digest, reply, reply_json, text_header

log = Logger()


@frozen(eq=False, repr=False)
class ManifestSource:
    """A manifest that is given again while nothing has changed: a `Source`."""

    _registry: Registry
    _name: Repository
    _reference: Reference
    _body: bytes
    _method: bytes
    _changes: int
    """`Library.changes` when it was found."""

    @property
    def size(self) -> int:
        """Bytes of the manifest."""
        return len(self._body)

    def read(self, client: Any, start: int, end: int) -> Optional[bytes]:
        """As `Source.read`."""
        registry = self._registry
        if registry.library.changes != self._changes:
            return None
        if self._method == b"HEAD":
            return b""
        if registry.catalog is not None and isinstance(self._reference, Tag):
            registry.catalog.pulled(self._name, self._reference, client.name)
        return self._body


class V2(ReadOnly):
    """Everything below ``/v2``."""

    isLeaf = True

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    def reply_to(self, request: Request) -> Coroutine[Any, Any, None]:
        """
        As `ReadOnly.reply_to`.

        Thousands of requests may wait for their bytes. Each keeps only what sends them in memory:
        no coroutine of this method, and no parts of its path.
        """
        request.setHeader(b"docker-distribution-api-version", b"registry/2.0")
        site: Any = request.site
        if site.pseudonym and site.pseudonym in (text_header(request, b"via") or ""):
            raise evolve(looped(), status=LOOP_DETECTED)
        check_may_pull(request)
        check_same_site(request)
        parts = [_text(part) for part in request.postpath or ()]
        request.postpath = None
        if parts in ([], [""]):
            return _here(request)
        check_own_name(request)
        if parts == ["_catalog"]:
            return self._models(request)
        if len(parts) not in (4, 5):
            raise RegistryError(
                "NAME_INVALID",
                "expected /v2/NAMESPACE/MODEL/manifests/TAG or /v2/NAMESPACE/MODEL/blobs/DIGEST",
                404,
            )
        *named, kind, last = parts
        name = self._registry.asked.repository(request, named)
        self._registry.library.rules.check(name)
        if kind == "manifests":
            return self._manifest(request, name, _reference(last))
        if kind == "blobs":
            return BlobRequest(self._registry, request, name, read_digest(last)).reply()
        if kind == "tags" and last == "list":
            return self._tags(request, name, "/".join(named))
        raise RegistryError("UNSUPPORTED", "there is nothing at this path", 404)

    async def _models(self, request: Request) -> None:
        page = Page.asked_by(request)
        names = await self._registry.library.listing.models(
            page.last, page.most + 1, self._registry.asked.of(request)
        )
        shown = [name.path for name in names]
        reply_json(request, 200, {"repositories": page.cut(shown, request)})

    async def _tags(self, request: Request, name: Repository, shown: str) -> None:
        page = Page.asked_by(request)
        tags = [str(tag) for tag in await self._registry.library.listing.tags(name)]
        behind = [tag for tag in tags if tag > page.last]
        reply_json(request, 200, {"name": shown, "tags": page.cut(behind, request)})

    async def _manifest(self, request: Any, name: Repository, reference: Reference) -> None:
        body = await self._large_manifest(request, name, reference)
        if body is None:
            return
        request.setHeader(b"content-length", str(len(body)).encode())
        if request.method == b"GET":
            await self._send_file(request, name, body)
        request.finish()

    async def _large_manifest(
        self, request: Any, name: Repository, reference: Reference
    ) -> Optional[KeptBytes]:
        """
        Reply with a manifest; return the bytes of a large one, which are still to be sent.

        What it names takes memory too, which is given back before a slow client has read it all.
        """
        request.setHeader(b"vary", b"Accept")
        accepted = request.requestHeaders.getRawHeaders(b"accept", [])
        library = self._registry.library
        changes = library.changes if request.can_repeat else 0
        found = await library.manifest(
            name,
            reference,
            text_header(request, b"user-agent") or "",
            variant_accepted(each.decode("latin-1") for each in accepted),
            prefetch=request.method == b"GET",
        )
        manifest = found.manifest
        request.result = found.result
        catalog = self._registry.catalog
        if catalog is not None and request.method == b"GET" and isinstance(reference, Tag):
            catalog.pulled(name, reference, request.client_name)
        request.setHeader(b"docker-content-digest", str(manifest.digest).encode())
        request.setHeader(b"ollama-content-digest", manifest.digest.hex.encode())
        request.setHeader(b"etag", etag(manifest.digest).encode())
        if names_digest(text_header(request, b"if-none-match"), manifest.digest):
            request.setResponseCode(304)
            request.finish()
            return None
        named = manifest.media_type
        shown = named if named in MANIFEST_TYPES else "application/octet-stream"
        if not isinstance(manifest.body, bytes):
            request.setHeader(b"content-type", shown.encode())
            return manifest.body
        source = None
        if request.can_repeat and found.result != "miss" and library.prefetch.is_settled(manifest):
            source = ManifestSource(
                self._registry, name, reference, manifest.body, request.method, changes
            )
        reply(request, 200, shown, manifest.body, source)
        return None

    async def _send_file(self, request: Any, name: Repository, body: KeptBytes) -> None:
        blob = StoredBlob(body.share())
        try:
            request.count_sent(await self._registry.send(request, blob, body.span))
        except ReaderGone as gone:
            request.count_sent(gone.sent)
            raise
        except Broken as broken:
            request.count_sent(broken.sent)
            log.error("{name}: reading its manifest failed: {error}", name=name, error=str(broken))
            request.cut()
            raise ReaderGone(broken.sent) from None
        finally:
            blob.close()


async def _here(request: Request) -> None:
    reply_json(request, 200, {})


def _text(part: bytes) -> str:
    """Return a path's decoded part; `RegistryError` if no name could have it."""
    try:
        return part.decode("ascii")
    except UnicodeDecodeError:
        raise name_invalid("names have no characters beyond ASCII") from None


def _reference(text: str) -> Reference:
    try:
        return parse_reference(text)
    except InvalidName as error:
        raise RegistryError("TAG_INVALID", str(error), 400) from None


def make_root(
    library: Library,
    in_thread: InThread,
    helpers: Helpers,
    upstream: str,
    client_lines: Optional[Lines] = None,
    catalog: Optional[Catalog] = None,
    page: Optional[ReadOnly] = None,
    names: Optional[RegistryNames] = None,
) -> Resource:
    """Return the root of the tree; for ``page`` see `Front`, for the others `Registry`."""
    root = Front(upstream, page)
    asked = AskedRegistry(names or RegistryNames(""))
    registry = Registry(library, in_thread, helpers, asked, catalog, client_lines)
    root.putChild(b"v2", V2(registry))
    root.putChild(b"healthz", Health())
    root.putChild(b"fills", Fills(library))
    return root
