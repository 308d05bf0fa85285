"""What is asked for is remembered, within a bound."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.library import in_use
from yukari.library.in_use import IN_USE_FOR, InUse
from yukari.names import Digest


def digests(start: int, end: int) -> list[Digest]:
    return [Digest(f"{at:064x}") for at in range(start, end)]


class InUseTests(SynchronousTestCase):
    def test_what_was_asked_for_first_is_forgotten_first_and_many_at_once(self) -> None:
        """One at a time, twenty thousand layers of a manifest took more than a second."""
        self.patch(in_use, "MAX_REMEMBERED", 100)
        used = InUse(Clock())
        used.ask(digests(0, 100))
        self.assertTrue(all(each in used for each in digests(0, 100)))
        used.ask(digests(0, 1))
        used.ask(digests(100, 101))
        self.assertEqual([each in used for each in digests(0, 13)], [True] + [False] * 11 + [True])
        self.assertTrue(all(each in used for each in digests(13, 101)))
        used.ask(digests(1000, 2000))
        self.assertEqual([each in used for each in digests(1910, 2000)], [True] * 90)

    def test_what_was_asked_for_long_ago_is_not_in_use(self) -> None:
        clock = Clock()
        used = InUse(clock)
        (digest,) = digests(0, 1)
        used.ask([digest])
        clock.advance(IN_USE_FOR - 1)
        self.assertIn(digest, used)
        clock.advance(1)
        self.assertNotIn(digest, used)
