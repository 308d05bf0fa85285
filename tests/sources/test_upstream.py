"""What an upstream registry may answer, and what becomes of it; on the wire, but in memory."""

from __future__ import annotations

import errno
import gzip
import json
from collections.abc import Callable, Coroutine
from typing import Any, Optional

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import (
    ConnectBindError,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI, Agent
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.ending import begin
from tests.sending.doubles import Wire
from tests.strategies import manifest_body
from yukari.config.urls import RegistryUrl
from yukari.errors import RegistryError, upstream_silent
from yukari.manifest import DOCKER_MANIFEST, MANIFEST_LIST, MAX_BYTES, Descriptor, Variant
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.net.bodies import BODY_WITHIN
from yukari.net.http import HOPS, LONGEST_RETRY_AFTER, retry_after, why
from yukari.net.throttle import Line
from yukari.net.tunnel import ProxyFailed
from yukari.sources import upstream
from yukari.sources.base import Answer, SourceFailed, SourceRefused
from yukari.sources.circuit import FAILURES, REST_FIRST
from yukari.sources.error_text import error_text
from yukari.sources.questions import MAX_OF_ONE
from yukari.sources.registry import Registry
from yukari.sources.upstream import Upstream
from yukari.sources.upstream_blob import WITHOUT_RANGE_AFTER, UpstreamBlob
from yukari.spans import Span

NAME = Repository(DEFAULT, "library", "m")
OTHER = Repository(DEFAULT, "library", "other")
TAG = Tag("latest")
DIGEST = Digest("ab" * 32)
BODY = manifest_body([Descriptor(DIGEST, 7, "application/vnd.ollama.image.model")], None, 3)
HTML = b"<!DOCTYPE html>\n<html><title>502 Bad gateway</title></html>"


@define(eq=False)
class Exchange:
    """One connection to a host upstream, and the one request on it."""

    url: str
    wire: Wire

    @property
    def asked(self) -> tuple[str, dict[str, str]]:
        """The request's line, without the version, and its headers, named in lower case."""
        first, *lines = self.wire.value().decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")
        headers = (line.partition(": ") for line in lines)
        return first[:-9], {name.lower(): value for name, _, value in headers}

    @property
    def target(self) -> str:
        """The host, then the request's line."""
        return f"{self.asked[1]['host']} {self.asked[0]}"

    @property
    def open(self) -> bool:
        """Whether nobody has hung up."""
        return bool(self.wire.connected) and not self.wire.disconnecting

    def send(self, data: bytes) -> None:
        """These bytes come from the host."""
        self.wire.protocol.dataReceived(data)

    def head(self, status: int, **headers: object) -> None:
        """The reply's header; a name's _ stands for -."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode("latin-1"))

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        """A whole reply with its length."""
        self.head(status, content_length=len(body), **headers)
        if body:
            self.send(body)

    def close(self) -> None:
        """The host hangs up."""
        self.wire.leave()


@implementer(IAgentEndpointFactory)
@define(eq=False)
class Internet:
    """Every host there is; ``exchanges`` are the connections to them, in their order."""

    clock: Clock = field(factory=Clock)
    exchanges: list[Exchange] = field(factory=list)
    failing: Optional[Exception] = None

    def endpointForURI(self, uri: URI) -> Any:
        return _Endpoint(self, uri)

    def stop(self) -> None:
        """Hang up on everybody."""
        for each in self.open:
            each.close()

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]

    @property
    def open(self) -> list[Exchange]:
        """The connections that are under way."""
        return [each for each in self.exchanges if each.open]


@implementer(IStreamClientEndpoint)
@define(eq=False)
class _Endpoint:
    internet: Internet
    uri: URI

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.internet.failing is not None:
            return fail(self.internet.failing)
        wire = Wire(self.internet.clock)
        wire.protocol = factory.buildProtocol(None)
        self.internet.exchanges.append(Exchange(self.uri.toBytes().decode(), wire))
        wire.protocol.makeConnection(wire)
        return succeed(wire.protocol)


HEADERS_WITHIN = 30.0
"""Seconds that a reply's headers may take unless a setting says so."""


class Kept(Protocol):
    """A body, kept."""

    def __init__(self) -> None:
        self.got = b""

    def dataReceived(self, data: bytes) -> None:
        self.got += data


class UpstreamCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.internet = Internet()
        self.clock = self.internet.clock
        agent = Agent.usingEndpointFactory(self.clock, self.internet)
        url = RegistryUrl.parse("http://registry.test/")
        self.registry = Registry(url, agent, self.clock)
        self.upstream = Upstream(self.registry)
        self.addCleanup(self.internet.stop)

    def begin(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        return begin(self, work)

    def refused(self, work: Deferred[Any]) -> RegistryError:
        """What a client is told."""
        return self.failureResultOf(work, RegistryError).value  # type: ignore[no-any-return]

    def without_reply(self) -> list[tuple[str, Callable[[Exchange], None]]]:
        """How a host that was connected to may leave a request without a reply of use."""
        return [
            ("hung up", Exchange.close),
            ("silent", lambda _: self.clock.advance(HEADERS_WITHIN)),
            ("broken off", lambda each: (each.send(b"HTTP/1.1 200 OK\r\nX-"), each.close())[0]),
            ("no HTTP", lambda each: each.send(b"SSH-2.0-x\r\n\r\n")),
            ("sent nowhere", lambda each: each.answer(307, b"", location="ftp://cdn.test/x")),
        ]

    def manifest(self, reference: Any = TAG, user_agent: str = "ollama/0.34") -> Deferred[Any]:
        return self.begin(self.upstream.manifest(NAME, reference, user_agent))


class ManifestTests(UpstreamCase):
    def test_the_bytes_are_those_that_came(self) -> None:
        found = self.manifest()
        self.internet.last.answer(200, BODY, content_type="text/plain; charset=utf-8")
        manifest = self.successResultOf(found)
        self.assertEqual((manifest.body, manifest.digest), (BODY, Digest.of(BODY)))

    def test_a_copy_that_a_proxy_vouches_for_is_a_manifest(self) -> None:
        found = self.manifest()
        self.internet.last.answer(203, BODY)
        self.assertEqual(self.successResultOf(found).body, BODY)

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

    def test_a_compressed_body(self) -> None:
        """Some compress without being asked to."""
        found = self.manifest()
        self.internet.last.answer(200, gzip.compress(BODY), content_encoding="gzip")
        self.assertEqual(self.successResultOf(found).body, BODY)

    def test_a_compressed_body_that_cannot_be_read(self) -> None:
        whole = gzip.compress(BODY)
        for body in (BODY, whole[:-9] + b"x" * 9, whole[:-1], whole + b"x", whole * 2, b""):
            found = self.manifest()
            with capturedLogs() as events:
                self.internet.last.answer(200, body, content_encoding="gzip")
                self.clock.advance(BODY_WITHIN)
            self.assertIn(self.refused(found).status, (502, 504))
            self.assertEqual([event for event in events if "log_failure" in event], [])

    def test_a_body_that_would_be_huge_is_not_unpacked(self) -> None:
        """By a label once or twice, and beyond the limit by one byte."""
        small = b" " * (MAX_BYTES + 1)
        bomb = gzip.compress(b"\0" * (MAX_BYTES * 8), 9)
        for body, label, said in (
            (gzip.compress(small), "gzip", "more than"),
            (bomb, "x-gzip", "more than"),
            (gzip.compress(bomb, 9), "gzip, gzip", "not asked for"),
            (BODY, "br", "not asked for"),
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
        self.patch(upstream, "MAX_BYTES", 1000)
        for headers in ({"content_length": 5000}, {"transfer_encoding": "chunked"}):
            found = self.manifest()
            exchange = self.internet.last
            exchange.head(200, **headers)
            exchange.send(b"900\r\n" + b"x" * 0x900 + b"\r\n")
            error = self.refused(found)
            self.assertEqual(error.status, 502)
            self.assertIn("sent a bad manifest of library/m:latest: more than 1000", error.message)
            self.assertFalse(exchange.open)

    def test_another_digest_than_was_announced(self) -> None:
        for name in ("ollama_content_digest", "docker_content_digest"):
            for other in (DIGEST.hex, str(DIGEST)):
                found = self.manifest()
                self.internet.last.answer(200, BODY, **{name: other})
                self.assertEqual(self.refused(found).status, 502)

    def test_the_digest_that_was_announced_or_none(self) -> None:
        own = Digest.of(BODY)
        for announced in (own.hex, str(own), "", "sha512:00", "none", '"x"'):
            found = self.manifest()
            self.internet.last.answer(200, BODY, ollama_content_digest=announced)
            self.assertEqual(self.successResultOf(found).digest, own)

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

    def test_refusals_are_told_as_a_client_can_show_them(self) -> None:
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
            (206, BODY, 502, "answered 206"),
            (303, b"", 502, "answered 303"),
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
        self.upstream._circuits._own[NAME].failed(upstream_silent("again"))
        self.clock.advance(0.5)
        self.assert_asked(NAME, False)
        self.assert_asked(OTHER, True)


class QuestionTests(UpstreamCase):
    """How many questions leave at once."""

    def test_one_repository_leaves_turns_for_others(self) -> None:
        for _ in range(MAX_OF_ONE):
            self.manifest()
        self.clock.advance(HEADERS_WITHIN / 2)
        for each in self.internet.exchanges[:MAX_OF_ONE]:
            each.head(200, content_length=10**6)  # and no body for a while
        waits = self.manifest()
        self.assertEqual(len(self.internet.exchanges), MAX_OF_ONE)
        self.clock.advance(BODY_WITHIN - 0.1)
        self.assertNoResult(waits)
        self.begin(self.upstream.manifest(OTHER, TAG, ""))
        self.assertEqual(len(self.internet.exchanges), MAX_OF_ONE + 1)

    def test_a_reply_that_was_read_gives_the_turn_back(self) -> None:
        for _ in range(3 * MAX_OF_ONE):
            found = self.manifest()
            self.internet.last.answer(200, BODY)
            self.successResultOf(found)

    def test_who_waits_for_a_turn_is_answered_within_the_time_of_a_reply(self) -> None:
        self.registry.headers_within = 5.0
        for _ in range(MAX_OF_ONE):
            self.manifest()
            self.internet.last.head(200, content_length=10**6)
        waits = self.manifest()
        self.clock.advance(5.0)
        error = self.refused(waits)
        self.assertEqual(error.status, 503)
        self.assertIn("many questions wait", error.message)
        self.assertFalse(self.upstream.is_down(NAME))


class RedirectTests(UpstreamCase):
    def test_manifests_follow_redirects_to_wherever(self) -> None:
        for location, expected in (
            ("/v2/elsewhere?x=1", "registry.test GET /v2/elsewhere?x=1"),
            ("other", "registry.test GET /v2/library/m/manifests/other"),
            ("//cdn.test/x", "cdn.test GET /x"),
            ("http://cdn.test:81/a%20b", "cdn.test:81 GET /a%20b"),
            ("/a b?c=d e", "registry.test GET /a%20b?c=d%20e"),
            ("/mod\xc3\xa8le/100%", "registry.test GET /mod%C3%A8le/100%"),
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

    def test_of_a_refused_redirect_the_host_alone_is_told(self) -> None:
        for location in ("ftp://her:secret@cdn.test/secret?secret", "http://her:secret@cdn.test/"):
            found = self.manifest()
            self.internet.last.answer(307, b"", location=location)
            message = self.refused(found).message
            self.assertIn("://cdn.test'", message)
            self.assertNotIn("secret", message)

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

    def test_less_than_was_asked_for_is_an_answer_too(self) -> None:
        found = self.fetch()
        self.part(self.internet.last, Span(100, 150))
        self.assertEqual(self.successResultOf(found).span, Span(100, 150))

    def test_a_part_that_says_another_place_is_none(self) -> None:
        for shown, length in (
            ("bytes 99-199/1000", 101),
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

    def test_after_replies_of_no_use_the_whole_is_asked_for_once(self) -> None:
        for _ in range(WITHOUT_RANGE_AFTER - 1):
            found = self.fetch()
            self.assertIn("range", self.internet.last.asked[1])
            self.internet.last.head(206, content_length=70)
            self.failed(found)
        found = self.fetch()
        self.assertNotIn("range", self.internet.last.asked[1])
        self.internet.last.head(200, content_length=1000)
        answer = self.successResultOf(found)
        self.assertEqual((answer.span, answer.asked), (Span(0, 1000), False))

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
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=10)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(("errors", "error", "message")), inner),
            ),
        )
    )
    def test_any_json_gives_one_short_line(self, content: object) -> None:
        text = error_text(json.dumps(content).encode())
        self.assertLessEqual(len(text), 300)
        self.assertNotIn("\n", text)

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

    def test_a_failure_of_failures_is_told_by_its_first(self) -> None:
        outer = ValueError()
        outer.reasons = [Failure(ConnectionRefusedError())]  # type: ignore[attr-defined]
        self.assertEqual(why(outer), "connection refused")
