"""Requests that their host has lost, and those that go on for too long."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from yukari.fills.lateness import LATE, LONG, LONGEST, Waits, lasting
from yukari.fills.plan import Claim
from yukari.net.budget import OVERTAKERS
from yukari.sources.pace import MUCH, HostPace


@define(eq=False)
class Fetch:
    """As much of a request as matters."""

    began_at: float = 0.0
    received: int = 0
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


def found(fetch: Any, pace: HostPace, now: float) -> bool:
    Waits().drop_overtaken([fetch], pace, now)
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
            waits.drop_overtaken([fetch], pace, times * LATE - 0.01)
            self.assertFalse(fetch.dropped)
            waits.drop_overtaken([fetch], pace, times * LATE)
            self.assertTrue(fetch.dropped)
        other: Any = Fetch(claim=Claim(200, 300))
        waits.drop_overtaken([other], pace, LATE)
        self.assertTrue(other.dropped)

    def test_a_request_that_had_begun_to_come_was_not_waited_for_in_vain(self) -> None:
        waits, fetch = Waits(), Fetch(received=1)
        begun: Any = fetch
        waits.in_vain(begun)
        self.assertEqual(waits.factor(begun), 1)


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
