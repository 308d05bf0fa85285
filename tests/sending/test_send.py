"""A blob's bytes to a client: by ``sendfile``, by reads, straight from upstream."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import sys
import termios
from functools import partial
from typing import Any, Optional

from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.logger import capturedLogs
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.fills.doubles import ScriptedDisk
from tests.running import until
from tests.sending.doubles import NAME, Growing, Shelf, Talk, noise, parse_replies
from yukari.errors import RegistryError, blob_unknown
from yukari.manifest import Manifest
from yukari.names import Tag
from yukari.sending import fairness as turn
from yukari.sending import transports
from yukari.sending.fairness import A_TURN, HELPED_MOST, Turn
from yukari.sending.send import LITTLE
from yukari.sending.sendfile import FileSender
from yukari.sending.stall import READ, STALL
from yukari.sending.workers import Helpers
from yukari.web.half_close import HALF_CLOSES_WITHIN
from yukari.web.site import RegistrySite
from yukari.web.v2 import make_root

reactor: Any = _reactor
MIB = 1024 * 1024


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

    def setUp(self) -> None:
        self.shelf = Shelf()
        self.clock = Clock()
        self.disk = ScriptedDisk()
        library: Any = self.shelf
        root = make_root(library, self.disk, self.helpers(), "http://up/")
        self.site = RegistrySite(root, self.clock)
        self.port = reactor.listenTCP(0, self.factory(), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.channels: list[Any] = []
        self.opened: list[Peer] = []
        build = self.site.buildProtocol

        def built(address: Any) -> Any:
            self.channels.append(build(address))
            return self.channels[-1]

        self.site.buildProtocol = built  # type: ignore[method-assign]
        self.calls = 0
        real = os.sendfile

        def sendfile(out: int, source: int, offset: int, count: int) -> int:
            self.calls += 1
            return real(out, source, offset, count)

        self.patch(os, "sendfile", sendfile)

    def factory(self) -> Any:
        return self.site

    def helpers(self) -> Helpers:
        """None, unless a test sets one."""
        return Helpers(self.disk, 0)

    async def full(self) -> None:
        """Returns when the sockets take nothing more."""
        seen = quiet = 0
        while quiet < 5:
            await deferLater(reactor, 0.006, lambda: None)
            # Counts turns of the reactor, because the clock runs on when this process does not.
            quiet = quiet + 1 if seen == self.calls and seen else 0
            seen = self.calls

    async def peer(self, room: int = 0) -> Peer:
        """A connected client; ``room`` is how many bytes the kernel keeps for it."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        peer: Peer = await connectProtocol(endpoint, Peer())
        await until(lambda: self.channels)
        if room:
            peer.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.parts(peer)
        return peer

    def wire(self) -> Any:
        """The first connection's TCP transport, on the registry's side."""
        return self.channels[0].transport

    async def paused_before_a_blob(self, blob: Growing, *more: str) -> Peer:
        """
        Let a client that takes nothing ask for a large manifest, this blob and more, all at once.

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
            await until(lambda: self.wire() not in reactor.getReaders())
        self.shelf.gate.callback(None)
        await until(lambda: not self.channels[0].requests)
        self.assertFalse(blob.waiters)
        return peer

    async def resumes_after_a_blob(self) -> None:
        """A connection that was paused before a blob has the blob's reply and the next one."""
        blob = Growing(noise(100_000))
        peer = await self.paused_before_a_blob(blob, *[f"/healthz?{'x' * 1000}"] * 30)
        peer.transport.resumeProducing()
        await until(lambda: blob.closes)
        peer.ask("/v2/")
        await until(lambda: peer.got.endswith(b"\r\n\r\n{}"))
        self.assertEqual(peer.got.count(b"OK\n"), 30)

    async def _parted(self, peer: Peer) -> None:
        for each in self.opened:
            if not each.gone:
                each.transport.abortConnection()
        await until(lambda: peer.gone)
        await until(lambda: not any(channel.transport.connected for channel in self.channels))

    def parts(self, peer: Peer) -> None:
        """At the test's end all connections are closed."""
        self.opened.append(peer)
        self.addCleanup(lambda: Deferred.fromCoroutine(self._parted(peer)))


