"""
Emulated Ollama clients: they ask what the real ones ask, in their order, with
their headers, patience and mistakes.

In a test::

    pulled = await pull(reactor, base, "library/m:latest", CLASSIC16.scaled(part_min=50_000))

As a process of its own, which prints one line of JSON and exits 1 if the pull failed::

    python -m tests.clients --base http://127.0.0.1:9200 --model library/m:latest

The client speaks plain HTTP/1.1 over its own small connection pool: what it
measures (the longest wait for a byte) is seen at the socket.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from statistics import median_high
from typing import Any
from urllib.parse import urljoin, urlsplit

from attrs import asdict, define, evolve, field, frozen
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredSemaphore,
    gatherResults,
)
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

MB = 1_000_000
MIB = 1 << 20
READ = 1 << 18
"""Bytes read from a socket at once."""

ACCEPT = "application/vnd.docker.distribution.manifest.v2+json"
RESUMED = 64 * MIB
"""A transfer client resumes blobs of at least this size; others begin again."""


@frozen
class Generation:
    """
    The habits of one generation of clients.

    ``parts``, ``part_min``, ``part_max`` (bytes) say how a blob is cut; 0 parts
    is whole blobs, many at once. ``direct`` is the step that learns the direct
    URL. ``stall`` (seconds without a byte) counts from the request's start or,
    if not ``stall_from_start``, from the first byte. The sleep before try n
    is ``2**n * backoff`` seconds.
    """

    name: str
    user_agent: str
    parts: int
    part_min: int = 100 * MB
    part_max: int = 1000 * MB
    direct: bool = True
    direct_seconds: float = 30.0
    stall: float | None = 30.0
    stall_from_start: bool = True
    tries: int = 6
    backoff: float = 1.0
    requests: int = 64
    """How many requests at once, of whole blobs."""
    bodies: int = 4
    """How many bodies at once, of whole blobs."""
    insecure: bool = True
    """Whether the manifest and HEAD may be redirected to another host."""

    def scaled(self, **changes: Any) -> Generation:
        """The same habits with other numbers, such as ``part_min`` for small blobs."""
        return evolve(self, **changes)


CLASSIC16 = Generation("classic16", "ollama/0.12.6 (amd64 linux) Go/go1.24.1", 16)
"""0.12 and later."""

CLASSIC64 = Generation(
    "classic64",
    "ollama/0.2.8 (amd64 linux) Go/go1.22.5",
    64,
    direct=False,
    stall=5.0,
    stall_from_start=False,
)
"""0.1.2x to 0.2: parts are asked from the registry's own URL, redirects followed each time."""

TRANSFER = Generation("transfer", "ollama-transfer/1.0", 0, stall=10.0)
"""Of tensor models (2026)."""

GENERATIONS = {made.name: made for made in (CLASSIC16, CLASSIC64, TRANSFER)}
GENERATIONS["direct"] = CLASSIC16.scaled(name="direct")
"""``direct`` is classic16 under another name: for pulls past the cache, from upstream itself."""


class ClientError(Exception):
    """Something that the real client would say of one request."""


class Stalled(ClientError):
    """No byte within the generation's patience."""


class Cut(ClientError):
    """The body ended before its length; what came of it counts (Go's ErrUnexpectedEOF)."""


class Lost(ClientError):
    """The connection failed; ``silent`` if it did so before any byte of an answer."""

    silent = False


class PullFailed(Exception):
    """The pull failed with the message that the user would see; `pulled` is how far it came."""

    def __init__(self, message: str, pulled: Pulled) -> None:
        super().__init__(message)
        self.pulled = pulled


@define
class Blob:
    """One blob of a pull; ``ok`` is None where its sha256 was not looked at."""

    size: int
    ok: bool | None = None


