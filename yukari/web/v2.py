"""
The resource tree, and of it what is pulled:

    /v2/                               200: a registry is here
    /v2/NS/MODEL/manifests/REFERENCE   a manifest by tag or digest, never a redirect
    /v2/NS/MODEL/blobs/DIGEST          a blob, whole or one range of it
    /v2/NS/MODEL/tags/list             the tags that are stored
    /v2/_catalog                       the models that are stored

GET and HEAD only: a cache, not a place to push to.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Optional

from attrs import define, evolve, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from yukari.config.networks import Networks
from yukari.errors import LOOP_DETECTED, RegistryError, looped, name_invalid
from yukari.fills.fill import Fill
from yukari.fills.spooler import HASH_STEP
from yukari.fills.verifier import Verifier
from yukari.library.library import Elsewhere, Library
from yukari.names import Digest, InvalidName, ModelName, Reference, parse_reference
from yukari.net.throttle import Lines
from yukari.sending.send import send
from yukari.sending.stall import Broken, InThread, Join, ReaderGone
from yukari.sending.workers import Helpers
from yukari.spans import Span
from yukari.storage.readable import Readable, SpoolLost
from yukari.web import clients
from yukari.web.admin import Fills, Front, Health
from yukari.web.pagination import Page
from yukari.web.ranges import NotSatisfiable, etag, names_digest, parse_range, range_applies
from yukari.web.replies import ReadOnly, digest_in, reply, reply_json, text_header

log = Logger()


@define(eq=False)
class Registry:
    """What the ``/v2/`` leaf needs to answer."""

    library: Library
    clock: IReactorTime
    in_thread: InThread
    helpers: Helpers
    allow: Optional[Networks] = None
    """Who may pull; None for everybody."""
    client_lines: Optional[Lines] = None
    """What bounds how fast each client, by its address, gets blobs; None for nothing."""


class V2(ReadOnly):
    """Everything below ``/v2``."""

    isLeaf = True

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    async def reply_to(self, request: Request) -> None:
        request.setHeader(b"docker-distribution-api-version", b"registry/2.0")
        site: Any = request.site
        if site.pseudonym and site.pseudonym in (text_header(request, b"via") or ""):
            raise evolve(looped(), status=LOOP_DETECTED)
        self._check_address(request)
        parts = [_text(part) for part in request.postpath or ()]
        if parts in ([], [""]):
            reply_json(request, 200, {})
            return
        if parts == ["_catalog"]:
            page = Page.asked_by(request)
            names = await self._registry.library.catalog(page.last, page.most + 1)
            reply_json(request, 200, {"repositories": page.cut(list(map(str, names)), request)})
            return
        if len(parts) != 4:
            raise RegistryError(
                "NAME_INVALID",
                "expected /v2/NAMESPACE/MODEL/manifests/TAG or /v2/NAMESPACE/MODEL/blobs/DIGEST",
                404,
            )
        namespace, model, kind, last = parts
        try:
            name = ModelName(namespace, model)
        except InvalidName as error:
            raise name_invalid(str(error)) from None
        self._registry.library.rules.check(name)
        if kind == "manifests":
            await self._manifest(request, name, _reference(last))
        elif kind == "blobs":
            await _Blob(self._registry, request, name, digest_in([last.encode("latin-1")])).reply()
        elif kind == "tags" and last == "list":
            page = Page.asked_by(request)
            tags = [str(tag) for tag in await self._registry.library.tags(name)]
            behind = [tag for tag in tags if tag > page.last]
            reply_json(request, 200, {"name": str(name), "tags": page.cut(behind, request)})
        else:
            raise RegistryError("UNSUPPORTED", "there is nothing at this path", 404)

    def _check_address(self, request: Request) -> None:
        allow, address = self._registry.allow, clients.address(request)
        # Who may open our Unix socket is said by the socket's own permissions.
        if allow is not None and address is not None and address not in allow:
            raise RegistryError("DENIED", f"{address} may not pull here: it is not in ALLOW", 403)

    async def _manifest(self, request: Any, name: ModelName, reference: Reference) -> None:
        found = await self._registry.library.manifest(
            name,
            reference,
            text_header(request, b"user-agent") or "",
            prefetch=request.method == b"GET",
        )
        manifest = found.manifest
        request.result = found.result
        request.setHeader(b"docker-content-digest", str(manifest.digest).encode())
        request.setHeader(b"ollama-content-digest", manifest.digest.hex.encode())
        request.setHeader(b"etag", etag(manifest.digest).encode())
        if names_digest(text_header(request, b"if-none-match"), manifest.digest):
            request.setResponseCode(304)
            request.finish()
            return
        reply(request, 200, manifest.media_type, manifest.body)


def _text(part: bytes) -> str:
    """A path's decoded part; `RegistryError` where it could not be part of any name."""
    try:
        return part.decode("ascii")
    except UnicodeDecodeError:
        raise name_invalid("names have no characters beyond ASCII") from None


def _reference(text: str) -> Reference:
    try:
        return parse_reference(text)
    except InvalidName as error:
        raise RegistryError("TAG_INVALID", str(error), 400) from None