@define(eq=False)
class TakesHalf:
    """A sender in a `Turn`'s line: it uses half of a turn when it is called."""

    name: str
    begun: bool
    turn: Turn
    clock: Clock
    called: list[str]

    def catch_up(self) -> None:
        self.called.append(self.name)
        self.turn.used(A_TURN // 2, self.clock)


class TurnTests(SynchronousTestCase):
    """The order of senders when a turn of the reactor has sent all that it may."""

    def test_helpers_send_for_some_greedy_readers_and_not_for_thousands(self) -> None:
        """Each piece is megabytes: the last of 12,800 readers waited 5 s for all the others."""
        line, clock = Turn(), Clock()
        senders: list[Any] = [
            TakesHalf(str(at), True, line, clock, []) for at in range(HELPED_MOST + 1)
        ]
        for count, helped in ((1, False), (2, True), (HELPED_MOST, True), (HELPED_MOST + 1, False)):
            line.greedy = set(senders[:count])
            self.assertEqual(line.crowds(senders[0]), helped, count)

    def test_new_readers_are_served_first_then_the_longest_waiting(self) -> None:
        line, clock = Turn(), Clock()
        called: list[str] = []
        for name, begun in (("a", True), ("b", True), ("new", False), ("c", True)):
            waits: Any = TakesHalf(name, begun, line, clock, called)
            line.wait(waits)
        line.used(A_TURN, clock)
        self.assertEqual(called, [])
        clock.advance(0)
        self.assertEqual(called, ["new", "a", "b", "c"])
        self.assertEqual(clock.getDelayedCalls(), [])


class FileTests(SocketCase):
    """Plain sockets, on which bytes leave by ``sendfile``."""

    async def test_a_blob_arrives_whole_after_its_headers(self) -> None:
        blob = Growing(noise(3 * MIB))
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: blob.closes)
        await until(lambda: len(peer.got) > 3 * MIB)
        (reply,) = peer.replies()
        self.assertEqual((reply.status, reply.body), (200, blob.content))
        self.assertEqual((blob.closes, blob.reads), (1, []))

    async def test_a_file_system_without_sendfile_is_read(self) -> None:
        """Every pull from such a disk would die."""
        told: list[str] = []
        self.patch(transports, "_warned", False)
        self.patch(transports._log, "warn", lambda text, **_: told.append(text))
        for number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EOVERFLOW):

            def refused(*_: int, number: int = number) -> int:
                raise OSError(number, os.strerror(number))

            self.patch(os, "sendfile", refused)
            blob = Growing(noise(3 * MIB + 5))
            peer = await self.peer()
            peer.ask(self.shelf.put(blob))
            await until(partial(self.has_come, peer, blob.size))
            self.assertEqual(peer.replies()[0].body, blob.content)
        self.assertEqual(len(told), 1)

    async def test_a_small_blob_leaves_with_its_headers(self) -> None:
        peer = await self.peer()
        for size, by_sendfile in ((0, False), (LITTLE, False), (LITTLE + 1, True)):
            self.calls = 0
            peer.got.clear()
            peer.ask(self.shelf.put(Growing(noise(size))))
            await until(partial(self.has_come, peer, size))
            self.assertEqual(peer.replies()[0].body, noise(size))
            self.assertEqual(bool(self.calls), by_sendfile)

    def has_come(self, peer: Peer, size: int) -> bool:
        """Whether a reply with a body of so many bytes has arrived."""
        return len(peer.got.partition(b"\r\n\r\n")[2]) == size and b"\r\n\r\n" in peer.got

    async def test_a_turn_of_the_reactor_sends_a_bounded_number_of_bytes(self) -> None:
        self.patch(turn, "A_TURN", 256 * 1024)
        self.patch(FileSender, "turn", Turn(256 * 1024))
        blobs = [Growing(noise(MIB + at)) for at in range(24)]
        peers = [await self.peer() for _ in blobs]
        real, turns = os.sendfile, [0]

        def counted(*arguments: int) -> int:
            sent = real(*arguments)
            turns[-1] += sent
            return sent

        self.patch(os, "sendfile", counted)
        each_turn = LoopingCall(turns.append, 0)
        each_turn.start(0)
        for peer, blob in zip(peers, blobs, strict=True):
            peer.ask(self.shelf.put(blob))
        await until(lambda: all(blob.closes for blob in blobs))
        each_turn.stop()
        for peer, blob in zip(peers, blobs, strict=True):
            await until(lambda peer=peer, end=blob.content[-99:]: peer.got.endswith(end))
            self.assertEqual([reply.body for reply in peer.replies()], [blob.content])
        self.assertLessEqual(max(turns), 2 * turn.A_TURN + turn.AT_ONCE_LEAST)

    async def test_a_socket_is_corked_only_while_bytes_leave(
        self,
    ) -> None:
        seen = self.options_when_sending(socket.TCP_CORK)
        blob = Growing(noise(MIB), here=100_000)
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: blob.waiters)
        self.assertEqual((set(seen), self.option(socket.TCP_CORK)), ({1}, 0))
        blob.grow(MIB)
        await until(lambda: blob.closes)
        self.assertEqual((set(seen), self.option(socket.TCP_CORK)), ({1}, 0))

    async def test_a_small_unsent_bound_is_corked_for_the_head_alone(self) -> None:
        """
        Both are decided for each reply: a connection may outlive the crowd that it was part of.
        """
        corked = self.options_when_sending(socket.TCP_CORK)
        peer = await self.peer()
        for room, bound in ((10, 16), (128, 128), (127, 127), (1 << 30, 4096)):
            self.patch(transports, "UNSENT", room * 1024)
            blob = Growing(noise(MIB))
            corked.clear()
            peer.ask(self.shelf.put(blob))
            await until(lambda blob=blob: blob.closes)
            self.assertEqual((corked[0], set(corked[1:])), (1, {int(bound >= 128)}))
            self.assertEqual(self.option(socket.TCP_CORK), 0)
            self.assertEqual(self.option(socket.TCP_NOTSENT_LOWAT), bound * 1024)

    def option(self, option: int) -> int:
        """A TCP option of the first connection."""
        connection: socket.socket = self.channels[0].transport.socket
        return connection.getsockopt(socket.IPPROTO_TCP, option)

    def options_when_sending(self, option: int) -> list[int]:
        """Record its value at each ``sendfile`` from now on."""
        real, seen = os.sendfile, []

        def watched(*arguments: int) -> int:
            seen.append(self.option(option))
            return real(*arguments)

        self.patch(os, "sendfile", watched)
        return seen

    async def test_unsent_bytes_of_a_slow_reader_are_bounded(self) -> None:
        self.patch(transports, "UNSENT", 64 * 1024)
        blob = Growing(noise(16 * MIB))
        peer = await self.peer(room=4096)
        peer.transport.pauseProducing()
        peer.ask(self.shelf.put(blob))
        await self.full()
        (channel,) = self.channels
        waits = fcntl.ioctl(channel.transport.fileno(), termios.TIOCOUTQ, bytes(4))
        self.assertLess(int.from_bytes(waits, sys.byteorder), MIB)

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

    async def test_pipelined_requests_are_answered_in_order(self) -> None:
        blobs = [Growing(bytes([at]) * (at * 5000 + 1)) for at in range(20)]
        paths = [self.shelf.put(blob) for blob in blobs]
        peer = await self.peer()
        peer.ask(*(path for blob_path in paths for path in (blob_path, "/healthz")))
        await until(lambda: all(blob.closes for blob in blobs))
        await until(lambda: len(peer.replies()) == 40)
        bodies = [reply.body for reply in peer.replies()]
        self.assertEqual(bodies[::2], [blob.content for blob in blobs])
        self.assertEqual(bodies[1::2], [b"OK\n"] * 20)

    async def test_a_connection_paused_before_a_blob_resumes_after_it(self) -> None:
        await self.resumes_after_a_blob()

    async def test_bytes_that_a_client_sends_ahead_are_bounded(self) -> None:
        blob = Growing(noise(100_000), here=10)
        peer = await self.paused_before_a_blob(blob)
        peer.transport.resumeProducing()
        await until(lambda: blob.waiters)
        channel = self.channels[0]
        peer.transport.write(bytes(6 * MIB))
        held = lambda: len(channel._buffer)  # noqa: E731
        await until(lambda: channel.transport not in reactor.getReaders() or held() > MIB)
        self.assertLess(held(), 300_000)
        blob.grow(100_000)
        await until(lambda: peer.gone)

    async def test_short_writes_and_full_sockets_lose_nothing(self) -> None:
        real, chance = os.sendfile, random.Random(3)

        def fitful(out: int, source: int, offset: int, count: int) -> int:
            if chance.random() < 0.3:
                raise BlockingIOError
            return real(out, source, offset, min(count, chance.randrange(1, 20_000)))

        self.patch(os, "sendfile", fitful)
        blob = Growing(noise(MIB))
        peer = await self.peer()
        peer.ask(self.shelf.put(blob), "/healthz")
        await until(lambda: peer.got.endswith(b"OK\n"))
        self.assertEqual(peer.replies()[0].body, blob.content)

    async def test_a_range_of_a_fill_arrives(self) -> None:
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
        self.clock.advance(HALF_CLOSES_WITHIN + 0.1)
        peer.transport.loseConnection()
        await until(lambda: blob.closes)
        self.assertEqual(blob.waiters, 0)
        blob.grow(MIB)
        self.assertEqual((blob.closes, self.clock.getDelayedCalls()), (1, []))

    async def test_a_truncated_file_drops_the_connection(self) -> None:
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

    async def test_sent_bytes_are_counted(self) -> None:
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
        factory = TLSMemoryBIOFactory(options, True, Factory.forProtocol(Peer))
        wrapped = await endpoint.connect(factory)
        peer: Peer = wrapped.wrappedProtocol
        await until(lambda: self.channels)
        self.parts(peer)
        return peer

    async def test_a_blob_arrives_whole_at_the_clients_pace(self) -> None:
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


