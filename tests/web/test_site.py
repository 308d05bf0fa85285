"""Requests that are refused before any resource sees them, and the log line of each request."""

from __future__ import annotations

from errno import EIO
from traceback import walk_tb
from typing import Any

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.fills.doubles import Scene
from tests.sending.doubles import NAME, Growing, Talk
from yukari.config.networks import Networks
from yukari.names import Digest
from yukari.sources.base import SourceFailed
from yukari.web.deadlines import IDLE
from yukari.web.site import LARGEST_BODY, RegistrySite

DIGEST = Digest.of(b"")
TOO_LONG = b"X-Long: " + b"x" * 40_000


class EdgeTests(SynchronousTestCase):
    def test_a_header_line_that_is_too_long_is_answered_with_431(self) -> None:
        for before in (b"", b"GET / HTTP/1.1\r\nHost: h\r\n"):
            talk = Talk()
            talk.say(before + TOO_LONG)
            self.assertEqual([reply.status for reply in talk.replies()], [431])
            talk.clock.advance(0)
            self.assertFalse(talk.wire.connected)

    def test_a_long_line_after_a_request_does_not_change_its_reply(self) -> None:
        talk = Talk()
        talk.say(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" + TOO_LONG)
        self.assertEqual([reply.status for reply in talk.replies()], [200, 431])

    def test_a_long_line_does_not_interrupt_a_reply(self) -> None:
        talk = Talk()
        blob = Growing(bytes(1000), here=10, in_file=False)
        talk.ask(talk.shelf.put(blob))
        talk.say(TOO_LONG)
        blob.grow(1000)
        talk.clock.advance(0)
        self.assertEqual([reply.status for reply in talk.replies()], [200, 431])
        self.assertEqual(talk.replies()[0].body, bytes(1000))

    def test_a_flood_of_headers_is_refused(self) -> None:
        talk = Talk()
        talk.say(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 600)
        self.assertEqual([reply.status for reply in talk.replies()], [431])
        talk.clock.advance(0)
        self.assertFalse(talk.wire.connected)

    def test_a_small_body_is_read_and_ignored(self) -> None:
        talk = Talk()
        body = b"x" * LARGEST_BODY
        head = b"GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
        talk.say(head + body + b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual([reply.status for reply in talk.replies()], [200, 200])

    def test_a_large_body_is_refused_before_it_is_sent(self) -> None:
        talk = Talk()
        talk.say(
            b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (LARGEST_BODY + 1)
        )
        self.assertEqual([reply.status for reply in talk.replies()], [413])
        talk.clock.advance(0)
        self.assertFalse(talk.wire.connected)

    def test_a_large_body_is_refused_once(self) -> None:
        chunk = b"1000\r\n" + bytes(0x1000) + b"\r\n"
        for pieces in ([chunk] * 32, [chunk * 32 + b"0\r\n\r\n"]):
            talk = Talk()
            talk.say(b"POST /v2/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            for data in pieces:
                if not talk.wire.disconnecting:
                    talk.say(data)
            self.assertEqual([reply.status for reply in talk.replies()], [413])
            talk.clock.advance(0)
            self.assertFalse(talk.wire.connected)

    def test_forms_are_not_read(self) -> None:
        for kind in (
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "\xff",
        ):
            talk = Talk()
            talk.ask("/v2/", f"Content-Type: {kind}", "Content-Length: 5", method="POST")
            talk.say(b"a=b&c")
            self.assertEqual([reply.status for reply in talk.replies()], [405], kind)

    def test_a_reply_without_a_length_begins_with_its_head(self) -> None:
        """Catches chunks that leave before the head that waits for them."""

        class Stream(Resource):
            def render_GET(self, request: Any) -> int:
                request.write(b"one")
                request.write(b"two")
                request.finish()
                return NOT_DONE_YET

        talk = Talk()
        talk.channel.site.resource.putChild(b"stream", Stream())
        talk.ask("/stream")
        head, _, body = talk.wire.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"), head)
        self.assertEqual(body, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        talk = Talk()
        blobs = [Growing(bytes([at]) * (at + 1), in_file=False) for at in range(30)]
        paths = [talk.shelf.put(blob) for blob in blobs]
        talk.say(b"".join(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for path in paths))
        self.assertEqual([reply.body for reply in talk.replies()], [blob.content for blob in blobs])
        self.assertEqual([blob.closes for blob in blobs], [1] * 30)

    def test_thousands_of_pipelined_requests_do_not_recurse(self) -> None:
        talk = Talk()
        talk.say(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" * 3000)
        self.assertEqual([reply.status for reply in talk.replies()], [200] * 3000)

    def test_a_silent_connection_is_closed(self) -> None:
        for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: h\r\n", b"\r\n"):
            talk = Talk()
            talk.say(said) if said else None
            talk.clock.advance(IDLE)
            talk.clock.advance(0)
            self.assertFalse(talk.wire.connected)

    def test_a_request_that_is_being_answered_is_not_idle(self) -> None:
        talk = Talk()
        blob = Growing(b"abc", here=1, in_file=False)
        talk.ask(talk.shelf.put(blob))
        for _ in range(20):
            talk.clock.advance(IDLE)
        blob.grow(3)
        self.assertEqual(talk.replies()[0].body, b"abc")

    def test_every_reply_has_a_server_header(self) -> None:
        talk = Talk()
        talk.ask("/healthz")
        self.assertRegex(talk.replies()[0].headers["server"], r"^yukari/")


class MethodTests(SynchronousTestCase):
    def test_other_methods_are_405_with_an_allow_header(self) -> None:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW"):
            talk = Talk()
            talk.ask("/v2/library/m/manifests/latest", method=method)
            (reply,) = talk.replies()
            self.assertEqual(reply.status, 405, method)
            self.assertEqual(reply.headers["allow"], "GET, HEAD")

    def test_head_has_the_length_and_no_body(self) -> None:
        for path in ("/", "/v2/", "/healthz", "/fills", "/nothing", "/v2/library/m/tags/list"):
            talk = Talk()
            talk.ask(path, method="HEAD")
            talk.ask(path)
            head, got = talk.replies("HEAD", "GET")
            self.assertEqual(head.status, got.status)
            self.assertEqual(int(head.headers["content-length"]), len(got.body), path)


class ErrorTests(SynchronousTestCase):
    def test_a_shared_error_keeps_no_request_alive(self) -> None:
        talk = Talk()
        scene = Scene(bytes(100_000), clock=talk.clock)
        talk.shelf.blobs[scene.fill.digest] = scene.fill
        path = f"/v2/{NAME}/blobs/{scene.fill.digest}"
        talk.ask(path)
        scene.source.open[0].refuse(SourceFailed("busy", 3000.0, busy=True))
        for _ in range(100):
            talk.ask(path)
        self.assertEqual({reply.status for reply in talk.replies()}, {429})
        error = scene.fill.error
        assert error is not None
        self.assertLess(len(list(walk_tb(error.__traceback__))), 20)


class LogTests(SynchronousTestCase):
    def lines(self, events: Any) -> list[dict[str, Any]]:
        """The requests that were logged."""
        return [event for event in events if event.get("log_namespace") == "yukari.web.site"]

    def test_a_request_is_logged_with_all_its_fields(self) -> None:
        talk = Talk()
        blob = Growing(b"abcdef", here=2, in_file=False)
        path = talk.shelf.put(blob)
        with capturedLogs() as events:
            talk.ask(path, "Range: bytes=1-4", "User-Agent: ollama/0.34.2")
            talk.clock.advance(2.5)
            self.assertEqual(self.lines(events), [])
            blob.grow(6)
        (line,) = self.lines(events)
        expected = {
            "method": "GET",
            "path": path,
            "status": 206,
            "bytes": 4,
            "seconds": 2.5,
            "result": "hit",
            "client": "192.0.2.7",
            "user_agent": "ollama/0.34.2",
            "left": False,
        }
        self.assertEqual({key: line[key] for key in expected}, expected)

    def test_a_client_that_left_is_logged_with_its_bytes(self) -> None:
        talk = Talk()
        blob = Growing(b"abcdef", here=2, in_file=False)
        with capturedLogs() as events:
            talk.ask(talk.shelf.put(blob))
            talk.wire.leave()
        (line,) = self.lines(events)
        self.assertEqual((line["left"], line["status"], line["bytes"]), (True, 200, 2))

    def test_errors_and_empty_replies_are_logged(self) -> None:
        talk = Talk()
        blob = Growing(b"abc", in_file=False)
        with capturedLogs() as events:
            talk.ask("/nowhere")
            talk.ask("/v2/", method="DELETE")
            talk.ask(talk.shelf.put(blob), "If-None-Match: *")
            talk.ask(talk.shelf.put(blob), method="HEAD")
        told = [(line["method"], line["status"], line["result"]) for line in self.lines(events)]
        expected = [("GET", 404), ("DELETE", 405), ("GET", 304), ("HEAD", 200)]
        self.assertEqual(told, [(*each, "-") for each in expected])
        self.assertEqual([line["bytes"] for line in self.lines(events)][2:], [0, 0])

    def test_a_refused_request_is_logged(self) -> None:
        head = b"GET /a?b HTTP/1.1\r\nHost: h\r\n"
        post = b"POST /v2/ HTTP/1.1\r\nHost: h\r\n"
        large = bytes(LARGEST_BODY + 1)
        for data, method, path, status in (
            (TOO_LONG, "-", "-", 431),
            (head + TOO_LONG, "GET", "/a", 431),
            (head + b"A: b\r\n" * 600, "GET", "/a", 431),
            (head + b"no header\r\n\r\n", "GET", "/a", 400),
            (b"nonsense\r\n\r\n", "-", "-", 400),
            (b"\x16\x03\x01", "-", "-", 400),
            (post + b"Content-Length: x\r\n\r\n", "POST", "/v2/", 400),
            (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "POST", "/v2/", 400),
            (post + b"Content-Length: %d\r\n\r\n" % len(large) + large, "POST", "/v2/", 413),
        ):
            for before in (b"", b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"):
                if data.startswith(b"\x16") and before:
                    continue  # Later on it is no handshake.
                talk = Talk()
                with capturedLogs() as events:
                    talk.say(before + data)
                reply, line = talk.replies()[-1], self.lines(events)[-1]
                found = line["method"], line["path"], line["status"], line["client"]
                self.assertEqual(found, (method, path, status, "192.0.2.7"), data[:80])
                self.assertEqual((reply.status, reply.body), (status, b""))
                self.assertEqual(reply.headers["x-request-id"], line["request"])
                self.assertEqual(len(self.lines(events)), 1 + bool(before))
                talk.clock.advance(0)
                self.assertFalse(talk.wire.connected)

    def test_each_request_has_an_id_in_its_reply_and_in_the_log(self) -> None:
        talk = Talk()
        with capturedLogs() as events:
            for path in ("/healthz", "/nothing", "/fills"):
                talk.ask(path, "X-Request-Id: theirs")
        ids = [reply.headers["x-request-id"] for reply in talk.replies()]
        self.assertEqual([line["request"] for line in self.lines(events)], ids)
        self.assertEqual(len({*ids, "theirs"}), 4)

    def test_a_trusted_proxys_valid_request_id_is_used(self) -> None:
        site = {"trusted_proxies": Networks.parse("192.0.2.7")}
        for said, kept in (
            ("2f1c-_ab.9:/+=@", True),
            ("a" * 128, True),
            ("a" * 129, False),
            ("", False),
            ("a b", False),
            ('{"x":1}', False),
            ("\xff", False),
            ("\x1b[2J", False),
        ):
            talk = Talk(site=site)
            talk.ask("/healthz", f"X-Request-Id: {said}")
            (reply,) = talk.replies()
            self.assertEqual(reply.headers["x-request-id"] == said, kept, said)

    def test_an_internal_error_has_its_requests_id(self) -> None:
        talk = Talk()
        talk.shelf.blobs[DIGEST] = None  # type: ignore[assignment]
        with capturedLogs() as events:
            talk.ask(f"/v2/{NAME}/blobs/{DIGEST}")
        self.assertEqual(talk.replies()[0].status, 500)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        (told,) = (event for event in events if "log_failure" in event)
        self.assertEqual(told["request"], talk.replies()[0].headers["x-request-id"])

    def test_a_store_that_cannot_be_read_is_no_internal_error(self) -> None:
        talk = Talk()
        talk.shelf.gate = fail(OSError(EIO, "Input/output error", "/srv/models/manifests"))
        with capturedLogs() as events:
            talk.ask(f"/v2/{NAME}/manifests/latest")
        (reply,) = talk.replies()
        self.assertEqual(reply.status, 503)
        self.assertIn(b"cannot read its store: Input/output error", reply.body)
        self.assertNotIn(b"/srv", reply.body)
        self.assertEqual([event["log_level"].name for event in events], ["error", "info"])
        self.assertIn("cannot read its store", self.lines(events)[0]["told"])

    def test_a_long_user_agent_is_cut(self) -> None:
        talk = Talk()
        with capturedLogs() as events:
            talk.ask("/healthz", "User-Agent: " + "\xff" * 5000)
        self.assertEqual(self.lines(events)[0]["user_agent"], "\xff" * 200)

    def test_a_site_may_log_no_requests(self) -> None:
        site = RegistrySite(Resource(), Clock(), log_requests=False)
        talk = Talk()
        talk.channel.site = talk.channel.factory = site
        with capturedLogs() as events:
            talk.ask("/healthz")
        self.assertEqual(self.lines(events), [])
