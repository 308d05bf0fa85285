"""What a blob's request may be answered, by the registry and by the hosts it redirects to."""

from __future__ import annotations

from typing import Optional

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionRefusedError,
)

from tests.sources.doubles import (
    DIGEST,
    HTML,
    NAME,
    OTHER,
    Exchange,
    Kept,
    UpstreamCase,
)
from yukari.net.bodies import BODY_WITHIN
from yukari.net.throttle import Line
from yukari.sources.base import Answer, SourceFailed, SourceRefused
from yukari.sources.upstream_blob import NO_PAGE, WITHOUT_RANGE_AFTER, UpstreamBlob
from yukari.spans import Span


class BlobCase(UpstreamCase):
    SIZE = 1000
    PART = Span(100, 200)

    def setUp(self) -> None:
        super().setUp()
        self.blob: UpstreamBlob = self.upstream.blob(DIGEST, self.SIZE, NAME)

    def fetch(self, span: Optional[Span] = None) -> Deferred[Answer]:
        return self.begin(self.blob.fetch(span or self.PART))

    def part(self, exchange: Exchange, span: Optional[Span] = None, size: object = None) -> None:
        """The reply's header to a request for ``span``."""
        span = span or self.PART
        shown = f"bytes {span.start}-{span.end - 1}/{size or self.SIZE}"
        exchange.head(206, content_length=len(span), content_range=shown)

    def located(self) -> None:
        """The blob is at ``http://cdn.test/signed`` from now on."""
        found = self.fetch()
        self.internet.last.answer(307, b"", location="http://cdn.test/signed")
        self.part(self.internet.last)
        self.successResultOf(found)

    def failed(self, found: Deferred[Answer]) -> SourceFailed:
        return self.failureResultOf(found, SourceFailed).value  # type: ignore[no-any-return]


