"""Readers that wait for bytes, and the bytes to fetch next."""

from __future__ import annotations

from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.turning import Turning
from yukari.fills.coverage import Coverage
from yukari.fills.plan import Claim, Plan
from yukari.fills.reader import Reader
from yukari.spans import Span
from yukari.tasks import IN_A_TURN, Slices

SIZE = 50


def coverage() -> Coverage:
    return Coverage(
        Plan(SIZE), lambda: SIZE, lambda: True, lambda: None, lambda: None, Slices(Clock())
    )


@define(eq=False)
class Waits:
    """A reader that waits for one byte."""

    coverage: Coverage
    position: int
    woken: bool = field(default=False)
    client: str = "somebody"

    def wake(self) -> None:
        if self.coverage.available(self.position, whole=False) > self.position:
            self.woken = True
            self.coverage.waits_no_more(self)

    def let_go(self) -> None:
        raise AssertionError


class CoverageTests(SynchronousTestCase):
    def test_who_has_waited_longest_is_served_first(self) -> None:
        there = coverage()
        for position in (30, 10, 20):
            there.waits(Waits(there, position))
        order = []
        while (wanted := there.next_wanted()) is not None:
            order.append(wanted)
            there.plan.claim(wanted, 1)
        self.assertEqual(order, [30, 10, 20])

    def test_what_a_broken_fetch_owes_comes_before_what_others_want(self) -> None:
        there = coverage()
        there.waits(Waits(there, 5))
        claim = there.plan.claim(0, 10)
        self.assertIsNone(there.next_wanted())
        there.waits(Waits(there, 40))
        there.released(claim)
        self.assertEqual(there.next_wanted(), 5)

    def test_readers_at_one_place_are_one_crowd(self) -> None:
        there = coverage()
        readers = [Waits(there, 7) for _ in range(3)]
        for reader in readers:
            there.waits(reader)
        self.assertEqual(there.crowd, 1)
        for reader in readers:
            there.waits_no_more(reader)
        self.assertEqual((there.crowd, there.waits_since), (0, None))

    def test_on_a_slow_host_the_reader_with_the_least_ahead_of_it_is_provided_for(self) -> None:
        there = coverage()
        for position, ahead in ((0, 10), (20, 3)):
            there.joined(Waits(there, position))
            there.plan.claim(position, ahead)
        self.assertEqual(there.next_needed(), 23)

    def test_a_crowd_is_woken_or_let_go_a_few_in_each_turn_of_the_reactor(self) -> None:
        """Two thousand readers of a blob that broke held up everybody else for 2.5 s."""
        clock, there = Turning(), coverage()
        there.slices = Slices(clock)
        readers = [Reader(there, False, 0) for _ in range(2 * IN_A_TURN + 1)]
        there.plan.claim(0, SIZE)

        def ready() -> list[Deferred[None]]:
            return [reader.wait(0) for reader in readers]

        def ended(waiting: list[Deferred[None]]) -> int:
            return sum(each.called for each in waiting)

        broken = ready()
        there.break_readers(KeyError())
        for turns in (1, 2):
            self.assertEqual(ended(broken), turns * IN_A_TURN)
            clock.advance(1)
        for each in broken:
            self.failureResultOf(each, KeyError)
        woken = ready()
        there.covered([Span(0, 1)])
        woken[-1].cancel()
        self.failureResultOf(woken.pop())
        for turns in (1, 2):
            self.assertEqual(ended(woken), turns * IN_A_TURN)
            clock.advance(1)
        self.assertEqual(there.crowd, 0)


class CoverageMachine(RuleBasedStateMachine):
    """No reader that waits is forgotten, whatever is claimed, breaks off or arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.coverage = coverage()
        self.waiting: list[Waits] = []

    @rule(position=st.integers(0, SIZE - 1))
    def wait(self, position: int) -> None:
        if self.coverage.available(position, whole=False) == position:
            reader = Waits(self.coverage, position)
            self.waiting.append(reader)
            self.coverage.waits(reader)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(reader)
        self.coverage.waits_no_more(reader)

    @rule(length=st.integers(1, 20))
    def fetch(self, length: int) -> None:
        wanted = self.coverage.next_wanted()
        if wanted is not None:
            self.coverage.plan.claim(wanted, length)

    def _claims(self) -> list[Claim]:
        return sorted(self.coverage.plan.claims, key=lambda claim: claim.end)

    @precondition(lambda self: self.coverage.plan.claims)
    @rule(data=st.data(), count=st.integers(1, 20))
    def come(self, data: st.DataObject, count: int) -> None:
        claim = data.draw(st.sampled_from(self._claims()))
        span = self.coverage.plan.arrived(claim, count)
        if span is not None:
            self.coverage.covered([Span(span.start, span.end)])

    @precondition(lambda self: self.coverage.plan.claims)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.coverage.released(data.draw(st.sampled_from(self._claims())))

    @invariant()
    def everybody_is_woken_or_served_or_next(self) -> None:
        self.waiting = [reader for reader in self.waiting if not reader.woken]
        plan = self.coverage.plan
        free = [each for each in self.waiting if plan.wanted(each.position) is not None]
        assert (self.coverage.next_wanted() is not None) == bool(free)
        for reader in self.waiting:
            assert plan.covered.until(reader.position) == reader.position
        assert self.coverage.crowd == len({reader.position for reader in self.waiting})


class AnyOrder(SynchronousTestCase):
    def test_any_order_of_waiting_fetching_and_breaking_off(self) -> None:
        run_state_machine_as_test(CoverageMachine)
