"""No byte is asked for twice, whatever comes in which order."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import span_sets
from yukari.fills.plan import Claim, Plan
from yukari.spans import Span, SpanSet

SIZE = 200


class PlanMachine(RuleBasedStateMachine):
    """A plan against four plain sets of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = Plan(SIZE)
        self.claims: dict[Claim, set[int]] = {}
        self.arrived: set[int] = set()
        self.covered: set[int] = set()

    def _asked(self) -> set[int]:
        return set().union(*self.claims.values())

    @rule(start=st.integers(0, SIZE - 1), length=st.integers(1, 80))
    def claim(self, start: int, length: int) -> None:
        taken = self._asked() | self.arrived | self.covered
        wanted = self.plan.wanted(start)
        free = min(set(range(start, SIZE)) - taken, default=SIZE)
        under_way = any(set(range(start, free)) & mine for mine in self.claims.values())
        assert wanted == (None if under_way or free == SIZE else free)
        if start in taken:
            return
        claim = self.plan.claim(start, length)
        mine = set(range(claim.cursor, claim.end))
        assert start == min(mine)
        assert len(mine) <= length
        assert not mine & taken
        self.claims[claim] = mine

    @rule(start=st.integers(0, SIZE - 1), before=st.integers(0, 50), length=st.integers(1, 80))
    def claim_around(self, start: int, before: int, length: int) -> None:
        taken = self._asked() | self.arrived | self.covered
        if start in taken:
            return
        first = max(0, start - before)
        claim = self.plan.claim_around(start, Span(first, start + length))
        mine = set(range(claim.cursor, claim.end))
        assert min(mine) == (start if set(range(first, start)) & taken else first)
        assert start in mine
        assert not mine & taken
        self.claims[claim] = mine

    @precondition(lambda self: any(len(mine) > 1 for mine in self.claims.values()))
    @rule(data=st.data())
    def halve(self, data: st.DataObject) -> None:
        claim = data.draw(
            st.sampled_from([each for each, mine in self.claims.items() if len(mine) > 1])
        )
        mine = self.claims[claim]
        half = self.plan.halve(claim)
        self.claims[claim] = mine - set(range(half.start, half.end))
        assert set(range(half.start, half.end)) < mine
        assert 2 * len(self.claims[claim]) - len(mine) in (0, 1)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), count=st.integers(1, 100))
    def arrive(self, data: st.DataObject, count: int) -> None:
        claim = data.draw(st.sampled_from(list(self.claims)))
        span = self.plan.arrived(claim, count)
        came = set() if span is None else set(range(span.start, span.end))
        assert came <= self.claims[claim]
        assert len(came) == min(count, len(self.claims[claim]))
        self.claims[claim] -= came
        self.arrived |= came

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(list(self.claims)))
        self.plan.release(claim)
        self.plan.release(claim)
        del self.claims[claim]

    @rule(start=st.integers(0, SIZE - 1), length=st.integers(1, 80))
    def admit(self, start: int, length: int) -> None:
        end = min(SIZE, start + length)
        taken = self._asked() | self.arrived | self.covered
        spans = self.plan.admit(start, end)
        came = {byte for span in spans for byte in range(span.start, span.end)}
        assert came == set(range(start, end)) - taken
        self.arrived |= came

    @precondition(lambda self: self.arrived)
    @rule()
    def write(self) -> None:
        for byte in self.arrived:
            self.plan.cover(Span(byte, byte + 1))
        self.covered |= self.arrived
        self.arrived.clear()

    @invariant()
    def counts_agree(self) -> None:
        taken = self._asked() | self.arrived | self.covered
        free = set(range(SIZE)) - taken
        assert self.plan.free == len(free)
        assert self.plan.front() == (min(free) if free else None)
        assert self.plan.whole == (len(self.covered) == SIZE)


class PlanTests(SynchronousTestCase):
    @given(span_sets(SIZE))
    def test_what_an_earlier_process_left_is_not_asked_for(self, covered: SpanSet) -> None:
        left = SIZE - covered.total
        plan = Plan(SIZE, covered)
        asked = 0
        while (front := plan.front()) is not None:
            claim = plan.claim(front, 7)
            asked += claim.end - claim.cursor
        self.assertEqual(asked, left)

    def test_a_claim_of_a_taken_byte_is_refused(self) -> None:
        plan = Plan(10)
        plan.claim(0, 5)
        self.assertRaises(ValueError, plan.claim, 4, 3)

    def test_bytes_beyond_a_claim_are_nobodys(self) -> None:
        plan = Plan(10)
        claim = plan.claim(0, 4)
        plan.arrived(claim, 3)
        self.assertEqual(plan.arrived(claim, 30).end, 4)  # type: ignore[union-attr]
        self.assertIsNone(plan.arrived(claim, 1))

    def test_any_schedule(self) -> None:
        run_state_machine_as_test(PlanMachine)
