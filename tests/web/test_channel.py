"""A client's connection: what it may hold, how long it may take, and how it may ask."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from tests.ending import begin
from tests.running import until
from tests.sending.doubles import NAME, Growing, Shelf, Talk
from tests.sending.test_send import MIB, SocketCase, noise
from yukari.config.networks import Networks
from yukari.errors import manifest_unknown
from yukari.large import LargeManifests
from yukari.manifest import Manifest
from yukari.names import DEFAULT, Repository, Tag
from yukari.sending import transports
from yukari.sending.stall import STALL
from yukari.sending.transports import bound_held
from yukari.storage.disk.bodies import KeptFiles
from yukari.tasks import Waiters
from yukari.web import site
from yukari.web.ahead import (
    BLOBS_IN_A_TURN,
    HITS_IN_A_TURN,
    LEAVE_IN_A_TURN,
    NAMES_IN_A_TURN,
    PAGES_IN_A_TURN,
    Crowds,
    InTurn,
)
from yukari.web.channel import CLOSED_WITHIN, READ_AHEAD
from yukari.web.client_limit import ClientLimit
from yukari.web.deadlines import BODY_WITHIN, HEADER_WITHIN, IDLE, QUIET, UPLOAD_SILENT
from yukari.web.drain import FIRST_WITHIN, Drain
from yukari.web.half_close import CONTINUE, FIRST_AFTER, HALF_CLOSES_WITHIN
from yukari.web.json_api import JsonApi, JsonLines
from yukari.web.replies import PIECE
from yukari.web.request_head import find_path
from yukari.web.upload import MAX_WAITING, Upload

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"


class TargetTests(SynchronousTestCase):
    """Request targets and hosts."""

    def status(self, *lines: bytes) -> int:
        talk = Talk()
        talk.say(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        (reply,) = talk.replies()
        return reply.status

    def test_a_request_has_one_host(self) -> None:
        get = b"GET /healthz HTTP/1.1"
        for hosts, status in (
            ((), 400),
            ((b"Host: a", b"Host: a"), 400),
            ((b"Host: a", b"Host: b"), 400),
            ((b"Host: a b",), 400),
            ((b"Host: a/b",), 400),
            ((b"Host: a,b@c",), 400),
            ((b"Host: a:b",), 400),
            ((b"Host: \xff",), 400),
            ((b"Host: [::1]:9200",), 200),
            ((b"Host: my_cache.example:",), 200),
            ((b"Host:",), 200),
        ):
            self.assertEqual(self.status(get, *hosts), status, hosts)
        self.assertEqual(self.status(b"GET /healthz HTTP/1.0"), 200)
        self.assertEqual(self.status(b"GET /healthz HTTP/1.0", b"Host: a", b"Host: b"), 400)

    def test_a_connection_is_closed_however_that_is_asked_for(self) -> None:
        """In a second header, or behind a comma: the client waited for the end in vain."""
        for lines, closes in (
            ((), False),
            ((b"Connection: keep-alive",), False),
            ((b"Connection: closed",), False),
            ((b"Connection: CLOSE",), True),
            ((b"Connection: keep-alive, close",), True),
            ((b"Connection: close,TE",), True),
            ((b"Connection: TE,Close",), True),
            ((b"Connection: keep-alive", b"Connection: close"), True),
        ):
            talk = Talk()
            talk.say(b"\r\n".join([b"GET /healthz HTTP/1.1", b"Host: h", *lines, b"", b""]))
            self.assertEqual(talk.replies()[0].status, 200, lines)
            self.assertEqual(talk.wire.disconnecting, closes, lines)

    def test_an_absolute_target_has_its_own_path_and_host(self) -> None:
        """RFC 9112 has every server accept it; what Host says is ignored then."""
        for target, path, host in (
            (b"http://cache.example/healthz", b"/healthz", b"cache.example"),
            (b"HTTPS://cache.example:9200/healthz?a", b"/healthz", b"cache.example:9200"),
            (b"http://me:secret@[::1]:80/healthz", b"/healthz", b"[::1]:80"),
            (b"http://cache.example", b"/", b"cache.example"),
            (b"http://cache.example?x", b"/", b"cache.example"),
        ):
            talk = Talk()
            seen: list[Any] = []
            process = talk.channel.requestFactory.process
            self.patch(
                talk.channel.requestFactory,
                "process",
                lambda request, seen=seen, process=process: (
                    seen.append(request),
                    process(request),
                ),
            )
            talk.say(b"GET %b HTTP/1.1\r\nHost: other\r\n\r\n" % target)
            self.assertEqual(talk.replies()[0].status, 200)
            (request,) = seen
            self.assertEqual((request.path, request.getHeader(b"host")), (path, host))

    def test_an_absolute_target_without_a_host_is_refused(self) -> None:
        for target in (b"http:///healthz", b"http://a b/", b"http://[::1/", b"http://a:b/"):
            self.assertIn(self.status(b"GET %b HTTP/1.1" % target, b"Host: h"), (400, 404), target)

    def test_lines_may_end_without_cr_and_empty_ones_stand_before_a_request(self) -> None:
        """Scripts send both, and Go's server and nginx answer."""
        for ends in (b"\r\n", b"\n"):
            lines = b"GET /healthz HTTP/1.1", b"Host: h", b"X-A: 1", b"", b""
            get = ends.join(lines)
            for before in (b"", b"\r\n", b"\n\n", b"\r\n\n\r\n" * 5):
                for pieces in ((before + get,), (before, get), (before + get[:30], get[30:])):
                    talk = Talk()
                    for piece in pieces * 2:
                        talk.say(piece)
                    self.assertEqual([reply.status for reply in talk.replies()], [200, 200], pieces)
        self.assertEqual(self.status(b"GET /healthz HTTP/1.1\r", b"Host: h"), 400)

    def test_slashes_in_a_row_count_as_one(self) -> None:
        for target, path in (
            (b"//v2//", b"/v2/"),
            (b"/v2///x?a=//b", b"/v2/x?a=//b"),
            (b"http://h//v2/", b"/v2/"),
            (b"/%2f/v2/", b"/%2f/v2/"),
        ):
            headers = Headers({"host": ["h"]})
            self.assertEqual(find_path(target, b"HTTP/1.1", headers), path)

    def test_no_reply_can_be_run_by_a_browser(self) -> None:
        for said in (HEALTH, b"GET /nothing HTTP/1.0\r\n\r\n", b"nonsense\r\n\r\n"):
            talk = Talk()
            talk.say(said)
            (reply,) = talk.replies()
            self.assertEqual(reply.headers["x-content-type-options"], "nosniff")
            self.assertEqual(
                reply.headers["content-security-policy"], "sandbox; default-src 'none'"
            )