class BlobTests(BlobCase):
    def test_a_part_is_what_was_asked_for_and_its_bytes_come(self) -> None:
        found = self.fetch()
        line, headers = self.internet.last.asked
        self.assertEqual(line, f"GET /v2/library/m/blobs/{DIGEST}")
        self.assertEqual(
            (headers["range"], headers["accept-encoding"]), ("bytes=100-199", "identity")
        )
        self.part(self.internet.last)
        answer = self.successResultOf(found)
        self.assertEqual((answer.span, answer.asked), (self.PART, True))
        kept = Kept()
        answer.body.deliverBody(kept)
        self.internet.last.send(b"x" * 100)
        self.assertEqual(kept.got, b"x" * 100)

    def test_a_whole_blob_that_a_proxy_vouches_for_is_an_answer(self) -> None:
        found = self.fetch()
        self.internet.last.head(203, content_length=self.SIZE)
        self.assertEqual(self.successResultOf(found).span, Span(0, self.SIZE))

    def test_the_registry_is_asked_once_and_then_the_host_it_names(self) -> None:
        self.assertFalse(self.blob.ranges)
        self.located()
        self.assertTrue(self.blob.ranges)
        for _ in range(3):
            found = self.fetch()
            self.assertEqual(self.internet.last.target, "cdn.test GET /signed")
            self.part(self.internet.last)
            self.successResultOf(found)
        self.assertEqual(len(self.internet.exchanges), 5)

    def test_a_registry_of_which_only_a_blob_was_asked_has_answered(self) -> None:
        """After a restart that goes on with a blob /status said that it never had."""
        self.assertFalse(self.upstream.state_of("").answered)
        self.located()
        self.assertTrue(self.upstream.state_of("").answered)

    def test_user_in_a_redirect_goes_to_its_host_each_time_and_nowhere_else(self) -> None:
        """Such a redirect was refused, or the password would have been in the log and in /fills."""
        found = self.fetch()
        self.internet.last.answer(307, b"", location="http://her:secret@cdn.test/signed")
        for status in (206, 206, 503, 404):
            _, headers = self.internet.last.asked
            self.assertEqual(self.internet.last.target, "cdn.test GET /signed")
            self.assertEqual(headers["authorization"], "Basic aGVyOnNlY3JldA==")
            self.assertIn("cdn.test", self.blob.describe())
            self.assertNotIn("secret", self.blob.describe())
            labels = {"content_range": "bytes 100-199/1000"} if status == 206 else {}
            self.internet.last.head(status, content_length=100 if labels else 90, **labels)
            if status == 206:
                self.successResultOf(found)
            else:
                self.assertNotIn("secret", str(self.failed(found)))
            self.assertNotIn("secret", str(self.registry.hosts()))
            found = self.fetch()
        self.assertNotIn("authorization", self.internet.last.asked[1])

    def test_a_request_that_is_taken_back_is_none_that_failed(self) -> None:
        """It counted as one that the host had refused because there were too many."""
        for is_located in (False, True):
            if is_located:
                self.located()
            found = self.fetch()
            before = len(self.internet.exchanges)
            found.cancel()
            self.failureResultOf(found, CancelledError)
            self.assertEqual(
                (len(self.internet.exchanges), self.internet.last.open), (before, False)
            )

    def test_less_than_was_asked_for_is_an_answer_too(self) -> None:
        found = self.fetch()
        self.part(self.internet.last, Span(100, 150))
        self.assertEqual(self.successResultOf(found).span, Span(100, 150))

    def test_a_part_that_says_another_place_is_none(self) -> None:
        for shown, length in (
            ("bytes 99-199/1000", 99),
            ("bytes 101-199/1000", 99),
            ("bytes 98-197/1000", 100),
            ("bytes 0-999/1000", 100),
        ):
            found = self.fetch()
            self.internet.last.head(206, content_length=length, content_range=shown)
            self.failed(found)
            self.internet.last.send(b"x" * length)
            self.clock.advance(0)
            self.assertEqual(self.internet.open, [], shown)

    def test_a_block_around_the_part_is_read_from_where_that_begins(self) -> None:
        """Each such reply was thrown away, and then the whole asked for."""
        blob = bytes(at % 251 for at in range(self.SIZE))
        found = self.fetch()
        self.part(self.internet.last, Span(64, 256))
        answer = self.successResultOf(found)
        self.assertEqual((answer.span, answer.asked), (self.PART, True))
        self.assertTrue(self.blob.ranges)
        kept = Kept()
        answer.body.deliverBody(kept)
        for start, end in ((64, 80), (80, 100), (100, 101), (101, 256)):
            self.internet.last.send(blob[start:end])
        self.assertEqual(kept.got[: len(self.PART)], blob[100:200])
        self.assertEqual(answer.pace.blocks.around(self.PART), Span(64, 256))

    def test_the_whole_in_place_of_a_part_within_it_is_taken_from_its_first_byte(self) -> None:
        found = self.fetch()
        self.part(self.internet.last, Span(0, 1000))
        answer = self.successResultOf(found)
        self.assertEqual((answer.span, answer.asked), (Span(0, 1000), False))
        # From a blob's beginning it is just more than was asked for.
        found = self.fetch(Span(0, 100))
        self.part(self.internet.last, Span(0, 1000))
        answer = self.successResultOf(found)
        self.assertEqual((answer.span, answer.asked), (Span(0, 100), True))

    def test_a_part_with_an_odd_header_is_judged_by_its_length(self) -> None:
        for shown in (
            "",
            "bytes 100-99/1000",
            "bytes */1000",
            "items 100-199/1000",
            "bytes=100-199/1000",
            "Bytes 100-199",
            "bytes 100-\xb2/1000",
            "bytes 100-199/" + "9" * 5000,
            "bytes 100-200/1000",
            "bytes 101-200/1000",
            "bytes 99-198/1000",
        ):
            found = self.fetch()
            self.internet.last.head(206, content_length=100, content_range=shown)
            self.assertEqual(self.successResultOf(found).span, Span(100, 200), shown)

    def test_part_under_any_status_of_success_is_one(self) -> None:
        for status in (200, 201, 203, 206, 299):
            found = self.fetch()
            self.part_under(status)
            answer = self.successResultOf(found)
            self.assertEqual((answer.span, answer.asked), (self.PART, True), status)
            self.assertTrue(self.blob.ranges)

    def part_under(self, status: int) -> None:
        """The reply's header to a request for the part, with another status than is usual."""
        self.internet.last.head(
            status, content_length=len(self.PART), content_range="bytes 100-199/1000"
        )

    def test_part_that_is_labelled_as_what_was_asked_for_is_one_under_any_status(self) -> None:
        """Clients look at no status; with another label it is an error."""
        right, other = f"bytes 100-199/{self.SIZE}", f"bytes 100-198/{self.SIZE}"
        for code in (403, 404, 416, 429, 500, 503, 600, 999):
            self.located()
            found = self.fetch()
            self.internet.last.head(code, content_length=100, content_range=right)
            self.assertEqual(self.successResultOf(found).span, self.PART, code)
            for label, length in ((other, 100), (right, 99)):
                self.located()
                found = self.fetch()
                self.internet.last.head(code, content_length=length, content_range=label)
                self.failureResultOf(found)

    def test_part_without_a_label_is_one_under_any_status_if_it_is_no_page_about_an_error(
        self,
    ) -> None:
        """By its length: clients got such blobs directly, and never through this cache."""
        for code in (403, 404, 416, 429, 500, 503, 600):
            for size, first in ((NO_PAGE, True), (NO_PAGE - 1, False)):
                self.SIZE = size
                self.blob = self.upstream.blob(DIGEST, size, NAME)
                for length, is_right in ((size + 1, False), (size, first), (size, True)):
                    self.located()
                    found = self.fetch(Span(0, size))
                    self.internet.last.head(code, content_length=length)
                    if is_right:
                        self.assertEqual(self.successResultOf(found).span, Span(0, size), code)
                    else:
                        self.failureResultOf(found)

    def test_after_replies_of_no_use_the_whole_is_asked_for_once(self) -> None:
        for _ in range(WITHOUT_RANGE_AFTER - 1):
            found = self.fetch()
            self.assertIn("range", self.internet.last.asked[1])
            self.internet.last.head(500, content_length=70)
            self.failed(found)
        found = self.fetch()
        self.assertNotIn("range", self.internet.last.asked[1])
        self.internet.last.head(200, content_length=1000)
        answer = self.successResultOf(found)
        self.assertEqual((answer.span, answer.asked), (Span(0, 1000), False))

    def test_after_a_part_that_does_not_say_which_the_whole_is_asked_for(self) -> None:
        """By then clients had been told that the blob cannot be had."""
        for headers in ({"transfer_encoding": "chunked"}, {"content_length": 70}, {}):
            self.blob = self.upstream.blob(DIGEST, self.SIZE, NAME)
            for has_range in (True, False, True):
                found = self.fetch()
                self.assertEqual("range" in self.internet.last.asked[1], has_range)
                self.internet.last.head(206, **headers)
                self.assertTrue(self.failed(found).moved)
            found = self.fetch()
            self.internet.last.head(200, transfer_encoding="chunked")
            self.assertEqual(self.successResultOf(found).span, Span(0, 1000))

    def test_a_part_of_a_blob_of_unknown_size_will_do(self) -> None:
        found = self.fetch()
        self.part(self.internet.last, size="*")
        self.assertEqual(self.successResultOf(found).span, self.PART)

    def test_a_whole_blob_where_a_part_was_asked_for(self) -> None:
        for headers in ({"content_length": 1000}, {"transfer_encoding": "chunked"}, {}):
            found = self.fetch()
            self.internet.last.head(200, **headers)
            answer = self.successResultOf(found)
            self.assertEqual((answer.span, answer.asked), (Span(0, 1000), False))
            self.assertFalse(self.blob.ranges)
            self.blob.retry()

    def test_a_whole_blob_under_a_parts_status_is_one(self) -> None:
        found = self.fetch()
        self.internet.last.head(206, content_length=1000)
        answer = self.successResultOf(found)
        self.assertEqual((answer.span, answer.asked), (Span(0, 1000), False))
        self.assertFalse(self.blob.ranges)

    def test_a_whole_blob_where_that_was_asked_for(self) -> None:
        found = self.fetch(Span(0, 1000))
        self.internet.last.head(200, content_length=1000)
        self.assertTrue(self.successResultOf(found).asked)

    def test_a_blob_of_another_size_than_its_manifest_says_is_refused(self) -> None:
        for status, headers in (
            (200, {"content_length": 999}),
            (200, {"content_length": 0}),
        ):
            found = self.fetch()
            self.internet.last.head(status, **headers)
            refused = self.failureResultOf(found, SourceRefused).value
            self.assertEqual(refused.error.status, 502)
            self.assertIn(str(DIGEST), refused.error.message)

    def test_a_parts_label_of_another_size_is_judged_by_the_whole(self) -> None:
        """Some write the part's own length as the total; such a blob could never be had."""
        for status, shown in ((206, "100-199/100"), (206, "100-199/0"), (416, "*/50")):
            for size in (self.SIZE, 50):
                self.blob = self.upstream.blob(DIGEST, self.SIZE, NAME)
                self.located()
                several = [self.fetch() for _ in range(3)]
                for each in self.internet.exchanges[-3:]:
                    length = 100 if status == 206 else 0
                    each.head(status, content_length=length, content_range=f"bytes {shown}")
                for asked in several:
                    self.assertTrue(self.failed(asked).moved)
                found = self.fetch()
                self.assertNotIn("range", self.internet.last.asked[1])
                self.internet.last.head(200, content_length=size)
                if size == self.SIZE:
                    self.assertEqual(self.successResultOf(found).span, Span(0, size))
                else:
                    refused = self.failureResultOf(found, SourceRefused).value
                    self.assertIn("has 50 bytes", refused.error.message)

    def test_a_compressed_blob_is_not_taken(self) -> None:
        found = self.fetch()
        exchange = self.internet.last
        exchange.head(200, content_length=100_000, content_encoding="gzip")
        self.failed(found)
        self.clock.advance(0)
        self.assertFalse(exchange.open)

    def test_a_wait_that_is_asked_for(self) -> None:
        for status, headers, busy, wait in (
            (429, {}, True, None),
            (429, {"retry_after": "5"}, True, 5.0),
            (503, {}, False, None),
            (503, {"retry_after": "5"}, True, 5.0),
            (500, {"retry_after": "5"}, False, None),
            (502, {}, False, None),
        ):
            for _ in range(2):  # by the registry, then by the host it named
                found = self.fetch()
                self.internet.last.answer(status, HTML, **headers)
                error = self.failed(found)
                self.assertEqual((error.busy, error.retry_after), (busy, wait), status)
                if self.blob._location is None:
                    self.located()
            self.blob._location = None

    def test_a_network_that_fails_says_why(self) -> None:
        self.internet.failing = ConnectionRefusedError()
        self.assertEqual(str(self.failed(self.fetch())), "connection refused")

    def test_a_redirect_to_nowhere_is_no_answer(self) -> None:
        for location in ("ftp://x/", "http://[::1/x", "http://x\xe9/", "http://x:99999999/"):
            found = self.fetch()
            self.internet.last.answer(307, b"", location=location)
            self.failed(found)

    def test_nobody_waiting_closes_the_connection(self) -> None:
        found = self.fetch()
        found.cancel()
        self.failureResultOf(found)
        self.clock.advance(0)
        self.assertEqual(self.internet.open, [])

    def test_a_bounded_line_bounds_what_is_asked_for_from_the_first_request_on(self) -> None:
        self.registry.line = Line(320_000, self.clock, 64)
        unknown = self.blob.pace.length(10**9, 1, 0)
        found = self.fetch()
        self.part(self.internet.last)
        self.successResultOf(found)
        self.assertEqual((unknown, self.blob.pace.bound), (10_000, 5_000.0))


