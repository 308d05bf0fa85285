"""Whether a host's first bytes come the later, the farther they are from a blob's beginning."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.sources.in_order import ANSWERS, InOrder

MB = 1_000_000
RATE = 20 * MB


def known(rate: float = RATE) -> InOrder:
    """A host of whose connections each brings so many bytes a second."""
    found = InOrder()
    found.body(MB, MB / rate)
    return found


def answer(host: InOrder, seconds_per_byte: float, *, jitter: float = 0.0) -> None:
    """Requests for 100 KB each, four at a time, as one answer after the other frees a turn."""
    for at in range(40):
        offset = at * 100_000
        late = jitter * (at * 37 % 101) / 100
        host.answered(0.1 * (at // 4), offset, 0.05 + seconds_per_byte * offset + late)


class InOrderTests(SynchronousTestCase):
    def test_host_that_reads_up_to_the_offset_no_faster_than_it_sends_is_seen(self) -> None:
        for reads in (RATE / 4, RATE, 1.5 * RATE):
            host = known()
            answer(host, 1 / reads)
            self.assertTrue(host.is_needed, reads)
            self.assertAlmostEqual(host.later(RATE), RATE / reads, 3)

    def test_host_that_reads_much_faster_is_asked_in_parts(self) -> None:
        host = known()
        answer(host, 1 / (3 * RATE))
        self.assertFalse(host.is_needed)
        # But a later byte may come later.
        self.assertAlmostEqual(host.later(RATE), 1 / 3)

    def test_chance_is_seen_through(self) -> None:
        """Answers that come late for other reasons would leave one connection at work."""
        for jitter in (0.05, 0.5, 5.0):
            host = known()
            answer(host, 0.0, jitter=jitter)
            self.assertFalse(host.is_needed, jitter)

    def test_a_little_chance_hides_nothing(self) -> None:
        host = known()
        answer(host, 1 / (RATE / 4), jitter=0.1)
        self.assertTrue(host.is_needed)

    def test_requests_of_one_moment_that_wait_for_each_other_tell_nothing(self) -> None:
        """So they do on any line, and they are made in the order of the bytes."""
        host = known()
        for at in range(16):
            host.answered(0.0, at * 100_000, 0.05 + 0.02 * at)
        self.assertFalse(host.is_needed)

    def test_few_answers_tell_nothing(self) -> None:
        host = known()
        for at in range(7):
            host.answered(10.0 * at, at * MB, float(at))
        self.assertFalse(host.is_needed)
        host.answered(70.0, 7 * MB, 7.0)
        self.assertTrue(host.is_needed)

    def test_a_host_that_has_become_quick_is_asked_in_parts_again(self) -> None:
        host = known()
        answer(host, 1 / RATE)
        for at in range(ANSWERS):
            host.answered(100.0 + at, at * MB, 0.05)
        self.assertFalse(host.is_needed)

    def test_nothing_is_needed_while_no_rate_is_known(self) -> None:
        host = InOrder()
        host.body(1000, 0.0)  # It came with its header.
        answer(host, 1 / RATE)
        self.assertFalse(host.is_needed)

    @given(
        st.lists(
            st.tuples(st.floats(0, 1e6), st.integers(0, 10**12), st.floats(0, 1e6)), max_size=60
        ),
        st.lists(st.tuples(st.integers(0, 10**12), st.floats(0, 1e6)), max_size=5),
        st.integers(0, 10**12),
    )
    def test_no_byte_comes_earlier_for_being_farther(
        self,
        answers: list[tuple[float, int, float]],
        bodies: list[tuple[int, float]],
        offset: int,
    ) -> None:
        host = InOrder()
        for body in bodies:
            host.body(*body)
        for each in answers:
            host.answered(*each)
        self.assertGreaterEqual(host.later(offset), 0.0)
