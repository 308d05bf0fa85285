"""Several readers that take all they are given: other threads put the bytes on their sockets."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import threading
from functools import partial
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.trial.unittest import TestCase

from tests.fills.doubles import ScriptedDisk
from tests.running import until
from tests.sending.doubles import Growing
from tests.sending.test_send import MIB, Peer, SocketCase, noise
from yukari.sending.fairness import Turn
from yukari.sending.sendfile import FileSender
from yukari.sending.workers import Helpers, Piece
from yukari.threads import Threads

reactor: Any = _reactor


class Crowd(SocketCase):
    """Several readers of large blobs at once."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(FileSender, "turn", Turn())

    async def crowd(self, *blobs: Growing) -> list[Peer]:
        peers = [await self.peer() for _ in blobs]
        for peer, blob in zip(peers, blobs, strict=True):
            peer.ask(self.shelf.put(blob))
        return peers

    async def whole(self, peers: list[Peer], *blobs: Growing) -> None:
        """Return when each has its whole blob; fail if it is not that."""
        for peer, blob in zip(peers, blobs, strict=True):
            end = blob.content[-99:]
            await until(lambda peer=peer, end=end: peer.gone or peer.got.endswith(end))
            self.assertEqual([reply.body == blob.content for reply in peer.replies()], [True])
            await until(lambda blob=blob: blob.closes)


class ThreadTests(Crowd):
    """In threads."""

    def helpers(self) -> Helpers:
        threads = Threads(reactor, "send", 2)
        threads.start()
        self.addCleanup(threads.stop)
        return Helpers(threads, 2)

    async def test_each_gets_its_own_bytes_whoever_sends_them(self) -> None:
        real, threads = os.sendfile, set()

        def watched(*arguments: int) -> int:
            threads.add(threading.current_thread())
            return real(*arguments)

        self.patch(os, "sendfile", watched)
        blobs = [Growing(noise(24 * MIB + at)) for at in range(4)]
        peers = await self.crowd(*blobs)
        await self.whole(peers, *blobs)
        self.assertGreater(len(threads), 1)
        self.assertEqual(FileSender.turn.greedy, set())

    async def test_without_descriptors_for_a_helper_the_reactor_sends(self) -> None:
        def none_left(_: int) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        self.patch(os, "dup", none_left)
        blobs = [Growing(noise(8 * MIB + at)) for at in range(3)]
        await self.whole(await self.crowd(*blobs), *blobs)


class QueueTests(TestCase):
    """Thousands of waiting senders: answering each at once must not nest calls."""

    MANY = 3000

    def setUp(self) -> None:
        self.disk = ScriptedDisk(slow=True)
        self.helpers = Helpers(self.disk, 1)
        self.out, self.into = socket.socketpair()
        self.addCleanup(self.into.close)
        self.addCleanup(self.out.close)
        self.file = open(self.mktemp(), "w+b", buffering=0)  # noqa: SIM115
        self.addCleanup(self.file.close)
        self.file.write(b"0123456789")

    def piece(self) -> Piece:
        return self.out.fileno(), self.file.fileno(), 3, 4

    def assert_helps(self) -> None:
        sent = self.helpers.send(self.piece)
        self.disk.work()
        self.assertEqual((self.successResultOf(sent), self.into.recv(9)), (4, b"3456"))

    def test_helpers_survive_that_all_readers_leave(self) -> None:
        first = self.helpers.send(self.piece)
        waiting = [self.helpers.send(lambda: None) for _ in range(self.MANY)]
        self.disk.work()
        self.assertEqual((self.successResultOf(first), self.into.recv(9)), (4, b"3456"))
        self.assertEqual({self.successResultOf(each) for each in waiting}, {None})
        self.assert_helps()

    def test_running_out_of_descriptors_sends_nothing(self) -> None:
        first = self.helpers.send(self.piece)
        waiting = [self.helpers.send(self.piece) for _ in range(self.MANY)]
        dup, calls = os.dup, itertools.count()

        def every_other(descriptor: int) -> int:
            if next(calls) % 2:
                raise OSError(errno.EMFILE, "Too many open files")
            return dup(descriptor)

        patched = self.patch(os, "dup", every_other)
        open_before = len(os.listdir("/dev/fd"))
        self.disk.work()
        self.assertEqual(len(os.listdir("/dev/fd")), open_before - 2)
        self.assertEqual({self.successResultOf(each) for each in [*waiting, first]}, {None, 4})
        self.into.recv(9)
        patched.restore()
        self.assert_helps()


class SlowHelperTests(Crowd):
    """Helpers that send when the test says so."""

    def setUp(self) -> None:
        self.helping = ScriptedDisk(slow=True)
        super().setUp()

    def helpers(self) -> Helpers:
        return Helpers(self.helping, 2)

    async def waiting_crowd(self, *blobs: Growing) -> list[Peer]:
        """Returns when the helpers are asked."""
        peers = await self.crowd(*blobs)
        await until(lambda: len(self.helping.waiting) == 2)
        return peers

    async def test_pieces_in_progress_are_bounded_by_the_helpers(self) -> None:
        blobs = [Growing(noise(4 * MIB + at)) for at in range(5)]
        peers = await self.waiting_crowd(*blobs)
        while not all(blob.closes for blob in blobs):
            self.assertLessEqual(len(self.helping.waiting), 2)
            self.helping.work()
            await until(lambda: self.helping.waiting or all(blob.closes for blob in blobs))
        await self.whole(peers, *blobs)

    async def test_a_helpers_bytes_never_reach_another_client(self) -> None:
        """Descriptor numbers are reused at once, so a helper has copies."""
        blobs = [Growing(noise(4 * MIB + at)) for at in range(2)]
        peers = await self.waiting_crowd(*blobs)
        numbers = [
            each for _, _, (out, source, *_) in self.helping.waiting for each in (out, source)
        ]
        theirs = [channel.transport.fileno() for channel in self.channels]
        theirs += [blob.fileno() for blob in blobs]
        self.assertEqual(len({*numbers, *theirs}), 8)
        same = [sum(os.path.sameopenfile(each, other) for other in theirs) for each in numbers]
        self.assertEqual(same, [1] * 4)
        for peer in peers:
            peer.transport.abortConnection()
        await until(lambda: all(blob.closes for blob in blobs))
        for each in numbers:
            os.fstat(each)
        self.helping.work()
        self.helping.work()
        self.assertEqual((self.helping.waiting, self.calls), ([], 4))
        for each in numbers:
            self.assertRaises(OSError, os.fstat, each)

    async def test_a_file_that_breaks_in_a_helper_drops_only_its_reader(self) -> None:
        blobs = [Growing(noise(4 * MIB + at)) for at in range(2)]
        peers = await self.waiting_crowd(*blobs)
        real = {name: getattr(os, name) for name in ("sendfile", "pread")}
        broken = [*real]

        def breaks_once(name: str, *arguments: int) -> Any:
            if broken and broken[0] == name:
                raise OSError(errno.EIO, f"Input/output error of {broken.pop(0)}")
            return real[name](*arguments)

        for name in real:
            self.patch(os, name, partial(breaks_once, name))
        self.helping.slow = False
        while self.helping.waiting:
            self.helping.work()
        await until(lambda: any(peer.gone for peer in peers))
        left = [at for at, peer in enumerate(peers) if not peer.gone]
        self.assertEqual(len(left), 1)
        await self.whole([peers[left[0]]], blobs[left[0]])
        self.assertEqual(len(self.flushLoggedErrors()), 0)
