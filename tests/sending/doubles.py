"""
A library that has what a test puts into it, a blob that comes when it says so, and a client's
connection in memory.
"""

from __future__ import annotations

import random
import tempfile
from typing import Any, Optional, Union

from attrs import define, field, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tests.fills.doubles import ScriptedDisk
from yukari.config.networks import Networks
from yukari.config.patterns import ModelRules
from yukari.errors import blob_unknown, manifest_unknown
from yukari.fills.fill import Fill
from yukari.library.in_use import InUse
from yukari.library.manifests import FoundManifest
from yukari.manifest import Manifest, Variant
from yukari.names import DEFAULT, Digest, Reference, Repository, Tag
from yukari.sending.workers import Helpers
from yukari.storage.readable import Readable
from yukari.web.site import RegistrySite
from yukari.web.v2 import make_root

NAME = Repository(DEFAULT, "library", "m")


def noise(size: int) -> bytes:
    """Bytes that differ by their place."""
    return random.Random(size).randbytes(size)


@define(eq=False)
class Growing:
    """A `Readable` of ``content``, of which the first ``here`` bytes can be read now."""

    content: bytes
    here: int = -1
    in_file: bool = True
    result: str = "hit"
    closes: int = 0
    reads: list[tuple[int, int]] = field(factory=list)
    _file: Any = None
    _waiting: dict[Deferred[None], int] = field(factory=dict)
    _error: Optional[Exception] = None
    unreadable: Optional[OSError] = None
    _cut_at: Optional[int] = None

    def __attrs_post_init__(self) -> None:
        self.here = len(self.content) if self.here < 0 else self.here
        if self.in_file:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._file.write(self.content)
            self._file.flush()

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def digest(self) -> Digest:
        return Digest.of(self.content)

    @property
    def waiters(self) -> int:
        """How many wait for more."""
        return len(self._waiting)

    async def ready(self, position: int) -> None:
        pass

    def available(self, position: int) -> int:
        return max(position, self.here)

    def wait(self, position: int) -> Deferred[None]:
        if self._error is not None:
            return fail(self._error)
        if self.here > position:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda gone: self._waiting.pop(gone))
        self._waiting[waiting] = position
        return waiting

    def fileno(self) -> Optional[int]:
        return self._file.fileno() if self.in_file else None

    def read(self, offset: int, count: int) -> bytes:
        if self.closes:
            raise ValueError("this file is closed")
        self.reads.append((offset, count))
        if self.unreadable is not None:
            raise self.unreadable
        return self.content[: self._cut_at][offset : offset + count]

    def close(self) -> None:
        self.closes += 1
        if self.in_file:
            self._file.close()

    # what the test does

    def grow(self, here: int) -> None:
        """So many bytes are there now."""
        self.here = here
        for waiting in [each for each, position in self._waiting.items() if here > position]:
            del self._waiting[waiting]
            waiting.callback(None)

    def break_(self, error: Exception) -> None:
        """There will be no more."""
        self._error = error
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            each.errback(error)

    def cut(self, size: int) -> None:
        """Somebody cuts the file."""
        self._cut_at = size
        if self.in_file:
            self._file.truncate(size)


@define(eq=False)
class Shelf:
    """A library of what was put into it."""

    blobs: dict[Digest, Union[Readable, Fill]] = field(factory=dict)
    manifests: dict[tuple[Repository, Reference], Manifest] = field(factory=dict)
    fills: dict[Digest, Fill] = field(factory=dict)
    rules: ModelRules = ModelRules()
    gate: Optional[Deferred[None]] = None
    """What a manifest waits for."""
    in_use: InUse = field(factory=lambda: InUse(Clock()))

    def put(self, readable: Any) -> str:
        """The path of a blob's URL."""
        self.blobs[readable.digest] = readable
        return f"/v2/{NAME}/blobs/{readable.digest}"

    async def manifest(
        self,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
        *,
        prefetch: bool,
    ) -> FoundManifest:
        if self.gate is not None:
            await self.gate
        try:
            return FoundManifest(self.manifests[name, reference], "hit")
        except KeyError:
            raise manifest_unknown(name, reference) from None

    def found_unreadable(self, digest: Digest, error: OSError) -> bool:
        return False

    async def blob_size(self, name: Repository, digest: Digest) -> int:
        return (await self.blob(name, digest)).size

    async def blob(self, name: Repository, digest: Digest, host: str = "") -> Union[Readable, Fill]:
        try:
            return self.blobs[digest]
        except KeyError:
            raise blob_unknown(digest) from None

    @property
    def listing(self) -> Shelf:
        return self

    async def tags(self, name: Repository) -> list[Tag]:
        return [Tag("latest")]

    async def models(self, last: str, most: int, registry: str = DEFAULT) -> list[Repository]:
        return [NAME]