class RepositoryTests(BlobCase):
    def test_pace_before_the_first_answer_is_not_that_of_any_host_that_is_looked_at(self) -> None:
        """Between a choice and its request it was another host's, which had no room: a bug."""
        registry = self.upstream.registry
        blob, pace = self.upstream.blob(DIGEST, self.SIZE, OTHER), registry.likely_pace()
        registry.pace("https://elsewhere.example/x")
        self.assertIs(blob.pace, pace)
        found = self.fetch()
        self.part(self.internet.last)
        self.successResultOf(found)
        self.assertIs(blob.pace, self.blob.pace)

    def test_the_next_repository_is_asked_where_the_first_has_it_not(self) -> None:
        for status in (401, 403, 404, 410):
            self.blob = self.upstream.blob(DIGEST, self.SIZE, NAME)
            self.blob.add_repository(OTHER)
            self.blob.add_repository(NAME)
            found = self.fetch()
            self.internet.last.answer(status)
            self.assertIn("/v2/library/other/blobs/", self.internet.last.target)
            self.part(self.internet.last)
            self.successResultOf(found)

    def test_the_next_repository_is_asked_when_the_first_has_had_its_time(self) -> None:
        """One that answers nothing, or drips, kept the blob from those of the other."""
        self.blob.add_repository(OTHER)
        found = self.fetch()
        self.part(self.internet.last)
        self.successResultOf(found)
        self.assertTrue(self.blob.move_on())
        found = self.fetch()
        self.assertIn("/v2/library/other/blobs/", self.internet.last.target)
        self.part(self.internet.last)
        self.successResultOf(found)
        self.assertFalse(self.blob.move_on())
        self.blob.retry()
        self.assertTrue(self.blob.move_on())

    def test_where_none_has_it_it_is_refused_and_asked_for_anew_later(self) -> None:
        self.blob.add_repository(OTHER)
        for _ in range(2):
            for last, told in ((404, 404), (403, 403)):
                found = self.fetch()
                self.assertIn("/v2/library/m/", self.internet.last.target)
                self.internet.last.answer(404)
                self.internet.last.answer(last)
                refused = self.failureResultOf(found, SourceRefused).value
                self.assertEqual(refused.error.status, told)

    def test_a_refusal_whose_body_never_comes_keeps_no_connection(self) -> None:
        found = self.fetch()
        self.internet.last.head(404, content_length=100)
        self.failureResultOf(found, SourceRefused)
        self.clock.advance(10 * BODY_WITHIN)
        self.assertEqual(self.internet.open, [])

    def test_a_failure_is_no_refusal(self) -> None:
        self.blob.add_repository(OTHER)
        for status in (500, 503, 429, 400, 204):
            found = self.fetch()
            self.assertIn("/v2/library/m/", self.internet.last.target)
            self.internet.last.answer(status)
            self.failed(found)

    def test_what_another_host_refuses_the_registry_has_not_refused(self) -> None:
        found = self.fetch()
        self.internet.last.answer(307, b"", location="http://cdn.test/signed")
        self.internet.last.answer(403, b"<Error/>")
        self.failed(found)


