"""
An emulated upstream: Ollama's registry, and the store on another host that its
blobs redirect to.

In a test, on the test's own reactor and on real loopback sockets::

    emulator = await Emulator.start(reactor, ["library/m:latest=300KB,1KB"])
    emulator.faults.add(Fault("store", "cut", after=1000, times=1))
    ...
    await emulator.stop()

As a process of its own::

    python -m tests.emulator --models library/m:latest=2GB --line 600MB

which prints one line of JSON when it is ready. There ``GET /_counters`` tells
what was asked and sent, and ``POST /_faults`` takes what `Emulator.control` does.

It speaks HTTP/1.1 by itself, so that an answer can be wrong at any byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Union
from urllib.parse import parse_qs, urlsplit

from attrs import asdict, define, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol

MIB = 1 << 20
STAMPED = 1 << 16
"""A blob's bytes differ by position: each block of this size begins with its own stamp."""

CHUNK = 1 << 16
"""The most payload in one chunk of a chunked body."""

TICK = 0.02
"""Seconds between two shares of a throttled line."""

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.ollama.image.model"

CLOUDFLARE = """<!DOCTYPE html>
<html lang="en-US"><head><title>ollama.ai | {status}: {reason}</title></head>
<body><h1>{reason} <span>Error code {status}</span></h1><p>cloudflare</p></body></html>
"""
PORTAL = "<html><head><title>Guest Wi-Fi</title></head><body>Please log in.</body></html>\n"
DENIED = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)


