"""A stored blob's bytes over TLS: helper threads encrypt them and put them on the socket."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from typing import Any

from OpenSSL.SSL import Connection
from twisted.internet import reactor as _reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.ssl import TLSVersion
from twisted.internet.task import Clock, deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SkipTest
from zope.interface import implementer

from tests.fills.doubles import ScriptedDisk
from tests.running import until
from tests.sending.doubles import Growing
from tests.sending.test_send import MIB, Peer, SocketCase, noise
from yukari.errors import RegistryError
from yukari.sending import tls
from yukari.sending.lendable import MAX_KEPT, Lendable
from yukari.sending.stall import STALL
from yukari.sending.tls import write_whole_blocks
from yukari.sending.workers import Helpers
from yukari.storage.disk.page_cache import LOOK_AHEAD
from yukari.threads import Threads

reactor: Any = _reactor
VERSIONS = (TLSVersion.TLSv1_2, TLSVersion.TLSv1_3)
OPENSSL = shutil.which("openssl")


@implementer(IOpenSSLServerConnectionCreator)
class Lending:
    """Makes connections of a new certificate as the daemon does, and remembers them."""

    def __init__(self) -> None:
        key = ssl.KeyPair.generate(size=2048)
        certificate = key.selfSignedCert(1, CN="h")
        options = ssl.PrivateCertificate.fromCertificateAndKeyPair(certificate, key).options()
        self.context = options.getContext()
        write_whole_blocks(self.context)
        self.made: list[Lendable] = []

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        self.made.append(Lendable(lambda: Connection(self.context, None)))
        return self.made[-1]


class SecureCase(SocketCase):
    """A registry behind TLS."""

    def factory(self) -> Any:
        self.lending = Lending()
        return TLSMemoryBIOFactory(self.lending, False, self.site)

    async def secure_peer(self, version: TLSVersion = TLSVersion.TLSv1_3) -> Peer:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        options: Any = ssl.CertificateOptions(
            verify=False,
            insecurelyLowerMinimumTo=TLSVersion.TLSv1_2,
            lowerMaximumSecurityTo=version,
        )
        factory = TLSMemoryBIOFactory(options, True, Factory.forProtocol(Peer))
        wrapped = await endpoint.connect(factory)
        peer: Peer = wrapped.wrappedProtocol
        self.parts(peer)
        await until(lambda: peer.transport._handshakeDone)
        await until(lambda: len(self.channels) == len(self.opened))
        return peer

    async def peer(self, room: int = 0) -> Peer:
        return await self.secure_peer()

    def wire(self) -> Any:
        return self.channels[0].transport.transport

    async def arrives(self, peer: Peer, *bodies: bytes) -> None:
        """Return when the replies' last body has arrived; fail if they are not these."""
        await until(lambda: peer.gone or peer.got.endswith(bodies[-1]))
        got = [reply.body for reply in peer.replies()]
        self.assertEqual(list(map(len, got)), list(map(len, bodies)))
        self.assertTrue(got == list(bodies))


class ThreadCase(SecureCase):
    """With the daemon's threads."""

    def helpers(self) -> Helpers:
        self.threads = Threads(reactor, "send", 2)
        self.threads.start()
        self.addCleanup(self.threads.stop)
        self.helping = Helpers(self.threads, 2)
        return self.helping

    def watch_encrypt(self) -> list[tuple[str, int, int]]:
        """Record the thread of each piece, and how many bytes it was to have and had."""
        real, seen = tls.encrypt, []

        def watched(out: int, source: int, start: int, count: int, *more: Any) -> Any:
            answer = real(out, source, start, count, *more)
            seen.append((threading.current_thread().name, count, answer[0]))
            return answer

        self.patch(tls, "encrypt", watched)
        return seen

    async def no_more(self, seen: list[Any]) -> None:
        """Return when no piece is sent any more, and one was; a thread may wait for a core."""
        quiet, before = 0, 0
        while quiet < 10:
            await deferLater(reactor, 0.006)
            at_rest = self.helping._free == self.helping.most
            quiet = quiet + 1 if seen and len(seen) == before and at_rest else 0
            before = len(seen)

    async def paused_within_a_blob(
        self, seen: list[Any], version: TLSVersion = TLSVersion.TLSv1_3
    ) -> tuple[Growing, Peer]:
        """Ask for a blob and read nothing of it, until no more pieces are ``seen``."""
        blob = Growing(noise(48 * MIB))
        peer = await self.secure_peer(version)
        peer.transport.pauseProducing()
        peer.ask(self.shelf.put(blob))
        await self.no_more(seen)
        return blob, peer


