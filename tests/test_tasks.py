"""Work that is done at the same time."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.turning import Turning
from yukari.tasks import IN_A_TURN, Coalescer, Slices, Waiters, together

T = TypeVar("T")


async def after(waiting: Deferred[T]) -> T:
    return await waiting


class TogetherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.number: Deferred[int] = Deferred()
        self.word: Deferred[str] = Deferred()
        self.both = Deferred.fromCoroutine(together(after(self.number), after(self.word)))

    def test_neither_waits_for_the_other(self) -> None:
        self.word.callback("one")
        self.assertNoResult(self.both)
        self.number.callback(1)
        self.assertEqual(self.successResultOf(self.both), (1, "one"))

    def test_an_error_is_the_one_that_was_raised(self) -> None:
        self.word.errback(KeyError("gone"))
        self.failureResultOf(self.both, KeyError)
        # What still runs may fail too, and is not logged as unhandled.
        self.number.errback(ValueError())

    def test_cancelling_cancels_both(self) -> None:
        self.both.cancel()
        self.assertTrue(self.number.called and self.word.called)
        self.failureResultOf(self.both)


class SlicesTests(SynchronousTestCase):
    """Thousands who wait for the same thing."""

    def setUp(self) -> None:
        self.clock = Turning()
        self.slices = Slices(self.clock)
        self.called: list[int] = []

    def call(self, *numbers: int) -> None:
        self.slices.call({number: partial(self.called.append, number) for number in numbers})

    def test_few_are_called_in_each_turn_of_the_reactor_in_order(self) -> None:
        self.call(*range(2 * IN_A_TURN + 1))
        for calls in (IN_A_TURN, 2 * IN_A_TURN, 2 * IN_A_TURN + 1):
            self.assertEqual(self.called, list(range(calls)))
            self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_call_that_waits_is_made_once(self) -> None:
        for _ in range(2):
            self.call(*range(IN_A_TURN + 1))
        self.clock.pump([1, 1])
        self.assertEqual(self.called, [*range(IN_A_TURN + 1), *range(IN_A_TURN)])

    def test_a_call_that_fails_or_adds_another_leaves_the_rest(self) -> None:
        def fail() -> None:
            self.call(7)
            raise KeyError

        with self.assertRaises(KeyError):
            self.slices.call({1: fail, 2: partial(self.called.append, 2)})
        self.clock.advance(1)
        self.assertEqual(self.called, [2, 7])

    def test_those_who_share_an_answer_get_it_a_few_in_a_turn(self) -> None:
        """One tag that upstream does not have, and 3,000 clients: everybody else waited 0.5 s."""
        once, answer = Coalescer(self.slices), Deferred[int]()
        asked = [
            Deferred.fromCoroutine(once.run("key", after, answer)) for _ in range(IN_A_TURN + 2)
        ]
        answer.callback(5)
        asked[-1].cancel()
        self.failureResultOf(asked.pop())
        self.assertEqual([each.called for each in asked], [True] * IN_A_TURN + [False])
        self.clock.advance(1)
        self.assertEqual([self.successResultOf(each) for each in asked], [5] * len(asked))

    def test_those_who_are_few_need_no_turn(self) -> None:
        waiters = Waiters()
        waiting = [waiters.wait() for _ in range(2 * IN_A_TURN)]
        waiters.fire()
        self.assertTrue(all(each.called for each in waiting))
