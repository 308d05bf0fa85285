"""Which of two sources is asked."""

from __future__ import annotations

from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.errors import RegistryError
from yukari.names import Repository
from yukari.sources.base import Answer, SourceFailed, SourceRefused
from yukari.sources.chain import FAILURES, Fallback
from yukari.sources.pace import HostPace
from yukari.spans import Span

SPAN = Span(0, 10)


@define(eq=False)
class Counted:
    """A source that counts who asks, and answers or raises."""

    there: bool = False
    error: Optional[Exception] = None
    asked: int = 0
    name: str = "a bucket"
    removable: bool = True
    set_asides: int = 0
    moves: bool = False
    ranges: bool = True
    pace: HostPace = field(factory=HostPace)

    async def fetch(self, span: Span) -> Answer:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Answer(span, True, self.pace, None)  # type: ignore[arg-type]

    def add_repository(self, name: Repository) -> None:
        pass

    def retry(self) -> None:
        pass

    def move_on(self, *, soon: bool = False) -> bool:
        return self.moves

    def describe(self) -> str:
        return self.name

    async def set_aside(self, *, alone: bool) -> bool:
        self.set_asides += 1
        self.there = self.there and not self.removable
        return self.removable


class FallbackTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.first, self.second = Counted(), Counted(name="upstream", removable=False)
        self.both = Fallback(self.first, self.second)

    def fetch(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.both.fetch(SPAN)))

    def assert_asked(self, first: int, second: int) -> None:
        self.assertEqual((self.first.asked, self.second.asked), (first, second))

    def test_the_store_is_asked_from_when_it_has_the_blob(self) -> None:
        self.fetch()
        self.assert_asked(0, 1)
        self.assertIs(self.both.pace, self.second.pace)
        self.first.there = True
        self.fetch()
        self.assert_asked(1, 1)
        self.assertIs(self.both.pace, self.first.pace)

    def test_a_refusal_is_made_good_in_the_same_request(self) -> None:
        self.both = Fallback(self.first, self.second, untold=True)
        self.first.error = SourceRefused(RegistryError("BLOB_UNKNOWN", "gone", 404))
        self.fetch()
        self.assert_asked(1, 1)
        self.fetch()
        self.assert_asked(1, 2)
        self.first.there, self.first.error = True, None  # somebody has stored it meanwhile
        self.fetch()
        self.assert_asked(2, 2)

    def test_one_that_keeps_failing_is_left_alone_until_the_next_try(self) -> None:
        self.first.there, self.first.error = True, SourceFailed("busy")
        for _ in range(FAILURES):
            self.failureResultOf(Deferred.fromCoroutine(self.both.fetch(SPAN)), SourceFailed)
        self.fetch()
        self.assert_asked(FAILURES, 1)
        self.both.retry()
        self.first.error = None
        self.fetch()
        self.assert_asked(FAILURES + 1, 1)

    def test_blob_that_the_store_has_and_does_not_send_is_not_unknown(self) -> None:
        """Clients were told that there is no such blob while a bucket did not answer."""
        self.first.there = True
        self.both.move_on()
        self.second.error = SourceRefused(RegistryError("BLOB_UNKNOWN", "gone", 404))
        self.failureResultOf(Deferred.fromCoroutine(self.both.fetch(SPAN)), SourceFailed)
        self.assertIs(self.both.pace, self.first.pace)  # It was only slow, perhaps.
        self.first.error = SourceFailed("reset")
        for _ in range(FAILURES):
            self.failureResultOf(Deferred.fromCoroutine(self.both.fetch(SPAN)), SourceFailed)
        refused = self.failureResultOf(Deferred.fromCoroutine(self.both.fetch(SPAN))).value
        self.assertEqual(refused.error.status, 502)

    def test_one_that_had_its_time_is_left_alone_until_the_next_try(self) -> None:
        """One that was silent has not failed: upstream was never asked."""
        self.first.there = True
        self.fetch()
        self.assertTrue(self.both.move_on())
        self.fetch()
        self.assert_asked(1, 1)
        self.second.moves = True
        self.assertTrue(self.both.move_on())
        self.assertIs(self.both.pace, self.second.pace)
        self.second.moves = False
        self.assertTrue(self.both.move_on())
        self.fetch()
        self.assert_asked(2, 1)
        self.assertFalse(self.both.move_on())
        self.both.retry()
        self.assertTrue(self.both.move_on())

    # a wrong digest

    def set_aside(self, *, alone: bool = True) -> bool:
        removed: bool = self.successResultOf(
            Deferred.fromCoroutine(self.both.set_aside(alone=alone))
        )
        return removed

    def test_wrong_copy_of_the_store_is_removed_and_the_next_attempt_asks_upstream(self) -> None:
        self.first.there = True
        self.fetch()
        self.assertEqual(self.both.describe(), "a bucket")
        self.assertTrue(self.set_aside())
        self.fetch()
        self.assert_asked(1, 1)
        self.assertEqual(self.both.describe(), "upstream")
        self.assertFalse(self.set_aside())
        self.assertEqual((self.first.set_asides, self.second.set_asides), (1, 1))

    def test_wrong_copy_that_cannot_be_removed_is_not_asked_for_next(self) -> None:
        self.first.there, self.first.removable = True, False
        self.fetch()
        self.assertFalse(self.set_aside())
        self.fetch()
        self.assert_asked(1, 1)

    def test_store_keeps_its_copy_if_some_bytes_came_from_elsewhere(self) -> None:
        """A right copy must not go because upstream, or an earlier process, had a wrong byte."""
        self.first.there, self.first.error = True, SourceFailed("busy")
        for _ in range(FAILURES):
            self.failureResultOf(Deferred.fromCoroutine(self.both.fetch(SPAN)), SourceFailed)
        self.fetch()  # from upstream
        self.first.error = None
        self.both.retry()
        self.fetch()  # from the store
        self.assertEqual(self.both.describe(), "a bucket and upstream")
        self.assertFalse(self.set_aside())
        self.fetch()
        self.assertFalse(self.set_aside(alone=False))
        self.assertEqual(self.first.set_asides, 0)