class SameTurnTests(ThreadCase):
    """Twisted gathers small writes until the next turn of its clock, which stands still here."""

    def factory(self) -> Any:
        self.lending = Lending()
        return TLSMemoryBIOFactory(self.lending, False, self.site, Clock())

    async def test_no_reply_waits_for_another_turn(self) -> None:
        """Catches a hit that waits, under load, for whatever else is ready in the next turns."""
        blob = Growing(noise(MIB))
        peer = await self.secure_peer()
        peer.ask("/healthz", self.shelf.put(blob))
        await self.arrives(peer, b"OK\n", blob.content)


class ThreadTests(ThreadCase):
    """Any client."""

    async def test_blobs_and_other_replies_arrive_whole_and_in_order(self) -> None:
        """Headers would follow the bytes if Twisted still held them when a helper begins."""
        seen = self.watch_encrypt()
        for version, name in zip(VERSIONS, ("TLSv1.2", "TLSv1.3"), strict=True):
            seen.clear()
            blobs = [Growing(noise(size)) for size in (9 * MIB + 1, 70_000, 3 * MIB, 10)]
            paths = [self.shelf.put(blob) for blob in blobs]
            peer = await self.secure_peer(version)
            peer.ask(*(path for each in paths for path in (each, "/healthz")))
            bodies = [body for blob in blobs for body in (blob.content, b"OK\n")]
            await until(lambda blobs=blobs: all(blob.closes for blob in blobs))
            await self.arrives(peer, *bodies)
            self.assertEqual(peer.transport.getHandle().get_protocol_version_name(), name)
            self.assertEqual(sum(sent for _, _, sent in seen), 12 * MIB + 70_001)
            self.assertNotIn(threading.current_thread().name, {each for each, _, _ in seen})

    async def test_many_readers_at_once_get_their_own_bytes(self) -> None:
        blobs = [Growing(noise(2 * MIB + at)) for at in range(12)]
        peers = [await self.secure_peer(VERSIONS[at % 2]) for at in range(12)]
        for peer, blob in zip(peers, blobs, strict=True):
            peer.ask(self.shelf.put(blob))
        for peer, blob in zip(peers, blobs, strict=True):
            await self.arrives(peer, blob.content)

    async def test_a_reader_that_pauses_is_waited_for(self) -> None:
        """Neither its bytes nor the encrypted ones may pile up, and its next reply must follow."""
        seen = self.watch_encrypt()
        blob = Growing(noise(48 * MIB))
        peer = await self.secure_peer()
        peer.transport.pauseProducing()
        peer.ask(self.shelf.put(blob), "/healthz")
        await self.no_more(seen)
        self.assertLess(sum(sent for _, _, sent in seen), 24 * MIB)
        held = self.wire()
        self.assertLessEqual(len(held.dataBuffer) + held._tempDataLen, tls.BLOCK * 5 // 4)
        peer.transport.resumeProducing()
        await self.arrives(peer, blob.content, b"OK\n")

    async def test_a_connection_paused_before_a_blob_resumes_after_it(self) -> None:
        """Twisted's TLS has paused the channel, and would never learn that it may go on."""
        await self.resumes_after_a_blob()

    async def test_a_reader_that_takes_nothing_is_dropped(self) -> None:
        blob, peer = await self.paused_within_a_blob(self.watch_encrypt())
        self.clock.advance(STALL - 1)
        self.assertEqual(blob.closes, 0)
        self.clock.advance(STALL)
        await until(lambda: blob.closes)
        await until(lambda: not self.channels[0].transport.connected)
        self.assertEqual(self.clock.getDelayedCalls()[1:], [])

    async def test_a_client_that_closes_tls_ends_the_reply(self) -> None:
        """It may still wait to read: Twisted would wait for the producer for ever."""
        seen = self.watch_encrypt()
        for version in VERSIONS:
            seen.clear()
            blob, peer = await self.paused_within_a_blob(seen, version)
            peer.transport.getHandle().shutdown()
            peer.transport._flushSendBIO()
            peer.transport.resumeProducing()
            await until(lambda blob=blob: blob.closes)
            await until(lambda: not self.channels[-1].transport.connected)
            self.assertNotIn(blob.content, bytes(peer.got))

    async def test_closing_tls_while_a_fill_is_waited_for_ends_the_reply(self) -> None:
        blob = Growing(noise(MIB), here=500_000)
        peer = await self.secure_peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: blob.waiters)
        peer.transport.loseConnection()
        await until(lambda: blob.closes)
        self.assertEqual(blob.waiters, 0)
        await until(lambda: not self.channels[0].transport.connected)

    async def test_a_client_that_closes_its_half_of_tcp_ends_the_reply(self) -> None:
        blob, peer = await self.paused_within_a_blob(self.watch_encrypt())
        peer.transport.transport.socket.shutdown(socket.SHUT_WR)
        await until(lambda: blob.closes)

    async def test_a_client_that_leaves_ends_the_reply(self) -> None:
        for _ in range(5):
            blob = Growing(noise(24 * MIB))
            peer = await self.secure_peer()
            peer.ask(self.shelf.put(blob))
            await until(lambda peer=peer: len(peer.got) > MIB)
            peer.transport.abortConnection()
            await until(lambda blob=blob: blob.closes)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_a_blob_is_sent_as_it_grows(self) -> None:
        blob = Growing(noise(6 * MIB), here=0)
        peer = await self.secure_peer()
        peer.ask(self.shelf.put(blob))
        for here in (1, 70_000, 5 * MIB, 6 * MIB):
            await until(lambda: blob.waiters)
            blob.grow(here)
        await self.arrives(peer, blob.content)

    async def test_a_blob_that_ends_too_early_drops_the_connection(self) -> None:
        def short(blob: Growing) -> None:
            blob.cut(600_000)
            blob.grow(8 * MIB)

        def broken(blob: Growing) -> None:
            blob.break_(RegistryError("UNAVAILABLE", "gone", 502))

        for moment in (short, broken):
            blob = Growing(noise(8 * MIB), here=500_000)
            peer = await self.secure_peer()
            peer.ask(self.shelf.put(blob))
            await until(lambda blob=blob: blob.waiters)
            moment(blob)
            await until(lambda peer=peer: peer.gone)
            self.assertEqual(blob.closes, 1)
            body = peer.got.partition(b"\r\n\r\n")[2]
            self.assertTrue(blob.content.startswith(bytes(body)) and len(body) < 8 * MIB)

    async def test_without_descriptors_for_a_helper_it_tries_again(self) -> None:
        real, left = os.dup, [3]

        def few(descriptor: int) -> int:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(errno.EMFILE, "Too many open files")
            return real(descriptor)

        self.patch(os, "dup", few)
        self.patch(tls, "NO_DESCRIPTORS", 0)
        blob = Growing(noise(MIB))
        peer = await self.secure_peer()
        peer.ask(self.shelf.put(blob))
        await self.arrives(peer, blob.content)
        self.assertLess(left[0], 0)

    async def test_stopped_threads_drop_the_reader(self) -> None:
        self.threads.stop()
        blob = Growing(noise(MIB))
        peer = await self.secure_peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: peer.gone)
        self.assertEqual(blob.closes, 1)


