"""The last warnings and errors of the log."""

from __future__ import annotations

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from yukari.library.recent_errors import MAX_KEPT, MAX_TEXT, RecentErrors

log = Logger(namespace="yukari.test")


class RecentErrorsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.errors = RecentErrors()
        self.errors.start()
        self.addCleanup(self.errors.stop)

    def test_warnings_and_errors_are_kept_in_words_and_nothing_else(self) -> None:
        log.info("fine")
        log.warn("{disk} is full", disk="sda")
        log.error("lost")
        found = [(each.level, each.text) for each in self.errors.kept]
        self.assertEqual(found, [("warning", "sda is full"), ("error", "lost")])

    def test_a_failure_is_said_without_its_traceback(self) -> None:
        try:
            raise ValueError("no number")
        except ValueError:
            log.failure("reading")
        self.assertEqual([each.text for each in self.errors.kept], ["reading: no number"])
        self.flushLoggedErrors(ValueError)

    def test_they_are_bounded(self) -> None:
        for at in range(MAX_KEPT + 5):
            log.warn("{at} {long}", at=at, long="x" * 10_000)
        self.assertEqual(len(self.errors.kept), MAX_KEPT)
        self.assertTrue(self.errors.kept[0].text.startswith("5 "))
        self.assertEqual({len(each.text) for each in self.errors.kept}, {MAX_TEXT})
