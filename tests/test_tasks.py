"""Work that is done at the same time."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.tasks import together

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