class SlowHelperTests(SecureCase):
    """While a helper has the connection, for as long as the test says."""

    def helpers(self) -> Helpers:
        self.helping = ScriptedDisk(slow=True)
        return Helpers(self.helping, 1)

    async def lent(self, blob: Growing, *more: str) -> Peer:
        """Return a client whose connection a helper has."""
        peer = await self.secure_peer()
        peer.ask(self.shelf.put(blob), *more)
        await until(lambda: self.helping.waiting)
        return peer

    async def work(self, blob: Growing) -> None:
        """Let the helper do all that it is asked to."""
        while not blob.closes:
            self.helping.work()
            await until(lambda: self.helping.waiting or blob.closes)

    async def test_requests_that_arrive_meanwhile_are_answered_afterwards(self) -> None:
        blob = Growing(noise(2 * LOOK_AHEAD))
        peer = await self.lent(blob)
        peer.ask("/healthz")
        await until(lambda: self.lending.made[0]._kept)
        await self.work(blob)
        await self.arrives(peer, blob.content, b"OK\n")

    async def test_what_arrives_meanwhile_is_bounded(self) -> None:
        blob = Growing(noise(2 * LOOK_AHEAD))
        peer = await self.lent(blob)
        transport = self.wire()
        peer.ask(*["/healthz"] * 10_000)
        await until(lambda: transport not in reactor.getReaders())
        (connection,) = self.lending.made
        self.assertLess(sum(map(len, connection._kept)), MAX_KEPT + 2 * transport.bufferSize)
        await self.work(blob)
        await until(lambda: peer.got.count(b"OK\n") > 1000)
        self.assertTrue(peer.got.partition(b"\r\n\r\n")[2].startswith(blob.content))

    async def test_a_connection_aborted_meanwhile_is_not_touched(self) -> None:
        """Two threads in one OpenSSL connection end the process."""
        blob = Growing(noise(2 * LOOK_AHEAD))
        peer = await self.lent(blob)
        (connection,) = self.lending.made

        class Untouchable:
            def __getattr__(self, name: str) -> Any:
                raise AssertionError(f"{name} of a lent connection")

        connection._made, real = Untouchable(), connection._made  # type: ignore[assignment]
        self.channels[0].forceAbortClient()
        await until(lambda: blob.closes)
        connection._made = real
        self.helping.work()
        await until(lambda: blob.closes and peer.gone)
        self.assertEqual((self.helping.waiting, self.clock.getDelayedCalls()), ([], []))

    async def test_a_client_that_leaves_meanwhile_ends_the_reply(self) -> None:
        blob = Growing(noise(2 * LOOK_AHEAD))
        peer = await self.lent(blob)
        peer.transport.abortConnection()
        await until(lambda: self.channels[0].requests[0].gone)
        self.helping.work()
        await until(lambda: blob.closes)
        self.assertEqual((self.helping.waiting, self.clock.getDelayedCalls()), ([], []))

    async def test_a_client_that_closes_tls_meanwhile_ends_the_reply(self) -> None:
        blob = Growing(noise(2 * LOOK_AHEAD))
        peer = await self.lent(blob)
        peer.transport.loseConnection()
        await until(lambda: self.lending.made[0]._kept)
        self.helping.work()
        await until(lambda: blob.closes)
        await until(lambda: not self.channels[0].transport.connected)
        self.assertEqual(self.helping.waiting, [])

    async def test_descriptors_are_closed_after_each_piece(self) -> None:
        blob = Growing(noise(3 * LOOK_AHEAD))
        peer = await self.lent(blob)
        during = len(os.listdir("/dev/fd"))
        await self.work(blob)
        await self.arrives(peer, blob.content)
        # The helper's copies of two, and the blob's file.
        self.assertEqual(len(os.listdir("/dev/fd")), during - 3)