class Wire(StringTransport):
    """
    A connection whose client takes everything, or nothing while it is ``full``.

    Like TCP's it pauses its producer above 64 KiB that were not taken, and again at each write
    from there on; and it closes in the reactor's next turn, ``clock.advance(0)``.
    """

    full = False
    untaken = 0
    aborted = False

    def __init__(self, clock: Clock, peer: Any = None) -> None:
        super().__init__(peerAddress=peer, lenient=True)
        self.clock = clock
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        if self.connected:
            super().write(data)
            self._reckon(len(data))

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def _reckon(self, count: int) -> None:
        if self.full:
            self.untaken += count
            if self.untaken > 65536 and self.producer is not None:
                self.producer.pauseProducing()

    def take(self) -> None:
        """The client takes what there is, and is as slow as before afterwards."""
        paused, self.untaken = self.untaken > 65536, 0
        if paused and self.producer is not None:
            self.producer.resumeProducing()

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self.clock.callLater(0, self.leave, ConnectionDone())

    def abortConnection(self) -> None:
        self.aborted = self.disconnecting = True
        self.clock.callLater(0, self.leave, ConnectionAborted())

    def pauseProducing(self) -> None:
        self.producerState = "paused"

    def resumeProducing(self) -> None:
        self.producerState = "producing"

    def stopProducing(self) -> None:
        self.loseConnection()

    def leave(self, reason: Optional[Exception] = None) -> None:
        """The client has gone."""
        if self.connected:
            self.connected = False
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))


@frozen
class Reply:
    """One reply of a connection."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse_replies(data: bytes, *methods: str) -> list[Reply]:
    """The replies in ``data``, each of which has a Content-Length; HEAD's have no body."""
    replies = []
    asked = list(methods)
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        method = asked.pop(0) if asked else "GET"
        status = int(first.split()[1])
        length = 0 if method == "HEAD" or status == 304 else int(headers.get("content-length", 0))
        replies.append(Reply(status, headers, data[:length]))
        data = data[length:]
    return replies


@define(eq=False)
class Talk:
    """A client's connection to a registry with this shelf, both in memory and by one clock."""

    shelf: Shelf = field(factory=Shelf)
    clock: Clock = field(factory=Clock)
    disk: ScriptedDisk = field(factory=ScriptedDisk)
    peer: Any = IPv4Address("TCP", "192.0.2.7", 4711)
    site: dict[str, Any] = field(factory=dict)
    """What else its site is made with."""
    allow: Optional[Networks] = None
    wire: Wire = field(init=False)
    channel: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        library: Any = self.shelf
        root = make_root(library, self.disk, Helpers(self.disk, 0), "http://up/")
        site = RegistrySite(root, self.clock, allow=self.allow, **self.site)
        site.reactor = self.clock
        self.wire = Wire(self.clock, self.peer)
        self.channel = site.buildProtocol(self.wire.getPeer())
        self.wire.protocol = self.channel
        self.channel.makeConnection(self.wire)

    def say(self, data: bytes) -> None:
        """These bytes come from the client, and the reactor turns until all are read."""
        self.channel.dataReceived(data)
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def ask(self, path: str, *headers: str, method: str = "GET") -> None:
        """A request on the same connection as any before."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
        self.say("\r\n".join(lines).encode("latin-1"))

    def replies(self, *methods: str) -> list[Reply]:
        """What came back."""
        return parse_replies(self.wire.value(), *methods)
