"""The catalog as the daemon uses it: gathered pulls, and files that fail."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import closing

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.library.catalog.test_file import LATEST, M, indexed, version
from tests.storage.strategies import result_of
from yukari.library.catalog import schema
from yukari.library.catalog.catalog import RESERVE, WRITE_AFTER, Catalog, CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Entry
from yukari.library.catalog.schema import LOCKED_FOR, STILL_LOCKED_FOR


class CatalogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.writes = 0
        self.lost = 0
        self.path = self.mktemp()
        self.catalog = self.opened()

    def opened(self) -> Catalog:
        def in_thread(work, *arguments):  # type: ignore[no-untyped-def]
            self.writes += 1
            return maybeDeferred(work, *arguments)

        def lost() -> None:
            self.lost += 1

        made = Catalog(self.path, in_thread, self.clock, lambda: 1000 + self.clock.seconds())
        made.lost = lost
        self.addCleanup(lambda: result_of(made.stop()))
        return made

    def put(self) -> None:
        result_of(self.catalog.run(CatalogFile.put, [indexed(version(("w", 10)))], 1.0))

    def found(self) -> list[Entry]:
        return result_of(self.catalog.run(CatalogFile.find, M, LATEST))

    def found_around(self, error: sqlite3.Error) -> list[int]:
        """Make one call fail so; return how many models it found before the error and after it."""
        found: list[int] = []

        def fails_once(file: CatalogFile) -> int:
            found.append(len(file.page()))
            if len(found) == 1:
                raise error
            return found[-1]

        self.assertEqual(result_of(self.catalog.run(fails_once)), 0)
        return found

    def test_what_frees_a_full_disk_can_be_noted_on_it(self) -> None:
        """`yukari rm` failed on a disk that something else had filled, and so did evictions."""
        self.put()
        reserve = f"{self.path}-reserve"
        self.assertEqual(os.stat(reserve).st_size, RESERVE)

        def write(_: CatalogFile) -> str:
            if os.path.exists(reserve):
                raise sqlite3.OperationalError("database or disk is full")
            self.patch(os, "posix_fallocate", full)
            return "written"

        def full(*_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.assertEqual(result_of(self.catalog.run(write)), "written")
        self.assertFalse(os.path.exists(reserve))

        def fail(_: CatalogFile) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with self.assertRaises(CatalogUnusable):
            result_of(self.catalog.run(fail))

    def test_catalog_is_used_if_no_room_can_be_reserved(self) -> None:
        """macOS has no such call."""
        self.addCleanup(setattr, os, "posix_fallocate", os.posix_fallocate)
        del os.posix_fallocate
        self.put()
        self.assertFalse(os.path.exists(f"{self.path}-reserve"))

    def test_thousand_pulls_are_one_write(self) -> None:
        self.put()
        before = self.writes
        for at in range(1000):
            self.catalog.pulled(M, LATEST, f"10.0.0.{at % 7}")
        self.assertEqual(self.writes, before)
        self.clock.advance(WRITE_AFTER)
        self.assertEqual(self.writes, before + 1)
        (found,) = self.found()
        self.assertEqual((found.pulls, found.clients, found.last_pull), (1000, 7, 1000.0))

    def test_pulls_are_written_at_the_stop(self) -> None:
        self.put()
        self.catalog.pulled(M, LATEST, "10.0.0.1")
        result_of(self.catalog.stop())
        self.catalog = self.opened()
        (found,) = self.found()
        self.assertEqual(found.pulls, 1)

    def test_a_lost_catalog_is_reported_once(self) -> None:
        self.put()
        self.assertEqual(self.lost, 1)
        result_of(self.catalog.stop())
        with open(self.path, "wb") as file:
            file.write(b"nonsense" * 100)
        self.catalog = self.opened()
        self.assertEqual(self.found(), [])
        self.assertEqual(self.found(), [])
        self.assertEqual(self.lost, 2)

    def test_catalog_that_breaks_while_it_is_used_is_made_anew(self) -> None:
        self.put()
        self.lost = 0
        found = self.found_around(sqlite3.DatabaseError("database disk image is malformed"))
        self.assertEqual((found, self.lost), ([1, 0], 1))

    def test_damage_that_nothing_has_read_is_found_by_a_check(self) -> None:
        """The whole file was read at each start, while the first page waited."""
        self.put()
        self.lost = 0
        result_of(self.catalog.check(maybeDeferred))
        self.assertEqual((len(self.found()), self.lost), (1, 0))
        result_of(self.catalog.stop())
        with open(self.path, "r+b") as file:
            file.seek(-4096, os.SEEK_END)
            file.write(b"\xff" * 4096)
        self.catalog = self.opened()
        self.assertEqual((len(self.found()), self.lost), (1, 0))
        result_of(self.catalog.check(maybeDeferred))
        self.assertEqual((self.found(), self.lost), ([], 1))

    def test_a_lock_that_lasts_is_waited_for_once(self) -> None:
        """If a file system's locks failed, each call took five seconds, even at the stop."""
        self.patch(schema, "LOCKED_FOR", 0.01)
        self.put()

        def waits(file: CatalogFile) -> int:
            return int(file._db.execute("PRAGMA busy_timeout").fetchone()[0])

        asked = self.catalog.run(CatalogFile.put, [indexed(version(("w", 10)))], 1.0)
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.assertRaises(CatalogUnusable, result_of, asked)
            assert self.catalog._file is not None
            self.assertEqual(waits(self.catalog._file), STILL_LOCKED_FOR * 1000)
            other.execute("ROLLBACK")
        self.put()
        self.assertEqual(waits(self.catalog._file), LOCKED_FOR * 1000)

    def test_catalog_whose_locks_fail_while_it_is_used_is_kept_in_memory(self) -> None:
        """Each call took ten seconds, and so did the stop."""
        self.put()
        self.lost = 0
        found = self.found_around(sqlite3.OperationalError("locking protocol"))
        self.assertEqual((found, self.lost), ([1, 0], 1))
        self.put()
        self.assertEqual(len(self.found()), 1)
        result_of(self.catalog.check(self.fail))  # There is no file to be looked at.

    def test_catalog_that_is_removed_while_it_is_used_is_made_anew(self) -> None:
        """It was written into a file without a name, and gone at the next start."""
        self.path = os.path.join(self.mktemp(), "store", "catalog")
        self.catalog = self.opened()
        self.put()
        self.lost = 0
        shutil.rmtree(os.path.dirname(self.path))
        self.assertEqual(self.found(), [])
        self.assertEqual(self.lost, 1)
        self.put()
        self.assertEqual(len(self.found()), 1)
        self.assertTrue(os.path.exists(self.path))

    def test_catalog_that_cannot_be_written_is_kept_in_memory(self) -> None:
        with open(self.path, "wb"):
            self.path = os.path.join(self.path, "nowhere", "catalog")
        self.catalog = self.opened()
        self.put()
        self.assertEqual(len(self.found()), 1)

    def test_a_full_disk_loses_nothing_and_is_reported(self) -> None:
        self.put()
        pages = "PRAGMA max_page_count = 1"
        result_of(self.catalog.run(lambda file: file._db.execute(pages).fetchall()))

        def many() -> None:
            for at in range(2000):
                found = indexed(version((f"w{at}", 10), called=f"v{at}"))
                result_of(self.catalog.run(CatalogFile.put, [found], 1.0))

        self.assertRaises(CatalogUnusable, many)
        self.assertEqual(self.lost, 1)
        self.assertEqual(len(self.found()), 1)
