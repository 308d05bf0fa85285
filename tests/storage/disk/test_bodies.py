"""Manifests' bytes in files without a name."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from yukari.storage.disk.bodies import KeptBody, KeptFiles


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
            self.assertEqual(self.files.keep([b"a list", b"its child"]), [b"a list", b"its child"])

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
