"""The log file: whoever moves, truncates or takes it away, nothing is lost and it stays bounded."""

from __future__ import annotations

import os
import shutil

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.daemon.logfile import RETRY_EVERY, LogFile
from yukari.daemon.unhurried import KEPT, Unhurried


class LogFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.path = os.path.join(self.directory, "y.log")
        self.clock = Clock()

    def made(self, rotate_at: int = 1000, kept: int = 2) -> LogFile:
        return LogFile(self.path, rotate_at, kept, self.clock.seconds)

    def text(self, name: str = "y.log") -> str:
        with open(os.path.join(self.directory, name)) as file:
            return file.read()

    def test_it_is_appended_to(self) -> None:
        for line in ("one\n", "two\n"):
            self.made().write(line)
        self.assertEqual(self.text(), "one\ntwo\n")

    def test_a_file_that_is_truncated_has_no_hole(self) -> None:
        """logrotate's copytruncate; a file that is not appended to gets zeros in its front."""
        log = self.made()
        log.write("one\n")
        os.truncate(self.path, 0)
        log.write("two\n")
        self.assertEqual(self.text(), "two\n")

    def test_a_fifo_that_nobody_reads_is_not_waited_for(self) -> None:
        """SIGHUP stopped the daemon until somebody did."""
        log = self.made(rotate_at=10)
        os.rename(self.path, self.path + ".old")
        os.mkfifo(self.path)
        log.reopen()
        log.write("one\n")
        self.assertEqual(self.text("y.log.old"), "one\n")
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.clock.advance(RETRY_EVERY)
        for _ in range(3):
            log.write("12345678\n")
        log.rotate()
        self.assertEqual(os.read(reader, 100), 3 * b"12345678\n")
        self.assertEqual(sorted(os.listdir(self.directory)), ["y.log", "y.log.old"])

    def test_a_truncated_file_is_not_rotated(self) -> None:
        log = self.made(rotate_at=10)
        for _ in range(10):
            log.write("12345678\n")
            os.truncate(self.path, 0)
        self.assertEqual(os.listdir(self.directory), ["y.log"])

    def test_a_file_that_was_moved_away_is_followed_until_it_is_reopened(self) -> None:
        log = self.made()
        os.rename(self.path, self.path + ".old")
        log.write("one\n")
        log.reopen()
        log.write("two\n")
        self.assertEqual((self.text("y.log.old"), self.text()), ("one\n", "two\n"))

    def test_a_reopen_that_fails_is_tried_again_and_nothing_is_lost(self) -> None:
        """SIGHUP while the log's directory is away ended the log for good."""
        log = self.made()
        away = self.directory + ".away"
        os.rename(self.directory, away)
        log.reopen()
        log.write("one\n")
        os.mkdir(self.directory)
        log.write("two\n")
        self.clock.advance(RETRY_EVERY)
        log.write("three\n")
        self.assertEqual(self.text(), "three\n")
        with open(os.path.join(away, "y.log")) as file:
            self.assertEqual(file.read(), "one\ntwo\n")

    def test_a_rotation_that_fails_loses_nothing(self) -> None:
        log = self.made(rotate_at=10)
        os.mkdir(self.path + ".1")
        os.mkdir(os.path.join(self.path + ".1", "full"))
        os.mkdir(self.path + ".2")
        os.mkdir(os.path.join(self.path + ".2", "full"))
        for at in range(5):
            log.write(f"{at}2345678\n")
        self.assertEqual(self.text().count("\n"), 5)

    @given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 3))
    def test_whatever_is_written_it_is_bounded_and_the_newest_is_there(
        self, sizes: list[int], kept: int
    ) -> None:
        shutil.rmtree(self.directory)
        os.mkdir(self.directory)
        log, lines = self.made(1000, kept), []
        for at, size in enumerate(sizes):
            lines.append(f"{at}:{'x' * size}\n")
            log.write(lines[-1])
        names = [*(f"y.log.{number}" for number in range(kept, 0, -1)), "y.log"]
        found = [self.text(name) for name in names if name in os.listdir(self.directory)]
        self.assertLessEqual(set(os.listdir(self.directory)), set(names))
        self.assertTrue(all(len(text) <= 1000 for text in found))
        self.assertTrue("".join(lines).endswith("".join(found)))

    def test_what_is_no_text_is_written_all_the_same(self) -> None:
        self.made().write("\ud800\n")
        self.assertEqual(self.text(), "\\ud800\n")


class UnhurriedTests(SynchronousTestCase):
    """A pipe whose reader has stopped; without a bound on what is written the test hangs."""

    def setUp(self) -> None:
        self.reader, self.writer = os.pipe()
        self.log = Unhurried(self.writer)
        self.addCleanup(os.close, self.writer)
        self.told: list[int] = []
        self.patch(Unhurried, "_log", self)

    def error(self, _: str, count: int) -> None:
        """Stand in for the logger: its line about dropped ones goes to the same log."""
        self.told.append(count)
        self.log.write("the end\n")

    def read_all(self) -> list[str]:
        text = b""
        while not text.endswith(b"the end\n"):
            text += os.read(self.reader, 1 << 16)
        return text.decode().splitlines()

    def test_what_is_read_late_comes_whole_and_in_order_and_the_rest_is_counted(self) -> None:
        self.addCleanup(os.close, self.reader)
        sent = [f"{number} ".ljust(10_000, ".") for number in range(2 * KEPT // 10_000)]
        for line in sent:
            self.log.write(line + "\n")
        *got, end = self.read_all()
        self.assertEqual(got, sent[: len(got)])
        self.assertEqual(self.told, [len(sent) - len(got)])
        self.assertGreater(len(got), KEPT // 10_001)
        writer = self.log._writer
        if writer is not None:
            writer.join()
        self.log.write("again\n")
        self.assertEqual(os.read(self.reader, 100), b"again\n")

    def test_nobody_waits_for_a_reader_that_has_gone(self) -> None:
        for _ in range(100):
            self.log.write("x" * 10_000 + "\n")
        os.close(self.reader)
        writer = self.log._writer
        assert writer is not None
        writer.join()
        self.assertRaises(OSError, self.log.write, "x\n")
