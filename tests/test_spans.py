"""A span set is a set of integers, in less room."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import span_sets, spans
from yukari.spans import Span, SpanSet

MOST = 60
places = st.integers(0, MOST)


class SpanTests(SynchronousTestCase):
    @given(st.integers(-5, 5), st.integers(-5, 5))
    def test_a_span_is_neither_empty_nor_negative(self, start: int, end: int) -> None:
        if 0 <= start < end:
            self.assertEqual(len(Span(start, end)), end - start)
        else:
            self.assertRaises(ValueError, Span, start, end)


class SpanSetMachine(RuleBasedStateMachine):
    """`SpanSet` beside the plain set of the bytes in it."""

    def __init__(self) -> None:
        super().__init__()
        self.spans = SpanSet()
        self.model: set[int] = set()

    @rule(start=places, end=places)
    def add(self, start: int, end: int) -> None:
        self.spans.add(start, end)
        self.model.update(range(start, end))

    @rule(start=places, end=places)
    def remove(self, start: int, end: int) -> None:
        self.spans.remove(start, end)
        self.model.difference_update(range(start, end))

    @rule(position=places)
    def a_run_ends_at_the_first_missing_byte(self, position: int) -> None:
        end = position
        while end in self.model:
            end += 1
        assert self.spans.until(position) == end

    @rule(position=places, end=places)
    def a_gap_is_the_first_run_of_missing_bytes(self, position: int, end: int) -> None:
        missing = [byte for byte in range(position, end) if byte not in self.model]
        gap = self.spans.gap(position, end)
        if not missing:
            assert gap is None
            return
        stop = missing[0]
        while stop < end and stop not in self.model:
            stop += 1
        assert gap == Span(missing[0], stop)

    @invariant()
    def it_holds_the_same_bytes(self) -> None:
        assert {byte for span in self.spans for byte in range(span.start, span.end)} == self.model
        assert self.spans.total == len(self.model)

    @invariant()
    def its_spans_are_in_order_and_do_not_touch(self) -> None:
        kept = list(self.spans)
        assert len(kept) == len(self.spans)
        assert all(left.end < right.start for left, right in zip(kept, kept[1:]))

    @invariant()
    def how_it_was_made_does_not_matter(self) -> None:
        assert SpanSet.of(reversed(list(self.spans))) == self.spans


class SpanSetTests(SynchronousTestCase):
    def test_a_span_set_behaves_as_a_set_of_integers(self) -> None:
        run_state_machine_as_test(SpanSetMachine)

    @given(st.lists(spans()), st.randoms())
    def test_the_order_of_arrival_does_not_matter(
        self, arrived: list[Span], random: object
    ) -> None:
        shuffled = list(arrived)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        self.assertEqual(SpanSet.of(arrived), SpanSet.of(shuffled))

    @given(span_sets(), st.integers(1, 200))
    def test_filling_every_gap_makes_it_whole(self, here: SpanSet, size: int) -> None:
        while (gap := here.gap(0, size)) is not None:
            here.add(gap.start, gap.end)
        self.assertGreaterEqual(here.until(0), size)
