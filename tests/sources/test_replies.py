"""What is read in replies that are errors, and the words for failures without a reply."""

from __future__ import annotations

import json
from typing import Any

from attrs import define
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.error import (
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from tests.sources.doubles import (
    HTML,
)
from yukari.net.http import LONGEST_RETRY_AFTER, retry_after, why
from yukari.sources.bodies import error_text


@define
class Said:
    """As much of a reply as has headers."""

    headers: Headers

    @classmethod
    def wait(cls, text: bytes) -> Any:
        return cls(Headers({b"Retry-After": [text]}))


class RetryAfterTests(SynchronousTestCase):
    @given(st.one_of(st.binary(), st.text("0123456789 :-SunNovGMT,", max_size=40).map(str.encode)))
    def test_any_text_is_a_wait_within_bounds_or_none(self, text: bytes) -> None:
        wait = retry_after(Said.wait(text), 1e9)
        self.assertTrue(wait is None or 0 <= wait <= LONGEST_RETRY_AFTER, wait)

    @given(st.integers(0, 10**9))
    def test_seconds(self, seconds: int) -> None:
        wait = retry_after(Said.wait(b"%d" % seconds), 1e9)
        self.assertEqual(wait, min(seconds, LONGEST_RETRY_AFTER))

    @given(st.integers(10**9, 4 * 10**9), st.integers(-10_000, 10_000))
    def test_dates(self, now: int, ahead: int) -> None:
        wait = retry_after(Said.wait(datetimeToString(now + ahead)), now)
        self.assertEqual(wait, min(LONGEST_RETRY_AFTER, max(0, ahead)))

    def test_dates_are_compared_with_the_clock_of_who_sent_them(self) -> None:
        """Two hours ahead of ours, a host that asked for two seconds was left alone for an hour."""
        told = datetimeToString(1e9 + 7202)
        for date, wait in (
            (datetimeToString(1e9 + 7200), 2),
            (datetimeToString(1e9 + 7300), 0),
            (b"", 3600),
            (b"yesterday", 3600),
            (b"Sun, 99 Nov 1994 08:49:37 GMT", 3600),
        ):
            said: Any = Said(Headers({b"Retry-After": [told], b"Date": [date]}))
            self.assertEqual(retry_after(said, 1e9), wait, date)

    def test_what_is_neither_is_none(self) -> None:
        for text in (
            b"",
            b"soon",
            b"-5",
            b"1.5",
            b"\xb2",
            b"Sun, 06 Nov " + b"9" * 500 + b" 08:49:37 GMT",
            b"Sun, 06 Nov 1994",
            b"Sun Nov",
        ):
            self.assertIsNone(retry_after(Said.wait(text), 1e9), text)
        self.assertIsNone(retry_after(Said(Headers()), 1e9))  # type: ignore[arg-type]

    def test_a_number_of_any_length_is_long(self) -> None:
        self.assertEqual(retry_after(Said.wait(b"9" * 10_000), 1e9), LONGEST_RETRY_AFTER)


class ErrorTextTests(SynchronousTestCase):
    @given(st.binary(max_size=2000))
    def test_any_body_gives_one_short_line(self, body: bytes) -> None:
        text = error_text(body)
        self.assertLessEqual(len(text), 300)
        self.assertEqual(text.split(), text.split(" ") if text else [])

    @given(
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(st.characters())),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(("errors", "error", "message")), inner),
            ),
        )
    )
    @example({"message": "\ud800"})
    def test_any_json_gives_one_short_line(self, content: object) -> None:
        text = error_text(json.dumps(content).encode())
        self.assertLessEqual(len(text), 300)
        self.assertNotIn("\n", text)
        text.encode()  # It is shown on the page.

    def test_the_message_is_found_where_registries_put_it(self) -> None:
        for content in (
            {"errors": [{"code": "X", "message": "slow\n down"}]},
            {"error": "slow down"},
            {"message": "slow   down"},
            {"errors": [], "error": "slow down"},
        ):
            self.assertEqual(error_text(json.dumps(content).encode()), "slow down")
        self.assertEqual(error_text(b"slow down\r\n"), "slow down")

    def test_pages_and_riddles_say_nothing(self) -> None:
        for body in (HTML, b"", b"{}", b"[]", b"null", b'{"errors": ["x"]}', b'{"error": 1}'):
            self.assertEqual(error_text(body), "")
        self.assertLessEqual(len(error_text(b"[" * 64 * 1024)), 300)
        self.assertLessEqual(len(error_text(b'{"a":' * 10_000)), 300)


class WhyTests(SynchronousTestCase):
    def test_a_network_failure_in_a_few_words(self) -> None:
        for failure, words in (
            (ConnectionRefusedError(), "connection refused"),
            (DNSLookupError("x"), "its name cannot be resolved"),
            (ConnectTimeout(), "no answer in time"),
            (OSError("a\nb"), "a b"),
            (OSError(), "OSError"),
            (ValueError("Invalid URI http://cdn.test/?sig=secret"), "a URL that cannot be asked"),
        ):
            self.assertEqual(why(failure), words)

    def test_a_failure_of_failures_is_named_by_its_first(self) -> None:
        outer = ValueError()
        outer.reasons = [Failure(ConnectionRefusedError())]  # type: ignore[attr-defined]
        self.assertEqual(why(outer), "connection refused")

    def test_a_number_in_a_header_that_is_none_is_no_url(self) -> None:
        for inner in (ValueError("invalid literal for int()"), KeyError(b"gzip, chunked")):
            self.assertEqual(why(ResponseFailed([Failure(inner)])), "a malformed header")
