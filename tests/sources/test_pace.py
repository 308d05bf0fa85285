"""How long requests get, whatever was measured."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.sources.pace import (
    CRUMB,
    FIRST,
    GROWTH,
    LARGEST,
    LEAST,
    LONGEST,
    ROUND_TRIPS,
    SECONDS,
    SECONDS_SHARED,
    HostPace,
)

MB = 1_000_000
Measured = tuple[int, float, bool]
"""Bytes, seconds, and whether that was all of a request."""


def measurements() -> st.SearchStrategy[Measured]:
    """What requests may bring, those of a clock that was set back among them."""
    return st.tuples(st.integers(1, 10**10), st.floats(-10, 10**6), st.booleans())


def paces() -> st.SearchStrategy[HostPace]:
    """Hosts after any such history."""

    def made(history: list[Measured], trips: list[float], others: list[int]) -> HostPace:
        pace = HostPace()
        for trip in trips:
            pace.headers_after(trip)
        for measured, pace.active in zip(history, others):
            bring(pace, *measured)
        return pace

    return st.builds(
        made,
        st.lists(measurements(), max_size=10),
        st.lists(st.floats(0, 100), max_size=3),
        st.lists(st.integers(0, 63), min_size=11, max_size=11),
    )


def bring(
    pace: HostPace, count: int, seconds: float, whole: bool = True, body: float = inf
) -> None:
    """A request that brings so much, beside those that are under way already."""
    since = pace.begin(1000.0)
    pace.end(1000.0 + seconds)
    pace.measured(count, seconds, since=since, whole=whole, body=body)


def steady(rate: float, round_trip: float = 0.05, fetches: int = 1) -> HostPace:
    """A host that gives ``rate`` bytes a second on each of its connections, known for long."""
    pace = HostPace(active=fetches - 1)
    pace.headers_after(round_trip)
    length = FIRST
    for _ in range(20):
        bring(pace, length, round_trip + length / rate)
        length = pace.length(10**12, 1, 0)
    return pace


class BodyDelayTests(SynchronousTestCase):
    def test_delay_before_a_body_is_the_hosts_own_until_it_is_none(self) -> None:
        """Its rate was taken to be next to nothing, and it was asked for 4 KB at a time."""
        pace = HostPace()
        pace.headers_after(0.05)
        pace.body_after(8.0)
        self.assertTrue(pace.is_slow_to_answer)
        self.assertAlmostEqual(pace.delay, 7.75)
        self.assertGreater(pace.answers_within, 16)
        for _ in range(30):
            pace.headers_after(0.05)
            pace.body_after(0.01)
        self.assertFalse(pace.is_slow_to_answer)
        self.assertEqual(pace.body_delay, 0.0)

    @given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=30))
    def test_no_wait_is_ever_less_than_nothing(self, waits: list[tuple[float, float]]) -> None:
        pace = HostPace()
        for header, body in waits:
            pace.headers_after(header)
            pace.body_after(body)
            assert pace.round_trip is not None
            self.assertGreaterEqual(min(pace.round_trip, pace.delay), 0.0)


class LengthTests(SynchronousTestCase):
    @given(
        paces(),
        st.integers(0, 10**13),
        st.integers(1, 64),
        st.floats(0, 10**4),
        st.integers(0, 64),
        st.integers(1, 64),
    )
    def test_a_request_is_of_a_length_within_bounds(
        self,
        pace: HostPace,
        left: int,
        connections: int,
        crowding: float,
        active: int,
        at_once: int,
    ) -> None:
        pace.active = active
        length = pace.length(left, connections, crowding, at_once=at_once)
        self.assertTrue(LEAST <= length <= (LONGEST if pace.is_slow_to_answer else LARGEST))

    @given(st.lists(measurements(), min_size=1, max_size=10), st.integers(1, 10**13))
    def test_it_grows_at_most_sixteenfold_over_the_longest_that_came_whole(
        self, history: list[Measured], left: int
    ) -> None:
        pace, longest = HostPace(), FIRST // GROWTH
        for count, seconds, whole in history:
            bring(pace, count, seconds, whole)
            longest = max(longest, count) if whole else longest
            self.assertLessEqual(pace.length(left, 1, 0), max(FIRST, GROWTH * longest))

    @given(paces(), st.integers(0, 10**12), st.integers(1, 64), st.floats(0, 100))
    def test_more_that_wait_never_make_it_longer(
        self, pace: HostPace, left: int, connections: int, crowding: float
    ) -> None:
        calm = pace.length(left, connections, crowding)
        self.assertLessEqual(pace.length(left, connections, crowding + 1), calm)
        self.assertLessEqual(pace.length(left, connections + 1, crowding), calm)

    @given(paces(), st.integers(1, 63))
    def test_more_at_once_never_make_a_host_faster(self, pace: HostPace, requests: int) -> None:
        fewer, more = pace.rate(requests), pace.rate(requests + 1)
        if fewer is not None and more is not None:
            self.assertLessEqual(more, fewer)
            self.assertGreater(more, 0)

    @given(
        st.floats(0.1 * MB, 20 * MB),
        st.sampled_from([0.02, 0.1, 0.3]),
        st.lists(st.tuples(st.integers(0, 63), st.integers(1, 64)), min_size=1, max_size=20),
    )
    def test_all_that_share_a_line_are_asked_for_two_seconds_worth_however_many_come(
        self, line: float, round_trip: float, steps: list[tuple[int, int]]
    ) -> None:
        """``steps``: how many others there are at each measurement, and how many come then."""
        pace = HostPace()
        for others, soon in steps:
            pace.active = others
            length = pace.length(10**12, 1, 0, at_once=others + 1)
            bring(pace, length, round_trip + length * (others + 1) / line)
            pace.active, asked = 0, 0
            for pace.active in range(soon):
                asked += pace.length(10**12, 1, 0, at_once=soon)
            self.assertLessEqual(asked, max(soon * LEAST, SECONDS * line * 1.001))

    @given(paces(), st.floats(1, 10**9), st.integers(0, 10**13), st.floats(0, 10**4))
    def test_a_bounded_line_is_asked_for_no_more_than_it_brings_in_time(
        self, pace: HostPace, bound: float, left: int, crowding: float
    ) -> None:
        free = pace.length(left, 32, crowding)
        pace.bound = bound
        length = pace.length(left, 32, crowding)
        self.assertTrue(min(LEAST, free) <= length <= free)
        if not pace.is_slow_to_answer:
            self.assertLessEqual(length, max(LEAST, SECONDS * bound))
            turn = max(SECONDS_SHARED / max(crowding, 1e-9), pace.round_trip or 0.0)
            self.assertLessEqual(length, max(LEAST, turn * bound))

    def test_a_host_that_nobody_knows_is_asked_for_little(self) -> None:
        self.assertEqual(HostPace().length(10**12, 1, 0), FIRST)
        self.assertEqual(HostPace().length(10**12, 1, 2), FIRST // 2)
        self.assertIsNone(HostPace().rate())

    def test_a_request_takes_twenty_round_trips_from_half_a_second_to_two(self) -> None:
        for round_trip, wanted in ((0.001, 0.5), (0.05, 1.0), (0.1, 2.0), (0.3, 2.0)):
            for rate in (0.4 * MB, 2 * MB, 20 * MB):
                seconds = steady(rate, round_trip).length(10**12, 1, 0) / rate
                self.assertTrue(wanted * 0.6 < seconds <= wanted * 1.01, (round_trip, seconds))

    def test_a_slow_line_gives_no_one_so_much_that_others_give_up(self) -> None:
        pace = steady(0.4 * MB, fetches=16)
        self.assertLess(pace.length(10**12, 16, 4.0) / (0.4 * MB), 5.0 / 4)

    def test_near_the_end_the_rest_is_shared_but_not_into_crumbs(self) -> None:
        pace = steady(20 * MB, round_trip=0.1)
        rate = pace.rate()
        assert rate is not None
        self.assertLessEqual(pace.length(32 * MB, 16, 0), max(2 * MB, ROUND_TRIPS * 0.1 * rate))
        few = pace.length(1000, 16, 0)
        self.assertGreaterEqual(few, ROUND_TRIPS * 0.1 * (pace.rate(16) or 0.0) * 0.99)
        self.assertGreaterEqual(few, CRUMB)

    def test_no_last_request_is_still_under_way_when_all_the_rest_has_come(self) -> None:
        """Each was four round trips' worth, whatever the others had left, and most were idle."""
        pace = steady(20 * MB, round_trip=0.1, fetches=32)
        few, many = (pace.length(8 * MB, 32, 0, 32, under_way) for under_way in (24 * MB, 10**12))
        self.assertEqual(few, MB)
        self.assertGreater(many, 3 * MB)

    def test_one_short_reply_from_a_far_host_is_not_taken_for_a_slow_line(self) -> None:
        """It was divided by all 32 connections, and each was asked for 4 KB."""
        for after_header, least, most in ((0.004, FIRST, FIRST), (1.0, LEAST, FIRST // 2)):
            pace = HostPace()
            pace.headers_after(0.1)
            bring(pace, FIRST, 0.1 + after_header, body=after_header)
            pace.active = 8
            length = pace.length(10**9, 32, 0, is_read=True)
            self.assertTrue(least <= length <= most, (after_header, length))

    def test_a_host_that_gets_slower_is_soon_asked_for_less(self) -> None:
        pace = steady(20 * MB)
        before = pace.length(10**12, 1, 0)
        for _ in range(5):
            bring(pace, 1 * MB, 10, whole=False)
        self.assertLess(pace.length(10**12, 1, 0), before / 10)
