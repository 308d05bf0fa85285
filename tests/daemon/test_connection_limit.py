"""More clients than there are descriptors for."""

from __future__ import annotations

import errno
import os
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.running import settle, until
from tests.sending.doubles import NAME, Growing, Shelf
from tests.sending.test_send import Peer, SocketCase
from yukari.daemon import connection_limit
from yukari.daemon.connection_limit import (
    LOOK_EVERY,
    RESERVE,
    ConnectionLimiter,
    lowest_free,
    room_for,
)
from yukari.tasks import Waiters
from yukari.web.drain import WAITED

reactor: Any = _reactor


class ConnectionLimiterTests(SocketCase):
    """The port of `SocketCase` that lets in three connections at a time."""

    def setUp(self) -> None:
        super().setUp()
        self.clock.advance(1000)
        self.limiter = ConnectionLimiter(3, self.site.drain, self.clock)
        self.limiter.guard(self.port)
        self.addCleanup(self.limiter.stop)

    async def peers(self, count: int) -> list[Peer]:
        """Connected clients, accepted or not."""
        return [await self.peer() for _ in range(count)]

    async def connected(self) -> int:
        """How many are let in, once all is quiet."""
        await settle()
        return sum(channel.transport.connected for channel in self.channels)

    async def look(self) -> None:
        self.clock.advance(LOOK_EVERY)
        await settle()

    async def test_a_client_that_finds_no_room_is_answered_once_there_is(self) -> None:
        blob = Growing(b"x" * 1000, here=10)
        path = self.shelf.put(blob)
        with capturedLogs() as captured:
            peers = await self.peers(3)
            for peer in peers:
                peer.ask(path)
            await until(lambda: all(peer.got for peer in peers))
            late = await self.peers(4)
            for peer in late:
                peer.ask("/healthz")
            for _ in range(3):
                await self.look()
                self.assertEqual(await self.connected(), 3)
            self.assertFalse(any(peer.got or peer.gone for peer in late))
            peers[0].transport.abortConnection()
            await until(lambda: not all(channel.transport.connected for channel in self.channels))
            for _ in range(12):
                await self.look()
                self.assertLessEqual(await self.connected(), 3)
            self.assertEqual([peer.got[-3:] for peer in late], [b"OK\n"] * 4)
        full = [event for event in captured if "limit of open files" in str(event)]
        self.assertEqual(len(full), 1)

    async def test_a_connection_without_a_request_makes_room(self) -> None:
        peers = await self.peers(3)
        for peer in peers[:2]:
            peer.ask("/healthz")
        await until(lambda: all(peer.got for peer in peers[:2]))
        (late,) = await self.peers(1)
        late.ask("/healthz")
        for _ in range(3):
            await self.look()
        self.assertTrue(late.got.endswith(b"OK\n"))
        self.assertEqual([peer.gone for peer in peers], [True, True, False])

    async def test_requests_that_wait_for_upstream_make_room(self) -> None:
        """With 256 descriptors, 690 questions to a slow upstream kept everybody else out."""
        answers = Waiters()

        async def manifest(*_: object, **__: object) -> None:
            await answers.wait()

        self.patch(Shelf, "manifest", manifest)
        peers = await self.peers(3)
        for peer in peers:
            peer.ask(f"/v2/{NAME}/manifests/latest")
        await until(lambda: all(channel.waiting_since is not None for channel in self.channels))
        self.clock.advance(WAITED)
        (late,) = await self.peers(1)
        late.ask("/healthz")
        await until(lambda: all(peer.gone for peer in peers))
        for peer in peers:
            self.assertTrue(peer.got.startswith(b"HTTP/1.1 503 "), peer.got)
            self.assertIn(b"\r\nRetry-After: 10\r\n", peer.got)
        await self.look()
        await until(lambda: late.got.endswith(b"OK\n"))

    async def test_nobody_is_let_in_while_descriptors_are_short(self) -> None:
        """A stored blob needs a descriptor, too, whatever has taken the others."""
        await self.peers(1)
        open_files = 1000
        self.limiter._open_files = open_files
        used = [open_files - RESERVE]
        self.patch(connection_limit, "lowest_free", lambda: used[0])
        (late,) = await self.peers(1)
        late.ask("/healthz")
        for _ in range(3):
            await self.look()
        self.assertEqual((late.got, len(self.channels)), (b"", 1))
        used[0] -= 1
        await self.look()
        await until(lambda: late.got.endswith(b"OK\n"))

    def test_the_lowest_free_descriptor_tells_how_many_are_open(self) -> None:
        before = lowest_free()
        number = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, number)
        self.assertEqual(number, before)
        self.assertGreater(lowest_free(), before)

        def fail(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        self.patch(connection_limit.os, "open", fail)
        self.assertGreater(lowest_free(), 10**9)

    async def test_a_port_that_was_closed_meanwhile_stays_closed(self) -> None:
        peers = await self.peers(3)
        for peer in peers:
            peer.ask(self.shelf.put(Growing(b"x" * 1000, here=10)))
        await until(lambda: all(peer.got for peer in peers))
        await self.peers(1)
        await self.look()
        await self.port.stopListening()
        for peer in peers:
            peer.transport.abortConnection()
        await until(lambda: not any(channel.transport.connected for channel in self.channels))
        await self.look()
        self.assertNotIn(self.port, reactor.getReaders())


class RoomTests(SynchronousTestCase):
    @given(st.integers(3, 1 << 20), st.integers(1, 1000))
    def test_some_are_kept_back_and_some_are_for_clients(self, files: int, upstream: int) -> None:
        self.assertGreaterEqual(room_for(files, upstream), 1)
        self.assertLess(room_for(files, upstream), files)
