"""The blocks that a host sends for a Range within them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.sources.blocks import Blocks
from yukari.spans import Span

SIZE = 10**9


def spans() -> st.SearchStrategy[Span]:
    return st.builds(
        lambda start, count: Span(start, start + count),
        st.integers(0, SIZE - 2),
        st.integers(1, 10**7),
    )


class BlocksTests(SynchronousTestCase):
    @given(st.integers(2, 10**7), st.lists(spans(), min_size=8, max_size=20))
    def test_spans_are_made_of_whole_blocks_once_some_have_come(
        self, block: int, asked: list[Span]
    ) -> None:
        host = Blocks()
        for each in asked:
            whole = Span(each.start // block * block, -(-each.end // block) * block)
            host.sent(whole, each, SIZE + 10**8)
        for each in asked:
            found = host.around(each)
            self.assertLessEqual(found.start, each.start)
            self.assertGreaterEqual(found.end, each.end)
            self.assertEqual(host.size % block if host.size > 1 else 0, 0)

    def test_a_host_that_sends_what_it_is_asked_for_or_less_has_none(self) -> None:
        host, asked = Blocks(), Span(100, 200)
        for found in (asked, Span(100, 150), Span(100, SIZE)):
            host.sent(found, asked, SIZE)
        self.assertEqual(host.around(asked), asked)

    def test_one_that_sends_a_byte_more_has_none(self) -> None:
        host = Blocks()
        for start in (1000, 2500, 3702):
            host.sent(Span(start, start + 101), Span(start, start + 100), SIZE)
        self.assertEqual(host.size, 1)
