"""A blob's bytes on their way to a client: by ``sendfile``, by reads, and straight from upstream."""

from __future__ import annotations

import os
import random
import socket
from typing import Any, Optional

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.fills.doubles import Scene, ScriptedDisk
from tests.registry.doubles import NAME, Growing, Shelf, Talk, parse_replies
from tests.running import until
from yukari.errors import RegistryError, blob_unknown
from yukari.fills.fill import FillKeeper
from yukari.fills.source import SourceFailed, SourceRefused
from yukari.manifest import Manifest
from yukari.names import Digest, Tag
from yukari.registry import sending
from yukari.registry.resources import make_root
from yukari.registry.sending import READ, RELAY_SILENCE, RELAY_TRIES, STALL
from yukari.registry.site import RegistrySite
from yukari.spans import Span
from yukari.storage.interface import NoRoom

reactor: Any = _reactor
MIB = 1024 * 1024


def noise(size: int) -> bytes:
    """Bytes that differ by their place."""
    return random.Random(size).randbytes(size)


class Peer(Protocol):
    """A client that keeps what it gets, and reads only while it is not paused."""

    transport: Any

    def __init__(self) -> None:
        self.got = bytearray()
        self.gone = False

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Optional[Failure] = None) -> None:
        self.gone = True

    def ask(self, *paths: str, headers: str = "") -> None:
        """Requests, all in one piece."""
        heads = [f"GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n" for path in paths]
        self.transport.write("".join(heads).encode())

    def replies(self) -> list[Any]:
        return parse_replies(bytes(self.got))


