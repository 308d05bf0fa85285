"""The memory that relays and uploads past the disk share."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.memory import Memory


class MemoryTests(SynchronousTestCase):
    """A hundred bytes."""

    def setUp(self) -> None:
        self.memory = Memory(100)

    def lent(self, count: int) -> Deferred[None]:
        return Deferred.fromCoroutine(self.memory.lend(count))

    def test_uploads_get_half_of_it_in_turn(self) -> None:
        """Else two large blobs would leave nothing for clients."""
        first, second, third = self.lent(30), self.lent(30), self.lent(10)
        self.successResultOf(first)
        self.assertNoResult(second)
        self.assertNoResult(third)
        self.assertEqual(self.memory.free, 70)
        self.memory.give_back(30)
        self.successResultOf(second)
        self.successResultOf(third)
        self.assertEqual((self.memory.used, self.memory.free), (40, 60))

    def test_what_cannot_wait_has_what_is_kept_given_up_and_others_wait(self) -> None:
        given: list[int] = []
        self.memory.give_up = given.append
        self.memory.take(40)
        self.memory.claim(80)
        self.assertEqual((given, self.memory.free), ([20], 0))
        part = self.lent(10)
        self.assertNoResult(part)
        self.memory.release(80)
        self.successResultOf(part)

    def test_what_clients_have_is_waited_for_and_no_more_is_given_to_them(self) -> None:
        """Else requests for clients would take what becomes free, and no upload would begin."""
        self.memory.take(90)
        part = self.lent(40)
        self.memory.release(20)
        self.assertNoResult(part)
        self.assertEqual(self.memory.free, 0)
        self.memory.release(10)
        self.successResultOf(part)
        self.assertEqual(self.memory.used, 100)

    def test_one_that_is_cancelled_keeps_no_place(self) -> None:
        self.memory.take(90)
        first, second = self.lent(40), self.lent(10)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.successResultOf(second)
        self.assertEqual(self.memory.used, 100)

    def test_what_is_kept_in_case_somebody_asks_makes_way(self) -> None:
        """Whole pieces of it, so that there may be room for another part like this one."""
        asked = []

        def give_up(count: int) -> None:
            asked.append(count)
            self.memory.release(80)

        self.memory.give_up = give_up
        self.memory.take(90)
        self.successResultOf(self.lent(30))
        self.assertEqual((asked, self.memory.used), ([20], 40))