class ExpiryTests(BlobCase):
    def test_many_connections_ask_the_registry_once(self) -> None:
        many = [self.fetch() for _ in range(8)]
        self.assertEqual(len(self.internet.exchanges), 1)
        self.internet.last.answer(307, b"", location="http://cdn.test/signed")
        self.part(self.internet.last)
        self.successResultOf(many[0])
        self.assertEqual(
            [each.target for each in self.internet.exchanges[2:]], ["cdn.test GET /signed"] * 7
        )

    def test_an_url_that_has_expired_is_asked_for_again_once(self) -> None:
        for status in (401, 403, 404, 410, 400):
            self.blob._location = None
            self.located()
            many = [self.fetch() for _ in range(8)]
            for exchange in self.internet.exchanges[-8:]:
                exchange.answer(status, b"<Error/>")
            for found in many:
                self.assertFalse(self.failed(found).busy)
            before = len(self.internet.exchanges)
            many = [self.fetch() for _ in range(8)]
            self.assertEqual(len(self.internet.exchanges), before + 1)
            self.internet.last.answer(307, b"", location="http://cdn.test/fresh")
            self.part(self.internet.last)
            self.assertEqual(self.internet.last.target, "cdn.test GET /fresh")
            self.assertEqual(len(self.internet.exchanges), before + 2 + 7)

    def test_a_late_refusal_of_the_old_url_does_not_forget_the_new_one(self) -> None:
        self.located()
        early, late = self.fetch(), self.fetch()
        self.internet.exchanges[-2].answer(403)
        late_exchange = self.internet.last
        self.failed(early)
        found = self.fetch()
        self.internet.last.answer(307, b"", location="http://cdn.test/fresh")
        self.part(self.internet.last)
        self.successResultOf(found)
        late_exchange.answer(403)
        self.failed(late)
        self.fetch()
        self.assertEqual(self.internet.last.target, "cdn.test GET /fresh")

    def test_where_asking_fails_the_next_one_asks(self) -> None:
        many = [self.fetch() for _ in range(4)]
        for at, found in enumerate(many):
            self.assertEqual(len(self.internet.exchanges), at + 1)
            self.internet.last.answer(500)
            self.failed(found)

    def test_where_the_one_who_asks_leaves_the_next_one_asks(self) -> None:
        many = [self.fetch() for _ in range(3)]
        many[0].cancel()
        self.failureResultOf(many[0])
        self.assertEqual(len(self.internet.exchanges), 2)
        many[2].cancel()
        self.failureResultOf(many[2])
        self.part(self.internet.last)
        self.successResultOf(many[1])
        self.assertEqual(len(self.internet.exchanges), 2)