class SocketCase(TestCase):
    """A registry on a real port; its stall timers go by ``clock``."""

    timeout = 20

    def setUp(self) -> None:
        self.shelf = Shelf()
        self.clock = Clock()
        self.disk = ScriptedDisk()
        library: Any = self.shelf
        self.site = RegistrySite(make_root(library, self.clock, self.disk, "http://up/"), self.clock)
        self.port = reactor.listenTCP(0, self.factory(), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.channels: list[Any] = []
        build = self.site.buildProtocol

        def built(address: Any) -> Any:
            self.channels.append(build(address))
            return self.channels[-1]

        self.site.buildProtocol = built  # type: ignore[method-assign]
        self.calls: list[bool] = []
        real = os.sendfile

        def sendfile(out: int, source: int, offset: int, count: int) -> int:
            sent = real(out, source, offset, count)
            self.calls.append(sent < count)
            return sent

        self.patch(sending.os, "sendfile", sendfile)

    def factory(self) -> Any:
        return self.site

    async def full(self) -> None:
        """Returns when the sockets take nothing more."""
        seen = -1
        while seen != len(self.calls) or not any(self.calls):
            seen = len(self.calls)
            await deferLater(reactor, 0.03, lambda: None)

    async def peer(self, room: int = 0) -> Peer:
        """A connected client; ``room`` is how many bytes the kernel keeps for it."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        peer: Peer = await connectProtocol(endpoint, Peer())
        await until(lambda: self.channels)
        if room:
            peer.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.addCleanup(self.part, peer)
        return peer

    async def _parted(self, peer: Peer) -> None:
        peer.transport.abortConnection()
        await until(lambda: peer.gone)
        await until(lambda: not any(channel.transport.connected for channel in self.channels))

    def part(self, peer: Peer) -> Deferred[None]:
        return Deferred.fromCoroutine(self._parted(peer))


class FileTests(SocketCase):
    """Plain sockets, where the bytes go by ``sendfile``."""

    async def test_a_blob_comes_whole_and_behind_its_headers(self) -> None:
        blob = Growing(noise(3 * MIB))
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: blob.closes)
        await until(lambda: len(peer.got) > 3 * MIB)
        (reply,) = peer.replies()
        self.assertEqual((reply.status, reply.body), (200, blob.content))
        self.assertEqual((blob.closes, blob.reads), (1, []))

    async def test_a_connection_is_used_again_after_a_blob(self) -> None:
        peer = await self.peer()
        path = self.shelf.put(Growing(noise(300_000)))
        for _ in range(3):
            self.shelf.put(Growing(noise(300_000)))
            peer.got.clear()
            peer.ask(path)
            await until(lambda: peer.got.endswith(noise(300_000)))
            peer.ask("/healthz")
            await until(lambda: peer.got.endswith(b"OK\n"))
        self.assertEqual(len(self.channels), 1)

    async def test_requests_that_come_together_are_answered_in_their_order(self) -> None:
        blobs = [Growing(bytes([at]) * (at * 5000 + 1)) for at in range(20)]
        paths = [self.shelf.put(blob) for blob in blobs]
        peer = await self.peer()
        peer.ask(*(path for blob_path in paths for path in (blob_path, "/healthz")))
        await until(lambda: all(blob.closes for blob in blobs))
        await until(lambda: len(peer.replies()) == 40)
        bodies = [reply.body for reply in peer.replies()]
        self.assertEqual(bodies[::2], [blob.content for blob in blobs])
        self.assertEqual(bodies[1::2], [b"OK\n"] * 20)

    async def paused_before_a_blob(self, blob: Growing, *more: str) -> Peer:
        """
        A client that takes nothing asks for a large manifest, this blob and more, all at once.

        Returns when the manifest has filled the connection.
        """
        body = b'{"schemaVersion": 2, "layers": [{"digest": "sha256:%s", "size": 1}], "x": "%s"}'
        manifest = Manifest.parse(body % (b"ab" * 32, b"x" * 6 * MIB))
        self.shelf.manifests[NAME, Tag("latest")] = manifest
        self.shelf.gate = Deferred()
        peer = await self.peer()
        peer.transport.pauseProducing()
        peer.ask("/v2/library/m/manifests/latest", self.shelf.put(blob), *more)
        await until(lambda: self.channels[0].requests)
        if more:
            await until(lambda: self.channels[0].transport not in reactor.getReaders())
        self.shelf.gate.callback(None)
        await until(lambda: self.channels[0].requests[0].path != b"/v2/library/m/manifests/latest")
        return peer

    async def test_a_connection_that_was_paused_before_a_blob_goes_on_after_it(self) -> None:
        blob = Growing(noise(100_000))
        peer = await self.paused_before_a_blob(blob, *[f"/healthz?{'x' * 1000}"] * 30)
        peer.transport.resumeProducing()
        await until(lambda: blob.closes)
        peer.ask("/v2/")
        await until(lambda: peer.got.endswith(b"\r\n\r\n{}"))
        self.assertEqual(peer.got.count(b"OK\n"), 30)

    async def test_what_a_client_sends_ahead_of_a_blobs_end_is_bounded(self) -> None:
        blob = Growing(noise(100_000), here=10)
        peer = await self.paused_before_a_blob(blob)
        peer.transport.resumeProducing()
        await until(lambda: blob.waiters)
        channel = self.channels[0]
        peer.transport.write(bytes(6 * MIB))
        held = lambda: sum(map(len, channel._dataBuffer))  # noqa: E731
        await until(lambda: channel.transport not in reactor.getReaders() or held() > MIB)
        self.assertLess(held(), 300_000)

    async def test_short_writes_and_full_sockets_lose_nothing(self) -> None:
        real, chance = os.sendfile, random.Random(3)

        def fitful(out: int, source: int, offset: int, count: int) -> int:
            if chance.random() < 0.3:
                raise BlockingIOError
            return real(out, source, offset, min(count, chance.randrange(1, 20_000)))

        self.patch(sending.os, "sendfile", fitful)
        blob = Growing(noise(MIB))
        peer = await self.peer()
        peer.ask(self.shelf.put(blob), "/healthz")
        await until(lambda: peer.got.endswith(b"OK\n"))
        self.assertEqual(peer.replies()[0].body, blob.content)

    async def test_a_range_of_a_blob_that_comes(self) -> None:
        blob = Growing(noise(MIB), here=1000)
        peer = await self.peer()
        peer.ask(self.shelf.put(blob), headers="Range: bytes=500-900000\r\n")
        for here in (1001, 300_000, MIB):
            await until(lambda: blob.waiters)
            blob.grow(here)
        await until(lambda: blob.closes)
        await until(lambda: len(peer.got) > 899_501)
        (reply,) = peer.replies()
        self.assertEqual((reply.status, reply.body), (206, blob.content[500:900_001]))

    async def test_a_reader_that_takes_nothing_is_dropped(self) -> None:
        blob = Growing(bytes(32 * MIB))
        peer = await self.peer(room=4096)
        peer.transport.pauseProducing()
        peer.ask(self.shelf.put(blob))
        await self.full()
        channel = self.channels[0]
        self.clock.advance(STALL - 1)
        self.assertTrue(channel.transport.connected)
        self.clock.advance(2)
        await until(lambda: blob.closes)
        self.assertFalse(channel.transport.connected)
        self.assertEqual((blob.closes, self.clock.getDelayedCalls()), (1, []))

    async def test_a_reader_that_waits_for_the_fill_is_not_dropped(self) -> None:
        blob = Growing(noise(MIB), here=0)
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: blob.waiters)
        for _ in range(10):
            self.clock.advance(STALL * 0.9)
        blob.grow(10)
        await until(lambda: blob.waiters)
        for _ in range(10):
            self.clock.advance(STALL * 0.9)
        blob.grow(MIB)
        await until(lambda: blob.closes)
        await until(lambda: len(peer.got) > MIB)
        self.assertEqual(peer.replies()[0].body, blob.content)

    async def test_a_reader_that_has_waited_may_stall_as_long_as_any(self) -> None:
        blob = Growing(bytes(32 * MIB), here=0)
        peer = await self.peer(room=4096)
        peer.ask(self.shelf.put(blob))
        await until(lambda: blob.waiters)
        peer.transport.pauseProducing()
        self.clock.advance(STALL * 3)
        blob.grow(32 * MIB)
        await self.full()
        self.clock.advance(STALL - 1)
        self.assertTrue(self.channels[0].transport.connected)
        self.clock.advance(2)
        await until(lambda: blob.closes)

    async def test_a_client_that_leaves_midway_closes_the_blob_once(self) -> None:
        blob = Growing(bytes(32 * MIB))
        peer = await self.peer(room=4096)
        peer.ask(self.shelf.put(blob))
        await until(lambda: peer.got)
        with capturedLogs() as events:
            peer.transport.abortConnection()
            await until(lambda: blob.closes)
        self.assertEqual((blob.closes, self.clock.getDelayedCalls()), (1, []))
        (line,) = [event for event in events if "status" in event]
        self.assertTrue(line["left"])
        self.assertTrue(len(peer.got) - 1000 <= line["bytes"] < blob.size, line["bytes"])

    async def test_a_client_that_leaves_while_it_waits_closes_the_blob_once(self) -> None:
        blob = Growing(noise(MIB), here=100)
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: blob.waiters)
        peer.transport.loseConnection()
        await until(lambda: blob.closes)
        self.assertEqual(blob.waiters, 0)
        blob.grow(MIB)
        self.assertEqual((blob.closes, self.clock.getDelayedCalls()), (1, []))

    async def test_a_file_that_is_shorter_than_it_was_drops_the_connection(self) -> None:
        blob = Growing(noise(MIB))
        path = self.shelf.put(blob)
        blob.cut(5000)
        peer = await self.peer()
        with capturedLogs() as events:
            peer.ask(path)
            await until(lambda: peer.gone)
        self.assertEqual(blob.closes, 1)
        told = [event for event in events if "error" in event]
        self.assertEqual([event["error"] for event in told], ["the file is shorter than it was"])
        (line,) = [event for event in events if "status" in event]
        self.assertEqual(line["bytes"], 5000)

    async def test_a_fill_that_ends_midway_drops_the_connection(self) -> None:
        blob = Growing(noise(MIB), here=5000)
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: blob.waiters)
        blob.break_(blob_unknown(blob.digest))
        await until(lambda: peer.gone)
        self.assertEqual(blob.closes, 1)
        self.assertEqual(bytes(peer.got)[-5000:], blob.content[:5000])

    async def test_what_was_sent_is_counted(self) -> None:
        blob = Growing(noise(MIB))
        peer = await self.peer()
        path = self.shelf.put(blob)
        with capturedLogs() as events:
            peer.ask(path, "/healthz", headers="Range: bytes=-1000\r\n")
            await until(lambda: peer.got.endswith(b"OK\n"))
        lines = {event["path"]: event["bytes"] for event in events if "status" in event}
        self.assertEqual(lines, {path: 1000, "/healthz": 3})


class TlsTests(SocketCase):
    """Over TLS the bytes are read and written."""

    def factory(self) -> Any:
        key = ssl.KeyPair.generate(size=2048)
        certificate = key.selfSignedCert(1, CN="h")
        options = ssl.PrivateCertificate.fromCertificateAndKeyPair(certificate, key).options()
        return TLSMemoryBIOFactory(options, False, self.site)

    async def secure_peer(self) -> Peer:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        options: Any = ssl.CertificateOptions(verify=False)
        factory: Any = type("F", (), {})
        from twisted.internet.protocol import Factory

        factory = TLSMemoryBIOFactory(options, True, Factory.forProtocol(Peer))
        wrapped = await endpoint.connect(factory)
        peer: Peer = wrapped.wrappedProtocol
        await until(lambda: self.channels)
        self.addCleanup(self.part, peer)
        return peer

    async def test_a_blob_comes_whole_at_the_clients_pace(self) -> None:
        blob = Growing(noise(8 * MIB), in_file=False)
        peer = await self.secure_peer()
        peer.ask(self.shelf.put(blob), "/healthz")
        await until(lambda: peer.got)
        peer.transport.pauseProducing()
        await until(lambda: self.channels[0]._waitingForTransport)
        peer.transport.resumeProducing()
        await until(lambda: peer.got.endswith(b"OK\n"))
        self.assertEqual(peer.replies()[0].body, blob.content)
        self.assertEqual(blob.closes, 1)