def kept_port(host: str, port: int) -> socket.socket:
    """Where connections are refused, and which nobody else gets meanwhile."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind((host, port))
    return kept


def parse_size(text: str) -> int:
    """Bytes, from ``1234``, ``20KB``, ``2GB`` (powers of ten) or ``64MiB`` (powers of two)."""
    match = re.fullmatch(r"([0-9.]+) *(?:([KMGT])(i?))?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"size {text!r}: expected digits and a unit such as MB or MiB")
    number, unit, binary = match.groups()
    power = "KMGT".index(unit.upper()) + 1 if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


@frozen
class ModelSpec:
    """A model to make: its name with a tag, the size in bytes of each layer, and the seed."""

    name: str
    sizes: tuple[int, ...]
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """From ``NAMESPACE/MODEL:TAG=SIZE[xCOUNT][,SIZE...][@SEED]``."""
        name, _, rest = text.partition("=")
        layers, _, seed = rest.partition("@")
        sizes: list[int] = []
        for layer in layers.split(","):
            size, _, count = layer.partition("x")
            sizes += [parse_size(size)] * int(count or 1)
        return cls(name, tuple(sizes), int(seed or 0))

    @classmethod
    def of(cls, given: ModelSpec | str | Mapping[str, Any]) -> ModelSpec:
        """From a spec, its text, or ``{"name", "sizes", "seed"}``."""
        if isinstance(given, ModelSpec):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        sizes = tuple(parse_size(str(size)) for size in given["sizes"])
        return cls(given["name"], sizes, given.get("seed", 0))


class Content:
    """Every blob's bytes, in one unlinked temporary file."""

    def __init__(self, directory: str | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._end = 0
        self._placed: dict[str, tuple[int, int]] = {}

    def close(self) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def __contains__(self, digest: object) -> bool:
        return digest in self._placed

    def size(self, digest: str) -> int:
        return self._placed[digest][1]

    def offset(self, digest: str) -> int:
        """Where in the file the blob begins."""
        return self._placed[digest][0]

    def read(self, digest: str, start: int = 0, end: int | None = None) -> bytes:
        """The blob's bytes ``start <= byte < end``."""
        offset, size = self._placed[digest]
        stop = size if end is None else min(end, size)
        return os.pread(self.fileno(), stop - start, offset + start)

    def put(self, body: bytes) -> str:
        """Keep a blob of these bytes; its digest."""
        return self._place([body])

    def generate(self, size: int, seed: int) -> str:
        """Keep a blob of ``size`` bytes that follow from ``seed``; its digest."""
        return self._place(generated(size, seed))

    def _place(self, pieces: Iterable[bytes]) -> str:
        seen, start = hashlib.sha256(), self._end
        for piece in pieces:
            seen.update(piece)
            self._end += os.pwrite(self.fileno(), piece, self._end)
        digest = f"sha256:{seen.hexdigest()}"
        if digest in self._placed:
            self._end = start
        else:
            self._placed[digest] = (start, self._end - start)
        return digest


def generated(size: int, seed: int) -> Iterator[bytes]:
    """Pseudo-random bytes in pieces of at most a MiB, different at every position of a blob."""
    base = bytearray(random.Random(seed).randbytes(min(size, MIB)))
    stamp = random.Random(~seed).getrandbits(64)
    for start in range(0, size, MIB):
        piece = base if size - start >= MIB else base[: size - start]
        for at in range(0, len(piece) - 7, STAMPED):
            mark = stamp ^ ((start + at) // STAMPED)
            piece[at : at + 8] = mark.to_bytes(8, "big")
        yield bytes(piece)


@frozen
class Model:
    """A model as the registry has it; ``layers`` and ``config`` are of (digest, size)."""

    name: str
    manifest_bytes: bytes = field(repr=False)
    layers: tuple[tuple[str, int], ...]
    config: tuple[str, int]
    _content: Content = field(repr=False)

    @property
    def digest(self) -> str:
        """The manifest's own."""
        return f"sha256:{hashlib.sha256(self.manifest_bytes).hexdigest()}"

    @property
    def blobs(self) -> tuple[tuple[str, int], ...]:
        """Layers and config, each digest once, in the order that clients pull them."""
        return tuple(dict([*self.layers, self.config]).items())

    @property
    def size(self) -> int:
        """Of all blobs together, in bytes."""
        return sum(size for _, size in self.blobs)

    def read(self, digest: str, start: int = 0, end: int | None = None) -> bytes:
        """A blob's bytes ``start <= byte < end``."""
        return self._content.read(digest, start, end)


@define
class Settings:
    """How the upstream behaves when nothing is wrong; all of it may be changed at any time."""

    rate: float | None = None
    """Blob bytes per second over one connection."""
    line: float | None = None
    """Blob bytes per second over all connections, shared fairly."""
    latency: float = 0.0
    """Seconds before each answer."""
    redirect: bool = True
    """Whether a blob GET is a 307 to the store; else the registry answers it."""
    head_redirects: bool = False
    """Whether a blob HEAD is a 307 too, as in 2024."""
    ignore_range: bool = False
    framing: str = "length"
    """A blob's body: ``length`` (Content-Length), ``chunked`` or ``close``."""
    head_manifests: bool = True
    """Whether a manifest's HEAD is 200 with its digest; else 405."""
    manifests_by_digest: bool = False
    """Whether a manifest is found by its digest; else 500."""
    url_seconds: float = 1200.0
    """How long a signed URL serves."""
    url_uses: int | None = None
    """How many requests a signed URL serves."""
    store_front: str | None = None
    """What signed URLs begin with, where it is not the store's own address."""


@define
class Fault:
    """
    Something that goes wrong with the requests it meets.

    ``on`` is a kind (``manifest``, ``blob``, ``store``, ``any``) or a kind and
    a method (``blob HEAD``). ``do`` is one of:

    ``drop``            close without an answer
    ``silence``         never answer (until `Emulator.release`)
    ``delay``           answer ``seconds`` later
    ``cut``             close after ``after`` bytes of the body; with ``reset``, by RST
    ``stall``           say no more after ``after`` bytes of the body (until `Emulator.release`)
    ``slow``            send the body at ``rate`` bytes per second
    ``error``           answer ``status``: JSON, or ``text`` as it is
    ``cloudflare``      answer ``status`` (502) with Cloudflare's HTML
    ``unhealthy``       answer 503, "no healthy upstream"
    ``portal``          answer 200 with a captive portal's HTML
    ``flip``            the blob's byte at offset ``at`` is wrong
    ``truncate``        a whole answer of only the first ``after`` bytes
    ``ignore-range``    answer 200 with all of the blob
    ``content-range``   claim a Content-Range that is ``at`` bytes off
    ``no-length``       leave Content-Length out
    ``no-location``     leave Location out

    ``digest``, ``agent`` (a part of the User-Agent) and ``reference`` (a tag)
    narrow what it meets. It passes by the first ``skip`` requests that it
    meets, happens ``times`` times (for ever if None), each with ``probability``.
    What would come after the end of a blob's answer does not happen to it.
    """

    on: str
    do: str
    after: int = 0
    at: int = 0
    status: int = 0
    text: str | None = None
    seconds: float = 0.0
    rate: float | None = None
    retry_after: int | None = None
    reset: bool = False
    digest: str | None = None
    reference: str | None = None
    agent: str | None = None
    skip: int = 0
    times: int | None = None
    probability: float = 1.0
    happened: int = 0

    def __attrs_post_init__(self) -> None:
        if self.do not in _DEEDS:
            raise ValueError(f"fault {self.do!r}: expected one of {', '.join(sorted(_DEEDS))}")

    def meets(self, request: Request) -> bool:
        """Whether this request is one of those meant."""
        return (
            self.on in ("any", request.kind, request.kind.split()[0])
            and self.digest in (None, request.digest)
            and self.reference in (None, request.reference)
            and (self.agent is None or self.agent in request.header("user-agent"))
        )


_DEEDS = frozenset(
    ("drop", "silence", "delay", "cut", "stall", "slow", "error", "cloudflare", "unhealthy")
    + ("portal", "flip", "truncate", "ignore-range", "content-range", "no-length", "no-location")
)


@define
class Faults:
    """The faults in force; which happens is decided by one seeded generator."""

    random: random.Random
    standing: list[Fault] = field(factory=list)

    def add(self, fault: Fault) -> Fault:
        self.standing.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        self.standing.remove(fault)

    def clear(self) -> None:
        self.standing.clear()

    def drawn(self, request: Request) -> tuple[Fault | None, list[Fault]]:
        """The one fault that changes this answer, and every flip of its blob's bytes."""
        found: Fault | None = None
        flips = []
        for fault in self.standing:
            if (found and fault.do != "flip") or not fault.meets(request):
                continue
            if fault.times is not None and fault.happened >= fault.times:
                continue
            if fault.skip:
                fault.skip -= 1
            elif fault.probability >= 1 or self.random.random() < fault.probability:
                if fault.do == "flip":
                    flips.append(fault)
                else:
                    fault.happened += 1
                    found = fault
        return found, flips


@define
class Request:
    """A request as it came; ``kind`` is what `Counters.requests` counts it as."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    kind: str = "other"
    digest: str | None = None
    reference: str | None = None
    span: tuple[int, int] | None = None
    """The blob's bytes that the answer is to hold, half-open."""
    keeps_alive: bool = True

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


@define
class Counters:
    """What was asked for and what was sent since the start or the last `clear`."""

    requests: Counter[str] = field(factory=Counter)
    """By kind and method: ``manifest GET``, ``blob HEAD``, ``store GET``, ..."""
    answers: Counter[str] = field(factory=Counter)
    """By kind, method and status: ``store GET 206``."""
    sent: int = 0
    """Blob bytes handed to sockets."""
    sent_by_digest: Counter[str] = field(factory=Counter)
    asked: int = 0
    """Blob bytes that GETs asked for, whether or not they were sent."""
    asked_by_digest: Counter[str] = field(factory=Counter)
    store_connections: int = 0
    store_connections_peak: int = 0
    blob_requests: int = 0
    """GETs whose body is being sent, by the store or by the registry itself."""
    blob_requests_peak: int = 0
    user_agents: Counter[str] = field(factory=Counter)
    authorizations: list[str] = field(factory=list)
    """Every Authorization header seen, with the kind of its request before it."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def clear(self) -> None:
        """Count from zero; what is open now stays counted as open."""
        fresh = Counters(
            store_connections=self.store_connections,
            store_connections_peak=self.store_connections,
            blob_requests=self.blob_requests,
            blob_requests_peak=self.blob_requests,
        )
        for name in asdict(fresh, recurse=False):
            setattr(self, name, getattr(fresh, name))


@frozen
class Stretch:
    """``count`` bytes of the content file from ``offset``; ``wrong`` ones go out inverted."""

    offset: int
    count: int
    wrong: bool = False


CUT, RESET, HOLD = "cut", "reset", "hold"
Step = Union[bytes, Stretch, str]
"""A step of an answer's body: bytes, bytes of the file, or what happens to the connection."""


@define
class Answer:
    """What goes out: the head, the body's steps, and what becomes of the connection."""

    head: bytes
    steps: Iterator[Step] = field(factory=lambda: iter(()))
    closes: bool = False
    digest: str | None = None
    delay: float = 0.0
    rate: float | None = None
    silent: bool = False


class Line:
    """Shares the bytes per second among the senders, a little at each tick."""

    def __init__(self, reactor: Any, settings: Settings) -> None:
        self._reactor = reactor
        self._settings = settings
        self._senders: set[Sender] = set()
        self._tick: Any = None
        self._last = 0.0
        self._left = 0.0

    def join(self, sender: Sender) -> None:
        self._senders.add(sender)

    def leave(self, sender: Sender) -> None:
        self._senders.discard(sender)
        if not self._senders and self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def allowance(self, sender: Sender) -> float:
        """How many bytes the sender may send now; where none, it is woken when there are."""
        if self._settings.line is None and self._rate(sender) is None:
            return math.inf
        if sender.budget < 1 and self._tick is None:
            self._last = self._reactor.seconds()
            self._tick = self._reactor.callLater(TICK, self._share)
        return sender.budget

    def _rate(self, sender: Sender) -> float | None:
        return self._settings.rate if sender.rate is None else sender.rate

    def _share(self) -> None:
        now = self._reactor.seconds()
        passed, self._last = min(now - self._last, 0.25), now
        line = self._settings.line
        pool = math.inf if line is None else line * passed + self._left
        wants = sorted((self._want(sender, passed, pool), id(sender), sender)
                       for sender in self._senders)  # fmt: skip
        self._tick = self._reactor.callLater(TICK, self._share)
        for at, (want, _, sender) in enumerate(wants):
            given = min(want, pool / (len(wants) - at))
            sender.budget += given
            pool -= given
        self._left = 0.0 if line is None else min(pool, line * 0.05)
        for _, _, sender in wants:
            sender.wake()

    def _want(self, sender: Sender, passed: float, pool: float) -> float:
        """At most its rate, and no saving up beyond a tenth of a second."""
        rate = self._rate(sender)
        if rate is None:
            line = self._settings.line
            return MIB if line is None else max(0.0, max(line * 0.1, pool) - sender.budget)
        return max(0.0, min(rate * passed, rate * max(0.1, passed) - sender.budget))


class Sender:
    """
    A pull producer that carries out an answer's steps on a TCP transport.

    The transport asks for more only when its own buffer is empty, which is
    when the socket may be given bytes of the file directly (sendfile).
    """

    def __init__(self, connection: Connection, answer: Answer) -> None:
        self._connection = connection
        self._emulator = connection.emulator
        self._transport: Any = connection.transport
        self._steps = answer.steps
        self._digest = answer.digest
        self._step: Step | None = None
        self._begun = False
        self._waiting = False
        self._held = False
        self.rate = answer.rate
        self.budget = 0.0

    def start(self) -> None:
        if self._digest is not None:
            self._emulator.line.join(self)
        self._transport.registerProducer(self, False)

    def wake(self) -> None:
        """There may be an allowance again."""
        if self._waiting:
            self._waiting = False
            self._transport.startWriting()

    def release(self) -> None:
        """Go on where the answer was held."""
        if self._held:
            self._held = False
            self._transport.startWriting()

    def resumeProducing(self) -> None:
        if not self._begun:  # Registration asks for bytes before the head has left.
            self._begun = True
            self._transport.startWriting()
            return
        if self._held or self._waiting:
            return
        step = self._step if self._step is not None else next(self._steps, None)
        self._step = None
        if step is None:
            self._end()
            self._connection.answered()
        elif isinstance(step, bytes):
            self._transport.write(step)
            self._transport.startWriting()
        elif isinstance(step, Stretch) and step.wrong:
            right = os.pread(self._emulator.content.fileno(), step.count, step.offset)
            self._transport.write(bytes(byte ^ 0xFF for byte in right))
            self._count(step.count)
        elif isinstance(step, Stretch):
            self._send_file(step)
        elif step == HOLD:
            self._held = True
            self._emulator.hold(self.release)
        else:
            self._end()
            if step == RESET:
                self._transport.abortConnection()
            else:
                self._transport.loseConnection()

    def _send_file(self, step: Stretch) -> None:
        allowed = min(step.count, self._emulator.line.allowance(self), MIB)
        if allowed < 1:
            self._step = step
            self._waiting = True
            return
        try:
            sent = os.sendfile(
                self._transport.fileno(),
                self._emulator.content.fileno(),
                step.offset,
                int(allowed),
            )
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end()
            self._transport.abortConnection()
            return
        if self.budget >= sent:
            self.budget -= sent
        self._count(sent)
        if sent < step.count:
            self._step = Stretch(step.offset + sent, step.count - sent)
        self._transport.startWriting()

    def _count(self, sent: int) -> None:
        if self._digest is not None:
            self._emulator.counters.sent += sent
            self._emulator.counters.sent_by_digest[self._digest] += sent

    def stopProducing(self) -> None:
        self._held = self._waiting = False
        self._emulator.line.leave(self)

    def _end(self) -> None:
        self._emulator.line.leave(self)
        self._transport.unregisterProducer()


class Connection(Protocol):
    """One client's connection to the registry or to the store."""

    def __init__(self, emulator: Emulator, side: str) -> None:
        self.emulator = emulator
        self._side = side
        self._received = b""
        self._request: Request | None = None
        self._answer: Answer | None = None
        self._later: Any = None

    def connectionMade(self) -> None:
        self._transport.setTcpNoDelay(True)
        self.emulator.connected(self, self._side)

    def connectionLost(self, reason: object = None) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._done()
        self.emulator.disconnected(self, self._side)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if self._request is None:
            self._next()

    def abort(self) -> None:
        """Close at once, by RST."""
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def answered(self) -> None:
        """The whole answer has been handed over."""
        closes = self._answer is None or self._answer.closes
        self._done()
        if closes:
            self._transport.loseConnection()
        else:
            self._next()

    @property
    def _transport(self) -> Any:
        return self.transport

    def _done(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            self.emulator.finished(request)

    def _next(self) -> None:
        request = self._parsed()
        if request is None:
            return
        self._request = request
        self._answer = answer = self.emulator.answer(self._side, request)
        if answer.silent:
            self.emulator.hold(self._send)
        elif answer.delay > 0:
            self._later = self.emulator.reactor.callLater(answer.delay, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._later = None
        answer = self._answer
        if self._request is None or answer is None:
            return
        if not answer.head:
            self._done()
            self._transport.loseConnection()
            return
        self._transport.write(answer.head)
        Sender(self, answer).start()

    def _parsed(self) -> Request | None:
        head, ended, rest = self._received.partition(b"\r\n\r\n")
        if not ended:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return None
        self._received = rest[length:]
        method, target, version = first.split(" ")
        keeps = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return Request(method, target, headers, rest[:length], keeps_alive=keeps)


class Side(Factory):
    """Listens as the registry or as the store."""

    noisy = False

    def __init__(self, emulator: Emulator, side: str) -> None:
        self._emulator = emulator
        self._side = side

    def buildProtocol(self, addr: object) -> Connection:
        return Connection(self._emulator, self._side)


@define
class Grant:
    """What a signed URL allows."""

    digest: str
    method: str
    ends: float
    uses: int | None


_MANIFESTS = re.compile(r"/v2/([^/]+/[^/]+)/manifests/([^/]+)")
_BLOBS = re.compile(r"/v2/([^/]+/[^/]+)/blobs/(sha256:[0-9a-f]{64})")
_STORED = re.compile(r"/ollama/docker/registry/v2/blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})/data")


class Emulator:
    """The registry and its store; made by `start`."""

    def __init__(self, reactor: Any, *, seed: int, directory: str | None, settings: Settings):
        self.reactor = reactor
        self.settings = settings
        self.content = Content(directory)
        self.counters = Counters()
        self.faults = Faults(random.Random(seed))
        self.line = Line(reactor, settings)
        self.models: dict[str, Model] = {}
        self.log: deque[Request] = deque(maxlen=20_000)
        """The newest requests, as they came."""
        self._blobs: set[str] = set()
        self._grants: dict[str, Grant] = {}
        self._signed = 0
        self._addresses = {"registry": ("", 0), "store": ("", 0)}
        self._ports: dict[str, Any] = {}
        self._refusing: dict[str, socket.socket] = {}
        self._connections: set[Connection] = set()
        self._quiet: list[Deferred[None]] = []
        self._held: list[Callable[[], None]] = []
        self._holds = 0
        self._waiters: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self._later: set[Any] = set()

    @classmethod
    async def start(
        cls,
        reactor: Any,
        models: Iterable[ModelSpec | str | Mapping[str, Any]] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        store_host: str = "127.0.0.2",
        store_port: int = 0,
        seed: int = 0,
        directory: str | None = None,
        **settings: Any,
    ) -> Emulator:
        """
        Listen, with these models; ``settings`` are those of `Settings`.

        ``seed`` decides the faults that happen with a probability, ``directory``
        is where the content's temporary file lies.
        """
        made = cls(reactor, seed=seed, directory=directory, settings=Settings(**settings))
        for model in models:
            spec = ModelSpec.of(model)
            made.add_model(spec.name, spec.sizes, seed=spec.seed)
        made._addresses = {"registry": (host, port), "store": (store_host, store_port)}
        made.up()
        return made

    async def stop(self) -> None:
        """Close everything; returns when the reactor holds nothing of this any more."""
        await self.down()
        for later in self._later:
            later.cancel()
        self._later.clear()
        while self._refusing:
            self._refusing.popitem()[1].close()
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            waiter.cancel()
        self.content.close()

    @property
    def url(self) -> str:
        """The registry's, without a slash at the end."""
        return "http://{}:{}".format(*self._addresses["registry"])

    @property
    def store_url(self) -> str:
        return "http://{}:{}".format(*self._addresses["store"])

    # Up and down.

    def up(self) -> None:
        """Listen, on the same ports as before."""
        for side, (host, port) in self._addresses.items():
            if side not in self._ports:
                if side in self._refusing:
                    self._refusing.pop(side).close()
                listening = self.reactor.listenTCP(port, Side(self, side), 1024, host)
                self._ports[side] = listening
                self._addresses[side] = (host, listening.getHost().port)

    async def down(self) -> None:
        """Refuse connections and reset those there are."""
        ports, self._ports = self._ports, {}
        for side, port in ports.items():
            await maybeDeferred(port.stopListening)
            self._refusing[side] = kept_port(*self._addresses[side])
        self.reset_connections()
        if self._connections:
            quiet: Deferred[None] = Deferred()
            self._quiet.append(quiet)
            await quiet

    def reset_connections(self) -> None:
        """Cut every connection now, in the middle of whatever it does."""
        for connection in list(self._connections):
            connection.abort()

    def connected(self, connection: Connection, side: str) -> None:
        self._connections.add(connection)
        if side == "store":
            counters = self.counters
            counters.store_connections += 1
            counters.store_connections_peak = max(
                counters.store_connections_peak, counters.store_connections
            )

    def disconnected(self, connection: Connection, side: str) -> None:
        self._connections.discard(connection)
        if side == "store":
            self.counters.store_connections -= 1
        if not self._connections:
            quiet, self._quiet = self._quiet, []
            for waiting in quiet:
                waiting.callback(None)

    # Models.

    def add_model(self, name: str, sizes: Sequence[int], *, seed: int = 0) -> Model:
        """
        Make the model ``NAMESPACE/MODEL:TAG``, or put another in its place.

        Layers of one seed, place and size are the same blob in every model.
        """
        layers = [
            (self.content.generate(size, (seed << 20) + at), size) for at, size in enumerate(sizes)
        ]
        described = {"model_format": "gguf", "model_family": "emulated", "seed": seed}
        described["rootfs"] = {"type": "layers", "diff_ids": [digest for digest, _ in layers]}
        config = _compact(described)
        return self._kept(name, layers, (self.content.put(config), len(config)))

    set_model = add_model

    def add_model_of(self, name: str, bodies: Sequence[bytes], config: bytes = b"{}") -> Model:
        """Make a model whose layers are these bytes."""
        layers = [(self.content.put(body), len(body)) for body in bodies]
        return self._kept(name, layers, (self.content.put(config), len(config)))

    def _kept(self, name: str, layers: list[tuple[str, int]], config: tuple[str, int]) -> Model:
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config[0], "size": config[1]},
            "layers": [
                {"mediaType": LAYER, "digest": digest, "size": size} for digest, size in layers
            ],
        }
        model = Model(name, _compact(manifest), tuple(layers), config, self.content)
        self.models[name] = model
        self._blobs.update(digest for digest, _ in model.blobs)
        return model

    def set_manifest(self, name: str, body: bytes) -> None:
        """Answer the manifest with these bytes, whatever they are; its blobs stay."""
        old = self.models[name]
        self.models[name] = Model(name, body, old.layers, old.config, self.content)

    def delete_model(self, name: str, *, blobs: bool = True) -> None:
        """Forget the model and, unless another has them, its blobs."""
        gone = {digest for digest, _ in self.models.pop(name).blobs}
        kept = {digest for model in self.models.values() for digest, _ in model.blobs}
        if blobs:
            self._blobs -= gone - kept

    # Holding and waiting.

    def expire_urls(self) -> None:
        """Every signed URL given out until now answers 403."""
        self._grants.clear()

    def hold(self, release: Callable[[], None]) -> None:
        self._held.append(release)
        self._holds += 1
        self._look()

    def release(self) -> None:
        """Let every answer that a ``silence`` or ``stall`` holds go on."""
        held, self._held = self._held, []
        for release in held:
            release()

    def until(self, holds: Callable[[], bool]) -> Deferred[None]:
        """Fires when ``holds()`` is true: it is asked at each request, answer's end and hold."""
        waiter: Deferred[None] = Deferred()
        self._waiters.append((holds, waiter))
        self._look()
        return waiter

    def seen(self, kind: str, count: int = 1) -> Deferred[None]:
        """Fires when ``count`` requests of a kind and method (``store GET``) have come."""
        return self.until(lambda: self.counters.requests[kind] >= count)

    def stalled(self, count: int = 1) -> Deferred[None]:
        """Fires when ``silence`` and ``stall`` have held ``count`` answers since the start."""
        return self.until(lambda: self._holds >= count)

    def idle(self) -> Deferred[None]:
        """Fires when no blob body is being sent."""
        return self.until(lambda: self.counters.blob_requests == 0)

    def _look(self) -> None:
        for entry in [entry for entry in self._waiters if entry[1].called or entry[0]()]:
            if entry in self._waiters:
                self._waiters.remove(entry)
                if not entry[1].called:
                    entry[1].callback(None)

    def finished(self, request: Request) -> None:
        """The request's answer has ended, or its client has gone."""
        if request.span is not None:
            self.counters.blob_requests -= 1
        self._look()

    # Answers.

    def answer(self, side: str, request: Request) -> Answer:
        """Count the request and decide its answer."""
        path = urlsplit(request.target).path
        if path.startswith("/_") and side == "registry":
            return self._controlled(path, request)
        what = self._store if side == "store" else self._registry
        manifest, blob, stored = (
            pattern.fullmatch(path) for pattern in (_MANIFESTS, _BLOBS, _STORED)
        )
        kind = "other"
        if side == "store":
            kind, request.digest = "store", f"sha256:{stored.group(1)}" if stored else None
        elif manifest:
            kind, request.reference = "manifest", manifest.group(2)
        elif blob:
            kind, request.digest = "blob", blob.group(2)
        request.kind = f"{kind} {request.method}"
        self._count(request)
        fault, flips = self.faults.drawn(request)
        answer = self._wrong(request, fault) or what(request, path, fault, flips)
        answer.delay = self.settings.latency
        if fault is not None:
            answer.delay += fault.seconds if fault.do == "delay" else 0
            answer.silent = fault.do == "silence"
            answer.rate = fault.rate
        status = answer.head[9:12].decode() if answer.head else "none"
        self.counters.answers[f"{request.kind} {status}"] += 1
        self._look()
        return answer

    def _count(self, request: Request) -> None:
        self.log.append(request)
        self.counters.requests[request.kind] += 1
        self.counters.user_agents[request.header("user-agent")] += 1
        if "authorization" in request.headers:
            seen = f"{request.kind}: {request.header('authorization')}"
            self.counters.authorizations.append(seen)

    def _wrong(self, request: Request, fault: Fault | None) -> Answer | None:
        """The answer of a fault that leaves nothing of the right one."""
        if fault is None:
            return None
        extra = [] if fault.retry_after is None else [("Retry-After", str(fault.retry_after))]
        if fault.do == "drop":
            return Answer(b"", closes=True)
        if fault.do == "cloudflare":
            status = fault.status or 502
            text = CLOUDFLARE.format(status=status, reason=HTTPStatus(status).phrase)
            extra += [("Content-Type", "text/html; charset=UTF-8"), ("Server", "cloudflare")]
            return _reply(request, status, extra, text.encode(), fault)
        if fault.do == "unhealthy":
            extra.append(("Content-Type", "text/plain"))
            return _reply(request, 503, extra, b"no healthy upstream", fault)
        if fault.do == "portal":
            extra.append(("Content-Type", "text/html"))
            return _reply(request, 200, extra, PORTAL.encode(), fault)
        if fault.do != "error":
            return None
        status = fault.status or 500
        if status == 401:
            challenge = (
                f'Bearer realm="{self.url}/token",service="127.0.0.1",'
                'scope="repository:library/m:pull"'
            )
            extra.append(("WWW-Authenticate", challenge))
        if fault.text is not None:
            extra.append(("Content-Type", "text/plain; charset=utf-8"))
            return _reply(request, status, extra, fault.text.encode(), fault)
        return _refusal(request, status, *_CODES.get(status, ("UNKNOWN", "unknown error")), extra)

    def _registry(
        self, request: Request, path: str, fault: Fault | None, flips: list[Fault]
    ) -> Answer:
        if request.kind in ("manifest GET", "manifest HEAD"):
            return self._manifest(request, path, fault)
        if request.digest is not None and request.digest not in self._blobs:
            return _refusal(request, 404, "BLOB_UNKNOWN", "blob unknown to registry")
        redirects = {
            "blob GET": self.settings.redirect,
            "blob HEAD": self.settings.head_redirects,
        }
        if request.kind not in redirects:
            return _reply(request, 404, [("Content-Type", "text/plain")], b"404 page not found\n")
        if redirects[request.kind]:
            where = self.signed(str(request.digest), request.method)
            headers = [("Content-Type", "text/html; charset=utf-8")]
            if fault is None or fault.do != "no-location":
                headers.append(("Location", where))
            text = f'<a href="{where.replace("&", "&amp;")}">Temporary Redirect</a>.\n\n'
            return _reply(request, 307, headers, text.encode(), fault)
        return self._blob(request, fault, flips)

    def _manifest(self, request: Request, path: str, fault: Fault | None) -> Answer:
        named = _MANIFESTS.fullmatch(path)
        assert named is not None
        name, reference = named.groups()
        if reference.startswith("sha256:"):
            if not self.settings.manifests_by_digest:
                return _refusal(request, 500, "UNKNOWN", "unknown error")
            found = [model for model in self.models.values() if model.digest == reference]
            model = found[0] if found else None
        else:
            model = self.models.get(f"{name}:{reference}")
        if request.method == "HEAD" and not self.settings.head_manifests:
            return _refusal(request, 405, "UNSUPPORTED", "The operation is unsupported.")
        if model is None:
            return _refusal(request, 404, "MANIFEST_UNKNOWN", "manifest unknown")
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if request.method == "HEAD":
            headers.append(("ollama-content-digest", model.digest.partition(":")[2]))
        return _reply(request, 200, headers, model.manifest_bytes, fault, "chunked")

    def signed(self, digest: str, method: str = "GET") -> str:
        """A URL of the store that serves the blob for a while."""
        self._signed += 1
        signature = f"{self._signed:016x}"
        self._grants[signature] = Grant(
            digest,
            method,
            self.reactor.seconds() + self.settings.url_seconds,
            self.settings.url_uses,
        )
        name = digest.partition(":")[2]
        store = self.settings.store_front or self.store_url
        return (
            f"{store}/ollama/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
            f"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires={math.ceil(self.settings.url_seconds)}"
            f"&X-Amz-SignedHeaders=host&sig={signature}"
        )

    def _store(
        self, request: Request, path: str, fault: Fault | None, flips: list[Fault]
    ) -> Answer:
        signature = parse_qs(urlsplit(request.target).query).get("sig", [""])[0]
        grant = self._grants.get(signature)
        xml = [("Content-Type", "application/xml")]
        if (
            grant is None
            or (grant.digest, grant.method) != (request.digest, request.method)
            or grant.ends <= self.reactor.seconds()
            or grant.uses == 0
        ):
            return _reply(request, 403, xml, DENIED.encode())
        if "authorization" in request.headers:
            text = "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed"
            return _reply(request, 400, xml, f"{text}</Message></Error>".encode())
        if grant.uses is not None:
            grant.uses -= 1
        return self._blob(request, fault, flips)

    def _blob(self, request: Request, fault: Fault | None, flips: list[Fault]) -> Answer:
        digest = str(request.digest)
        size = self.content.size(digest)
        do = fault.do if fault is not None else ""
        ignores = self.settings.ignore_range or do == "ignore-range"
        asked = None if ignores else _range(request.header("range"), size)
        headers = [("Content-Type", "application/octet-stream")]
        if not ignores:
            headers.append(("Accept-Ranges", "bytes"))
        headers.append(("ETag", f'"{digest[7:39]}"'))
        if asked == (0, 0):
            headers.append(("Content-Range", f"bytes */{size}"))
            return _reply(request, 416, headers)
        start, end = asked or (0, size)
        if fault is not None and do in ("cut", "stall", "truncate") and fault.after > end - start:
            fault.happened -= 1  # It lies beyond this answer: a longer one will meet it.
            fault, do = None, ""
        if asked:
            off = fault.at if fault is not None and do == "content-range" else 0
            headers.append(("Content-Range", f"bytes {start + off}-{end - 1 + off}/{size}"))
        if request.method == "GET":
            self._sending(request, digest, start, end)
        if fault is not None and do == "truncate":
            end = min(end, start + fault.after)
        wrong = sorted({flip.at for flip in flips if start <= flip.at < end})
        sent = start + fault.after if fault is not None and do == "cut" else end
        for flip in flips:
            flip.happened += start <= flip.at < min(sent, end)
        place = self.content.offset(digest)

        def payload(first: int, last: int) -> Iterator[Step]:
            here, stop = start + first, start + last
            for at in [*(at for at in wrong if here <= at < stop), stop]:
                if here < at:
                    yield Stretch(place + here, at - here)
                if at < stop:
                    yield Stretch(place + at, 1, wrong=True)
                here = at + 1

        framing = "length" if request.method == "HEAD" else self.settings.framing
        if do == "no-length":
            framing = "close"
        head = _head(request, 206 if asked else 200, headers, end - start, framing)
        answer = Answer(head, digest=digest, closes=_closes(request, framing))
        if request.method != "HEAD":
            answer.steps = _steps(payload, end - start, framing, fault)
        return answer

    def _sending(self, request: Request, digest: str, start: int, end: int) -> None:
        request.span = (start, end)
        counters = self.counters
        counters.asked += end - start
        counters.asked_by_digest[digest] += end - start
        counters.blob_requests += 1
        counters.blob_requests_peak = max(counters.blob_requests_peak, counters.blob_requests)

    # Control from another process.

    def control(self, orders: Mapping[str, Any]) -> None:
        """
        Carry out orders, in this order, each only if it is there.

        ``clear`` (all faults), ``settings`` (names and values of `Settings`),
        ``add`` (a list of `Fault` fields), ``set_model`` (``name``, ``sizes``,
        ``seed``), ``delete_model`` (a name), ``expire``, ``release``,
        ``clear_counters``, ``cut`` (every connection), ``down`` (seconds).
        """
        if orders.get("clear"):
            self.faults.clear()
        for name, value in orders.get("settings", {}).items():
            if not hasattr(self.settings, name):
                raise ValueError(f"setting {name!r}: there is none of that name")
            setattr(self.settings, name, value)
        for fault in orders.get("add", ()):
            self.faults.add(Fault(**fault))
        if "set_model" in orders:
            spec = ModelSpec.of(orders["set_model"])
            self.add_model(spec.name, spec.sizes, seed=spec.seed)
        if "delete_model" in orders:
            self.delete_model(orders["delete_model"])
        for order, act in (
            ("expire", self.expire_urls),
            ("release", self.release),
            ("clear_counters", self.counters.clear),
        ):
            if orders.get(order):
                act()
        if orders.get("cut"):
            self._after(0.02, self.reset_connections)
        if "down" in orders:
            self._after(0.02, lambda: Deferred.fromCoroutine(self.down()))
            self._after(0.02 + float(orders["down"]), self.up)

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        """Act when the answer to the order has left."""

        def due() -> None:
            self._later.discard(later)
            act()

        later = self.reactor.callLater(seconds, due)
        self._later.add(later)

    def _controlled(self, path: str, request: Request) -> Answer:
        json_type = [("Content-Type", "application/json")]
        if (request.method, path) == ("GET", "/_counters"):
            return _reply(request, 200, json_type, _compact(self.counters.as_json()))
        if (request.method, path) == ("POST", "/_faults"):
            try:
                self.control(json.loads(request.body))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                return _reply(request, 400, json_type, _compact({"error": str(error)}))
        elif (request.method, path) != ("GET", "/_faults"):
            return _reply(request, 404, json_type, b"{}")
        standing = [asdict(fault) for fault in self.faults.standing]
        shown = {"faults": standing, "settings": asdict(self.settings)}
        return _reply(request, 200, json_type, _compact(shown))

    def described(self) -> dict[str, Any]:
        """Where it listens and what it has, for the line that is printed when ready."""
        models = {
            name: {
                "digest": model.digest,
                "size": model.size,
                "layers": model.layers,
                "config": model.config,
            }
            for name, model in self.models.items()
        }
        return {"registry": self.url, "store": self.store_url, "models": models}


_CODES = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("NAME_UNKNOWN", "repository name not known to registry"),
    412: ("MANIFEST_INVALID", "this model requires a newer version of Ollama"),
    429: ("TOOMANYREQUESTS", "too many requests"),
    503: ("UNAVAILABLE", "service unavailable"),
}


def _compact(content: Any) -> bytes:
    """JSON as Go writes it: without spaces."""
    return json.dumps(content, separators=(",", ":")).encode()


def _range(header: str, size: int) -> tuple[int, int] | None:
    """The one range asked for, half-open; None for all of it, (0, 0) for one that is not there."""
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    return (start, end) if start < end else (0, 0)


def _closes(request: Request, framing: str) -> bool:
    return not request.keeps_alive or (framing == "close" and request.method != "HEAD")


def _head(
    request: Request, status: int, headers: list[tuple[str, str]], length: int, framing: str
) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if framing == "length":
        lines.append(f"Content-Length: {length}")
    elif framing == "chunked" and request.method != "HEAD":
        lines.append("Transfer-Encoding: chunked")
    if _closes(request, framing):
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _steps(
    payload: Callable[[int, int], Iterator[Step]], length: int, framing: str, fault: Fault | None
) -> Iterator[Step]:
    """The body's steps; ``payload`` gives those of its bytes from one place to another."""

    def framed(first: int, last: int) -> Iterator[Step]:
        if framing != "chunked":
            yield from payload(first, last)
            return
        for start in range(first, last, CHUNK):
            end = min(start + CHUNK, last)
            yield f"{end - start:x}\r\n".encode()
            yield from payload(start, end)
            yield b"\r\n"

    until = 0
    if fault is not None and fault.do in ("cut", "stall"):
        until = min(fault.after, length)
        yield from framed(0, until)
        if fault.do == "cut":
            yield RESET if fault.reset else CUT
            return
        yield HOLD
    yield from framed(until, length)
    if framing == "chunked":
        yield b"0\r\n\r\n"


def _reply(
    request: Request,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes = b"",
    fault: Fault | None = None,
    framing: str = "length",
) -> Answer:
    """An answer whose body is at hand, with what a fault does to it on its way."""
    if fault is not None:
        if fault.do == "truncate":
            body = body[: fault.after]
        elif fault.do == "no-length":
            framing = "close"
    head = _head(request, status, headers, len(body), framing)
    answer = Answer(head, closes=_closes(request, framing))
    if request.method != "HEAD":
        answer.steps = _steps(lambda a, b: iter([body[a:b]]), len(body), framing, fault)
    return answer


def _refusal(
    request: Request,
    status: int,
    code: str,
    message: str,
    headers: list[tuple[str, str]] | None = None,
) -> Answer:
    """An error as a registry words it."""
    detail = {"Tag": request.reference} if request.reference else None
    error = {"code": code, "message": message, "detail": detail}
    json_type = ("Content-Type", "application/json; charset=utf-8")
    return _reply(request, status, [*(headers or ()), json_type], _compact({"errors": [error]}))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.emulator", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--store-host", default="127.0.0.2")
    parser.add_argument("--store-port", type=int, default=0)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["library/m:latest=1MB"],
        help="NAME=SIZE[xCOUNT],...[@SEED], or a file of JSON: [{name, sizes, seed}, ...]",
    )
    parser.add_argument("--rate", type=parse_size, help="bytes per second over one connection")
    parser.add_argument("--line", type=parse_size, help="bytes per second over all of them")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--content-dir", help="where the content's temporary file lies")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of Settings' fields")
    return parser.parse_args(arguments)


async def _main(reactor: Any, *arguments: str) -> None:
    options = _options(arguments)
    models: list[Any] = []
    for given in options.models:
        if "=" in given:
            models.append(given)
        else:
            with open(given) as opened:
                models += json.load(opened)
    emulator = await Emulator.start(
        reactor,
        models,
        host=options.host,
        port=options.port,
        store_host=options.store_host,
        store_port=options.store_port,
        seed=options.seed,
        directory=options.content_dir,
        **{
            "rate": options.rate,
            "line": options.line,
            "latency": options.latency,
            **options.settings,
        },
    )
    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromCoroutine(emulator.stop())
    )
    print(json.dumps(emulator.described()), flush=True)
    await Deferred()


if __name__ == "__main__":
    from twisted.internet.task import react

    react(_main, sys.argv[1:])