@define
class Pulled:
    """What a pull brought and how long it took; times in seconds."""

    generation: str
    model: str
    manifest: bytes = b""
    blobs: dict[str, Blob] = field(factory=dict)
    seconds: float = 0.0
    """Until the last byte, without verifying."""
    verify_seconds: float = 0.0
    bytes: int = 0
    """Of all bodies that were read, those thrown away too."""
    first_wait: float = 0.0
    """The longest from a part's request to its body's first byte."""
    gap_wait: float = 0.0
    """The longest between two reads of a part's body."""
    retries: list[str] = field(factory=list)
    """Why parts were asked again."""
    error: str | None = None

    @property
    def manifest_digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"

    @property
    def ok(self) -> bool:
        """The pull went through, and no blob that was verified is wrong."""
        return self.error is None and all(blob.ok is not False for blob in self.blobs.values())

    def as_json(self) -> dict[str, Any]:
        shown = asdict(self, filter=lambda at, _: at.name != "manifest")
        return {"ok": self.ok, "manifest_digest": self.manifest_digest, **shown}

    def waited(self, reply: Reply) -> None:
        """Take a part's waits into account."""
        self.first_wait = max(self.first_wait, reply.first_wait)
        self.gap_wait = max(self.gap_wait, reply.gap_wait)


Sink = Callable[[bytes], "Deferred[None] | None"]
"""Takes a body's bytes; a Deferred that it returns pauses the body until it fires."""


def count_only(_: bytes) -> None:
    """A sink for bodies whose bytes do not matter."""


@define
class Reply:
    """An answer whose head has come; its body has to be read or dropped."""

    status: int
    headers: dict[str, str]
    _wire: Wire
    read: int = 0
    """Body bytes read."""
    first_wait: float = 0.0
    gap_wait: float = 0.0
    complete: bool = False
    """The body ended as its framing said."""

    @property
    def length(self) -> int | None:
        given = self.headers.get("content-length")
        return int(given) if given is not None else None

    def drop(self) -> None:
        """Close the connection without reading the body; one that has been read is kept."""
        if not self.complete:
            self._wire.drop()

    async def copy(
        self,
        sink: Sink,
        length: int | None = None,
        *,
        stall: float | None = None,
        slow: Callable[[float, int], bool] | None = None,
        from_start: bool = True,
    ) -> None:
        """
        Read the body, or ``length`` bytes of it and no more, into the sink.

        Raises `Cut` where it ends before, `Stalled` after ``stall`` seconds
        without a byte, and a `ClientError` if ``slow(seconds, bytes)`` is true.
        """
        await self._wire.copy(self, sink, length, stall, from_start, slow)

    async def body(self) -> bytes:
        """All of the body; for small ones."""
        pieces: list[bytes] = []
        await self.copy(pieces.append)
        return b"".join(pieces)


class Chunks:
    """Takes chunked framing off a body."""

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        self._trailing = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """The payload in these bytes."""
        self._held += data
        payload = []
        while self._held and not self.ended:
            if self._left > 2:
                taken = self._held[: self._left - 2]
                payload.append(taken)
                self._held = self._held[len(taken) :]
                self._left -= len(taken)
            elif self._left:
                taken = self._held[: self._left]
                self._held = self._held[len(taken) :]
                self._left -= len(taken)
            else:
                line, found, rest = self._held.partition(b"\r\n")
                if not found:
                    break
                self._held = rest
                if self._trailing:
                    self.ended = not line
                    continue
                size = int(line.partition(b";")[0], 16)
                self._trailing = size == 0
                self._left = size + 2 if size else 0
        return b"".join(payload)


