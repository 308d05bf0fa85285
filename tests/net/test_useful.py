"""Connections that bring something are kept, others are not, and what was learnt is tried again."""

from __future__ import annotations

from math import inf
from typing import Optional

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.net.useful import (
    FIRST_TRIAL,
    LEAST,
    QUEUING,
    QUIET,
    REST_LONGEST,
    SETTLES_WITHIN,
    Useful,
)

LOOK = 0.1
"""Seconds between two looks."""


@define
class Host:
    """A host over a line, bytes a second of one connection and of all together."""

    each: float
    line: float
    most: int = 32
    """Connections that there is a use for."""
    ends: float = 1.0
    """Seconds within which a connection's request ends, when too many are in use."""
    kept: int = 0
    """Connections that readers have anyway."""
    useful: Useful = field(factory=Useful)
    now: float = 100.0
    connections: float = 0.0
    received: int = 0
    lowest: float = inf
    """The fewest connections since there were as many as possible."""

    def run(
        self, seconds: float, queues: bool = False, until: Optional[float] = None
    ) -> Optional[float]:
        """
        Let so many seconds pass, or fewer: until there are ``until`` connections. Returns the
        seconds until there were, None if there were not.
        """
        began = self.now
        while self.now < began + seconds:
            wanted = max(self.kept, min(self.most, self.useful.allowed))
            if self.connections < wanted:
                self.connections = wanted
            else:
                self.connections = max(wanted, self.connections - self.most * LOOK / self.ends)
            self.lowest = min(self.lowest, self.connections)
            count = int(min(self.connections * self.each, self.line) * LOOK)
            self.received += count
            self.now += LOOK
            self.useful.look(self.now, int(self.connections), count, queues=queues)
            if until is not None and self.connections >= until:
                return self.now - began
        return None


EACH = st.floats(1e4, 1e8)


