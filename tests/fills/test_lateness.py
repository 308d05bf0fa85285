"""Requests that their host has lost, and those that go on for too long."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import ScriptedSource
from yukari.fills.lateness import BEHIND_OTHERS, LATE, LONG, LONGEST, Waits, lasting
from yukari.fills.plan import Claim
from yukari.fills.retries import RetryState
from yukari.net.budget import OVERTAKERS
from yukari.sources.pace import ANSWER_LEAST, MUCH, HostPace


@define(eq=False)
class Fetch:
    """As much of a request as matters."""

    began_at: float = 0.0
    heard_at: float = 0.0
    received: int = 0
    answered: bool = False
    left: float = 0.0
    paused: bool = False
    held: bool = False
    claim: Claim = field(factory=lambda: Claim(100, 100 + MUCH))

    dropped: bool = False

    def drop(self, why: str, *, silent: bool, slow: bool) -> None:
        assert silent and slow
        self.dropped = True

    def seconds_left(self, now: float) -> float:
        return self.left


def overtaken(by: int = OVERTAKERS) -> HostPace:
    """A host that has answered so many requests that were sent a second after the first."""
    pace = HostPace()
    for _ in range(by):
        pace.limit.answered(1.1, began=1.0)
    return pace


@define(eq=False)
class Blob:
    """As much of a download as matters."""

    fetches: list[Any]
    source: ScriptedSource
    tries: RetryState = field(factory=RetryState)
    is_unproven: bool = False
    coverage: Any = None


def blob(fetch: Any, pace: HostPace, *, has_brought: bool = True) -> Blob:
    found = Blob([fetch], ScriptedSource(b"", pace_now=pace))
    if has_brought:
        found.tries.came(0.0)
    return found


def found(fetch: Any, pace: HostPace, now: float, *, has_brought: bool = True) -> bool:
    Waits().drop_lost(blob(fetch, pace, has_brought=has_brought), now)
    return bool(fetch.dropped)


class OvertakenTests(SynchronousTestCase):
    def test_only_a_request_without_a_byte_is_one_and_only_after_a_while(self) -> None:
        pace = overtaken()
        self.assertTrue(found(Fetch(), pace, LATE))
        self.assertFalse(found(Fetch(), pace, LATE - 0.1))
        self.assertFalse(found(Fetch(received=1), pace, 100.0))
        self.assertFalse(found(Fetch(paused=True), pace, 100.0))
        self.assertFalse(found(Fetch(held=True), pace, 100.0))

    def test_several_later_ones_must_have_been_answered(self) -> None:
        self.assertFalse(found(Fetch(), overtaken(OVERTAKERS - 1), 100.0))
        self.assertFalse(found(Fetch(began_at=1.0), overtaken(), 100.0))

    def test_host_that_took_longer_before_is_waited_for(self) -> None:
        """A host whose answers take from no time to five seconds was asked again and again."""
        pace = overtaken()
        pace.headers_after(5.0)
        self.assertFalse(found(Fetch(), pace, 19.0))
        self.assertTrue(found(Fetch(), pace, 21.0))

    def test_from_the_third_time_at_one_byte_on_the_wait_is_twice_as_long(self) -> None:
        pace, waits = overtaken(), Waits()
        for times in (1, 1, 2, 4, LONGEST, LONGEST):
            fetch: Any = Fetch()
            waits.drop_lost(blob(fetch, pace), times * LATE - 0.01)
            self.assertFalse(fetch.dropped)
            waits.drop_lost(blob(fetch, pace), times * LATE)
            self.assertTrue(fetch.dropped)
        other: Any = Fetch(claim=Claim(200, 300))
        waits.drop_lost(blob(other, pace), LATE)
        self.assertTrue(other.dropped)

    def test_a_request_that_had_begun_to_come_was_not_waited_for_in_vain(self) -> None:
        waits, fetch = Waits(), Fetch(received=1)
        begun: Any = fetch
        waits.in_vain(begun)
        self.assertEqual(waits.factor(begun), 1)


class IdleTests(SynchronousTestCase):
    """A host that sends nothing at all."""

    def pace(self) -> HostPace:
        return HostPace(has_brought_much=True)

    def test_request_to_one_that_was_quick_is_lost_soon_though_nothing_overtakes_it(self) -> None:
        """The last of a blob was waited for two or three seconds, each time that it was lost."""
        self.assertTrue(found(Fetch(), self.pace(), LATE))
        self.assertFalse(found(Fetch(), self.pace(), LATE - 0.01))
        self.assertFalse(found(Fetch(heard_at=5.0), self.pace(), 5.0 + LATE - 0.01))

    def test_request_is_not_lost_while_its_host_sends_anything_or_is_new(self) -> None:
        busy = self.pace()
        busy.limit.served = 1
        self.assertFalse(found(Fetch(), busy, 100.0))
        self.assertFalse(found(Fetch(), HostPace(), 100.0))

    def test_request_is_not_lost_if_nothing_says_that_its_host_is_alive(self) -> None:
        self.assertFalse(found(Fetch(), self.pace(), 100.0, has_brought=False))
        alive = self.pace()
        alive.limit.answered(1.0, began=0.0)
        self.assertTrue(found(Fetch(), alive, 100.0, has_brought=False))

    def test_request_has_twice_as_long_each_time_that_it_is_lost(self) -> None:
        """A host that comes to need seconds for each reply would not be heard any more."""
        pace, waits, seconds = self.pace(), Waits(), LATE
        for _ in range(8):
            fetch: Any = Fetch()
            waits.drop_lost(blob(fetch, pace), seconds - 0.01)
            self.assertFalse(fetch.dropped)
            waits.drop_lost(blob(fetch, pace), seconds)
            self.assertTrue(fetch.dropped)
            seconds *= 2


class BehindTests(SynchronousTestCase):
    """Requests that may have to wait for their host to send another reply."""

    def is_silent(self, fetch: Any, pace: HostPace, now: float) -> bool:
        return bool(Waits().silent(blob(fetch, pace), now))

    def pace(self) -> HostPace:
        pace = HostPace(round_trip=0.05)
        pace.limit.served = 1
        return pace

    def test_while_a_host_sends_another_reply_it_is_not_silent(self) -> None:
        """Each of a model's blobs was dropped after two seconds, and served in vain later."""
        fetch, pace = Fetch(), self.pace()
        for now in range(1, int(BEHIND_OTHERS) - 1):
            self.assertFalse(self.is_silent(fetch, pace, now))
        pace.limit.served = 0
        self.assertFalse(self.is_silent(fetch, pace, fetch.heard_at + 1.0))
        self.assertTrue(self.is_silent(fetch, pace, fetch.heard_at + ANSWER_LEAST + 0.1))

    def test_request_behind_others_is_silent_in_the_end(self) -> None:
        self.assertTrue(self.is_silent(Fetch(), self.pace(), BEHIND_OTHERS))

    def test_host_that_has_answered_clearly_later_ones_or_several_at_once_is_not_busy(self) -> None:
        later, several = self.pace(), self.pace()
        later.limit.answered(1.2, began=1.0)
        several.limit.served = 2
        several.limit.answered(0.2, began=0.0)
        for pace in (later, several):
            self.assertTrue(self.is_silent(Fetch(), pace, ANSWER_LEAST + 0.1))


