"""A registry that says 429: its questions wait for a moment, and are not sent meanwhile."""

from __future__ import annotations

from typing import Any, Optional

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.errors import RegistryError
from yukari.sources.patience import WAITED_FOR, Patience


class PatienceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.patience = Patience(self.clock)
        self.asked = 0
        self.says: list[Any] = []
        """What the registry says to the next questions; an exception is raised."""

    async def question(self) -> Any:
        self.asked += 1
        said = self.says.pop(0) if self.says else "answer"
        if isinstance(said, Exception):
            raise said
        return said

    def ask(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.patience.ask(self.question))

    def busy(self, seconds: Optional[int]) -> RegistryError:
        return RegistryError("TOOMANYREQUESTS", "slow down", 429, retry_after=seconds)

    def error(self, asking: Deferred[Any]) -> RegistryError:
        found: RegistryError = self.failureResultOf(asking, RegistryError).value
        return found

    def test_a_question_waits_and_is_asked_again(self) -> None:
        self.says = [self.busy(3), self.busy(4)]
        asking = self.ask()
        for seconds in (2.9, 0.1, 3.9):
            self.assertNoResult(asking)
            self.clock.advance(seconds)
        self.assertNoResult(asking)
        self.clock.advance(0.1)
        self.assertEqual(self.successResultOf(asking), "answer")
        self.assertEqual(self.asked, 3)

    def test_others_are_not_sent_while_it_wants_to_be_left_alone(self) -> None:
        self.says = [self.busy(3)]
        questions = [self.ask() for _ in range(5)]
        self.assertEqual(self.asked, 1)
        self.clock.advance(3)
        for each in questions:
            self.assertEqual(self.successResultOf(each), "answer")

    def test_a_long_wait_is_an_error_at_once_and_for_others_what_is_left_of_it(self) -> None:
        self.says = [self.busy(60)]
        self.assertEqual(self.error(self.ask()).retry_after, 60)
        self.clock.advance(20.5)
        error = self.error(self.ask())
        self.assertEqual((error.status, error.message, error.retry_after), (429, "slow down", 40))
        self.assertEqual(self.asked, 1)
        self.clock.advance(60 - 20.5)
        self.assertEqual(self.successResultOf(self.ask()), "answer")

    def test_one_that_never_has_enough_is_given_up(self) -> None:
        self.says = [self.busy(4) for _ in range(10)]
        asking = self.ask()
        for _ in range(3):
            self.clock.advance(4)
        self.assertEqual(self.error(asking).status, 429)
        self.assertLessEqual(self.clock.seconds(), WAITED_FOR + 4)
        self.assertEqual(self.asked, 3)

    def test_other_errors_and_429_without_a_time_are_passed_on(self) -> None:
        for error in (self.busy(None), self.busy(0), RegistryError("DENIED", "no", 403)):
            self.says = [error]
            self.assertIs(self.error(self.ask()), error)
            self.assertEqual(self.successResultOf(self.ask()), "answer")

    def test_a_question_that_is_given_up_leaves_no_timer(self) -> None:
        self.says = [self.busy(3)]
        asking = self.ask()
        asking.cancel()
        self.failureResultOf(asking)
        self.assertEqual(self.clock.getDelayedCalls(), [])
