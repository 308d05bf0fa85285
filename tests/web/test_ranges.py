"""Range, If-Range and If-None-Match: what a client may ask for, and what anybody may send."""

from __future__ import annotations

from typing import Optional

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import blob_digests, sizes
from yukari.names import Digest
from yukari.spans import Span
from yukari.web.ranges import NotSatisfiable, etag, names_digest, parse_range, range_applies

DIGEST = Digest("ab" * 32)

Parsed = Optional[Span]
"""The result of `parse_range`, `UNSATISFIABLE` if it raises."""
UNSATISFIABLE = "416"


def parsed(text: Optional[str], size: int) -> object:
    """The span, None for the whole, or `UNSATISFIABLE`."""
    try:
        return parse_range(text, size)
    except NotSatisfiable:
        return UNSATISFIABLE


def modelled(first: Optional[int], last: Optional[int], size: int) -> object:
    """The same by looking at every byte."""
    if first is None:
        assert last is not None
        wanted = list(range(size))[-last:] if last else []
    elif last is not None and last < first:
        return None
    else:
        wanted = [byte for byte in range(size) if first <= byte and (last is None or byte <= last)]
    return Span(wanted[0], wanted[-1] + 1) if wanted else UNSATISFIABLE


def blanks() -> st.SearchStrategy[str]:
    """Optional whitespace."""
    return st.sampled_from(("", " ", "\t", "  "))


def positions() -> st.SearchStrategy[Optional[int]]:
    """Positions in and near a small blob, far beyond any, and none."""
    return st.one_of(st.none(), st.integers(0, 25), st.integers(0, 10**18))


def ends(size: int = 2**63) -> st.SearchStrategy[str]:
    """Range headers that are nearly right: pieces of them in some order."""
    pieces = ("bytes", "=", "-", ",", " ", "0", "9" * 30, "1", "\t", "\x00", "²", "٣", "+", "e")
    return st.lists(st.sampled_from(pieces), max_size=12).map("".join)


class RangeTests(SynchronousTestCase):
    @given(positions(), positions(), st.integers(0, 20), st.lists(blanks(), min_size=4, max_size=4))
    def test_a_range_selects_its_bytes(
        self, first: Optional[int], last: Optional[int], size: int, spaces: list[str]
    ) -> None:
        a, b, c, d = spaces
        shown = ["" if each is None else str(each) for each in (first, last)]
        text = f"bytes{a}={b}{shown[0]}{c}-{d}{shown[1]}"
        expected = None if first is last is None else modelled(first, last, size)
        self.assertEqual(parsed(text, size), expected)
        self.assertEqual(parsed(text.upper(), size), expected)

    @given(st.integers(0, 40), st.integers(1, 20), st.integers(0, 60), st.integers(0, 60))
    def test_leading_zeros_are_ignored(self, first: int, size: int, some: int, more: int) -> None:
        plain = parsed(f"bytes={first}-{first + 3}", size)
        self.assertEqual(parsed(f"bytes={'0' * some}{first}-{'0' * more}{first + 3}", size), plain)

    @given(st.one_of(st.text(), ends(), st.text().map("bytes={}".format)), sizes())
    def test_any_text_is_a_part_of_the_blob_the_whole_or_not_satisfiable(
        self, text: str, size: int
    ) -> None:
        found = parsed(text, size)
        if isinstance(found, Span):
            self.assertTrue(0 <= found.start < found.end <= size)

    @given(st.integers(0, 10**4000), st.integers(0, 10**4000), sizes(2**62))
    def test_numbers_of_any_length_are_read(self, first: int, last: int, size: int) -> None:
        digits = [
            f"{each:x}".translate(str.maketrans("abcdef", "012345")) for each in (first, last)
        ]
        for text in (
            f"bytes={digits[0]}-{digits[1]}",
            f"bytes={digits[0]}-",
            f"bytes=-{digits[1]}",
        ):
            found = parsed(text, size)
            if isinstance(found, Span):
                self.assertTrue(0 <= found.start < found.end <= size)

    def test_the_examples_of_rfc_9110(self) -> None:
        for text, size, expected in (
            ("bytes=0-499", 10000, Span(0, 500)),
            ("bytes=500-999", 10000, Span(500, 1000)),
            ("bytes=-500", 10000, Span(9500, 10000)),
            ("bytes=9500-", 10000, Span(9500, 10000)),
            ("bytes=0-0", 10000, Span(0, 1)),
            ("bytes=-10001", 10000, Span(0, 10000)),
            ("bytes=9999-20000", 10000, Span(9999, 10000)),
            ("bytes=10000-", 10000, UNSATISFIABLE),
            ("bytes=-0", 10000, UNSATISFIABLE),
            ("bytes=0-", 0, UNSATISFIABLE),
            ("bytes=999999999999999999999-", 10000, UNSATISFIABLE),
        ):
            self.assertEqual(parsed(text, size), expected, text)

    def test_other_headers_count_as_absent(self) -> None:
        for text in (
            None,
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=--1",
            "bytes=-1-2",
            "bytes=1-2-3",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=0x0-0x9",
            "bytes=+1-2",
            "bytes=1.0-2",
            "bytes 0-1",
            "items=0-1",
            "bytes=0-1, 3-4",
            "bytes=0-0,-1",
            "bytes=" + ",".join(["0-"] * 1000),
            "bytes=\u0661-\u0662",
            "bytes=0-1\n",
            "bytes=0-1\x00",
        ):
            self.assertIsNone(parsed(text, 10), text)


class ConditionTests(SynchronousTestCase):
    @given(st.text())
    def test_any_text_is_a_condition(self, text: str) -> None:
        self.assertIn(names_digest(text, DIGEST), (True, False))
        self.assertIn(range_applies(text, DIGEST), (True, False))

    @given(st.lists(blob_digests(), max_size=4), blob_digests(), st.sampled_from(("", "W/")))
    def test_a_list_of_tags_matches_each_of_them(
        self, others: list[Digest], digest: Digest, weak: str
    ) -> None:
        without = ", ".join(weak + etag(each) for each in others if each != digest)
        self.assertFalse(names_digest(without, digest))
        self.assertTrue(names_digest(f"{without}, {weak}{etag(digest)}", digest))

    def test_a_star_matches_everything_and_an_absent_header_nothing(self) -> None:
        self.assertTrue(names_digest("*", DIGEST))
        self.assertFalse(names_digest(None, DIGEST))
        self.assertFalse(names_digest("", DIGEST))

    def test_a_tag_within_a_tag_matches_nothing(self) -> None:
        self.assertFalse(names_digest(f'"x{etag(DIGEST)[1:]}', DIGEST))
        self.assertFalse(names_digest(str(DIGEST), DIGEST))
        self.assertFalse(names_digest('"*"', DIGEST))

    def test_a_range_applies_only_beside_a_strong_tag_of_the_blob(self) -> None:
        self.assertTrue(range_applies(None, DIGEST))
        self.assertTrue(range_applies(f" {etag(DIGEST)} ", DIGEST))
        for other in (
            f"W/{etag(DIGEST)}",
            etag(Digest("cd" * 32)),
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "",
            "*",
            f"{etag(DIGEST)}, {etag(DIGEST)}",
        ):
            self.assertFalse(range_applies(other, DIGEST), other)
