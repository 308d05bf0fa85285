"""Manifests' bytes in files without a name."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from yukari.storage.disk import bodies
from yukari.storage.disk.bodies import KeptBody, KeptFiles, MemoryBody


class KeptFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = KeptFiles(os.path.join(self.mktemp(), "tmp"))

    def test_bytes_come_back_from_a_file_that_has_no_name(self) -> None:
        one, other = self.files.keep([b"a list", b"its child"])
        self.assertEqual((bytes(one), bytes(other)), (b"a list", b"its child"))
        self.assertEqual((len(one), len(other)), (6, 9))
        self.assertEqual(os.listdir(self.files.directory), [])

    def test_bytes_that_no_file_takes_stay_as_they_are(self) -> None:
        """With a full disk, or a store that is read-only, no large manifest could be had."""
        with open(os.path.dirname(self.files.directory), "wb"):
            one, other = self.files.keep([b"a list", b"its child"])
        assert isinstance(other, MemoryBody)
        self.assertEqual((bytes(one), bytes(other)), (b"a list", b"its child"))
        reader = other.share()
        self.assertEqual((reader.fileno(), reader.read(4, 100)), (None, b"child"))

    def test_what_no_file_takes_and_somebody_has_is_bounded(self) -> None:
        """Forty slow clients of as many manifests of 8 MB, with a full disk, took 320 MB."""
        self.patch(bodies, "MOST_IN_MEMORY", 10)
        with open(os.path.dirname(self.files.directory), "wb"):
            kept = self.files.keep([b"a list"])
            self.assertRaises(OSError, self.files.keep, [b"other"])
            del kept
            self.assertEqual(len(self.files.keep([b"its child"])), 1)

    def test_readers_keep_the_file_and_the_last_closes_it(self) -> None:
        (body,) = self.files.keep([b"a manifest"])
        assert isinstance(body, KeptBody)
        reader = body.share()
        number = reader.fileno()
        assert number is not None
        body.__del__()
        self.assertEqual(reader.read(body.span.start, 100), b"a manifest")
        reader.close()
        self.assertRaises(OSError, os.fstat, number)
