"""What a reply to a Range holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.sources.base import SourceFailed
from yukari.sources.range_reply import (
    ContentRange,
    WrongSize,
    check_encoding,
    is_part,
    span_around,
    span_of_part,
    span_of_whole,
    total_of,
)
from yukari.spans import Span

SIZE = 1000


class ContentRanges(SynchronousTestCase):
    @given(st.integers(0, 10**18), st.integers(0, 10**18), st.none() | st.integers(0, 10**18))
    def test_what_is_written_is_read_again(self, start: int, more: int, total: int | None) -> None:
        shown = "*" if total is None else total
        found = ContentRange.parse(f"bytes {start}-{start + more}/{shown}")
        self.assertEqual(found, ContentRange(Span(start, start + more + 1), total))

    @given(st.text(alphabet="bytes 0123456789-/*,١", max_size=60))
    def test_no_text_raises(self, text: str) -> None:
        ContentRange.parse(text)

    def test_anything_but_one_span_of_bytes_is_none(self) -> None:
        for text in (
            "",
            "bytes */50",
            "bytes 5-3/10",
            "items 0-1/2",
            "bytes 0-1,3-4/9",
            "bytes ١-٢/٣",
        ):
            self.assertIsNone(ContentRange.parse(text), text)


class Replies(SynchronousTestCase):
    def test_a_part_may_end_early_but_must_begin_where_asked(self) -> None:
        asked = Span(100, 200)
        self.assertEqual(span_of_part("bytes 100-199/1000", asked, SIZE), asked)
        self.assertEqual(span_of_part("bytes 100-149/*", asked, SIZE), Span(100, 150))
        for other in ("bytes 99-199/1000", "bytes 101-199/1000", ""):
            self.assertRaises(SourceFailed, span_of_part, other, asked, SIZE)

    def test_what_lies_behind_a_part_is_not_taken(self) -> None:
        for length in (None, 101, 900):
            found = span_of_part("bytes 100-999/1000", Span(100, 200), SIZE, length)
            self.assertEqual(found, Span(100, 200))

    @given(st.integers(1, 899), st.integers(2, 100), *[st.integers(-1, 1)] * 2)
    def test_numbers_that_are_off_by_one_yield_to_the_right_length(
        self, start: int, count: int, begin: int, end: int
    ) -> None:
        asked = Span(start, start + count)
        text = f"bytes {asked.start + begin}-{asked.end - 1 + end}/{SIZE}"
        self.assertEqual(span_of_part(text, asked, SIZE, count), asked)

    def test_a_header_is_read_as_some_servers_write_it(self) -> None:
        asked = Span(100, 200)
        for text in (
            "Bytes 100-199/1000",
            "bytes=100-199/1000",
            "BYTES 100-199/1000",
            "bytes: 100-199/1000",
            " bytes  100 - 199 / 1000 ",
            "bytes 100-199",
        ):
            self.assertEqual(span_of_part(text, asked, SIZE), asked, text)

    def test_a_part_that_does_not_say_which_is_the_one_asked_for_if_it_is_as_long(self) -> None:
        asked = Span(100, 200)
        for text in ("", "100-199", "bytes */1000"):
            self.assertEqual(span_of_part(text, asked, SIZE, 100), asked)
            for length in (99, 101, None):
                self.assertRaises(SourceFailed, span_of_part, text, asked, SIZE, length)

    def test_a_block_around_what_was_asked_for_is_told_by_its_length(self) -> None:
        asked = Span(100, 200)
        for text, length, expected in (
            ("bytes 64-255/1000", 192, Span(64, 256)),
            ("bytes 64-255/*", None, Span(64, 256)),
            ("bytes 100-255/1000", 156, Span(100, 256)),
            ("bytes 0-999/1000", 1000, Span(0, 1000)),
            ("bytes 99-199/1000", 101, Span(99, 200)),
            ("bytes 99-199/1000", None, None),  # It counts from 1.
            ("bytes 64-255/1000", 100, None),
            ("bytes 64-255/999", 192, None),
            ("bytes 64-1000/1000", 937, None),
            ("bytes 64-198/1000", 135, None),
            ("bytes 101-255/1000", 155, None),
            ("bytes 100-199/1000", 100, None),
            ("", 192, None),
        ):
            self.assertEqual(span_around(text, asked, SIZE, length), expected, (text, length))

    def test_a_part_as_long_as_the_whole_without_a_label_is_the_whole(self) -> None:
        self.assertEqual(span_of_part("", Span(100, 200), SIZE, SIZE), Span(0, SIZE))
        self.assertRaises(SourceFailed, span_of_part, "bytes */1000", Span(100, 200), SIZE, SIZE)

    def test_only_a_compression_of_another_length_is_an_encoding(self) -> None:
        for label in ("aws-chunked", "Identity", "none", "", "utf-8", "binary", "x-odd, null"):
            for length in (None, 100):
                check_encoding(label, length, 100)
        for label in ("gzip", "BR", "aws-chunked, gzip"):
            check_encoding(label, 100, 100)
            for length in (None, 70):
                self.assertRaises(SourceFailed, check_encoding, label, length, 100)

    def test_part_of_the_right_total_is_taken_for_what_it_is_whatever_its_label(self) -> None:
        check_encoding("gzip", None, 100, total_of("bytes 0-99/1000") == 1000)
        for content_range in ("bytes 0-99/999", "bytes 0-99/*", ""):
            is_right = total_of(content_range) == 1000
            self.assertRaises(SourceFailed, check_encoding, "gzip", None, 100, is_right)

    def test_part_may_have_the_status_of_a_whole(self) -> None:
        """Ollama looks at the length alone; such a blob was taken for one of another size."""
        asked = Span(100, 200)
        for content_range, length, expected in (
            ("bytes 100-199/1000", 100, True),
            ("bytes 100-199/1000", None, True),
            ("bytes 100-149/1000", 50, True),
            ("", 100, True),
            ("odd", 100, True),
            ("", 99, False),
            ("", None, False),
            ("", SIZE, False),
            ("bytes 0-999/1000", SIZE, False),
            ("bytes 0-999/1000", None, False),
            ("bytes 300-399/1000", 100, False),
        ):
            found = is_part(content_range, asked, SIZE, length)
            self.assertEqual(found, expected, (content_range, length))
        self.assertFalse(is_part("bytes 0-999/1000", Span(0, SIZE), SIZE, None))

    def test_another_size_and_another_part_are_different_errors(self) -> None:
        error = self.assertRaises(WrongSize, span_of_part, "bytes 0-9/999", Span(0, 10), SIZE)
        self.assertEqual(error.found, "999")
        self.assertRaises(WrongSize, span_of_whole, 999, SIZE)
        self.assertEqual(span_of_whole(None, SIZE), Span(0, SIZE))
        self.assertEqual(span_of_whole(SIZE, SIZE), Span(0, SIZE))
