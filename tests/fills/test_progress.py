"""How fast something is said to go."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from yukari.fills.progress import TOLD, WINDOW, Progress


class ProgressTests(SynchronousTestCase):
    def test_of_late_is_not_what_was_long_ago(self) -> None:
        progress = Progress(100.0)
        count = 0
        for second in range(60):
            count += 1000 if second < 30 else 10
            progress.note(100.0 + second + 1, count)
        self.assertEqual(progress.rate(160.0, count, of_late=True), 10)
        self.assertEqual(progress.rate(160.0, count, of_late=False), (30_000 + 300) / 60)
        self.assertLessEqual(len(progress._samples), WINDOW + 1)

    def test_what_has_just_begun_has_no_rate(self) -> None:
        for of_late in (False, True):
            self.assertEqual(Progress(100.0).rate(100.0, 5, of_late=of_late), 0.0)

    def test_it_is_logged_once_in_a_period(self) -> None:
        progress = Progress(100.0)
        told = [second for second in range(100, 131) if progress.is_to_be_told(second)]
        self.assertEqual(told, [100 + TOLD, 100 + 2 * TOLD, 100 + 3 * TOLD])
