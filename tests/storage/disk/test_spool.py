"""Blobs on their way, on disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import Any, Optional

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.dying import RefusingOs
from yukari.names import DEFAULT, Digest, Repository
from yukari.spans import Span
from yukari.storage.disk import sidecar
from yukari.storage.disk import spool as spoolfile
from yukari.storage.disk.spool import SpoolFile

NAME = Repository(DEFAULT, "library", "m")
OTHER = Repository(DEFAULT, "library", "other")
BODY = bytes(range(256)) * 4
DIGEST = Digest.of(BODY)

_ends = st.tuples(st.integers(0, len(BODY)), st.integers(0, len(BODY)))
writes = st.lists(st.lists(_ends.map(sorted), min_size=1, max_size=3), max_size=8)
"""For each write the bounds of its pieces."""


def pieces_of(bounds: list[list[int]]) -> list[tuple[int, list[bytes]]]:
    return [(start, [BODY[start:end]]) for start, end in bounds]


class SpoolFileTests(SynchronousTestCase):
    """One spool in a directory of its own."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.base = os.path.join(self.directory, DIGEST.file_name)

    def create(self) -> SpoolFile:
        spool = SpoolFile.create(self.directory, DIGEST, len(BODY), NAME)
        self.addCleanup(spool.close)
        return spool

    def reopened(self) -> Optional[SpoolFile]:
        spool = SpoolFile.reopen(self.directory, DIGEST)
        if spool is not None:
            self.addCleanup(spool.close)
        return spool

    def cover(self) -> bytes:
        with open(self.base + ".cover", "rb") as file:
            return file.read()

    def put_cover(self, text: bytes) -> None:
        with open(self.base + ".cover", "wb") as file:
            file.write(text)

    def refusing(self, refuse: Any) -> RefusingOs:
        system = RefusingOs(refuse)
        self.patch(spoolfile, "os", system)
        return system

    def test_the_file_has_the_blobs_size_and_no_blocks(self) -> None:
        spool = SpoolFile.create(self.directory, DIGEST, 1 << 30, NAME)
        self.addCleanup(spool.close)
        found = os.stat(self.base + ".spool")
        self.assertEqual(found.st_size, 1 << 30)
        self.assertLess(found.st_blocks * 512, 1 << 20)

    def test_the_sidecar_is_text_that_a_person_can_read(self) -> None:
        spool = self.create()
        spool.write([(10, [BODY[10:20]]), (0, [BODY[:5]])])
        spool.note_repository(OTHER)
        first, *lines = self.cover().decode().splitlines()
        self.assertEqual(
            first,
            f'{{"version": 1, "digest": "{DIGEST}", "size": 1024, "repositories": ["library/m"]}}',
        )
        self.assertEqual(lines, ["+ 10 20", "+ 0 5", "r library/other"])

    def test_the_bytes_are_written_before_the_line_that_claims_them_and_each_write_is_one_line(
        self,
    ) -> None:
        spool = self.create()
        system = self.refusing(lambda *_: None)
        spool.write([(0, [BODY[:5], BODY[5:10]]), (20, [BODY[20:30]])])
        self.assertEqual([name for name, _ in system.called], ["pwritev", "pwritev", "write"])

    def test_reopening_rewrites_the_sidecar_in_short(self) -> None:
        spool = self.create()
        for at in range(0, 100, 10):
            spool.write([(at, [BODY[at : at + 10]])])
        spool.note_repository(OTHER)
        spool.close()
        self.reopened()
        self.assertEqual(len(self.cover().splitlines()), 2)
        self.assertIn(b'["library/m", "library/other"]', self.cover())

    def test_a_sidecar_that_has_grown_is_rewritten(self) -> None:
        self.patch(spoolfile, "_LINES", 10)
        spool = self.create()
        for at in range(100):
            spool.write([(at, [BODY[at : at + 1]])])
            self.assertLess(len(self.cover().splitlines()), 13)
        spool.close()
        found = self.reopened()
        assert found is not None
        self.assertEqual(list(found.covered()), [Span(0, 100)])

    def test_a_sidecar_that_cannot_be_rewritten_is_kept_as_it_is(self) -> None:
        self.patch(spoolfile, "_LINES", 3)
        spool = self.create()

        def refuse(name: str, *args: Any) -> None:
            if name == "rename":
                raise OSError(errno.ENOSPC, "full")

        self.refusing(refuse)
        for at in range(10):
            spool.write([(at, [BODY[at : at + 1]])])
        self.assertEqual(len(self.cover().splitlines()), 11)
        self.assertEqual(
            sorted(os.listdir(self.directory)),
            sorted([f"{DIGEST.file_name}.cover", f"{DIGEST.file_name}.spool"]),
        )

    def test_a_full_disk_leaves_nothing_noted_and_the_next_write_succeeds(self) -> None:
        spool = self.create()
        spool.write([(0, [BODY[:10]])])
        real = os.write
        for what in ("pwritev", "write", "short write", "write and ftruncate"):

            def refuse(name: str, *args: Any, what: str = what) -> None:
                if name == "write" and what != "pwritev" and args[1].startswith(b"+"):
                    real(args[0], args[1][:3])
                if name in what.split():
                    raise OSError(errno.ENOSPC, "full")

            self.refusing(refuse)
            with self.assertRaises(OSError) as caught:
                spool.write([(500, [BODY[500:600]])])
            self.assertEqual(caught.exception.errno, errno.ENOSPC)
            self.assertEqual(list(spool.covered()), [Span(0, 10)])
            self.patch(spoolfile, "os", os)
        spool.write([(10, [BODY[10:20]])])
        self.assertEqual(list(spool.covered()), [Span(0, 20)])
        spool.close()
        found = self.reopened()
        assert found is not None
        self.assertEqual(list(found.covered()), [Span(0, 20)])

    def test_a_short_write_of_bytes_goes_on_where_it_stopped(self) -> None:
        spool = self.create()

        class Slow(RefusingOs):
            def pwritev(self, number: int, buffers: Any, offset: int) -> int:
                return os.pwritev(number, [buffers[0][:3]], offset)

        self.patch(spoolfile, "os", Slow(lambda *_: None))
        spool.write([(0, [BODY[:10], BODY[10:11], BODY[11:50]])])
        reader = spool.open()
        self.addCleanup(reader.close)
        self.assertEqual(reader.read(0, 50), BODY[:50])

    def test_a_spool_without_its_bytes_or_of_another_size_is_thrown_away(self) -> None:
        def cut() -> None:
            os.truncate(self.base + ".spool", 100)

        def lose_data() -> None:
            os.unlink(self.base + ".spool")

        def lose_cover() -> None:
            os.unlink(self.base + ".cover")

        for damage in (cut, lose_data, lose_cover):
            self.create().write([(0, [BODY])])
            damage()
            self.assertIsNone(self.reopened())
            self.assertEqual(os.listdir(self.directory), [])

    def test_a_first_line_that_says_something_else_is_thrown_away(self) -> None:
        self.create()
        good = self.cover()
        for bad in (
            b"",
            b"\n",
            good[:-1],
            b"null\n",
            b"[" * 100_000 + b"\n",
            good.replace(b'"version": 1', b'"version": 2'),
            good.replace(str(DIGEST).encode(), str(Digest.of(b"other")).encode()),
            good.replace(b"1024", b"1023"),
            good.replace(b"1024", b"-1"),
            good.replace(b"1024", b"%d" % 2**63),
            good.replace(b"1024", b"9" * 400),
            good.replace(b"1024", b"true"),
            good.replace(b"library/m", b"../m"),
        ):
            self.create()
            self.put_cover(bad)
            self.assertIsNone(self.reopened(), bad[:80])
            self.assertEqual(os.listdir(self.directory), [])

    def test_a_spool_that_cannot_be_opened_is_left_alone(self) -> None:
        self.create().write([(0, [BODY])])

        def refuse(name: str, *args: Any) -> None:
            if name == "open":
                raise OSError(errno.EMFILE, "too many open files")

        self.refusing(refuse)
        self.assertIsNone(self.reopened())
        self.patch(spoolfile, "os", os)
        found = self.reopened()
        assert found is not None
        self.assertEqual(found.missing, 0)

    def test_a_bad_line_ends_the_reading(self) -> None:
        for bad in (
            b"+ 5 5",
            b"+ 9 5",
            b"+ -1 5",
            b"+ 1_0 50",
            b"nonsense",
            b"r ../x",
            b"\xff",
            b"",
        ):
            self.create()
            self.put_cover(self.cover() + b"+ 0 10\n" + bad + b"\n+ 20 30\n")
            found = self.reopened()
            assert found is not None
            self.assertEqual(list(found.covered()), [Span(0, 10)], bad)

    def test_what_is_no_file_or_too_large_for_a_sidecar_is_thrown_away(self) -> None:
        """It was read to its end, and a device has none."""
        self.patch(sidecar, "MAX_BYTES", 10_000)
        for make in (
            lambda path: os.symlink("/dev/zero", path),
            os.mkfifo,
            lambda path: self.put_cover(b"+ 1 2\n" * 10_000),
        ):
            self.create()
            os.unlink(self.base + ".cover")
            make(self.base + ".cover")
            self.assertIsNone(self.reopened())
            self.assertEqual(os.listdir(self.directory), [])

    def test_of_very_many_spans_the_short_ones_are_fetched_again(self) -> None:
        """A request for each of a hundred thousand gaps would never end."""
        self.patch(sidecar, "MAX_CRUMBS", 4)
        self.patch(sidecar, "CRUMB", 20)
        self.create()
        first = self.cover()
        spans = [(0, 1), (2, 3), (10, 40), (50, 51), (60, 80)]
        lines = [b"+ %d %d\n" % span for span in spans]
        for count, left in ((4, spans[:4]), (5, [(10, 40), (60, 80)])):
            self.put_cover(first + b"".join(lines[:count]))
            found = self.reopened()
            assert found is not None
            self.assertEqual([(each.start, each.end) for each in found.covered()], left)
            found.close()

    def test_spans_are_cut_at_the_blobs_end(self) -> None:
        self.create()
        self.put_cover(self.cover() + b"+ 1000 9999999999999999999\n+ 2000 3000\n+ 0 1\n")
        found = self.reopened()
        assert found is not None
        self.assertEqual(list(found.covered()), [Span(0, 1), Span(1000, 1024)])

    def test_a_torn_last_line_is_ignored(self) -> None:
        spool = self.create()
        spool.write([(0, [BODY[:10]])])
        self.put_cover(self.cover() + b"+ 20 3")
        found = self.reopened()
        assert found is not None
        self.assertEqual(list(found.covered()), [Span(0, 10)])
        found.write([(10, [BODY[10:12]])])
        found.close()
        again = self.reopened()
        assert again is not None
        self.assertEqual(list(again.covered()), [Span(0, 12)])

    def test_readers_take_no_descriptor_each_and_outlive_the_spool(self) -> None:
        spool = self.create()
        spool.write([(0, [BODY])])
        readers = [spool.open() for _ in range(100)]
        numbers = {reader.fileno() for reader in readers}
        self.assertEqual(len(numbers), 1)
        (number,) = numbers
        assert number is not None
        spool.discard()
        for reader in readers[1:]:
            reader.close()
            self.assertIsNone(reader.fileno())
        self.assertEqual(os.pread(number, 10, 0), BODY[:10])
        readers[0].close()
        self.assertRaises(OSError, os.fstat, number)

    @settings(max_examples=100, deadline=None)
    @given(written=writes, data=st.data())
    def test_a_sidecar_cut_anywhere_claims_only_what_was_written(
        self, written: list[list[list[int]]], data: Any
    ) -> None:
        directory = tempfile.mkdtemp(dir=self.directory)
        self.addCleanup(shutil.rmtree, directory, True)
        spool = SpoolFile.create(directory, DIGEST, len(BODY), NAME)
        for bounds in written:
            spool.write(pieces_of(bounds))
        before = spool.covered()
        spool.close()
        path = os.path.join(directory, DIGEST.file_name + ".cover")
        whole = os.path.getsize(path)
        cut = data.draw(st.integers(0, whole))
        os.truncate(path, cut)
        found = SpoolFile.reopen(directory, DIGEST)
        if found is None:
            return
        if cut == whole:
            self.assertEqual(list(found.covered()), list(before))
        reader = found.open()
        for span in found.covered():
            self.assertGreaterEqual(before.until(span.start), span.end)
            self.assertEqual(reader.read(span.start, len(span)), BODY[span.start : span.end])
        reader.close()
        found.discard()
