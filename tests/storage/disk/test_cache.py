"""The disk in front of S3."""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from yukari.names import Digest
from yukari.storage.disk import cache
from yukari.storage.disk.cache import Tier
from yukari.storage.disk.files import FileBlob

BODY = b"weights"
BLOB = Digest.of(BODY)


class TierTests(SynchronousTestCase):
    def setUp(self) -> None:
        os.mkdir(path := self.mktemp())
        self.tier = Tier(path)

    def take(self) -> None:
        """Move a spool into the tier."""
        spool = self.mktemp()
        with open(spool, "wb") as file:
            file.write(BODY)
        self.tier.take(BLOB, len(BODY), spool)

    def assert_counted(self) -> None:
        self.assertEqual((self.tier.size(BLOB), self.tier.total), (len(BODY), len(BODY)))

    def test_blob_that_comes_back_while_it_is_found_gone_is_counted(self) -> None:
        """Its file was there and counted nowhere, until the next start."""
        self.take()

        def gone(path: str) -> FileBlob:
            self.take()  # by another thread, at this moment
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

        self.patch(FileBlob, "at", gone)
        self.assertIsNone(self.tier.open(BLOB))
        self.assert_counted()

    def test_blob_that_comes_back_while_it_is_removed_is_counted(self) -> None:
        self.take()
        remove = cache.remove

        def and_meanwhile(path: str) -> Any:
            remove(path)
            self.take()

        self.patch(cache, "remove", and_meanwhile)
        self.tier.remove(BLOB)
        self.assert_counted()

    def test_blob_whose_file_somebody_removed_is_counted_no_more(self) -> None:
        self.take()
        os.unlink(os.path.join(self.tier.path, BLOB.file_name))
        self.assertIsNone(self.tier.open(BLOB))
        self.assertEqual((self.tier.size(BLOB), self.tier.total), (None, 0))
