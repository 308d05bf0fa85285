"""Stored blobs that are not in the system's memory: the disk is waited for in a thread."""

from __future__ import annotations

import os
import tempfile
from typing import Any
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from tests.sending.doubles import Growing
from tests.sending.test_send import MIB, SocketCase, noise, until
from yukari.sending import sendfile
from yukari.sending.send import LITTLE
from yukari.sending.stall import READ
from yukari.storage.disk.page_cache import LOOK_AHEAD, in_memory, read_ahead


class ColdFileTests(SocketCase):
    """By ``sendfile``, of which nothing may wait for the disk."""

    def setUp(self) -> None:
        super().setUp()
        self.looks: list[tuple[int, int]] = []

        def cold(_: int, start: int, end: int) -> bool:
            self.looks.append((start, end))
            return False

        self.patch(sendfile, "in_memory", cold)

    async def test_a_cold_file_is_read_ahead_in_a_thread_and_arrives_whole(self) -> None:
        blob = Growing(noise(LOOK_AHEAD + 3 * MIB))
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: len(peer.got) > blob.size)
        (reply,) = peer.replies()
        self.assertEqual(reply.body, blob.content)
        self.assertEqual(self.looks, [(0, LOOK_AHEAD), (LOOK_AHEAD, blob.size)])
        self.assertEqual(sum(count for _, count in blob.reads), blob.size)
        self.assertEqual(max(count for _, count in blob.reads), READ)
        await until(lambda: blob.closes)

    async def test_a_small_cold_file_arrives_whole(self) -> None:
        def nowhere(*_: Any) -> int:
            raise BlockingIOError

        self.patch(os, "preadv", nowhere)
        blob = Growing(noise(LITTLE))
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: len(peer.got) > blob.size)
        self.assertEqual(peer.replies()[0].body, blob.content)
        self.assertEqual((self.looks, blob.reads), ([(0, LITTLE)], [(0, LITTLE)]))

    async def test_a_disk_that_cannot_read_drops_the_client_before_sendfile_meets_it(self) -> None:
        blob = Growing(noise(MIB), unreadable=OSError("I/O error"))
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: peer.gone)
        self.assertEqual((self.calls, blob.closes), (0, 1))
        self.flushLoggedErrors()

    async def test_a_client_that_leaves_while_the_disk_reads_closes_the_blob_once(self) -> None:
        self.disk.slow = True
        blob = Growing(noise(MIB))
        peer = await self.peer()
        peer.ask(self.shelf.put(blob))
        await until(lambda: self.disk.waiting)
        peer.transport.abortConnection()
        await until(lambda: blob.closes)
        self.disk.work()
        self.assertEqual((self.calls, blob.closes), (0, 1))


class LookTests(SynchronousTestCase):
    """Whether a file is in memory."""

    def file(self, size: int) -> Any:
        made = tempfile.TemporaryFile(dir=os.getcwd())  # noqa: SIM115
        self.addCleanup(made.close)
        made.write(os.urandom(size))
        made.flush()
        os.fsync(made.fileno())
        return made

    def test_a_file_just_written_is_in_memory(self) -> None:
        made = self.file(3 * MIB)
        self.assertTrue(in_memory(made.fileno(), 0, 3 * MIB))

    @skipUnless(hasattr(os, "RWF_NOWAIT"), "the system does not tell")
    def test_a_blocking_byte_means_not_in_memory_and_an_error_does_not(self) -> None:
        for error, found in ((BlockingIOError(), False), (OSError("not supported"), True)):

            def preadv(*_: Any, error: OSError = error) -> int:
                raise error

            self.patch(os, "preadv", preadv)
            self.assertIs(in_memory(0, 0, 1), found)

    def test_reading_ahead_ends_where_the_file_does(self) -> None:
        blob = Growing(noise(READ + 10), in_file=False)
        read_ahead(blob, 5, READ * 3)
        self.assertEqual(blob.reads[0], (5, READ))
