"""What follows from requests that fail, whatever happened before."""

from __future__ import annotations

from typing import Any, Optional

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.fills.retries import (
    BACKOFF,
    ENOUGH,
    LONGEST_BACKOFF,
    PATIENCE,
    PATIENCE_AT_FIRST,
    SILENCE,
    TOLD_OF_WAIT,
    USEFUL,
    USELESS,
    RetryState,
)
from yukari.sources.base import SourceFailed

MOST = 8
SPREAD = 1.25


@frozen
class Silent:
    """As much of a request that began at 0 seconds as matters."""

    heard_at: float = 0.0
    received: int = 0
    answered: bool = False
    began_at: float = 0.0


@frozen
class Failure:
    """A request that began ``took`` seconds before it failed."""

    took: float
    brought: int = 0
    retry_after: Optional[float] = None
    busy: bool = False

    def tell(self, tries: RetryState, now: float) -> float:
        error = SourceFailed("broken", self.retry_after, busy=self.busy)
        began = now - self.took
        return tries.failed(error, now, began=began, brought=self.brought)


def failures() -> st.SearchStrategy[Failure]:
    return st.builds(
        Failure,
        st.floats(0, 100),
        st.integers(0, 10**6),
        st.none() | st.floats(0, 100),
        st.booleans(),
    )


class FailedTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.floats(0, 100), failures()), max_size=20))
    def test_no_request_begins_before_upstream_wishes(
        self, history: list[tuple[float, Failure]]
    ) -> None:
        tries, now = RetryState(), 0.0
        for passed, failure in history:
            now += passed
            delay = failure.tell(tries, now)
            self.assertGreaterEqual(tries.not_before, now + (failure.retry_after or 0.0))
            self.assertLessEqual(delay, max(LONGEST_BACKOFF * SPREAD, failure.retry_after or 0.0))
            if failure.retry_after is not None:
                tries.begin_anew()
                self.assertGreaterEqual(tries.not_before, now + failure.retry_after)

    def test_those_that_were_under_way_together_count_once(self) -> None:
        tries = RetryState()
        for _ in range(MOST):
            self.assertLessEqual(Failure(took=1.0).tell(tries, 100.0), BACKOFF * SPREAD)
        self.assertGreater(Failure(took=1.0).tell(tries, 102.0), BACKOFF * SPREAD)

    def test_who_asks_again_shortens_the_backoff_but_not_the_wait_that_upstream_wants(self) -> None:
        tries = RetryState()
        for now in range(0, 100, 10):
            Failure(took=1.0).tell(tries, now)
        self.assertGreater(tries.not_before, 95.0)
        self.assertFalse(tries.hurry(90.5))
        self.assertTrue(tries.hurry(91.0))
        self.assertLessEqual(tries.not_before, 91.0)
        Failure(took=1.0, retry_after=60.0).tell(tries, 100.0)
        self.assertFalse(tries.hurry(102.0))
        self.assertGreaterEqual(tries.not_before, 160.0)
        tries.came(161.0)
        Failure(took=1.0).tell(tries, 170.0)
        self.assertFalse(tries.hurry(175.0))

    def test_clients_are_told_at_once_of_a_wait_that_is_longer_than_theirs(self) -> None:
        """A 429 for a minute was "context deadline exceeded" after half of it, each time."""
        for seconds, told in ((None, False), (3.0, False), (TOLD_OF_WAIT + 1, True)):
            tries = RetryState()
            tries.begin(0.0)
            Failure(0.1, retry_after=seconds, busy=True).tell(tries, 0.1)
            self.assertEqual(tries.keep_failing, told, seconds)
            tries.came(100.0)
            self.assertFalse(tries.keep_failing)

    def test_one_useless_reply_ends_no_fill_of_which_bytes_come_or_in_an_outage(self) -> None:
        """A blob was given up half a minute after one reply that had ended early."""
        for of, answered, hopeless in ((1, True, True), (USEFUL, True, False), (1, False, False)):
            tries, error = RetryState(), SourceFailed("the connection broke")
            tries.begin(0.0)
            tries.came(1.0)
            tries.failed(error, 2.0, began=1.5, brought=0, answered=True)
            tries.came(10.0, of=of)
            tries.failed(error, 20.0, began=15.0, brought=0, answered=answered)
            self.assertEqual(tries.are_hopeless(2.0 + USELESS), hopeless, (of, answered))

    def test_failures_while_the_host_is_busy_with_others_are_none_of_the_blobs(self) -> None:
        """It was given up after ten seconds for which a host of one connection sent another."""
        tries = RetryState()
        tries.begin(0.0)
        for now in range(1, 30):
            error = SourceFailed("upstream answered 503")
            delay = tries.failed(error, now, began=now - 0.1, brought=0, crowded=True)
            self.assertLessEqual(delay, 4 * BACKOFF * SPREAD)
            self.assertTrue(tries.are_failing)
            self.assertFalse(tries.keep_failing or tries.are_hopeless(now))
        self.assertTrue(tries.are_hopeless(PATIENCE))
        for now in range(30, 40):
            Failure(took=0.1).tell(tries, now)
        self.assertTrue(tries.keep_failing and tries.are_hopeless(40.0))

    def test_error_of_the_hosts_own_counts_however_busy_it_is(self) -> None:
        """A small blob's 500 beside a large blob's bytes would not be told for hours."""
        for broken in (False, True):
            tries = RetryState()
            tries.begin(0.0)
            for now in range(1, 4):
                error = SourceFailed("upstream answered 500", broken=broken)
                tries.failed(error, now, began=now - 0.1, brought=0, crowded=True)
            self.assertEqual(tries.keep_failing, broken)
            self.assertEqual(tries.are_hopeless(PATIENCE_AT_FIRST), broken)

    def test_request_is_waited_for_unless_it_follows_a_failure(self) -> None:
        """Else two blobs that fail in turn would each be a reason not to count the other's."""
        tries = RetryState()
        self.assertTrue(tries.is_waiting(1.0, before=1.0))
        self.assertFalse(tries.is_waiting(1.1, before=1.0))
        Failure(took=0.1).tell(tries, 5.0)
        self.assertTrue(tries.is_waiting(1.0, before=8.0))
        self.assertFalse(tries.is_waiting(6.0, before=8.0))
        tries.came(9.0)
        self.assertTrue(tries.is_waiting(6.0, before=8.0))

    def test_requests_that_the_host_refused_beside_others_cause_no_pause_once_it_gets_fewer(
        self,
    ) -> None:
        for lowered_at, pauses in ((99.0, True), (100.0, False)):
            tries = RetryState()
            Failure(took=0.1).tell(tries, 100.0)
            tries.came(100.1)
            tries.host_got_fewer(lowered_at)
            self.assertEqual(tries.not_before > 100.1, pauses)
        Failure(took=0.1, retry_after=60.0).tell(tries, 100.2)
        tries.came(100.3)
        tries.host_got_fewer(100.2)
        self.assertGreaterEqual(tries.not_before, 160.2)

    def test_one_that_brought_something_is_tried_again_soon(self) -> None:
        tries = RetryState()
        for now in range(0, 100, 10):
            delay = Failure(took=1.0, brought=1).tell(tries, now)
            self.assertLessEqual(delay, BACKOFF * SPREAD)
            self.assertGreater(delay, 0)
            self.assertFalse(tries.are_failing)

    def test_one_that_brought_much_is_tried_again_at_once(self) -> None:
        """A host that reset each connection behind its reply was asked once in a while."""
        tries = RetryState()
        self.assertEqual(Failure(took=1.0, brought=ENOUGH).tell(tries, 10.0), 0.0)
        self.assertEqual(tries.not_before, 10.0)
        # It may ask to wait all the same.
        self.assertEqual(Failure(1.0, ENOUGH, retry_after=5.0).tell(tries, 20.0), 5.0)


