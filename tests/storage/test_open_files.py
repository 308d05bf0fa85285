"""Stored blobs that stay open for a little while."""

from __future__ import annotations

import os
from typing import Any, Optional

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.names import Digest
from yukari.storage.disk.files import FileBlob
from yukari.storage.open_files import KEEP, MAX_OPEN, OpenBlobs

BLOB = Digest("0" * 64)


class OpenBlobsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.clock: Any = Clock()
        self.asked: list[Digest] = []
        self.gate: Optional[Deferred[None]] = None
        self.opened = OpenBlobs(self.open_blob, self.clock)
        self.addCleanup(self.opened.close)

    async def open_blob(self, digest: Digest) -> Optional[FileBlob]:
        self.asked.append(digest)
        path = self.path(digest)
        found = FileBlob.at(path) if os.path.exists(path) else None
        if self.gate is not None:
            await self.gate
        return found

    def path(self, digest: Digest) -> str:
        return os.path.join(self.directory, digest.hex)

    def stored(self, digest: Digest, body: bytes) -> None:
        with open(self.path(digest), "wb") as file:
            file.write(body)

    def open(self, digest: Digest = BLOB) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(self.opened.open(digest)))

    def descriptors(self) -> int:
        """How many of this process's descriptors are of blobs."""
        own = os.path.realpath(self.directory)
        count = 0
        for number in os.listdir("/proc/self/fd"):
            try:
                count += os.readlink(f"/proc/self/fd/{number}").startswith(own)
            except OSError:  # it was the directory's own
                pass
        return count

    def test_the_next_reader_has_a_file_of_its_own_without_asking_the_store(self) -> None:
        self.stored(BLOB, b"bytes")
        self.assertIsNone(self.opened.size(BLOB))
        first, second = self.open(), self.open()
        self.assertEqual((self.asked, self.opened.size(BLOB)), ([BLOB], 5))
        first.close()
        self.assertEqual(second.read(1, 3), b"yte")
        self.assertRaises(ValueError, first.read, 1, 3)
        third = self.open()
        second.close()
        self.assertEqual(third.read(0, 5), b"bytes")
        third.close()
        self.assertEqual((self.asked, self.descriptors()), ([BLOB], 1))

    def test_what_is_not_stored_is_looked_for_each_time(self) -> None:
        self.assertIsNone(self.open())
        self.stored(BLOB, b"bytes")
        self.open().close()
        self.assertEqual(len(self.asked), 2)

    def test_after_a_while_the_store_is_asked_again(self) -> None:
        self.stored(BLOB, b"bytes")
        self.open().close()
        os.unlink(self.path(BLOB))
        self.clock.advance(KEEP - 0.5)
        late = self.open()
        self.clock.advance(0.5)
        self.assertIsNone(self.opened.size(BLOB))
        self.assertIsNone(self.open())
        self.assertEqual(late.read(0, 5), b"bytes")
        late.close()
        self.assertEqual((self.descriptors(), self.clock.getDelayedCalls()), (0, []))

    def test_what_was_being_opened_when_all_was_closed_is_not_kept(self) -> None:
        self.stored(BLOB, b"wrong")
        self.gate = Deferred()
        opening = Deferred.fromCoroutine(self.opened.open(BLOB))
        self.opened.close()
        self.gate.callback(None)
        self.successResultOf(opening).close()
        self.assertIsNone(self.opened.size(BLOB))
        self.assertEqual((self.descriptors(), self.clock.getDelayedCalls()), (0, []))

    def test_those_who_open_it_at_once_leave_one_descriptor(self) -> None:
        self.stored(BLOB, b"bytes")
        self.gate = Deferred()
        opening = [Deferred.fromCoroutine(self.opened.open(BLOB)) for _ in range(3)]
        self.gate.callback(None)
        for each in opening:
            self.successResultOf(each).close()
        self.assertEqual(self.descriptors(), 1)
        self.opened.close()
        self.assertEqual(self.descriptors(), 0)

    def test_descriptors_are_bounded(self) -> None:
        for number in range(MAX_OPEN + 3):
            digest = Digest(f"{number:064x}")
            self.stored(digest, b"")
            self.open(digest).close()
            self.assertLessEqual(self.descriptors(), MAX_OPEN)
        self.assertEqual(self.opened.size(digest), 0)