class UsefulTests(SynchronousTestCase):
    @given(EACH, st.integers(LEAST, 64))
    def test_where_each_is_the_limit_all_are_used(self, each: float, most: int) -> None:
        host = Host(each, inf, most)
        host.run(60.0)
        # Trials with fewer are rare, and drop few.
        self.assertGreater(host.received, 0.97 * each * most * 60.0 - each * most)
        self.assertGreaterEqual(host.lowest, 0.7 * most - 1)
        if most > LEAST + 1:
            self.assertTrue(host.useful.more_bring_more)

    @given(EACH, st.floats(0.5, 20.0), st.booleans())
    def test_where_the_line_is_the_limit_those_that_fill_it_are_left(
        self, each: float, needed: float, queues: bool
    ) -> None:
        host = Host(each, each * needed)
        host.run(40.0, queues)
        self.assertLessEqual(host.useful.allowed, max(LEAST + 0.5, 3 * needed))
        self.assertGreaterEqual(host.useful.allowed, min(32, max(LEAST, 0.4 * needed)))
        # While so many are found it has less for some seconds.
        self.assertGreater(host.received, 0.9 * host.line * 40.0 - 2 * host.line)

    def test_nothing_is_dropped_in_the_first_seconds_unless_bytes_queue(self) -> None:
        host = Host(1e6, 4e6)
        host.run(FIRST_TRIAL - LOOK)
        self.assertEqual(host.useful.allowed, inf)
        host = Host(1e6, 4e6)
        host.run(FIRST_TRIAL, queues=True)
        self.assertLess(host.useful.allowed, 32)

    def test_a_host_that_was_slow_has_all_connections_within_three_seconds(self) -> None:
        host = Host(1e6, 2e6)
        host.run(30.0, queues=True)
        self.assertEqual(host.useful.allowed, LEAST)
        host.line = inf
        host.now += QUIET + 1
        host.connections = 0
        took = host.run(10.0, until=32)
        assert took is not None
        self.assertLessEqual(took, 3.0)

    def test_fewer_are_tried_although_readers_keep_one_more_than_that(self) -> None:
        """The trial with 15 waited in vain for the 16th to go, and all 31 came back."""
        host = Host(1e6, 2e6, most=31, kept=16)
        host.run(3 * SETTLES_WITHIN, queues=True)
        self.assertLessEqual(host.useful.allowed, host.kept)

    def test_a_queue_ends_the_first_adding_where_it_is(self) -> None:
        useful = Useful(LEAST)
        useful.begin(LEAST)
        useful.look(1.1, 2 * LEAST, 100_000, queues=True)
        self.assertEqual((useful.allowed, useful.is_new), (2 * LEAST, False))

    def test_a_queue_leaves_few_of_those_that_were_open_before_it_was_seen(self) -> None:
        """The cache that began first kept 32, its neighbour 13: so they shared the line."""
        useful = Useful()
        useful.look(1.0, 32, 100_000, queues=True)
        self.assertEqual(useful.allowed, QUEUING)

    def test_no_trial_begins_before_those_have_gone_that_are_too_many(self) -> None:
        """A trial began with half of what was there still, which was more than is allowed."""
        host = Host(1e6, 2e6, ends=5.0)
        while host.useful.more_bring_more is None:
            host.run(LOOK, queues=True)
            self.assertLessEqual(host.useful.allowed, QUEUING)

    def test_fewer_are_given_up_where_another_cache_takes_what_they_had(self) -> None:
        """Half of them with two thirds of the line brought two thirds of that: so all were kept."""
        host = Host(1e6, 12e6)
        host.run(2.0, queues=True)
        self.assertEqual(host.useful.allowed, QUEUING)

    def test_a_queue_leaves_no_more_than_have_brought_something(self) -> None:
        """Requests that nothing had answered yet counted: what fills the line was asked twice."""
        useful = Useful(LEAST)
        useful.look(1.0, 13, 100_000, queues=True, heard=7)
        self.assertEqual(useful.allowed, 7)
        useful = Useful(LEAST)
        useful.look(1.0, 13, 100_000, queues=True, heard=1)
        self.assertEqual(useful.allowed, LEAST)

    def test_replies_that_have_not_queued_add_one_each(self) -> None:
        """A line showed no queue before many bytes had come: a host that answers late waited."""
        useful = Useful(LEAST)
        for seconds in (0.1, 0.12, 0.13, 0.101, 0.3):
            useful.answered(seconds)
        self.assertEqual(useful.allowed, LEAST + 3)
        for _ in range(32):
            useful.answered(0.1)
        self.assertEqual((useful.allowed, useful.is_new), (inf, False))

    def test_they_double_whenever_all_have_brought_something_and_nothing_queues(self) -> None:
        useful = Useful(LEAST)
        useful.begin(LEAST - 1)
        self.assertEqual(useful.allowed, LEAST)
        useful.begin(LEAST)
        self.assertEqual(useful.allowed, 2 * LEAST)
        useful.begin(4 * LEAST)
        self.assertEqual((useful.allowed, useful.is_new), (inf, False))

    def test_a_request_for_proof_adds_one(self) -> None:
        useful = Useful(LEAST)
        useful.begin(LEAST - 1, is_proved=False)
        self.assertEqual(useful.allowed, LEAST)
        useful.begin(LEAST, is_proved=False)
        self.assertEqual(useful.allowed, LEAST + 1)

    @given(EACH, st.integers(1, LEAST))
    def test_what_seems_to_queue_with_few_is_tried_with_more(self, each: float, few: int) -> None:
        """A host whose sender is slow seemed to be one whose line is full, to the pull's end."""
        host = Host(each, inf, useful=Useful(few))
        self.assertIsNotNone(host.run(8.0, queues=True, until=32))

    def test_more_are_tried_now_and_then_while_bytes_come(self) -> None:
        host = Host(1e6, 2e6)
        host.run(100.0, queues=True)
        host.line = inf
        self.assertIsNotNone(host.run(2 * REST_LONGEST, until=32))

    def test_what_this_cache_holds_up_shows_nothing(self) -> None:
        host = Host(1e6, 4e6)
        for _ in range(300):
            host.run(LOOK)
            host.useful.held(host.now)
        self.assertEqual((host.useful.allowed, host.useful.more_bring_more), (inf, None))

    def test_a_trial_that_a_pause_cuts_short_leaves_all_as_it_was(self) -> None:
        host = Host(1e6, inf)
        while host.useful.allowed == inf:
            host.run(LOOK)
        host.useful.held(host.now)
        self.assertEqual(host.useful.allowed, inf)

    @given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 100), st.integers(0, 10**9))))
    def test_whatever_comes_there_are_always_some(
        self, looks: list[tuple[float, int, int]]
    ) -> None:
        useful, now = Useful(), 0.0
        for seconds, connections, received in looks:
            now += seconds
            useful.look(now, connections, received, queues=received % 2 == 0)
            self.assertGreaterEqual(useful.allowed, LEAST)
