"""One request for a blob: the whole or a range, from the store, its fill, or a relay."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any, Optional

from attrs import define, field, frozen
from twisted.logger import Logger

from yukari.errors import RegistryError
from yukari.fills.fill import Fill
from yukari.fills.memory import WrongBytes
from yukari.fills.spooler import HASH_STEP
from yukari.fills.verifier import Verifier
from yukari.library.blobs import Elsewhere
from yukari.library.catalog.catalog import Catalog
from yukari.library.library import Library
from yukari.names import Digest, Repository
from yukari.net.throttle import Lines
from yukari.sending.send import at_hand, read_little, send
from yukari.sending.stall import Broken, InThread, Join, ReaderGone
from yukari.sending.transports import may_wait
from yukari.sending.workers import Helpers
from yukari.spans import Span
from yukari.storage.readable import Readable, SpoolLost, StoredBlob
from yukari.web import clients
from yukari.web.asked_registry import AskedRegistry
from yukari.web.ranges import NotSatisfiable, etag, names_digest, parse_range, range_applies
from yukari.web.replies import reply, text_header

log = Logger()


@define(eq=False, repr=False)
class Registry:
    """What the ``/v2/`` leaf needs to reply."""

    library: Library
    in_thread: InThread
    helpers: Helpers
    asked: AskedRegistry
    catalog: Optional[Catalog] = None
    """Counts pulls; None to count none."""
    client_lines: Optional[Lines] = None
    """Bounds each client's rate of blobs, by its address; None for no bound."""

    def send(
        self, request: Any, readable: Readable, span: Span, join: Optional[Join] = None
    ) -> Awaitable[int]:
        """As `yukari.sending.send.send`."""
        piece = may_wait(request.site.drain.count()) // 2
        return send(request, readable, span, self.in_thread, self.helpers, join, piece)


@frozen(eq=False, repr=False)
class BlobSource:
    """A stored blob whose little pieces are given again while it is kept open: a `Source`."""

    _registry: Registry
    _name: Repository
    _digest: Digest
    size: int
    _method: bytes
    _changes: int
    """`Library.changes` when it was found."""

    def read(self, client: Any, start: int, end: int) -> Optional[bytes]:
        """As `Source.read`."""
        registry = self._registry
        if registry.library.changes != self._changes:
            return None
        file = registry.library.blobs.find_open(self._digest)
        if file is None or file.size != self.size:
            return None
        if self._method == b"HEAD":
            return b""
        data = read_little(file.fileno(), start, end)
        if data and registry.catalog is not None:
            registry.catalog.sent(self._name, self._digest, len(data))
        return data or None


@define(eq=False, repr=False)
class BlobRequest:
    """A request for a blob or a range of it, and its reply."""

    _registry: Registry
    _request: Any
    _name: Repository
    _digest: Digest
    _readable: Optional[Readable] = field(default=None, init=False)
    _changes: int = field(default=0, init=False)

    async def reply(self) -> None:
        """Send the reply; RegistryError if there is no such blob to be had."""
        request, library = self._request, self._registry.library
        with library.in_use.hold([self._digest]):
            if request.can_repeat:
                self._changes = library.changes
            if request.method == b"HEAD":
                size = await library.blob_size(self._name, self._digest)
                if self._headers(size) is not None:
                    self._let_repeat(size, 0, size)
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
                if wanted[0] < wanted[1]:
                    await self._send(found, Span(*wanted))
                else:
                    request.finish()
            finally:
                if self._readable is not None:
                    self._readable.close()
                elif not isinstance(found, Fill):
                    found.close()

    def _let_repeat(self, size: int, start: int, end: int) -> None:
        request = self._request
        if request.can_repeat:
            source = BlobSource(
                self._registry, self._name, self._digest, size, request.method, self._changes
            )
            ranges = request.requestHeaders.getRawHeaders(b"range", [])
            any_range = request.code == 206 and len(ranges) == 1
            request.repeat(source, start, end, any_range=any_range)

    def _headers(self, size: int) -> Optional[tuple[int, int]]:
        """
        Set the headers and return the bytes to send, start and end; None if the reply is complete.
        """
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
        request = self._request
        if isinstance(found, Fill):
            whole = len(span) == found.size
            readable: Readable = found.open_reader(
                span.start, whole=whole, client=clients.address(request)
            )
            self._readable = readable
            try:
                await readable.ready(span.start)
                if request.site.drain.is_crowded:
                    # Until a reply has begun it can be refused to make room; see `refuse_waiting`.
                    await readable.wait(span.start)
            except SpoolLost:
                await self._relay(found, span)
                return
        else:
            readable = self._readable = found
        request.result = readable.result
        join = self._join()
        at_once = join is None and len(span) <= may_wait(request.site.drain.count())
        if at_once and (data := at_hand(readable, span)):
            if isinstance(found, StoredBlob):
                self._let_repeat(found.size, span.start, span.end)
            request.end_with(data)
            self._count(len(data))
            return
        try:
            self._count(await self._registry.send(request, readable, span, join))
        except ReaderGone as gone:
            self._count(gone.sent)
            raise
        except Broken as broken:
            self._count(broken.sent)
            if isinstance(broken.error, SpoolLost) and isinstance(found, Fill):
                so_far = None
                if len(span) == found.size:
                    so_far = await self._hash(readable, broken.sent)
                await self._relay(found, Span(span.start + broken.sent, span.end), so_far)
                return
            if isinstance(broken.error, OSError):
                self._unreadable(broken.error)
            request.cut()
            return
        request.finish()

    def _join(self) -> Optional[Join]:
        lines = self._registry.client_lines
        return None if lines is None else partial(lines.join, clients.address(self._request))

    async def _hash(self, readable: Readable, end: int) -> Any:
        """Return the sha256 of what a reader of the whole blob has read from the spool."""
        verifier = Verifier(readable)
        while verifier.position < end:
            step = min(end, verifier.position + HASH_STEP)
            await self._registry.in_thread(verifier.advance, step)
        return verifier.hash

    def _count(self, sent: int) -> None:
        if self._registry.catalog is not None:
            self._registry.catalog.sent(self._name, self._digest, sent)
        self._request.count_sent(sent)

    def _unreadable(self, error: OSError) -> None:
        if not self._registry.library.found_unreadable(self._digest, error):
            log.error(
                "{digest}: reading failed: {error}",
                digest=self._digest,
                error=str(error),
                request=self._request.id,
            )

    async def _relay(self, fill: Fill, span: Span, so_far: Any = None) -> None:
        """Send the bytes through memory: the disk has no room for the blob."""
        request = self._request
        if self._readable is not None:
            self._readable.close()
        whole = so_far is not None or len(span) == fill.size
        client = clients.address(request)
        reader = fill.relay.download.open_reader(span, whole=whole, hashed=so_far, client=client)
        self._readable = reader
        request.result = reader.result
        await reader.ready(span.start)
        try:
            # What is relayed is written to the request, which counts it.
            await self._registry.send(request, reader, span, self._join())
        except Broken as broken:
            log.warn(
                "{digest}: broken off: {error}",
                digest=self._digest,
                error=str(broken.error),
                request=request.id,
            )
            if isinstance(broken.error, WrongBytes):
                # Before the client knows: it will come again.
                await fill.source.set_aside(alone=not fill.is_resumed)
            request.cut()
            return
        request.finish()