class Wire(Protocol):
    """One connection; it carries one exchange after another."""

    def __init__(self, http: Http, key: tuple[str, int]) -> None:
        self._http = http
        self._key = key
        self._head: Deferred[Reply] | None = None
        self._reply: Reply | None = None
        self._received = b""
        self._method = ""
        self._started = 0.0
        self._last = 0.0
        self._body: Deferred[None] | None = None
        self._sink: Sink = count_only
        self._wanted: int | None = None
        self._chunks: Chunks | None = None
        self._ended: Failure | None = None
        self.lost = False

    @property
    def _transport(self) -> Any:
        return self.transport

    def connectionMade(self) -> None:
        self._transport.bufferSize = READ
        self._transport.setTcpNoDelay(True)
        self._http.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._http.closed(self, self._key)
        self._ended = reason
        if self._head is not None:
            head, self._head = self._head, None
            error = Lost(f"EOF: {reason.getErrorMessage()}")
            error.silent = not self._received
            head.errback(error)
        elif self._body is not None:
            self._over()

    def drop(self) -> None:
        """Close now; what is unread is lost."""
        if not self.lost:
            self._transport.abortConnection()

    async def ask(self, method: str, head: bytes, seconds: float | None) -> Reply:
        """Send a request; its reply, the body paused, within ``seconds``."""
        self._method = method
        self._received = b""
        self._reply = None
        self._chunks = None
        self._started = self._last = self._http.reactor.seconds()
        waiting: Deferred[Reply] = Deferred(lambda _: self._forget())
        self._head = waiting
        self._transport.write(head)
        self._transport.resumeProducing()
        timer = None
        if seconds is not None:
            timer = self._http.reactor.callLater(seconds, self._too_late, seconds)
        try:
            return await waiting
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    def _forget(self) -> None:
        self._head = None
        self.drop()

    def _too_late(self, seconds: float) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self.drop()
            error = Stalled(f"no answer in {seconds:g} s")
            head.errback(error)

    def dataReceived(self, data: bytes) -> None:
        if self._head is not None:
            self._received += data
            self._read_head()
        elif self._body is not None:
            self._read_body(data)
        elif self._reply is not None and not self._reply.complete:
            self._received += data
        else:
            self.drop()

    def _read_head(self) -> None:
        top, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        status = int(first.split(" ")[1])
        self._received = rest
        if status < 200:
            self._read_head()
            return
        self._reply = reply = Reply(status, headers, self)
        if self._method == "HEAD" or status in (204, 304) or reply.length == 0:
            reply.complete = True
            self._recycle()
        else:
            if "chunked" in headers.get("transfer-encoding", "").lower():
                self._chunks = Chunks()
            self._transport.pauseProducing()
        head, self._head = self._head, None
        if head is not None:
            head.callback(reply)

    async def copy(
        self,
        reply: Reply,
        sink: Sink,
        wanted: int | None,
        stall: float | None,
        from_start: bool,
        slow: Callable[[float, int], bool] | None,
    ) -> None:
        """See `Reply.copy`."""
        reactor = self._http.reactor
        begun = reactor.seconds()
        every = min(1.0, (stall or 4.0) / 4)
        timer: Any = None
        ending: Deferred[None] = Deferred(lambda _: self._fail(None))

        def look() -> None:
            nonlocal timer
            now = reactor.seconds()
            if stall is not None and (reply.read or from_start) and now - self._last > stall:
                self._note_wait(reply, now)
                self._fail(Stalled(f"stalled after {reply.read} bytes"))
            elif slow is not None and slow(now - begun, reply.read):
                self._fail(ClientError("too slow"))
            else:
                timer = reactor.callLater(every, look)

        if reply.complete:
            if wanted:
                raise Cut("unexpected EOF at 0 bytes")
            return
        self._sink, self._wanted = sink, wanted
        self._body = ending
        if stall is not None or slow is not None:
            timer = reactor.callLater(every, look)
        try:
            held, self._received = self._received, b""
            if held:
                self._read_body(held)
            if self._body is not None:
                if self._ended is not None:
                    self._over()
                else:
                    self._transport.resumeProducing()
            await ending
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    def _note_wait(self, reply: Reply, now: float) -> None:
        if reply.read:
            reply.gap_wait = max(reply.gap_wait, now - self._last)
        else:
            reply.first_wait = now - self._started

    def _read_body(self, data: bytes) -> None:
        reply = self._reply
        assert reply is not None
        payload = data if self._chunks is None else self._chunks.feed(data)
        ends = reply.length
        if self._wanted is not None:
            payload = payload[: self._wanted - reply.read]
        if payload:
            now = self._http.reactor.seconds()
            self._note_wait(reply, now)
            self._last = now
            reply.read += len(payload)
            room = self._sink(payload)
            if room is not None:
                self._transport.pauseProducing()
                room.addCallback(self._room)
        if self._chunks.ended if self._chunks is not None else reply.read == ends:
            reply.complete = True
        if reply.complete or (self._wanted is not None and reply.read >= self._wanted):
            self._finish(reply)

    def _room(self, _: None) -> None:
        if self._body is not None and not self.lost:
            self._transport.resumeProducing()

    def _finish(self, reply: Reply) -> None:
        body, self._body = self._body, None
        short = self._wanted is not None and reply.read < self._wanted
        if reply.complete:
            self._recycle()
        else:
            self.drop()
        if body is not None:
            if short:
                body.errback(Cut(f"EOF: {reply.read} bytes of {self._wanted}, {reply.status}"))
            else:
                body.callback(None)

    def _over(self) -> None:
        """The connection has gone while the body was being read."""
        body, self._body = self._body, None
        reply, ended = self._reply, self._ended
        if body is None or reply is None or ended is None:
            return
        clean = isinstance(ended.value, ConnectionDone)
        to_the_end = clean and self._chunks is None and reply.length is None
        if to_the_end and (self._wanted is None or reply.read >= self._wanted):
            reply.complete = True
            body.callback(None)
        elif clean:
            body.errback(Cut(f"unexpected EOF after {reply.read} bytes"))
        else:
            body.errback(Lost(f"{ended.getErrorMessage()} after {reply.read} bytes"))

    def _fail(self, error: ClientError | None) -> None:
        """Give the body up; None if its Deferred is being cancelled."""
        body, self._body = self._body, None
        self.drop()
        if body is not None and error is not None:
            body.errback(error)

    def _recycle(self) -> None:
        reply = self._reply
        if self.lost:
            return
        if reply is not None and reply.headers.get("connection", "").lower() == "close":
            self.drop()
        else:
            self._http.idle(self, self._key)