class DeadlineTests(SynchronousTestCase):
    """A header and a body have a deadline, however steadily they arrive."""

    def drip(self, talk: Talk, drops: bytes, seconds: float) -> None:
        """Send a byte every so often while the connection is open."""
        for drop in drops:
            if talk.wire.disconnecting or not talk.wire.connected:
                return
            talk.say(bytes([drop]))
            talk.clock.advance(seconds)

    def statuses(self, talk: Talk) -> list[int]:
        talk.clock.advance(0)
        self.assertFalse(talk.wire.connected)
        return [reply.status for reply in talk.replies()]

    def test_a_header_a_byte_at_a_time_is_408(self) -> None:
        for before in (b"", HEALTH, HEALTH * 2 + b"\r\n"):
            talk = Talk()
            talk.say(before) if before else None
            self.drip(talk, b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 100, HEADER_WITHIN / 20)
            self.assertEqual(self.statuses(talk), [200] * before.count(b"GET") + [408])
            self.assertLess(talk.clock.seconds(), HEADER_WITHIN * 1.2)

    def test_a_body_a_byte_at_a_time_is_408(self) -> None:
        talk = Talk()
        talk.say(b"GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
        self.drip(talk, b"x" * 100, BODY_WITHIN / 20)
        self.assertEqual(self.statuses(talk), [408])

    def upload(self) -> tuple[Talk, Upload]:
        """A client in the middle of an archive's body, and what is read of it."""
        talk = Talk()
        reactor: Any = SimpleNamespace(callFromThread=lambda call: call())
        upload = Upload(reactor, talk.channel.hold)
        talk.channel.site.uploads = SimpleNamespace(
            takes=lambda method, _: method == b"PUT", begin=lambda _: upload
        )
        talk.say(b"PUT /store/archive HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n")
        return talk, upload

    def test_an_archive_that_stalls_is_408_and_nobody_waits_for_its_rest(self) -> None:
        """It held one of four threads for ever."""
        talk, upload = self.upload()
        for _ in range(3):
            talk.clock.advance(UPLOAD_SILENT - 1)
            talk.say(b"abc")
            self.assertEqual(upload.read(), b"abc")
        talk.clock.advance(UPLOAD_SILENT)
        self.assertEqual(self.statuses(talk), [408])
        self.assertRaises(OSError, upload.read)

    def test_an_archive_that_is_not_read_for_now_may_be_silent(self) -> None:
        talk, upload = self.upload()
        talk.say(bytes(MAX_WAITING + 1))
        talk.clock.advance(9 * UPLOAD_SILENT)
        self.assertTrue(talk.wire.connected)
        self.assertEqual(len(upload.read()), MAX_WAITING + 1)
        talk.clock.advance(UPLOAD_SILENT)
        self.assertEqual(self.statuses(talk), [408])

    def test_a_silent_connection_is_closed_without_a_reply(self) -> None:
        talk = Talk()
        talk.clock.advance(HEADER_WITHIN)
        self.assertEqual(self.statuses(talk), [])

    def test_the_idle_timeout_applies_between_requests(self) -> None:
        talk = Talk()
        for _ in range(3):
            talk.say(HEALTH)
            talk.clock.advance(IDLE - 1)
        self.assertEqual(len(talk.replies()), 3)
        talk.clock.advance(2)
        self.assertEqual(self.statuses(talk), [200] * 3)

    def test_a_reply_may_take_any_time(self) -> None:
        talk = Talk()
        blob = Growing(b"abc", here=1, in_file=False)
        talk.ask(talk.shelf.put(blob))
        for _ in range(10):
            talk.clock.advance(IDLE)
        blob.grow(3)
        self.assertEqual(talk.replies()[0].body, b"abc")

    def test_a_client_that_takes_nothing_is_cut_after_closing(self) -> None:
        """Twisted would wait for the client to read the rest, for ever."""
        talk = Talk()
        talk.wire.loseConnection = lambda: setattr(talk.wire, "disconnecting", True)  # type: ignore[method-assign]
        talk.say(b"nonsense\r\n\r\n")
        talk.clock.advance(CLOSED_WITHIN - 1)
        self.assertFalse(talk.wire.aborted)
        talk.clock.advance(1)
        self.assertTrue(talk.wire.aborted)
        talk.clock.advance(0)
        self.assertEqual(talk.clock.getDelayedCalls(), [])


class PipelineTests(SynchronousTestCase):
    """Bytes sent ahead wait for the reply before them."""

    def test_no_request_is_begun_while_a_reply_waits_to_be_read(self) -> None:
        """Else one client that reads nothing has the daemon hold all that it has asked for."""
        talk = Talk()
        body = b'{"schemaVersion": 2, "layers": [{"digest": "sha256:%s", "size": 1}], "x": "%s"}'
        talk.shelf.manifests[NAME, Tag("latest")] = Manifest.parse(
            body % (b"ab" * 32, b"x" * 70_000)
        )
        talk.wire.full = True
        talk.say(b"GET /v2/library/m/manifests/latest HTTP/1.1\r\nHost: h\r\n\r\n" * 200)
        for taken in range(1, 20):
            self.assertEqual(talk.wire.value().count(b"HTTP/1.1 200"), taken)
            talk.wire.take()
            talk.clock.advance(0)

    def test_a_large_manifest_is_sent_at_the_pace_of_its_reader(self) -> None:
        """A hundred clients that read nothing of eight megabytes held 800 MB."""
        talk = Talk()
        body = b'{"schemaVersion": 2, "layers": [{"digest": "sha256:%s", "size": 1}], "x": "%s"}'
        manifest = Manifest.parse(body % (b"ab" * 32, b"x" * 2_000_000))
        large = LargeManifests(KeptFiles(self.mktemp()).keep)
        talk.shelf.manifests[NAME, Tag("latest")] = large.kept(manifest)
        talk.wire.full = True
        talk.ask("/v2/library/m/manifests/latest")
        self.assertLess(len(talk.wire.value()), 600_000)
        for _ in range(20):
            talk.wire.take()
        (got,) = talk.replies()
        self.assertEqual((got.status, got.body), (200, manifest.body))
        talk.ask("/v2/library/m/manifests/latest", method="HEAD")
        head = talk.replies("GET", "HEAD")[1]
        self.assertEqual(head.headers["content-length"], str(len(got.body)))

    @settings(max_examples=30)  # each is some thousand requests
    @given(st.lists(st.integers(1, 60_000), max_size=5), st.integers(1, 3000))
    def test_bytes_sent_ahead_are_bounded_and_never_lost(
        self, pieces: list[int], count: int
    ) -> None:
        """A client that minds the pause has all its requests answered, in any pieces."""
        talk = Talk()
        talk.shelf.gate = None
        sent = HEALTH * count
        edges = sorted({0, *(piece for piece in pieces if piece < len(sent)), len(sent)})
        for start, end in zip(edges, edges[1:]):
            talk.say(sent[start:end])
        self.assertEqual([reply.status for reply in talk.replies()], [200] * count)
        self.assertEqual(talk.wire.producerState, "producing")

    def test_a_client_that_sends_more_than_is_read_ahead_is_not_read(self) -> None:
        talk = Talk()
        blob = Growing(b"abc", here=1, in_file=False)
        talk.ask(talk.shelf.put(blob))
        talk.say(HEALTH * (READ_AHEAD // len(HEALTH)))
        self.assertEqual(talk.wire.producerState, "producing")
        talk.say(HEALTH)
        self.assertEqual(talk.wire.producerState, "paused")
        blob.grow(3)
        while talk.channel in talk.channel.site.ahead:
            talk.clock.advance(0)
        self.assertEqual(talk.wire.producerState, "producing")
        self.assertEqual(talk.replies()[-1].body, b"OK\n")

    def test_a_body_between_requests_is_not_taken_for_one(self) -> None:
        talk = Talk()
        with_body = b"GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(HEALTH)
        talk.say((with_body + HEALTH) * 10 + HEALTH)
        self.assertEqual(len(talk.replies()), 11)


class TurnTests(SocketCase):
    """Bytes that a client sends ahead, over real sockets."""

    async def test_thousands_of_requests_on_one_connection_disturb_nobody(self) -> None:
        """Each has a turn of the reactor, in which others are answered too."""
        greedy, others = await self.peer(), [await self.peer() for _ in range(20)]
        greedy.transport.write(HEALTH * 3000)
        await until(lambda: greedy.got)
        for other in others:
            before = greedy.got.count(b"OK\n")
            other.ask("/healthz")
            await until(lambda other=other: other.got)
            self.assertLess(greedy.got.count(b"OK\n") - before, 500)
        await until(lambda: greedy.got.count(b"OK\n") == 3000)

    async def test_crowd_that_sends_ahead_is_begun_a_few_in_a_turn(self) -> None:
        """Else each turn of the reactor would answer one request of every such connection."""
        greedy, other = [await self.peer() for _ in range(60)], await self.peer()
        for each in greedy:
            each.transport.write(HEALTH * 300)
        await until(lambda: all(each.got for each in greedy))
        before = sum(each.got.count(b"OK\n") for each in greedy)
        other.ask("/healthz")
        await until(lambda: other.got)
        after = sum(each.got.count(b"OK\n") for each in greedy)
        self.assertLess(after - before, 60 * 10)
        await until(lambda: all(each.got.count(b"OK\n") == 300 for each in greedy))


class CrowdTests(SynchronousTestCase):
    """Thousands that ask for blobs at the same time."""

    def setUp(self) -> None:
        self.clock, self.turns = Clock(), Clock()
        self.talks = [Talk(clock=self.clock) for _ in range(3 * BLOBS_IN_A_TURN)]
        for talk in self.talks:
            talk.channel.site.crowds = self.talks[0].channel.site.crowds
            talk.channel.callLater = lambda _, work: self.turns.callLater(1, work)
            path = talk.shelf.put(Growing(b"abc", here=3, in_file=False))
            talk.channel.site.crowds.found(path.encode())
            talk.channel.dataReceived(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode())

    def begun(self) -> list[bool]:
        return [bool(talk.channel.requests or talk.wire.value()) for talk in self.talks]

    def expected(self, count: int) -> list[bool]:
        return [at < count for at in range(len(self.talks))]

    def test_some_are_begun_in_each_turn_in_the_order_in_which_they_came(self) -> None:
        for turns in (1, 2, 3):
            self.assertEqual(self.begun(), self.expected(turns * BLOBS_IN_A_TURN))
            self.turns.advance(1)
        self.clock.advance(0)
        for talk in self.talks:
            self.assertEqual(talk.replies()[0].body, b"abc")

    def test_anything_else_is_answered_at_once(self) -> None:
        """/healthz took 7 s beside 12,800 parts."""
        other = Talk(clock=self.clock)
        other.channel.site.crowds = self.talks[0].channel.site.crowds
        other.channel.dataReceived(HEALTH)
        self.assertEqual(other.replies()[0].status, 200)
        self.assertEqual(self.begun(), self.expected(BLOBS_IN_A_TURN))

    def test_connection_that_waits_is_not_closed_to_make_room_or_by_a_stop(self) -> None:
        waits = self.talks[-1].channel
        self.clock.advance(QUIET)
        self.assertFalse(waits.is_unused())
        stopping = begin(self, waits.site.drain.close(60.0))
        self.clock.advance(FIRST_WITHIN)
        for _ in range(3):
            self.turns.advance(1)
        self.clock.advance(0)
        self.successResultOf(stopping)
        self.assertEqual(self.talks[-1].replies()[0].body, b"abc")

    def test_client_that_has_left_is_not_served(self) -> None:
        gone = self.talks[BLOBS_IN_A_TURN]
        gone.wire.abortConnection()
        self.clock.advance(0)
        for _ in range(3):
            self.turns.advance(1)
        self.assertEqual(gone.wire.value(), b"")
        self.assertTrue(all(self.begun()[BLOBS_IN_A_TURN + 1 :]))


class QueueTests(SynchronousTestCase):
    """Which requests wait for others of their kind, and in which order."""

    def begun(self, path: str, count: int, first: int = 1000) -> int:
        """
        How many of so many clients' requests for this path begin in one turn, of which all send so
        many bytes ``first`` and the rest after some turns.
        """
        turns, site = Clock(), Talk().channel.site
        talks = [Talk() for _ in range(count)]
        for talk in talks:
            talk.channel.site.crowds = site.crowds
            talk.channel.callLater = turns.callLater
        head = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        for piece in filter(None, (head[:first], head[first:])):
            turns.pump([0] * count)
            for talk in talks:
                talk.channel.dataReceived(piece)
        self.addCleanup(turns.pump, [0] * count)
        return sum(not talk.channel.waits for talk in talks)

    def test_requests_of_each_kind_begin_a_few_in_a_turn(self) -> None:
        """Three thousand clients that asked for what is not stored made a turn of 0.6 s."""
        for path, most in (
            (f"/v2/{NAME}/manifests/nothing", NAMES_IN_A_TURN),
            ("/nothing", NAMES_IN_A_TURN),
            ("/healthz", HITS_IN_A_TURN),
            ("/v2/_catalog?n=5", PAGES_IN_A_TURN),
            ("/metrics", PAGES_IN_A_TURN),
        ):
            self.assertEqual(self.begun(path, 3 * most), most, path)
            for first in (1, 20, 30):
                self.assertEqual(self.begun(path, 3 * most, first), most, (path, first))

    def test_health_and_what_was_found_lately_do_not_wait_for_others(self) -> None:
        crowds = Crowds()
        manifest, blob = (f"/v2/{NAME}/{kind}".encode() for kind in ("manifests/x", "blobs/y"))

        def queue(method: bytes, target: bytes) -> InTurn:
            return crowds.of(b"\r\n%b %b HTTP/1.1\r\nHost: h\r\n\r\n" % (method, target))[0]

        self.assertIs(queue(b"GET", manifest), crowds.names)
        self.assertIs(queue(b"HEAD", blob), crowds.names)
        self.assertIs(queue(b"GET", blob), crowds.others)
        for path in (manifest, blob, b"/metrics"):
            crowds.found(path)
        self.assertIs(queue(b"GET", manifest), crowds.hits)
        self.assertIs(queue(b"GET", manifest + b"?a=b"), crowds.hits)
        self.assertIs(queue(b"HEAD", blob), crowds.hits)
        self.assertIs(queue(b"GET", blob), crowds.blobs)
        self.assertIs(queue(b"GET", b"/metrics"), crowds.pages)
        self.assertIs(queue(b"GET", b"/healthz"), crowds.hits)

    def test_a_blob_that_was_found_does_not_wait_for_those_that_are_absent(self) -> None:
        """Two thousand ranges of a cold blob delayed the hits of stored ones by 0.6 s."""
        talk = Talk()
        crowds = talk.channel.site.crowds
        for result, queue in (("fill", crowds.others), ("hit", crowds.blobs)):
            blob = Growing(result.encode(), in_file=False)
            blob.result = result
            get = b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % talk.shelf.put(blob).encode()
            talk.say(get)
            self.assertIs(crowds.of(get)[0], queue)
        self.assertEqual([reply.status for reply in talk.replies()], [200, 200])

    def test_what_clients_that_left_waited_for_is_given_up_a_few_in_a_turn(self) -> None:
        """Three thousand that left while they waited for upstream held up the others for 0.4 s."""
        turns, site, given_up = Clock(), Talk().channel.site, list[int]()

        async def manifest(*_: object, **__: object) -> None:
            try:
                await Deferred[None]()
            finally:
                given_up.append(1)

        self.patch(Shelf, "manifest", manifest)
        talks = [Talk() for _ in range(2 * LEAVE_IN_A_TURN + 1)]
        for talk in talks:
            talk.channel.site.crowds = site.crowds
            talk.channel.callLater = lambda _, work: turns.callLater(1, work)
            talk.say(f"GET /v2/{NAME}/manifests/x HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        turns.pump([1] * len(talks))
        for talk in talks:
            talk.channel.connectionLost(Failure(ConnectionDone()))
        for count in (LEAVE_IN_A_TURN, 2 * LEAVE_IN_A_TURN, len(talks)):
            self.assertEqual(len(given_up), count)
            turns.advance(1)
        self.assertEqual(turns.getDelayedCalls(), [])

    def test_clients_and_their_paths_take_turns(self) -> None:
        """A client with thousands of requests kept every other waiting for all of them."""
        turns, begun = Clock(), list[str]()
        queue = InTurn(2)
        for name in ("a1", "a1", "a1", "a2", "b1", "c1", "c1"):
            channel = Talk().channel
            channel.name, channel.callLater = name[0], turns.callLater
            queue.wait(channel, partial(begun.append, name), name.encode())
        queue.leave(channel)
        queue.leave(channel)
        turns.pump([0] * 3)
        self.assertEqual(begun, ["a1", "b1", "c1", "a2", "a1", "a1"])
        self.assertFalse(queue)
        self.assertEqual(turns.getDelayedCalls(), [])


class ManyModels(Shelf):
    """A library with a list of 160 KB."""

    async def models(self, last: str, most: int, registry: str = DEFAULT) -> list[Repository]:
        return [Repository(DEFAULT, "n" * 80, f"{at:080}") for at in range(1000)]


class LongReplyTests(SynchronousTestCase):
    """A long list, with so many connections that little may wait for each."""

    def setUp(self) -> None:
        self.patch(transports, "HELD", 20_000)
        self.talk = Talk(ManyModels())

    def test_client_that_reads_nothing_is_sent_a_few_pieces(self) -> None:
        """Else the transport of each such client has a copy of its own of all of it."""
        self.talk.wire.full = True
        self.talk.ask("/v2/_catalog")
        self.assertLess(len(self.talk.wire.value()), 2 * PIECE)
        while self.talk.wire.untaken > PIECE:
            self.talk.wire.take()
        self.talk.wire.full = False
        self.talk.ask("/healthz")
        listed, health = self.talk.replies()
        self.assertEqual(len(json.loads(listed.body)["repositories"]), 1000)
        self.assertEqual((listed.status, health.status), (200, 200))

    def test_client_that_takes_nothing_is_dropped(self) -> None:
        self.talk.wire.full = True
        self.talk.ask("/v2/_catalog")
        self.talk.clock.pump([STALL, 0])
        self.assertTrue(self.talk.wire.aborted)
        self.assertFalse(self.talk.wire.connected)
        self.assertEqual(self.talk.clock.getDelayedCalls(), [])

    def test_admin_that_takes_nothing_of_many_lines_is_dropped(self) -> None:
        """Else it has its lines made for ever: a request that is being answered is never idle."""

        async def many(request: Any, _: object) -> None:
            lines = JsonLines(request)
            for number in range(PIECE):
                await lines.line(number)
            lines.end()

        talk = Talk(site={"is_admins": True})
        talk.channel.site.resource.putChild(b"api", JsonApi({(b"GET", b"many"): many}, ""))
        talk.wire.full = True
        talk.ask("/api/many")
        talk.clock.pump([STALL, 0])
        self.assertTrue(talk.wire.aborted)
        self.assertEqual(talk.clock.getDelayedCalls(), [])


class BodyTests(SynchronousTestCase):
    def test_bodies_of_all_requests_together_are_bounded(self) -> None:
        """Each may have 64 KiB, and there may be thousands of connections."""
        self.patch(site, "MAX_HELD", 2500)
        first = Talk()
        talks = [first, *(Talk(first.shelf, first.clock) for _ in range(3))]
        for talk in talks[1:]:
            talk.channel.site = first.channel.site
        head = b"POST /api/show HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n"
        for talk in talks:
            talk.say(head + b"x" * 1000)
        statuses = [[reply.status for reply in talk.replies()] for talk in talks]
        self.assertEqual(statuses, [[], [], [503], [503]])
        first.wire.leave()
        talks[1].say(b"x" * 1000)
        self.assertEqual([reply.status for reply in talks[1].replies()], [405])
        for talk in talks[1:]:
            talk.wire.leave()
        self.assertEqual(first.channel.site.held, 0)

    def test_connections_that_are_many_are_read_in_small_pieces(self) -> None:
        """What a client sends ahead while its reply waits was 64 KiB for each of thousands."""
        for connections, most in ((1, 65536), (2048, 8192), (1_000_000, 4096)):
            transport = Connection.__new__(Connection)
            bound_held(transport, connections)
            self.assertEqual(transport.bufferSize, most)


class LimitTests(SynchronousTestCase):
    """CLIENT_CONNECTIONS."""

    def setUp(self) -> None:
        self.clock = Clock()

    def talks(self, limit: ClientLimit, *peers: Any) -> list[Talk]:
        drain = Drain(self.clock)
        site = {"client_limit": limit, "drain": drain}
        return [Talk(clock=self.clock, peer=peer, site=site) for peer in peers]

    def statuses(self, talks: list[Talk]) -> list[int]:
        for talk in talks:
            if talk.wire.connected:
                talk.say(HEALTH)
        return [talk.replies()[0].status if talk.replies() else 0 for talk in talks]

    def test_each_client_has_its_own_limit(self) -> None:
        mine, theirs = (IPv4Address("TCP", f"192.0.2.{at}", 1) for at in (1, 2))
        with capturedLogs() as events:
            talks = self.talks(ClientLimit(2), mine, mine, mine, theirs, mine)
            self.assertEqual(self.statuses(talks), [200, 200, 429, 200, 429])
        warned = [event for event in events if event["log_level"].name == "warn"]
        self.assertEqual(len(warned), 1)
        self.assertEqual(warned[0]["client"], "192.0.2.1")

    def test_an_idle_connection_makes_room_for_a_new_one(self) -> None:
        mine = IPv4Address("TCP", "192.0.2.1", 1)
        limit = ClientLimit(2)
        first = self.talks(limit, mine, mine)
        self.assertEqual(self.statuses(first), [200, 200])
        self.clock.advance(QUIET)
        (third,) = self.talks(limit, mine)
        self.assertEqual(self.statuses([third]), [200])
        self.clock.advance(0)
        self.assertEqual([talk.wire.connected for talk in first], [False, True])

    def test_closed_connections_do_not_count(self) -> None:
        mine = IPv4Address("TCP", "192.0.2.1", 1)
        limit = ClientLimit(1)
        for _ in range(5):
            (talk,) = self.talks(limit, mine)
            self.assertEqual(self.statuses([talk]), [200])
            talk.wire.leave()
        self.assertEqual(limit._channels, {})

    def test_trusted_proxies_and_sockets_have_no_bound(self) -> None:
        for peer in (IPv4Address("TCP", "10.0.0.1", 1), UNIXAddress(None)):
            talks = self.talks(ClientLimit(1, Networks.parse("10.0.0.0/8")), *[peer] * 5)
            self.assertEqual(self.statuses(talks), [200] * 5)

    def test_client_behind_a_proxy_has_a_limit_of_its_own(self) -> None:
        """Its proxy has no limit, so nothing bounded how many of its readers wait at once."""
        proxies = Networks.parse("10.0.0.0/8")
        limit, shelf = ClientLimit(2, proxies), Shelf(gate=Deferred())
        site = {"client_limit": limit, "trusted_proxies": proxies}
        clients = ["192.0.2.1"] * 3 + ["192.0.2.2", "10.0.0.9", "10.0.0.9", "10.0.0.9"]
        peer = IPv4Address("TCP", "10.0.0.1", 1)
        talks = [Talk(shelf, self.clock, peer=peer, site=site) for _ in clients]
        for talk, client in zip(talks, clients):
            talk.ask("/v2/library/m/manifests/latest", f"X-Forwarded-For: {client}")
        told = [[reply.status for reply in talk.replies()] for talk in talks]
        self.assertEqual(told, [[], [], [429], [], [], [], []])
        talks[0].wire.leave()
        talks[2].ask("/healthz", "X-Forwarded-For: 192.0.2.1")
        self.assertEqual([reply.status for reply in talks[2].replies()], [429, 200])
        assert shelf.gate is not None
        shelf.gate.callback(None)
        self.assertEqual([reply.status for reply in talks[1].replies()], [404])
        self.assertFalse(limit._requests)

    def test_a_silent_connection_above_the_limit_is_closed_soon(self) -> None:
        mine = IPv4Address("TCP", "192.0.2.1", 1)
        talks = self.talks(ClientLimit(1), mine, mine)
        self.clock.advance(QUIET)
        self.clock.advance(0)
        self.assertEqual([talk.wire.connected for talk in talks], [True, False])


class RoomTests(SynchronousTestCase):
    """Which connections go first when there is no room for more."""

    def test_the_longest_quiet_connections_are_closed_first(self) -> None:
        clock = Clock()
        drain = Drain(clock)
        talks = [Talk(clock=clock, site={"drain": drain}) for _ in range(4)]
        blob = Growing(b"abc", here=1, in_file=False)
        talks[0].ask(talks[0].shelf.put(blob))
        for talk in (talks[2], talks[1], talks[3]):
            clock.advance(QUIET * 2)
            talk.say(HEALTH)
        drain.close_unused(1)
        clock.advance(0)
        self.assertEqual([talk.wire.connected for talk in talks], [True, True, False, True])
        drain.close_unused(5)
        clock.advance(0)
        self.assertEqual([talk.wire.connected for talk in talks], [True, False, False, False])

    def test_an_incomplete_header_does_not_keep_a_connection(self) -> None:
        talk = Talk()
        talk.say(b"GET / HT")
        talk.channel.site.drain.close_unused(1)
        self.assertFalse(talk.wire.disconnecting)
        talk.clock.advance(QUIET)
        talk.channel.site.drain.close_unused(1)
        self.assertTrue(talk.wire.disconnecting)


class HalfCloseTests(SocketCase):
    """A client that half-closes after its request."""

    async def said(self, *requests: bytes, seconds: float = 0.0) -> bytes:
        """Return everything that a client gets that half-closes so long after its request."""
        peer = await self.peer()
        peer.transport.write(b"".join(requests))
        if seconds:
            await until(lambda: self.channels[-1].requests)
            self.clock.advance(seconds)
        peer.transport.loseWriteConnection()
        await until(lambda: peer.gone)
        return bytes(peer.got)

    async def test_a_half_closing_client_gets_its_reply(self) -> None:
        got = await self.said(HEALTH)
        self.assertTrue(got.endswith(b"OK\n"), got)

    async def test_a_half_closing_client_gets_all_its_replies(self) -> None:
        got = await self.said(HEALTH * 50)
        self.assertEqual(got.count(b"OK\n"), 50)

    async def test_a_half_closing_client_gets_a_large_blob_whole(self) -> None:
        blob = Growing(noise(8 * MIB))
        path = self.shelf.put(blob)
        got = await self.said(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        self.assertTrue(got.endswith(blob.content))

    async def test_half_a_request_gets_no_reply(self) -> None:
        self.assertEqual(await self.said(b"GET /healthz HT"), b"")

    async def test_a_client_that_half_closes_late_has_left(self) -> None:
        """A client that has given up is not waited for: its place goes to another reader."""
        blob = Growing(noise(1000), here=10)
        path = self.shelf.put(blob)
        request = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        await self.said(request, seconds=HALF_CLOSES_WITHIN + 1)
        await until(lambda: blob.closes)
        self.assertEqual(blob.waiters, 0)

    async def test_a_client_that_leaves_soon_after_its_question_is_not_waited_for(self) -> None:
        """Its question went upstream all the same, and its descriptor was gone for minutes."""
        asked = Waiters()

        async def manifest(*_: object, **__: object) -> None:
            await asked.wait()

        self.patch(Shelf, "manifest", manifest)
        request = f"GET /v2/{NAME}/manifests/latest HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        leaves, waits = [await self.peer() for _ in range(2)]
        for peer in (leaves, waits):
            peer.transport.write(request)
        await until(lambda: len(asked._waiting) == 2)
        leaves.transport.loseConnection()
        waits.transport.loseWriteConnection()
        await until(lambda: all(channel._half_closed for channel in self.channels))
        for got in (1, 2):
            self.clock.advance(FIRST_AFTER)
            await until(lambda: waits.got.count(CONTINUE) == got)  # noqa: B023
        await until(lambda: len(asked._waiting) == 1)
        asked.fire(Failure(manifest_unknown(NAME, "latest")))
        await until(lambda: waits.gone)
        self.assertIn(b"\r\n\r\nHTTP/1.1 404 Not Found\r\n", waits.got)

    async def test_a_half_close_between_requests_closes_the_connection(self) -> None:
        peer = await self.peer()
        peer.transport.write(HEALTH)
        await until(lambda: peer.got.endswith(b"OK\n"))
        peer.transport.loseWriteConnection()
        await until(lambda: peer.gone)