class PatienceTests(SynchronousTestCase):
    def test_patience_is_short_until_the_first_byte_and_longer_from_then_on(self) -> None:
        for came, patience in ((False, PATIENCE_AT_FIRST), (True, PATIENCE)):
            tries = RetryState()
            tries.begin(100.0)
            if came:
                tries.came(100.0)
            self.assertFalse(tries.are_hopeless(1e6), "nothing has failed")
            Failure(took=0.0).tell(tries, 100.0)
            self.assertFalse(tries.are_hopeless(100.0 + patience - 1))
            self.assertTrue(tries.are_hopeless(100.0 + patience))

    def test_waiting_as_upstream_wishes_does_not_try_it(self) -> None:
        tries = RetryState()
        tries.begin(100.0)
        delay = Failure(took=0.0, retry_after=50.0).tell(tries, 100.0)
        self.assertFalse(tries.are_hopeless(100.0 + delay))
        self.assertTrue(tries.are_hopeless(100.0 + delay + PATIENCE_AT_FIRST))

    def test_upstream_that_asks_to_wait_again_and_again_is_hopeless_in_the_end(self) -> None:
        """Each refusal prolonged the patience with it: the blob was waited for without end."""
        for came in (False, True):
            tries, now = RetryState(), 100.0
            tries.begin(now)
            if came:
                tries.came(now)
            while not tries.are_hopeless(now):
                now = max(now + 3.0, tries.not_before)
                Failure(took=0.0, retry_after=3.0, busy=True).tell(tries, now)
                self.assertLess(now, 100.0 + 2 * PATIENCE)
            self.assertGreater(now, 100.0 + PATIENCE * came)

    def test_silence_is_borne_longer_each_time_until_something_comes(self) -> None:
        tries = RetryState()
        borne = []
        for _ in range(3):
            borne.append(tries.longest_silence(waited_for=False))
            silent: Any = Silent(received=1, answered=True)
            tries.fell_silent([silent])
        self.assertEqual(borne, [SILENCE, 2 * SILENCE, 4 * SILENCE])
        tries.came(100.0)
        self.assertEqual(tries.longest_silence(waited_for=False), SILENCE)

    def test_the_time_for_which_a_request_waited_for_others_is_not_its_blobs(self) -> None:
        """Behind a long reply of a host that serves one at a time a small blob was given up."""
        for heard_at, is_hopeless in ((0.0, True), (5.0, False)):
            tries = RetryState()
            tries.begin(0.0)
            silent: Any = Silent(heard_at=heard_at)
            tries.fell_silent([silent])
            self.assertEqual(tries.are_hopeless(PATIENCE_AT_FIRST), is_hopeless)
            self.assertTrue(tries.are_hopeless(PATIENCE_AT_FIRST + 5.0))

    def test_rest_of_a_blob_ends_early_only_if_its_host_was_busy_with_others(self) -> None:
        for crowded in (True, False):
            tries = RetryState()
            tries.failed(SourceFailed("503"), 1.0, began=0.9, brought=0, crowded=crowded)
            self.assertEqual(tries.end_rest(), crowded)
            self.assertEqual(tries.not_before == 0.0, crowded)