class Dialler(Factory):
    """Makes the connections of a pool."""

    noisy = False

    def __init__(self, http: Http, key: tuple[str, int]) -> None:
        self._http = http
        self._key = key

    def buildProtocol(self, addr: object) -> Wire:
        return Wire(self._http, self._key)


class Http:
    """Requests over a pool of connections that keeps, as Go does, a few idle ones per host."""

    def __init__(self, reactor: Any, idle_per_host: int = 2) -> None:
        self.reactor = reactor
        self._idle_per_host = idle_per_host
        self._idle: dict[tuple[str, int], list[Wire]] = {}
        self._open: set[Wire] = set()
        self._empty: list[Deferred[None]] = []

    async def open(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes = b"",
        *,
        seconds: float | None = None,
    ) -> Reply:
        """Ask, and give the reply once its head has come, within ``seconds``."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ClientError(f"unsupported protocol scheme in {url!r}")
        key = (parts.hostname, parts.port or 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        while self._idle.get(key):
            try:
                return await self._idle[key].pop().ask(method, head, seconds)
            except Lost as error:
                if not error.silent:
                    raise
        endpoint = TCP4ClientEndpoint(self.reactor, *key)
        try:
            wire: Any = await endpoint.connect(Dialler(self, key))
        except (OSError, ConnectError) as error:
            raise Lost(f"dial tcp {parts.netloc}: {error}") from None
        reply: Reply = await wire.ask(method, head, seconds)
        return reply

    async def close(self) -> None:
        """Drop every connection; returns when they are gone."""
        for wire in list(self._open):
            wire.drop()
        if self._open:
            empty: Deferred[None] = Deferred()
            self._empty.append(empty)
            await empty

    def opened(self, wire: Wire) -> None:
        self._open.add(wire)

    def closed(self, wire: Wire, key: tuple[str, int]) -> None:
        self._open.discard(wire)
        if wire in self._idle.get(key, ()):
            self._idle[key].remove(wire)
        if not self._open:
            empty, self._empty = self._empty, []
            for waiting in empty:
                waiting.callback(None)

    def idle(self, wire: Wire, key: tuple[str, int]) -> None:
        kept = self._idle.setdefault(key, [])
        if len(kept) < self._idle_per_host:
            kept.append(wire)
        else:
            wire.drop()


class Spool:
    """The blobs of a pull in one unlinked temporary file, written and hashed by threads."""

    def __init__(self, reactor: Any, directory: str | None = None) -> None:
        self.reactor = reactor
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._places: dict[str, int] = {}
        self._end = 0
        self.threads = ThreadPool(0, 4, "spool")
        self.threads.start()

    def close(self) -> None:
        self.threads.stop()
        self._file.close()

    def place(self, digest: str, size: int) -> None:
        """Make room for a blob."""
        if digest not in self._places:
            self._places[digest] = self._end
            self._end += size

    def sink(self, digest: str, start: int) -> Writing:
        """Write a part of the blob from ``start`` on."""
        return Writing(self, self._file.fileno(), self._places[digest] + start)

    def verify(self, digest: str, size: int) -> Deferred[bool]:
        """Whether the bytes have that digest."""
        return deferToThreadPool(
            self.reactor, self.threads, self._matches, digest, self._places[digest], size
        )

    def _matches(self, digest: str, offset: int, size: int) -> bool:
        seen = hashlib.sha256()
        for start in range(offset, offset + size, MIB):
            seen.update(os.pread(self._file.fileno(), min(MIB, offset + size - start), start))
        return digest == f"sha256:{seen.hexdigest()}"


class Writing:
    """A sink that hands about a MiB at a time to a thread, at most two of them at once."""

    def __init__(self, spool: Spool, descriptor: int, offset: int) -> None:
        self._spool = spool
        self._descriptor = descriptor
        self._offset = offset
        self._held: list[bytes] = []
        self._size = 0
        self._in_flight = 0
        self._room: Deferred[None] | None = None
        self._error: Failure | None = None

    def __call__(self, data: bytes) -> Deferred[None] | None:
        self._held.append(data)
        self._size += len(data)
        if self._size >= MIB:
            self._write()
            if self._in_flight >= 2:
                self._room = Deferred()
                return self._room
        return None

    async def flush(self) -> None:
        """Returns when all of it is written."""
        if self._held:
            self._write()
        while self._in_flight:
            self._room = Deferred()
            await self._room
        if self._error is not None:
            self._error.raiseException()

    def _write(self) -> None:
        held, size, offset = self._held, self._size, self._offset
        self._held, self._size, self._offset = [], 0, offset + size
        self._in_flight += 1
        written = deferToThreadPool(
            self._spool.reactor,
            self._spool.threads,
            _write_at,
            self._descriptor,
            held,
            offset,
        )
        written.addErrback(self._failed)
        written.addCallback(self._wrote)

    def _failed(self, error: Failure) -> None:
        self._error = error

    def _wrote(self, _: None) -> None:
        self._in_flight -= 1
        room, self._room = self._room, None
        if room is not None and not room.called:
            room.callback(None)


def _write_at(descriptor: int, pieces: list[bytes], offset: int) -> None:
    for start in range(0, len(pieces), 512):
        some = pieces[start : start + 512]
        size = sum(map(len, some))
        written = os.pwritev(descriptor, some, offset)
        if written < size:
            os.pwrite(descriptor, b"".join(some)[written:], offset + written)
        offset += size


@define
class Part:
    """A part of a blob: where it begins, how long it is and how much of it has come."""

    number: int
    start: int
    size: int
    done: int = 0


def parts_of(size: int, generation: Generation) -> list[Part]:
    """How the generation cuts a blob of this size."""
    share = min(max(size // generation.parts, generation.part_min), generation.part_max)
    return [
        Part(number, start, min(share, size - start))
        for number, start in enumerate(range(0, size, share))
    ]


async def together(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first failure ends the others and is raised when they have ended."""
    running = [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]
    try:
        await gatherResults(running, consumeErrors=True)
    except BaseException as error:
        for one in running:
            one.cancel()
        await DeferredList(running, consumeErrors=True)
        first = getattr(error, "subFailure", None)
        if first is not None:
            raise first.value from None
        raise