@define(eq=False)
class _Blob:
    """One request for a blob."""

    _registry: Registry
    _request: Any
    _name: ModelName
    _digest: Digest
    _readable: Optional[Readable] = field(default=None, init=False)

    async def reply(self) -> None:
        """Answer it."""
        request, library = self._request, self._registry.library
        if request.method == b"HEAD":
            size = await library.blob_size(self._name, self._digest)
            if self._headers(size) is not None:
                request.finish()
            return
        found = await library.blob(self._name, self._digest, clients.host(request))
        if isinstance(found, Elsewhere):
            request.result = "redirect"
            request.setHeader(b"location", found.url.encode("ascii"))
            reply(request, 307, "text/plain; charset=utf-8", b"")
            return
        try:
            wanted = self._headers(found.size)
            if wanted is None:
                return
            start, end = wanted
            if start < end:
                await self._send(found, Span(start, end))
            else:
                request.finish()
        finally:
            if self._readable is not None:
                self._readable.close()
            elif not isinstance(found, Fill):
                found.close()

    def _headers(self, size: int) -> Optional[tuple[int, int]]:
        """The bytes to send, from and up to, with the headers set; None where the reply is made."""
        request = self._request
        request.setHeader(b"content-type", b"application/octet-stream")
        request.setHeader(b"accept-ranges", b"bytes")
        request.setHeader(b"docker-content-digest", str(self._digest).encode())
        request.setHeader(b"etag", etag(self._digest).encode())
        if names_digest(text_header(request, b"if-none-match"), self._digest):
            request.setResponseCode(304)
            request.finish()
            return None
        wanted = text_header(request, b"range")
        if not range_applies(text_header(request, b"if-range"), self._digest):
            wanted = None
        try:
            span = parse_range(wanted, size) if request.method == b"GET" else None
        except NotSatisfiable:
            request.setHeader(b"content-range", f"bytes */{size}".encode())
            raise RegistryError(
                "RANGE_INVALID", f"the blob has {size} bytes, the range lies outside", 416
            ) from None
        if span is None:
            # Classic clients read Location on a 200 too, and fail without (simonfrey#3).
            request.setHeader(b"location", request.path)
            request.setHeader(b"content-length", str(size).encode())
            return 0, size
        request.setResponseCode(206)
        request.setHeader(b"content-range", f"bytes {span.start}-{span.end - 1}/{size}".encode())
        request.setHeader(b"content-length", str(len(span)).encode())
        return span.start, span.end

    async def _send(self, found: Any, span: Span) -> None:
        request, registry = self._request, self._registry
        if isinstance(found, Fill):
            whole = len(span) == found.size
            readable: Readable = found.open_reader(span.start, whole=whole)
            self._readable = readable
            try:
                await readable.ready(span.start)
            except SpoolLost:
                await self._relay(found, span)
                return
        else:
            readable = self._readable = found
        request.result = readable.result
        try:
            sent = await send(
                request,
                readable,
                span,
                registry.clock,
                registry.in_thread,
                registry.helpers,
                self._join(),
            )
        except Broken as broken:
            self._count(broken.sent)
            if isinstance(broken.error, SpoolLost) and isinstance(found, Fill):
                so_far = None
                if len(span) == found.size:
                    so_far = await self._hash(readable, broken.sent)
                await self._relay(found, Span(span.start + broken.sent, span.end), so_far)
                return
            if isinstance(broken.error, OSError):
                self._damaged(broken.error)
            if not request.gone:
                request.channel.forceAbortClient()
            return
        except ReaderGone as gone:
            self._count(gone.sent)
            raise
        self._count(sent)
        request.finish()

    def _join(self) -> Optional[Join]:
        lines = self._registry.client_lines
        return None if lines is None else partial(lines.join, clients.address(self._request))

    async def _hash(self, readable: Readable, end: int) -> Any:
        """The sha256 of what a reader of the whole has had from the spool."""
        verifier = Verifier(readable)
        while verifier.position < end:
            step = min(end, verifier.position + HASH_STEP)
            await self._registry.in_thread(verifier.advance, step)
        return verifier.hash

    def _count(self, sent: int) -> None:
        # What went through `Request.write` is counted there.
        self._request.sent_directly = max(0, sent - self._request.sentLength)

    def _damaged(self, error: OSError) -> None:
        self._registry.library.invalidate_open_files()
        log.error(
            "{digest}: reading failed: {error}",
            digest=self._digest,
            error=str(error),
            request=self._request.id,
        )

    async def _relay(self, fill: Fill, span: Span, so_far: Any = None) -> None:
        """The disk has no room for it: by way of the memory."""
        request, registry = self._request, self._registry
        if self._readable is not None:
            self._readable.close()
        whole = so_far is not None or len(span) == fill.size
        reader = fill.in_memory.open_reader(span, whole=whole, hashed=so_far)
        self._readable = reader
        request.result = reader.result
        await reader.ready(span.start)
        try:
            await send(
                request,
                reader,
                span,
                registry.clock,
                registry.in_thread,
                registry.helpers,
                self._join(),
            )
        except Broken as broken:
            log.warn(
                "{digest}: broken off: {error}",
                digest=self._digest,
                error=str(broken.error),
                request=request.id,
            )
            if not request.gone:
                request.channel.forceAbortClient()
            return
        request.finish()


def make_root(
    library: Library,
    clock: IReactorTime,
    in_thread: InThread,
    helpers: Helpers,
    upstream: str,
    allow: Optional[Networks] = None,
    client_lines: Optional[Lines] = None,
) -> Resource:
    """The root of the tree; for the last two see `Registry`."""
    root = Front(upstream)
    root.putChild(b"v2", V2(Registry(library, clock, in_thread, helpers, allow, client_lines)))
    root.putChild(b"healthz", Health())
    root.putChild(b"fills", Fills(library))
    return root
