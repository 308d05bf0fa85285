"""What an upstream registry may answer, and what becomes of it; on the wire, but in memory."""

from __future__ import annotations

import errno
import gzip
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectBindError,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.logger import capturedLogs

from tests.sources.doubles import (
    BODY,
    DIGEST,
    HEADERS_WITHIN,
    HTML,
    NAME,
    OTHER,
    TAG,
    UpstreamCase,
)
from yukari.errors import upstream_silent
from yukari.manifest import DOCKER_MANIFEST, MANIFEST_LIST, MAX_BYTES, Variant
from yukari.names import DEFAULT, Digest, Repository
from yukari.net.bodies import BODY_WITHIN
from yukari.net.http import HOPS
from yukari.net.tunnel import ProxyFailed
from yukari.sources import bodies
from yukari.sources.circuit import FAILURES, REST_FIRST
from yukari.sources.in_turn import ASKED_FOR
from yukari.sources.known_manifests import HEAD_WITHIN, SILENT_HEADS, WITHOUT_HEAD
from yukari.sources.questions import LEAST_PATIENCE, MAX_OF_ONE, Questions
from yukari.tasks import Coalescer


class ManifestTests(UpstreamCase):
    def test_the_bytes_are_those_that_came(self) -> None:
        found = self.manifest()
        self.internet.last.answer(200, BODY, content_type="text/plain; charset=utf-8")
        manifest = self.successResultOf(found)
        self.assertEqual((manifest.body, manifest.digest), (BODY, Digest.of(BODY)))

    def test_the_clients_name_goes_upstream_and_nothing_else_of_it(self) -> None:
        self.manifest(user_agent="ollama/0.1.14 (arm64 darwin)")
        line, headers = self.internet.last.asked
        self.assertEqual(line, "GET /v2/library/m/manifests/latest")
        self.assertEqual(headers["user-agent"], "ollama/0.1.14 (arm64 darwin)")
        self.assertIn("application/vnd.docker.distribution.manifest.v2+json", headers["accept"])
        self.assertFalse({"authorization", "cookie", "range", "if-none-match"} & {*headers})

    def test_a_body_in_chunks(self) -> None:
        found = self.manifest()
        exchange = self.internet.last
        exchange.head(200, transfer_encoding="chunked")
        for at in range(0, len(BODY), 50):
            piece = BODY[at : at + 50]
            exchange.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.assertNoResult(found)
        exchange.send(b"0\r\n\r\n")
        self.assertEqual(self.successResultOf(found).body, BODY)

    def test_nothing_compressed_is_asked_for(self) -> None:
        self.manifest()
        self.begin(self.upstream.blob_size(NAME, DIGEST))
        for exchange in self.internet.exchanges:
            self.assertEqual(exchange.asked[1]["accept-encoding"], "identity")

    def test_gzip_is_asked_for_where_nothing_else_is_to_be_had(self) -> None:
        """Ollama's client always asks for it."""
        found = self.manifest()
        self.internet.last.answer(406)
        self.assertEqual(self.internet.last.asked[1]["accept-encoding"], "gzip")
        self.internet.last.answer(200, gzip.compress(BODY), content_encoding="gzip")
        self.assertEqual(self.successResultOf(found).body, BODY)
        found = self.manifest()
        self.internet.last.answer(406)
        self.internet.last.answer(406)
        self.assertIn("answered 406", self.refused(found).message)

    def test_a_compressed_body(self) -> None:
        """Some compress without being asked to."""
        found = self.manifest()
        self.internet.last.answer(200, gzip.compress(BODY), content_encoding="gzip")
        self.assertEqual(self.successResultOf(found).body, BODY)

    def test_a_compressed_body_that_cannot_be_read(self) -> None:
        whole = gzip.compress(BODY)
        for body in (whole[:-9] + b"x" * 9, whole[:-1], whole + b"x", whole * 2, b"", b"x"):
            found = self.manifest()
            with capturedLogs() as events:
                self.internet.last.answer(200, body, content_encoding="gzip")
                self.clock.advance(BODY_WITHIN)
            self.assertIn(self.refused(found).status, (502, 504))
            self.assertEqual([event for event in events if "log_failure" in event], [])

    def test_body_that_is_none_of_what_its_label_says_is_read_as_it_is(self) -> None:
        """Ollama reads it so whatever the label says, but for gzip, which its client undoes."""
        for label in ("br", "deflate", "zstd, gzip", "gzip"):
            for body in (BODY, b"\r\n " + BODY):
                found = self.manifest()
                self.internet.last.answer(200, body, content_encoding=label)
                self.assertEqual(self.successResultOf(found).body, body)

    def test_a_body_that_would_be_huge_is_not_unpacked(self) -> None:
        """By a label once or twice, and beyond the limit by one byte."""
        small = b" " * (MAX_BYTES + 1)
        bomb = gzip.compress(b"\0" * (MAX_BYTES * 8), 9)
        for body, label, said in (
            (gzip.compress(small), "gzip", "more than"),
            (bomb, "x-gzip", "more than"),
            (gzip.compress(bomb, 9), "gzip, gzip", "not asked for"),
            (b"\x0b\x02\x80{}\x03", "br", "not asked for"),
        ):
            found = self.manifest()
            self.internet.last.answer(200, body, content_encoding=label)
            error = self.refused(found)
            self.assertEqual(error.status, 502)
            self.assertIn(said, error.message)

    def test_a_body_that_ends_too_early(self) -> None:
        found = self.manifest()
        self.internet.last.head(200, content_length=len(BODY))
        self.internet.last.send(BODY[:-1])
        self.internet.last.close()
        error = self.refused(found)
        self.assertEqual(error.status, 502)
        self.assertIn("broke off", error.message)

    def test_lists_are_asked_for_by_their_type_and_only_for_clients_that_accept_them(self) -> None:
        for variant, first in (
            (Variant.PLAIN, DOCKER_MANIFEST),
            (Variant.LIST, MANIFEST_LIST),
        ):
            self.begin(self.upstream.manifest(NAME, TAG, "ollama/0.40.0", variant))
            accept = self.internet.last.asked[1]["accept"]
            self.assertTrue(accept.startswith(first), accept)
            self.assertEqual(MANIFEST_LIST in accept, variant is Variant.LIST)

    def test_a_head_that_is_refused_tells_nothing_of_a_tag(self) -> None:
        """A GET of the same tag may work, as with registries that do not know HEAD."""
        for status in (400, 401, 403, 404, 405, 500, 501):
            asked = self.upstream.manifest_digest(NAME, TAG, "curl/8")
            found = self.begin(asked)
            self.internet.last.head(status, content_length=0)
            self.assertIsNone(self.successResultOf(found), status)
        found = self.begin(self.upstream.manifest_digest(NAME, TAG, "curl/8"))
        self.internet.last.answer(429, b"")
        self.assertEqual(self.refused(found).status, 429)

    def test_a_head_without_a_reply_tells_nothing_of_a_tag(self) -> None:
        """Some firewalls let GET pass alone: a moved tag was never noticed."""
        for how, hang_up in self.without_reply():
            for _ in range(FAILURES + 1):
                found = self.begin(self.upstream.manifest_digest(NAME, TAG, "curl/8"))
                hang_up(self.internet.last)
                self.assertIsNone(self.successResultOf(found), how)
            found = self.manifest()
            self.internet.last.answer(200, BODY)
            self.assertEqual(self.successResultOf(found).body, BODY, how)

    def head(self, model: str = "m") -> Deferred[Any]:
        """Ask for the digest of a tag."""
        name = Repository(DEFAULT, "library", model)
        return self.begin(self.upstream.manifest_digest(name, TAG, "curl/8"))

    def test_head_that_gets_no_reply_is_not_sent_again_for_a_while(self) -> None:
        """Each check of a tag, and so each pull that waits for one, took half a minute."""
        for _ in range(2):
            found = self.head()
            self.clock.advance(HEAD_WITHIN)
            self.assertIsNone(self.successResultOf(found))
            for _ in range(5):
                before = len(self.internet.exchanges)
                self.assertIsNone(self.successResultOf(self.head()))
                self.assertEqual(len(self.internet.exchanges), before)
            found = self.head("another")
            self.internet.last.head(200, content_length=0, docker_content_digest=str(DIGEST))
            self.assertEqual(self.successResultOf(found), DIGEST)
            self.clock.advance(WITHOUT_HEAD)

    def test_registry_that_answers_no_head_is_sent_few(self) -> None:
        for number in range(20):
            found = self.head(f"m{number}")
            self.clock.advance(HEAD_WITHIN)
            self.assertIsNone(self.successResultOf(found))
        self.assertEqual(len(self.internet.exchanges), SILENT_HEADS)
        self.clock.advance(WITHOUT_HEAD)
        found = self.head("m0")
        self.internet.last.head(405, content_length=0)
        self.assertIsNone(self.successResultOf(found))
        self.head("m1")
        self.assertEqual(len(self.internet.exchanges), SILENT_HEADS + 2)

    def test_a_head_that_is_given_up_is_not_one_without_a_reply(self) -> None:
        """A daemon that stopped took its own closing for upstream's, and began a GET."""
        for asked in (
            lambda: self.upstream.manifest_digest(NAME, TAG, "curl/8"),
            lambda: self.upstream.blob_size(NAME, DIGEST),
        ):
            found = self.begin(asked())
            before = len(self.internet.exchanges)
            found.cancel()
            self.failureResultOf(found, CancelledError)
            self.assertEqual((len(self.internet.exchanges), self.internet.open), (before, []))

    def test_a_registry_that_cannot_be_reached_is_not_asked_again_by_get(self) -> None:
        self.internet.failing = ConnectionRefusedError()
        found = self.begin(self.upstream.manifest_digest(NAME, TAG, "curl/8"))
        self.assertEqual(self.refused(found).status, 502)

    def test_a_child_is_a_blob_whose_bytes_are_checked(self) -> None:
        right = Digest.of(BODY)
        found = self.begin(self.upstream.child(NAME, right))
        self.assertEqual(self.internet.last.asked[0], f"GET /v2/library/m/blobs/{right}")
        self.internet.last.answer(200, BODY)
        self.assertEqual(self.successResultOf(found).body, BODY)
        for status, body in ((200, BODY + b" "), (200, b"{}"), (404, b""), (500, b"")):
            found = self.begin(self.upstream.child(NAME, right))
            self.internet.last.answer(status, body)
            self.refused(found)

    def test_a_body_without_a_length_is_taken_if_it_is_whole(self) -> None:
        """As HTTP/1.0 sends it: a manifest cut short is no JSON."""
        for body in (BODY, BODY[:-1], BODY[: len(BODY) // 2]):
            found = self.manifest()
            self.internet.last.head(200)
            self.internet.last.send(body)
            self.internet.last.close()
            if body == BODY:
                self.assertEqual(self.successResultOf(found).body, BODY)
            else:
                self.assertEqual(self.refused(found).status, 502)

    def test_a_body_that_is_too_large_is_not_read_to_its_end(self) -> None:
        self.patch(bodies, "MAX_BYTES", 1000)
        for headers in ({"content_length": 5000}, {"transfer_encoding": "chunked"}):
            found = self.manifest()
            exchange = self.internet.last
            exchange.head(200, **headers)
            exchange.send(b"900\r\n" + b"x" * 0x900 + b"\r\n")
            error = self.refused(found)
            self.assertEqual(error.status, 502)
            self.assertIn("sent a bad manifest of library/m:latest: more than 1000", error.message)
            self.assertFalse(exchange.open)

    def test_no_label_keeps_a_manifest_from_being_taken(self) -> None:
        """Ollama reads no digest's header; one that a proxy has made was a failed pull."""
        own = Digest.of(BODY)
        for label in (own.hex, str(own), "", "sha512:00", "none", '"x"', DIGEST.hex, str(DIGEST)):
            for name in ("ollama_content_digest", "docker_content_digest"):
                found = self.manifest()
                self.internet.last.answer(200, BODY, **{name: label})
                self.assertEqual(self.successResultOf(found).digest, own, (name, label))

    def test_a_manifest_may_come_under_any_status_that_is_no_error(self) -> None:
        """As Ollama takes it, which looks for errors only."""
        for status in (*range(200, 204), *range(206, 209), 226, 299, 300, 302, 307, 399):
            for labels in ({}, {"content_range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"}):
                found = self.manifest()
                self.internet.last.answer(status, BODY, **labels)
                self.assertEqual(self.successResultOf(found).body, BODY, status)

    def test_a_manifest_by_digest_has_that_digest(self) -> None:
        for reference, right in ((Digest.of(BODY), True), (DIGEST, False)):
            found = self.manifest(reference)
            self.assertTrue(self.internet.last.asked[0].endswith(f"/manifests/{reference}"))
            self.internet.last.answer(200, BODY)
            if right:
                self.assertEqual(self.successResultOf(found).body, BODY)
            else:
                self.assertEqual(self.refused(found).status, 502)

    def test_what_is_no_manifest_is_not_taken(self) -> None:
        for body in (b"", HTML, b"{}", b"[" * 100_000, b"null", b'{"schemaVersion": 1}'):
            found = self.manifest()
            self.internet.last.answer(200, body)
            self.assertEqual(self.refused(found).status, 502)

    def test_refusals_have_words_that_a_client_can_show(self) -> None:
        for status, body, expected, said in (
            (404, b"", 404, "no model"),
            (401, b"", 403, "private"),
            (403, b"{}", 403, "private"),
            (
                412,
                b'{"errors":[{"message":"needs a newer\\nOllama"}]}',
                412,
                "needs a newer Ollama",
            ),
            (412, HTML, 412, "newer version"),
            (429, b"slow down", 429, "slow down"),
            (500, HTML, 502, "answered 500"),
            (503, b"no healthy upstream", 502, "answered 503"),
            (204, b"", 502, "answered 204"),
            (304, b"", 502, "answered 304"),
            (206, BODY[:-1], 502, "answered 206"),
            (303, b"", 502, "answered 303"),
            (302, HTML, 502, "answered 302"),
        ):
            found = self.manifest()
            self.internet.last.answer(status, body)
            error = self.refused(found)
            self.assertEqual(error.status, expected, status)
            self.assertIn(said, error.message)
            self.assertNotIn("<", error.message)

    def test_a_wait_that_upstream_asks_for_is_passed_on(self) -> None:
        found = self.manifest()
        self.internet.last.answer(429, b"", retry_after="17")
        self.assertEqual(self.refused(found).retry_after, 17)

    def test_an_error_whose_body_never_ends(self) -> None:
        found = self.manifest()
        self.internet.last.head(412, content_length=100)
        self.internet.last.send(b"part of")
        self.clock.advance(BODY_WITHIN)
        self.assertEqual(self.refused(found).status, 412)
        self.assertFalse(self.internet.last.open)

    def test_an_upstream_that_does_not_answer_is_504(self) -> None:
        found = self.manifest()
        self.clock.advance(HEADERS_WITHIN - 0.1)
        self.assertNoResult(found)
        self.clock.advance(0.1)
        self.assertEqual(self.refused(found).status, 504)
        self.assertEqual(self.internet.open, [])

    def test_an_upstream_that_stops_in_the_middle_is_504(self) -> None:
        found = self.manifest()
        self.internet.last.head(200, content_length=len(BODY))
        self.clock.advance(BODY_WITHIN - 0.1)
        self.internet.last.send(BODY[:100])
        self.clock.advance(0.1)
        self.assertEqual(self.refused(found).status, 504)
        self.assertEqual(self.internet.open, [])

    def test_an_upstream_that_cannot_be_reached_is_502_with_the_reason(self) -> None:
        for failing, status, said in (
            (ConnectionRefusedError(), 502, "connection refused"),
            (DNSLookupError("x"), 502, "cannot be resolved"),
            (ConnectTimeout(), 504, "does not answer"),
        ):
            self.internet.failing = failing
            error = self.refused(self.manifest())
            self.assertEqual(error.status, status)
            self.assertIn(said, error.message)

    def test_a_connection_that_closes_without_an_answer_is_502(self) -> None:
        found = self.manifest()
        self.internet.last.close()
        self.assertEqual(self.refused(found).status, 502)

    def test_what_is_no_http_is_502(self) -> None:
        for said in (b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 abc X\r\n\r\n"):
            found = self.manifest()
            self.internet.last.send(said)
            self.assertIn(self.refused(found).status, (502,), said)

    def test_nobody_waiting_closes_the_connection(self) -> None:
        found = self.manifest()
        found.cancel()
        self.failureResultOf(found)
        self.clock.advance(0)
        self.assertEqual(self.internet.open, [])


class CircuitTests(UpstreamCase):
    """Whom a failure keeps from asking."""

    def ask(self, name: Repository) -> Deferred[Any]:
        return self.begin(self.upstream.manifest(name, TAG, ""))

    def fail_times(self, times: int, go_wrong: Callable[[], Any]) -> None:
        for _ in range(times):
            asked = self.ask(NAME)
            go_wrong()
            self.refused(asked)

    def assert_asked(self, name: Repository, expected: bool) -> None:
        before = len(self.internet.exchanges)
        asked = self.ask(name)
        self.assertEqual(len(self.internet.exchanges) > before, expected)
        if expected:
            self.internet.last.answer(200, BODY)
            self.successResultOf(asked)
        else:
            self.refused(asked)

    def test_a_repository_that_hangs_or_breaks_off_harms_no_other(self) -> None:
        for go_wrong in (
            lambda: self.clock.advance(HEADERS_WITHIN),
            lambda: self.internet.last.close(),
            lambda: self.internet.last.send(b"no http\r\n"),
        ):
            self.setUp()
            self.fail_times(FAILURES, go_wrong)
            self.assertFalse(self.upstream.is_down(NAME))
            self.assert_asked(NAME, False)
            self.assert_asked(OTHER, True)
            self.assert_asked(NAME, False)
            self.clock.advance(REST_FIRST)
            self.assert_asked(NAME, True)

    def test_a_repository_that_points_to_a_host_that_is_down_harms_no_other(self) -> None:
        def go_wrong() -> None:
            self.internet.failing = ConnectionRefusedError()
            self.internet.last.answer(307, location="http://cdn.test/x")
            self.internet.failing = None

        self.fail_times(FAILURES, go_wrong)
        self.assert_asked(NAME, False)
        self.assert_asked(OTHER, True)

    def test_a_registry_that_is_down_is_down_for_everybody(self) -> None:
        for failing in (
            ConnectionRefusedError(),
            DNSLookupError("x"),
            ConnectTimeout(),
            NoRouteError(),
            ProxyFailed("the proxy is down"),
        ):
            self.setUp()
            self.internet.failing = failing
            for name in (NAME, OTHER, Repository(DEFAULT, "library", "third")):
                self.refused(self.ask(name))
            self.assertTrue(self.upstream.is_down(NAME))
            self.internet.failing = None
            self.assert_asked(OTHER, False)
            self.clock.advance(REST_FIRST)
            self.assert_asked(OTHER, True)
            self.assertFalse(self.upstream.is_down(NAME))

    def test_a_lack_of_descriptors_here_is_no_fault_of_upstream(self) -> None:
        self.internet.failing = ConnectBindError(errno.EMFILE, "Too many open files")
        for _ in range(2 * FAILURES):
            self.assertEqual(self.refused(self.ask(NAME)).status, 503)
        self.internet.failing = None
        self.assert_asked(NAME, True)

    def test_a_probe_for_a_repository_that_hangs_leaves_room_for_others(self) -> None:
        """Its own circuit answers, though the whole one has let it through."""
        self.fail_times(FAILURES, lambda: self.clock.advance(HEADERS_WITHIN))
        self.internet.failing = ConnectionRefusedError()
        for _ in range(FAILURES):
            self.refused(self.ask(OTHER))
        self.internet.failing = None
        self.clock.advance(REST_FIRST - 0.5)
        self.upstream.circuits._own[NAME].failed(upstream_silent("again"))
        self.clock.advance(0.5)
        self.assert_asked(NAME, False)
        self.assert_asked(OTHER, True)


class QuestionTests(UpstreamCase):
    """How many questions leave at once."""

    def test_one_repository_leaves_turns_for_others(self) -> None:
        for _ in range(MAX_OF_ONE):
            self.manifest()
            self.clock.advance(0)
        self.clock.advance(HEADERS_WITHIN / 2)
        for each in self.internet.exchanges[:MAX_OF_ONE]:
            each.head(200, content_length=10**6)  # and no body for a while
        waits = self.manifest()
        self.assertEqual(len(self.internet.exchanges), MAX_OF_ONE)
        self.clock.advance(BODY_WITHIN - 0.1)
        self.assertNoResult(waits)
        self.begin(self.upstream.manifest(OTHER, TAG, ""))
        self.clock.advance(0)
        self.assertEqual(len(self.internet.exchanges), MAX_OF_ONE + 1)

    def test_a_reply_that_was_read_gives_the_turn_back(self) -> None:
        for _ in range(3 * MAX_OF_ONE):
            found = self.manifest()
            self.internet.last.answer(200, BODY)
            self.successResultOf(found)

    def test_who_waits_for_a_turn_is_answered_in_the_end(self) -> None:
        self.registry.headers_within = 5.0
        for _ in range(MAX_OF_ONE):
            self.manifest()
            self.clock.advance(0)
            self.internet.last.head(200, content_length=1000)
        waits = self.manifest()
        self.clock.pump([4.9] * ASKED_FOR)
        self.assertNoResult(waits)
        self.clock.advance(0.1 * ASKED_FOR)
        error = self.refused(waits)
        self.assertEqual(error.status, 503)
        self.assertIn("many questions wait", error.message)
        self.assertFalse(self.upstream.is_down(NAME))

    def test_a_question_that_lost_its_turn_is_asked_again(self) -> None:
        """It failed, though upstream was slow for all and would have answered."""
        self.upstream.questions = Questions(self.clock, 1, 1)
        first = self.manifest()
        asked = self.internet.last
        other = self.begin(self.upstream.manifest(OTHER, TAG, ""))
        self.clock.advance(LEAST_PATIENCE)
        self.assertFalse(asked.open)
        self.assertNoResult(first)
        self.internet.last.answer(200, BODY)
        self.successResultOf(other)
        self.internet.last.answer(200, BODY)
        self.successResultOf(first)
        self.assertEqual(len(self.internet.exchanges), 3)

    def test_what_nobody_waits_for_any_more_is_not_sent(self) -> None:
        """Three thousand questions were asked for clients that had left long before."""
        self.upstream.questions = Questions(self.clock, 1, 1)
        shared = Coalescer()

        def ask(name: Repository) -> Deferred[Any]:
            return self.begin(shared.run(name, self.upstream.manifest, name, TAG, ""))

        sent, waits, shares = ask(NAME), ask(OTHER), ask(OTHER)
        left = ask(Repository(DEFAULT, "library", "third"))
        for each in (sent, waits, left):
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.internet.last.answer(200, BODY)  # What was sent goes on.
        self.internet.last.answer(200, BODY)
        self.successResultOf(shares)
        self.assertEqual(len(self.internet.exchanges), 2)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RedirectTests(UpstreamCase):
    def test_manifests_follow_redirects_to_wherever(self) -> None:
        for location, expected in (
            ("/v2/elsewhere?x=1", "registry.test GET /v2/elsewhere?x=1"),
            ("other", "registry.test GET /v2/library/m/manifests/other"),
            ("//CDN.test/x", "cdn.test GET /x"),
            ("//CDN.test.:81/X", "cdn.test:81 GET /X"),
            ("http://[::1%25lo]:81/x", "[::1]:81 GET /x"),
            ("http://cdn.test:81/a%20b", "cdn.test:81 GET /a%20b"),
            ("/a b?c=d e", "registry.test GET /a%20b?c=d%20e"),
            ("/mod\xc3\xa8le/100%", "registry.test GET /mod%C3%A8le/100%"),
            ("/a/../../b/./c/..", "registry.test GET /b/"),
            ("http://cdn.test:/a/../b?c=/../d", "cdn.test GET /b?c=/../d"),
            ('/"<a>|{b}^`\\', "registry.test GET /%22%3Ca%3E%7C%7Bb%7D%5E%60%5C"),
            ("/%C3%A8?X-Sig=a+/=%2B&b=1", "registry.test GET /%C3%A8?X-Sig=a+/=%2B&b=1"),
        ):
            for status in (301, 302, 303, 307, 308):
                found = self.manifest()
                self.internet.last.answer(status, b"moved", location=location)
                self.assertEqual(self.internet.last.target, expected)
                self.internet.last.answer(200, BODY)
                self.assertEqual(self.successResultOf(found).body, BODY)

    def test_redirects_to_nowhere_are_refused(self) -> None:
        for location in (
            "ftp://cdn.test/x",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://[::1/x",
            "http://cdn.t\xe9st/",
            "http://b\xc3\xbc_cher.test/",
            "http://cdn.test:99999999/",
            "http://cdn.test:x/",
            "http://:80/x",
            "http://cdn.test:0/x",
        ):
            for again, asked in (
                (self.manifest, 1),
                (lambda: self.begin(self.upstream.blob_size(NAME, DIGEST)), 2),
            ):
                before = len(self.internet.exchanges)
                found = again()
                for _ in range(asked):
                    self.internet.last.answer(307, b"", location=location)
                self.assertEqual(self.refused(found).status, 502, location)
                self.assertLessEqual(len(self.internet.exchanges), before + asked, location)

    def test_a_redirect_to_a_host_beyond_ascii_is_followed(self) -> None:
        """As Go follows it."""
        for location, host in (
            ("https://b\xc3\xbccher.test:8443/x", "xn--bcher-kva.test:8443"),
            ("http://B\xc3\x9ccher.test/x", "xn--bcher-kva.test"),
            ("//b%C3%BCcher.test/x", "xn--bcher-kva.test"),
        ):
            found = self.manifest()
            self.internet.last.answer(307, b"", location=location)
            self.assertEqual(self.internet.last.target, f"{host} GET /x")
            self.internet.last.answer(200, BODY)
            self.assertEqual(self.successResultOf(found).body, BODY)

    def test_a_refused_redirect_shows_its_host_alone(self) -> None:
        found = self.manifest()
        self.internet.last.answer(307, b"", location="ftp://her:secret@cdn.test/secret?secret")
        message = self.refused(found).message
        self.assertIn("://cdn.test'", message)
        self.assertNotIn("secret", message)

    def test_user_in_a_redirect_is_shown_to_its_host_and_to_no_other(self) -> None:
        """As Go's client does; a signed URL of Artifactory or WebDAV may have one."""
        for user, sent in (
            ("her:secret", b"her:secret"),
            ("her", b"her:"),
            (":secret", b":secret"),
            ("h%40r:s%3Ac%C3%A8", "h@r:s:c\xe8".encode()),
            ("h@r:se cret", b"h@r:se cret"),
        ):
            basic = f"Basic {b64encode(sent).decode()}"
            found = self.manifest()
            for location, target, authorization in (
                (f"http://{user}@cdn.test:81/x", "cdn.test:81 GET /x", basic),
                ("/y", "cdn.test:81 GET /y", basic),
                ("//other.test/z", "other.test GET /z", None),
                (f"http://{user}@registry.test/x", "registry.test GET /x", basic),
                ("http://registry.test/w", "registry.test GET /w", None),
            ):
                self.internet.last.answer(307, b"", location=location)
                self.assertEqual(self.internet.last.target, target)
                self.assertEqual(self.internet.last.asked[1].get("authorization"), authorization)
            self.internet.last.answer(200, BODY)
            self.assertEqual(self.successResultOf(found).body, BODY)

    def test_a_ring_of_redirects_ends(self) -> None:
        found = self.manifest()
        for _ in range(HOPS):
            self.internet.last.answer(307, b"", location="/v2/ring")
        self.assertEqual(self.refused(found).status, 502)
        self.assertEqual(len(self.internet.exchanges), HOPS)

    def test_a_redirects_long_body_is_not_read(self) -> None:
        self.manifest()
        first = self.internet.last
        first.head(307, location="/v2/elsewhere", content_length=10**9)
        self.clock.advance(0)
        self.assertFalse(first.open)
        self.assertEqual(len(self.internet.open), 1)

    def test_each_hop_has_its_own_time(self) -> None:
        found = self.manifest()
        for _ in range(3):
            self.clock.advance(HEADERS_WITHIN - 0.1)
            self.internet.last.answer(307, b"", location="/v2/elsewhere")
        self.assertNoResult(found)
        self.clock.advance(HEADERS_WITHIN)
        self.assertEqual(self.refused(found).status, 504)


class SizeTests(UpstreamCase):
    def size(self) -> Deferred[Any]:
        return self.begin(self.upstream.blob_size(NAME, DIGEST))

    def test_a_head_tells(self) -> None:
        found = self.size()
        self.assertEqual(self.internet.last.asked[0], f"HEAD /v2/library/m/blobs/{DIGEST}")
        self.internet.last.head(200, content_length=12345)
        self.assertEqual(self.successResultOf(found), 12345)

    def test_a_head_that_redirects_tells_at_its_end(self) -> None:
        found = self.size()
        self.internet.last.head(307, content_length=0, location="http://cdn.test/x")
        self.assertEqual(self.internet.last.target, "cdn.test HEAD /x")
        self.internet.last.head(200, content_length=12345)
        self.assertEqual(self.successResultOf(found), 12345)

    def test_where_a_head_does_not_tell_the_first_byte_does(self) -> None:
        for status, headers in (
            (405, {}),
            (501, {"content_length": 9}),
            (200, {}),
            (200, {"content_length": "\xb2"}),
            (200, {"content_length": "-1"}),
            (200, {"content_length": "9" * 5000}),
            (200, {"content_length": "9", "content_encoding": "gzip"}),
        ):
            found = self.size()
            self.internet.last.head(status, **headers)
            line, asked = self.internet.last.asked
            self.assertEqual((line[:3], asked["range"]), ("GET", "bytes=0-0"), headers)
            self.internet.last.answer(206, b"x", content_range="bytes 0-0/12345")
            self.assertEqual(self.successResultOf(found), 12345)

    def test_a_get_that_ignores_range_tells_by_its_length(self) -> None:
        found = self.size()
        self.internet.last.head(405)
        self.internet.last.head(200, content_length=10**10)
        self.assertEqual(self.successResultOf(found), 10**10)
        self.clock.advance(0)
        self.assertEqual(self.internet.open, [])

    def test_a_head_that_is_refused_is_followed_by_a_get(self) -> None:
        """A URL that is signed for GET answers 403 to HEAD."""
        for status in (400, 401, 403, 500):
            found = self.size()
            self.internet.last.head(307, location="https://cdn.test/x")
            self.internet.last.head(status, content_length=0)
            self.internet.last.answer(206, b"x", content_range="bytes 0-0/12345")
            self.assertEqual(self.successResultOf(found), 12345, status)

    def test_a_head_without_a_reply_is_followed_by_a_get(self) -> None:
        for how, hang_up in self.without_reply():
            found = self.size()
            hang_up(self.internet.last)
            self.internet.last.answer(206, b"x", content_range="bytes 0-0/12345")
            self.assertEqual(self.successResultOf(found), 12345, how)

    def test_where_nothing_tells_it_is_502(self) -> None:
        for status, headers in (
            (206, {"content_range": "bytes 0-0/*"}),
            (206, {"content_range": "bytes 0-0/" + "9" * 5000}),
            (206, {}),
            (200, {"transfer_encoding": "chunked"}),
            (206, {"content_range": "bytes 0-0/9", "content_encoding": "gzip"}),
            (200, {"content_length": 9, "content_encoding": "gzip"}),
            (500, {"content_length": 0}),
        ):
            found = self.size()
            self.internet.last.head(405)
            self.internet.last.head(status, **headers)
            self.assertEqual(self.refused(found).status, 502)

    def test_a_blob_that_is_not_there_or_not_for_us(self) -> None:
        for status, expected in ((404, 404), (401, 403), (403, 403), (500, 502), (400, 502)):
            found = self.size()
            self.internet.last.head(status, content_length=0)
            if status != 404:  # Some refuse HEAD alone.
                self.internet.last.head(status, content_length=0)
            error = self.refused(found)
            self.assertEqual(error.status, expected)
            self.assertIn(str(DIGEST), error.message)

    def test_an_upstream_that_answers_no_get_is_504(self) -> None:
        found = self.size()
        self.internet.last.head(405)
        self.clock.advance(HEADERS_WITHIN)
        self.assertEqual(self.refused(found).status, 504)
        self.assertEqual(self.internet.open, [])