class Client:
    """One pull of one model."""

    def __init__(
        self,
        reactor: Any,
        base: str,
        model: str,
        generation: Generation,
        have: Collection[str],
        spool: Spool | None,
    ) -> None:
        self._reactor = reactor
        self._base = base.rstrip("/")
        self._name, _, tag = model.partition(":")
        self._tag = tag or "latest"
        self._generation = generation
        self._have = have
        self._spool = spool
        self._http = Http(reactor, 2 if generation.parts else 100)
        self._speeds: list[float] = []
        self.pulled = Pulled(generation.name, model)

    async def run(self) -> None:
        """Pull all, then verify all; raises a `ClientError`."""
        begun = self._reactor.seconds()
        try:
            try:
                await self._get_manifest()
                wanted = self._wanted()
                if self._generation.parts:
                    for digest, _ in wanted:
                        await self._classic(digest)
                else:
                    await self._transfers(wanted)
            finally:
                self.pulled.seconds = self._reactor.seconds() - begun
            await self._verify()
        finally:
            await self._http.close()

    def _headers(self, *, gzip: bool = True, **more: str) -> dict[str, str]:
        """As Go sends them: gzip is accepted of every GET that has no Range."""
        headers = {"User-Agent": self._generation.user_agent, **more}
        if gzip:
            headers["Accept-Encoding"] = "gzip"
        return headers

    def _url(self, digest: str) -> str:
        return f"{self._base}/v2/{self._name}/blobs/{digest}"

    async def _get_manifest(self) -> None:
        url = f"{self._base}/v2/{self._name}/manifests/{self._tag}"
        reply = await self._followed("GET", url, self._headers(Accept=ACCEPT))
        body = await reply.body()
        self._raise_for(reply, body)
        self.pulled.manifest = body

    def _wanted(self) -> list[tuple[str, int]]:
        """Layers, then config: each digest once, without those that it has."""
        try:
            manifest = json.loads(self.pulled.manifest)
            named = [*manifest["layers"], manifest["config"]]
            sizes = {blob["digest"]: int(blob["size"]) for blob in named}
        except (ValueError, KeyError, TypeError) as error:
            raise ClientError(f"pull model manifest: {error}") from None
        return [(digest, size) for digest, size in sizes.items() if digest not in self._have]

    async def _followed(self, method: str, url: str, headers: dict[str, str]) -> Reply:
        """The reply after up to ten redirects."""
        host = urlsplit(url).hostname
        for _ in range(10):
            reply = await self._http.open(method, url, headers)
            if reply.status not in (301, 302, 307, 308):
                return reply
            reply.drop()
            url = urljoin(url, reply.headers.get("location", ""))
            if urlsplit(url).hostname != host and not self._generation.insecure:
                raise ClientError(f"redirect to {urlsplit(url).hostname} blocked")
        raise ClientError("stopped after 10 redirects")

    @staticmethod
    def _raise_for(reply: Reply, body: bytes) -> None:
        if reply.status == 404:
            raise ClientError("file does not exist")
        if reply.status >= 400:
            raise ClientError(f"{reply.status}: {body.decode(errors='replace')}")

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds * self._generation.backoff, lambda: None)

    # Of 0.1 to today: HEAD, the direct URL, parts.

    async def _classic(self, digest: str) -> None:
        url = self._url(digest)
        reply = await self._followed("HEAD", url, self._headers(gzip=False))
        self._raise_for(reply, b"")
        if reply.length is None:
            raise ClientError("HEAD without Content-Length: digest mismatch, an empty file")
        size = reply.length
        self.pulled.blobs[digest] = Blob(size)
        if self._spool is not None:
            self._spool.place(digest, size)
        where = await self._direct_url(url) if self._generation.direct else url
        slots = DeferredSemaphore(self._generation.parts)

        async def one(part: Part) -> None:
            await slots.acquire()
            try:
                await self._part(digest, where, part)
            finally:
                slots.release()

        await together(one(part) for part in parts_of(size, self._generation))

    async def _direct_url(self, url: str) -> str:
        """Where parts are asked from: an un-ranged GET's Location, its body never read."""
        ends = self._reactor.seconds() + self._generation.direct_seconds
        asked, host, attempt = url, urlsplit(url).hostname, 0
        while True:
            attempt += 1
            left = ends - self._reactor.seconds()
            try:
                if left <= 0:
                    raise Stalled("context deadline exceeded")
                reply = await self._http.open("GET", asked, self._headers(), seconds=left)
                if reply.status >= 400:
                    body = await reply.body()
                    raise ClientError(f"{reply.status}: {body.decode(errors='replace')}")
            except ClientError as error:
                pause = min(attempt * attempt * 0.01, 10.0) * self._generation.backoff
                if left <= pause:
                    raise
                self.pulled.retries.append(f"direct URL: {error}")
                asked = url
                await deferLater(self._reactor, pause, lambda: None)
                continue
            reply.drop()
            if reply.status not in (200, 302, 307):
                raise ClientError(f"unexpected status code {reply.status}")
            location = reply.headers.get("location")
            if location is None:
                raise ClientError("http: no Location header in response")
            found = urljoin(asked, location)
            if reply.status == 200 or urlsplit(found).hostname != host:
                return found
            asked = found

    async def _part(self, digest: str, url: str, part: Part) -> None:
        attempt, error = 0, ClientError("no try")
        while attempt < self._generation.tries:
            try:
                await self._ask_part(digest, url, part)
                return
            except Stalled as stalled:
                self.pulled.retries.append(f"part {part.number}: {stalled}")
            except ClientError as failed:
                error = failed
                self.pulled.retries.append(f"part {part.number}: {failed}")
                await self._sleep(2.0**attempt)
                attempt += 1
        raise ClientError(f"max retries exceeded: {error}")

    async def _ask_part(self, digest: str, url: str, part: Part) -> None:
        """
        Ask for what is missing; what came counts if the part stalled or was cut short.

        The status is not looked at, as Ollama does not: an error's body is
        taken for the blob's bytes, and is too short.
        """
        patience = self._generation.stall
        from_start = self._generation.stall_from_start
        first, last = part.start + part.done, part.start + part.size - 1
        ranged = {"User-Agent": "Go-http-client/1.1", "Range": f"bytes={first}-{last}"}
        asked = self._reactor.seconds()
        try:
            for _ in range(11):
                reply = await self._http.open(
                    "GET", url, ranged, seconds=patience if from_start else None
                )
                location = reply.headers.get("location")
                if reply.status not in (301, 302, 307, 308) or location is None:
                    break
                reply.drop()
                url = urljoin(url, location)
        except Stalled:
            waited = self._reactor.seconds() - asked
            self.pulled.first_wait = max(self.pulled.first_wait, waited)
            raise
        before = reply.read
        missing = part.size - part.done
        writing = self._spool.sink(digest, first) if self._spool is not None else None
        kept = True
        try:
            await reply.copy(writing or count_only, missing, stall=patience, from_start=from_start)
        except (Stalled, Cut):
            kept = 200 <= reply.status < 300
            raise
        except ClientError:
            kept = False
            raise
        finally:
            if writing is not None:
                await writing.flush()
            self.pulled.bytes += reply.read - before
            self.pulled.waited(reply)
            if kept:
                part.done += reply.read

    # Of tensor models: whole blobs, many at once.

    async def _transfers(self, wanted: Sequence[tuple[str, int]]) -> None:
        requests = DeferredSemaphore(self._generation.requests)
        bodies = DeferredSemaphore(self._generation.bodies)

        async def one(digest: str, size: int) -> None:
            self.pulled.blobs[digest] = Blob(size)
            if self._spool is not None:
                self._spool.place(digest, size)
            await requests.acquire()
            try:
                await self._transfer(digest, size, bodies)
            finally:
                requests.release()

        await together(one(digest, size) for digest, size in wanted)

    async def _transfer(self, digest: str, size: int, bodies: DeferredSemaphore) -> None:
        part, attempt, slow = Part(0, 0, size), 0, 0
        while True:
            try:
                await self._ask_whole(digest, part, bodies)
                return
            except ClientError as error:
                self.pulled.retries.append(f"blob {digest[7:19]}: {error}")
                if size < RESUMED:
                    part.done = 0
                slow += str(error) == "too slow"
                free = isinstance(error, Stalled) or (str(error) == "too slow" and slow < 3)
                attempt += not free
                if attempt >= self._generation.tries:
                    raise ClientError(f"max retries exceeded: {error}") from None
            if attempt:
                pause = min(attempt * attempt * 0.01, 2.0 ** (attempt - 1))
                await self._sleep(pause * (random.random() + 0.5))

    async def _ask_whole(self, digest: str, part: Part, bodies: DeferredSemaphore) -> None:
        patience = self._generation.stall
        headers = self._headers()
        url = await self._resolved(self._url(digest), bodies)
        if part.done:
            headers = self._headers(gzip=False, Range=f"bytes={part.done}-")
        await bodies.acquire()
        try:
            begun = self._reactor.seconds()
            reply = await self._http.open("GET", url, headers, seconds=patience)
            if reply.status != (206 if part.done else 200):
                if not part.done or reply.status != 200:
                    reply.drop()
                    raise ClientError(f"status {reply.status}")
                part.done = 0
            first = part.done
            writing = self._spool.sink(digest, first) if self._spool is not None else None
            try:
                await reply.copy(writing or count_only, stall=patience, slow=self._slow)
            finally:
                if writing is not None:
                    await writing.flush()
                self.pulled.bytes += reply.read
                self.pulled.waited(reply)
                part.done += reply.read
            if part.done != part.size:
                part.done = 0
                raise ClientError("size mismatch")
            if part.size >= 100 * 1024:
                taken = max(self._reactor.seconds() - begun, 1e-6)
                self._speeds = [*self._speeds[-29:], reply.read / taken]
        finally:
            bodies.release()

    async def _resolved(self, url: str, bodies: DeferredSemaphore) -> str:
        """Where the blob is; a 200 that says so is read to its end and thrown away."""
        for _ in range(10):
            reply = await self._http.open(
                "GET", url, self._headers(), seconds=self._generation.stall
            )
            if reply.status == 200:
                await bodies.acquire()
                try:
                    await reply.copy(count_only, stall=self._generation.stall)
                finally:
                    bodies.release()
                    self.pulled.bytes += reply.read
                    self.pulled.waited(reply)
                return url
            reply.drop()
            location = reply.headers.get("location")
            if reply.status not in (301, 302, 307) or location is None:
                raise ClientError(f"status {reply.status}")
            found = urljoin(url, location)
            if urlsplit(found).netloc != urlsplit(url).netloc:
                return found
            url = found
        raise ClientError("too many redirects")

    def _slow(self, seconds: float, read: int) -> bool:
        """Under a tenth of the median speed, after 5 s and once five blobs have come."""
        if seconds <= 5 or len(self._speeds) < 5:
            return False
        return read / seconds < 0.1 * median_high(self._speeds)

    async def _verify(self) -> None:
        if self._spool is None:
            return
        begun = self._reactor.seconds()
        for digest, blob in self.pulled.blobs.items():
            blob.ok = await self._spool.verify(digest, blob.size)
        self.pulled.verify_seconds = self._reactor.seconds() - begun
        wrong = [digest for digest, blob in self.pulled.blobs.items() if not blob.ok]
        if wrong:
            raise ClientError(f"digest mismatch, file must be downloaded again: {wrong[0]}")