class LastingTests(SynchronousTestCase):
    def found(self, *fetches: Any, round_trip: float = 0.05, now: float = 100.0) -> Any:
        return lasting(fetches, HostPace(round_trip=round_trip), now)

    def test_the_longest_is_found_if_half_of_it_is_worth_a_first_byte(self) -> None:
        short, long, longest = Fetch(left=1.0), Fetch(left=LONG), Fetch(left=LONG + 1)
        for each in (short, long, longest):
            each.received = 1
        self.assertIsNone(self.found())
        self.assertIsNone(self.found(short))
        self.assertIs(self.found(short, long), long)
        self.assertIs(self.found(short, longest, long), longest)
        self.assertIsNone(self.found(longest, round_trip=2.0))
        longest.claim.cursor += 1
        self.assertIs(self.found(longest, long), long)

    def test_none_is_while_the_host_keeps_another_waiting(self) -> None:
        """One that serves a request at a time would have one more to serve each time."""
        longest = Fetch(left=60.0, received=1)
        for waits, is_found in ((1.0, True), (3.0, False)):
            waiting = Fetch(began_at=100.0 - waits)
            self.assertEqual(self.found(longest, waiting, round_trip=1.0) is longest, is_found)

    def test_none_is_if_the_host_needs_its_requests_in_order(self) -> None:
        pace = HostPace()
        pace.in_order.body(10**6, 1.0)
        pace.in_order.seconds_per_byte = 1e-6
        longest: Any = Fetch(left=60.0, received=1)
        self.assertIsNone(lasting([longest], pace, 100.0))

    def test_none_is_on_a_line_whose_rate_is_bounded_by_us(self) -> None:
        longest: Any = Fetch(left=60.0, received=1)
        self.assertIsNone(lasting([longest], HostPace(bound=1000.0), 100.0))