class ReadTests(SynchronousTestCase):
    """Without a descriptor: read in a disk thread, a block at a time."""

    def talk(self, blob: Growing, *headers: str) -> Talk:
        talk = Talk()
        talk.ask(talk.shelf.put(blob), *headers)
        return talk

    def test_a_blob_arrives_whole_in_blocks(self) -> None:
        blob = Growing(noise(2 * READ + 10), in_file=False)
        talk = self.talk(blob)
        self.assertEqual(talk.replies()[0].body, blob.content)
        self.assertEqual(blob.reads, [(0, READ), (READ, READ), (2 * READ, 10)])
        self.assertEqual((blob.closes, talk.clock.getDelayedCalls()[1:]), (1, []))

    def test_an_empty_blob_has_a_reply_too(self) -> None:
        blob = Growing(b"", in_file=False)
        (reply,) = self.talk(blob).replies()
        self.assertEqual((reply.status, reply.headers["content-length"]), (200, "0"))
        self.assertEqual(blob.closes, 1)

    @given(st.data())
    def test_a_range_arrives_whole_whatever_is_covered(self, data: st.DataObject) -> None:
        size = data.draw(st.integers(1, 3 * READ))
        start = data.draw(st.integers(0, size - 1))
        end = data.draw(st.integers(start + 1, size))
        steps = sorted(data.draw(st.lists(st.integers(0, size), max_size=5)))
        blob = Growing(noise(size), here=0, in_file=False)
        talk = self.talk(blob, f"Range: bytes={start}-{end - 1}")
        for here in [*steps, size]:
            blob.grow(here)
        (reply,) = talk.replies()
        self.assertEqual((reply.status, reply.body), (206, blob.content[start:end]))
        self.assertEqual((blob.closes, blob.waiters), (1, 0))

    def test_reading_is_as_slow_as_the_reader(self) -> None:
        blob = Growing(noise(10 * READ), here=0, in_file=False)
        talk = self.talk(blob)
        talk.wire.full = True
        blob.grow(10 * READ)
        for blocks in range(1, 11):
            talk.channel.pauseProducing()
            talk.clock.advance(STALL * 0.9)
            self.assertEqual(len(blob.reads), blocks)
            talk.wire.take()
        self.assertEqual(talk.replies()[0].body, blob.content)

    def test_a_reader_that_takes_nothing_is_dropped(self) -> None:
        blob = Growing(noise(10 * READ), here=0, in_file=False)
        talk = self.talk(blob)
        talk.wire.full = True
        talk.clock.advance(STALL * 5)
        blob.grow(10 * READ)
        talk.clock.advance(STALL - 1)
        self.assertTrue(talk.wire.connected)
        talk.clock.advance(1)
        talk.clock.advance(0)
        self.assertTrue(talk.wire.aborted)
        self.assertEqual((blob.closes, len(blob.reads)), (1, 1))
        self.assertEqual(talk.clock.getDelayedCalls(), [])

    def test_a_client_that_leaves_closes_the_blob_once(self) -> None:
        def while_it_waits(talk: Talk, blob: Growing) -> None:
            pass

        def while_it_is_paused(talk: Talk, blob: Growing) -> None:
            talk.wire.full = True
            blob.grow(10 * READ)

        def while_the_disk_reads(talk: Talk, blob: Growing) -> None:
            talk.disk.slow = True
            blob.grow(10 * READ)

        for moment in (while_it_waits, while_it_is_paused, while_the_disk_reads):
            blob = Growing(noise(10 * READ), here=10, in_file=False)
            talk = self.talk(blob)
            moment(talk, blob)
            with capturedLogs() as events:
                talk.wire.leave()
            self.assertEqual((blob.closes, blob.waiters), (1, 0), moment)
            self.assertEqual(talk.clock.getDelayedCalls(), [])
            self.assertEqual([event["left"] for event in events], [True])

    def test_a_blob_that_ends_too_early_drops_the_connection(self) -> None:
        def short(blob: Growing) -> None:
            blob.cut(10)
            blob.grow(100)

        def unreadable(blob: Growing) -> None:
            blob.unreadable = OSError("I/O error")
            blob.grow(100)

        def broken(blob: Growing) -> None:
            blob.break_(RegistryError("UNAVAILABLE", "gone", 502))

        for moment in (short, unreadable, broken):
            blob = Growing(noise(100), here=10, in_file=False)
            talk = self.talk(blob)
            moment(blob)
            talk.clock.advance(0)
            self.assertTrue(talk.wire.aborted, moment)
            self.assertEqual((blob.closes, talk.clock.getDelayedCalls()), (1, []))
            self.assertTrue(talk.wire.value().endswith(blob.content[:10]))