async def pull(
    reactor: Any,
    base: str,
    model: str,
    generation: Generation = CLASSIC16,
    *,
    verify: bool = True,
    have: Collection[str] = (),
    directory: str | None = None,
) -> Pulled:
    """
    Pull ``NAMESPACE/MODEL:TAG`` from ``base`` (``http://HOST:PORT``).

    Blobs in ``have`` are on the client's disk already. Without ``verify`` the
    bytes are counted and thrown away; else they go to a temporary file in
    ``directory``. Raises `PullFailed`. Cancelling is a user's ctrl-c.
    """
    spool = Spool(reactor, directory) if verify else None
    try:
        client = Client(reactor, base, model, generation, have, spool)
        try:
            await client.run()
        except ClientError as error:
            client.pulled.error = str(error)
            raise PullFailed(str(error), client.pulled) from None
        return client.pulled
    finally:
        if spool is not None:
            spool.close()


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--base", required=True, help="http://HOST:PORT")
    parser.add_argument("--model", default="library/m:latest")
    parser.add_argument("--generation", choices=sorted(GENERATIONS), default="classic16")
    parser.add_argument("--no-verify", action="store_true", help="count the bytes only")
    parser.add_argument("--directory", help="where the temporary file lies")
    parser.add_argument("--parts", type=int)
    parser.add_argument("--part-min", type=int, help="bytes")
    parser.add_argument("--part-max", type=int, help="bytes")
    parser.add_argument("--stall", type=float, help="seconds")
    parser.add_argument("--backoff", type=float, help="scale of the sleeps between tries")
    return parser.parse_args(arguments)


async def _main(reactor: Any, *arguments: str) -> None:
    options = _options(arguments)
    names = ("parts", "part_min", "part_max", "stall", "backoff")
    changes = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        pulled = await pull(
            reactor,
            options.base,
            options.model,
            GENERATIONS[options.generation].scaled(**given),
            verify=not options.no_verify,
            directory=options.directory,
        )
    except PullFailed as failed:
        pulled = failed.pulled
    print(json.dumps(pulled.as_json()), flush=True)
    if not pulled.ok:
        raise SystemExit(1)


if __name__ == "__main__":
    from twisted.internet.task import react

    react(_main, sys.argv[1:])