class Client(ProcessProtocol):
    """OpenSSL's own client, which does what a line of one letter says."""

    transport: Any

    def __init__(self) -> None:
        self.out, self.told, self.ended = bytearray(), bytearray(), False

    def outReceived(self, data: bytes) -> None:
        self.out += data

    def errReceived(self, data: bytes) -> None:
        self.told += data

    def processEnded(self, reason: Any) -> None:
        self.ended = True


class OpensslTests(ThreadCase):
    """What Twisted's client cannot do."""

    def setUp(self) -> None:
        super().setUp()
        self.clients: list[Client] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self._ended()))

    async def _ended(self) -> None:
        for client in self.clients:
            if not client.ended:
                client.transport.signalProcess("KILL")
        await until(lambda: all(client.ended for client in self.clients))
        await until(lambda: not any(each.transport.connected for each in self.channels))

    async def client(self, *flags: str) -> Client:
        if OPENSSL is None:
            raise SkipTest("openssl is not installed")
        client = Client()
        address = f"127.0.0.1:{self.port.getHost().port}"
        command = [OPENSSL, "s_client", "-connect", address, *flags]
        reactor.spawnProcess(client, OPENSSL, command, env=None)

        self.clients.append(client)
        await until(lambda: b"\n---\n" in client.out and self.channels)
        return client

    def ask(self, client: Client, path: str) -> None:
        client.transport.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())

    async def test_a_client_that_wants_to_renegotiate_is_refused(self) -> None:
        blob = Growing(noise(64 * MIB))
        client = await self.client("-tls1_2")
        self.ask(client, self.shelf.put(blob))
        await until(lambda: len(client.out) > 2 * MIB)
        client.transport.write(b"R\n")
        await until(lambda: blob.closes)
        await until(lambda: client.ended)
        self.assertIn(b"RENEGOTIATING", client.told)

    async def test_records_are_as_small_as_the_client_wants(self) -> None:
        """Their overhead is larger than a block's: what is encrypted comes in several parts."""
        for version in ("-tls1_2", "-tls1_3"):
            blob = Growing(noise(3 * MIB))
            client = await self.client(version, "-maxfraglen", "512")
            self.ask(client, self.shelf.put(blob))
            self.ask(client, "/healthz")
            await until(lambda client=client: client.ended or b"OK\n" in client.out)
            self.assertIn(blob.content, client.out)
