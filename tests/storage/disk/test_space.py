"""Free space, and what is promised of it."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from yukari.config.units import FreeSpace
from yukari.storage.disk.space import Room
from yukari.storage.ports import NoRoom


class Disk:
    """A file system of 1000 blocks of 1000 bytes, all free, without a limit on files."""

    def __init__(self) -> None:
        self.free = 1_000_000
        self.inodes = self.inodes_free = 0

    def statvfs(self, path: str) -> Any:
        return SimpleNamespace(
            f_frsize=1000,
            f_bsize=4096,
            f_blocks=1000,
            f_bfree=1000,
            f_bavail=self.free // 1000,
            f_files=self.inodes,
            f_favail=self.inodes_free,
        )


class RoomTests(SynchronousTestCase):
    """Nothing here goes under a tenth of the disk."""

    def test_a_file_system_that_does_not_tell_has_room(self) -> None:
        def refused(path: str) -> Any:
            raise OSError(self.number, os.strerror(self.number), path)

        room = Room(self.mktemp(), FreeSpace(percent=10.0), refused)
        self.number = errno.ENOSYS
        room.check(10**12)
        room.reserve(10**12).release()
        self.assertGreater(room.free(), 10**12)
        self.number = errno.ENOENT
        self.assertRaises(OSError, room.check, 1)
        self.number = errno.EIO
        self.assertRaises(OSError, room.check, 1)

    def test_a_file_system_that_answers_with_zeros_does_not_tell(self) -> None:
        """What lies behind FUSE or a network: it counted as full."""
        for zeros in (("blocks", "bfree", "bavail"), ("frsize", "bsize")):
            found = self.disk.statvfs("")
            for each in zeros:
                setattr(found, f"f_{each}", 0)
            room = Room("/store", FreeSpace(percent=10.0), lambda path, found=found: found)
            room.reserve(10**12).release()
            self.assertGreater(room.size(), 10**12)

    def test_numbers_that_cannot_be_right_tell_nothing(self) -> None:
        blocks = ((-1000, 0), (-1, 0), (2**64 - 1, 0), (1001, 0))
        for free, inodes in (*blocks, (1000, 2**32 - 1), (1000, 2**64 - 1), (1000, -1)):
            found = self.disk.statvfs("")
            found.f_bavail, found.f_files, found.f_favail = free, inodes, 0
            room = Room("/store", FreeSpace(percent=10.0), lambda path, found=found: found)
            room.reserve(900_000)
            if free != 1000:
                self.assertGreater(room.size(), 10**12)

    def test_a_directory_that_was_removed_is_on_the_file_system_of_the_one_above(self) -> None:
        path = os.path.abspath(self.mktemp())
        os.mkdir(path)
        room = Room(os.path.join(path, "gone", "spool"), FreeSpace(bytes=0))
        self.assertAlmostEqual(room.free(), Room(path, FreeSpace(bytes=0)).free(), delta=2**30)

    def setUp(self) -> None:
        self.disk = Disk()
        self.room = Room("/store", FreeSpace(percent=10.0), self.disk.statvfs)

    def test_all_but_what_stays_free_can_be_reserved(self) -> None:
        self.room.reserve(900_000)
        self.assertEqual(self.room.reserved, 900_000)

    def test_one_byte_more_is_refused_with_numbers(self) -> None:
        with self.assertRaises(NoRoom) as caught:
            self.room.reserve(900_001)
        for part in ("/store", "900.0 kB", "1.0 MB", "100.0 kB to stay free"):
            self.assertIn(part, str(caught.exception))
        self.assertEqual(self.room.reserved, 0)

    def test_what_is_reserved_cannot_be_reserved_again(self) -> None:
        self.room.reserve(500_000)
        self.assertRaises(NoRoom, self.room.reserve, 400_001)
        self.room.reserve(400_000)

    def test_what_a_spool_has_written_is_not_counted_twice(self) -> None:
        reservation = self.room.reserve(500_000)
        self.disk.free -= 300_000
        reservation.keep(200_000)
        self.room.reserve(400_000)
        self.assertRaises(NoRoom, self.room.reserve, 1)

    def test_a_release_gives_back_what_was_not_written_once(self) -> None:
        reservation = self.room.reserve(900_000)
        reservation.release()
        reservation.release()
        self.assertEqual(self.room.reserved, 0)
        self.room.reserve(900_000)

    def test_what_was_promised_before_is_never_refused(self) -> None:
        self.disk.free = 0
        self.room.hold(5_000_000)
        self.assertEqual(self.room.reserved, 5_000_000)

    def test_small_things_need_no_more_than_free_space(self) -> None:
        self.room.reserve(900_000)
        self.room.check(900_000)
        self.assertRaises(NoRoom, self.room.check, 900_001)

    def test_without_inodes_there_is_no_room(self) -> None:
        self.disk.inodes, self.disk.inodes_free = 1000, 3
        with self.assertRaises(NoRoom) as caught:
            self.room.reserve(1)
        self.assertIn("no inodes left (3 of 1000 free)", str(caught.exception))

    def test_a_count_of_bytes_to_keep(self) -> None:
        room = Room("/store", FreeSpace(bytes=999_999), self.disk.statvfs)
        room.reserve(1)
        self.assertRaises(NoRoom, room.reserve, 1)
