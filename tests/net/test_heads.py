"""How much a reply may say before its body."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI, Agent, ResponseFailed
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from yukari.net.bodies import Collector
from yukari.net.heads import (
    HEAD_READ,
    HEARD_WITHIN,
    MAX_BYTES,
    MAX_INTERIM,
    MAX_LINES,
    BoundedPool,
    take_whole_reads,
)
from yukari.net.http import why

BODY = b"\r\n\r\nHTTP/1.1 103 X\r\n\r\n" * 3
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


@implementer(IStreamClientEndpoint, IAgentEndpointFactory)
class Host:
    """Accepts connections; ``wire`` is the last one."""

    def __init__(self) -> None:
        self.wires: list[StringTransport] = []
        self.protocols: list[Any] = []

    def endpointForURI(self, uri: URI) -> Any:
        return self

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        wire = StringTransport()
        self.wires.append(wire)
        self.protocol: Any = factory.buildProtocol(wire.getPeer())
        self.protocols.append(self.protocol)
        self.protocol.makeConnection(wire)
        return succeed(self.protocol)


@implementer(IBodyProducer)
class Unsent:
    """A request's body, all of which has been sent when ``sent`` fires."""

    length = 0

    def __init__(self) -> None:
        self.sent: Deferred[None] = Deferred()

    def startProducing(self, consumer: object) -> Deferred[None]:
        return self.sent

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


class Records:
    """Passes on what it is given in pieces of ten bytes, as TLS does in records."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def dataReceived(self, data: bytes) -> None:
        for at in range(0, len(data), 10):
            self.client.dataReceived(data[at : at + 10])

    def connectionLost(self, reason: Failure) -> None:
        self.client.connectionLost(reason)


class Pieces(Collector):
    """Counts the pieces in which a body arrives."""

    count = 0

    def dataReceived(self, data: bytes) -> None:
        self.count += 1
        super().dataReceived(data)


class HeadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.host = Host()
        clock = MemoryReactorClock()
        self.pool = BoundedPool(clock)
        self.agent = Agent.usingEndpointFactory(clock, self.host, self.pool)

    def ask(self) -> Deferred[Any]:
        return self.agent.request(b"GET", b"http://registry.test/")

    def send(self, data: bytes, *, piece: int = 256 * 1024) -> int:
        """Send until the client hangs up; how many bytes that took."""
        for at in range(0, len(data), piece):
            if self.host.wires[-1].disconnected or self.host.wires[-1].disconnecting:
                return at
            self.host.protocol.dataReceived(data[at : at + piece])
        return len(data)

    def assert_refused(self, asked: Deferred[Any], said: str) -> None:
        failure: Failure = self.failureResultOf(asked)
        self.assertEqual(why(failure.value), said)
        self.assertIs(failure.type, ResponseFailed)  # No other kind: that would be sent again.
        self.assertTrue(self.host.wires[-1].disconnected)

    def test_headers_without_end_are_not_read_on(self) -> None:
        for header in (b"X: %s\r\n" % (b"x" * 1000), b"a:\r\n", b" continued\r\n"):
            for piece in (7, 256 * 1024):
                asked = self.ask()
                flood = b"HTTP/1.1 200 OK\r\nA: b\r\n" + header * 200_000
                sent = self.send(flood, piece=piece)
                self.assertLessEqual(sent, MAX_BYTES + 256 * 1024)
                self.assert_refused(asked, "a reply with too many headers")

    def test_interim_replies_without_end_are_not_read_on(self) -> None:
        for piece in (1, 256 * 1024):
            asked = self.ask()
            sent = self.send(HINT * 10_000, piece=piece)
            self.assertLessEqual(sent, max(piece, (MAX_INTERIM + 2) * len(HINT)))
            self.assert_refused(asked, "too many interim replies")

    def test_long_interim_replies_count_as_headers(self) -> None:
        asked = self.ask()
        self.send((b"HTTP/1.1 103 X\r\n" + b"A: b\r\n" * (MAX_LINES // 3) + b"\r\n") * 4)
        self.assert_refused(asked, "a reply with too many headers")

    @given(st.lists(st.integers(1, 400), max_size=8), st.integers(0, MAX_INTERIM))
    def test_a_reply_in_any_pieces_is_as_it_was_sent(self, cuts: list[int], hints: int) -> None:
        """A body that looks like heads is none, and its bytes count for nothing."""
        asked, reply = self.ask(), HINT * hints + HEAD + BODY
        edges = [0, *sorted(min(cut, len(reply)) for cut in cuts), len(reply)]
        pieces = [reply[start:end] for start, end in zip(edges, edges[1:]) if start != end]
        collector = Collector(len(BODY))
        asked.addCallback(lambda response: response.deliverBody(collector))
        for piece in pieces:
            self.host.protocol.dataReceived(piece)
        self.successResultOf(asked)
        self.assertEqual(self.successResultOf(collector.done), BODY)

    def test_what_one_read_brings_over_tls_is_one_piece(self) -> None:
        """Blobs came in pieces of a record, which took more CPU than to decrypt and hash them."""
        asked = self.ask()
        below: Any = StringTransport()
        below.bufferSize = 2**18
        below.protocol = Records(self.host.protocol)
        take_whole_reads(self.host.protocol, below)
        collector = Pieces(len(BODY))
        asked.addCallback(lambda response: response.deliverBody(collector))
        for read in (HEAD + BODY[:20], BODY[20:-1]):
            below.protocol.dataReceived(read)
        self.assertEqual(collector.count, 2)
        below.protocol.dataReceived(BODY[-1:])
        self.assertEqual(self.successResultOf(collector.done), BODY)

    def test_little_of_a_body_arrives_before_it_is_wanted(self) -> None:
        """Each of forty large manifests that waited had a megabyte, with its head."""
        for _ in range(2):
            asked = self.ask()
            wire: Any = self.host.protocol.transport
            if not hasattr(wire, "bufferSize"):
                wire.bufferSize = 2**20
                take_whole_reads(self.host.protocol, wire)
                self.send(HEAD + BODY)  # The first request was sent before.
            else:
                self.assertEqual(wire.bufferSize, HEAD_READ)
                self.send(HEAD[:-2])
                self.assertEqual(wire.bufferSize, HEAD_READ)
                self.send(HEAD[-2:] + BODY)
            self.assertEqual(wire.bufferSize, 2**20)
            collector = Collector(len(BODY))
            self.successResultOf(asked).deliverBody(collector)
            self.assertEqual(self.successResultOf(collector.done), BODY)

    def test_each_reply_of_a_connection_has_the_whole_bound(self) -> None:
        for _ in range(5):
            asked = self.ask()
            self.send(HINT * MAX_INTERIM + b"HTTP/1.1 204 X\r\n" + b"A: b\r\n" * 900 + b"\r\n")
            self.assertEqual(self.successResultOf(asked).code, 204)
        self.assertEqual(len(self.host.wires), 1)

    def test_one_line_may_be_as_long_as_all_may_be(self) -> None:
        """A policy or a cookie of 20 KB closed the connection without a word."""
        for length in (16_384, 20_000, 200_000):
            asked = self.ask()
            self.send(b"HTTP/1.1 204 X\r\nX: %b\r\n\r\n" % (b"x" * length), piece=1000)
            self.assertEqual(self.successResultOf(asked).code, 204)

    def test_odd_header_counts_as_none_and_so_does_what_is_behind_a_size(self) -> None:
        """As Go reads them: such a reply is no reason to refuse a model."""
        asked = self.ask()
        self.send(
            b"HTTP/1.1  200 X\r\nX A: 1\r\nB: 2\r\nTransfer-Encoding: chunked\r\n\r\n", piece=9
        )
        response = self.successResultOf(asked)
        self.assertEqual(response.headers.getRawHeaders(b"b"), [b"2"])
        collector = Collector(10)
        response.deliverBody(collector)
        self.send(b'0003  \r\nabc\r\n2\t;a="b;c"\r\nde\r\n0;\\ \r\n\r\n', piece=3)
        self.assertEqual(self.successResultOf(collector.done), b"abcde")

    def test_lines_may_end_in_a_newline_alone(self) -> None:
        asked = self.ask()
        self.send(b"HTTP/1.1 103 X\n\nHTTP/1.1 200 X\nContent-Length: 0\n\n")
        self.assertEqual(self.successResultOf(asked).code, 200)

    def test_unused_connections_to_many_hosts_are_bounded_in_all(self) -> None:
        """A registry that redirects each blob to another host took all descriptors."""
        for at in range(self.pool.max_idle + 10):
            asked = self.agent.request(b"GET", b"http://host%d.test/" % at)
            self.send(b"HTTP/1.1 204 X\r\n\r\n")
            self.assertEqual(self.successResultOf(asked).code, 204)
        closed = [wire.disconnecting for wire in self.host.wires]
        self.assertEqual(closed, [True] * 10 + [False] * self.pool.max_idle)

    def test_unused_connection_is_closed_for_a_new_one_that_is_not_heard(self) -> None:
        """A host that serves one connection at a time answered nothing for half a minute."""
        for heard in (True, False):
            host, clock = Host(), MemoryReactorClock()
            agent = Agent.usingEndpointFactory(clock, host, BoundedPool(clock))
            asked = [agent.request(b"GET", b"http://registry.test/") for _ in range(2)]
            first, second = host.wires
            for protocol in host.protocols[: 1 + heard]:
                protocol.dataReceived(
                    b"HTTP/1.1 204 X\r\n" + b"\r\n" * (protocol is not host.protocol)
                )
            clock.advance(HEARD_WITHIN)
            self.assertEqual((first.disconnecting, second.disconnecting), (not heard, False))
            host.protocol.dataReceived(b"\r\n" if heard else b"HTTP/1.1 204 X\r\n\r\n")
            for each in asked:
                self.assertEqual(self.successResultOf(each).code, 204)
            clock.advance(HEARD_WITHIN)
            self.assertEqual(second.disconnecting, False)

    def test_connection_ends_if_the_reply_comes_before_the_request_has_been_sent(self) -> None:
        """A host that answered and read no more kept the connection, and the file, for ever."""
        for status in (b"200 OK", b"403 Forbidden"):
            body = Unsent()
            asked = self.agent.request(b"PUT", b"http://s3.test/", bodyProducer=body)
            self.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n")
            self.assertFalse(self.host.wires[-1].disconnected)
            self.send(b"ok")
            self.successResultOf(asked)
            self.assertTrue(self.host.wires[-1].disconnected)
        body = Unsent()
        asked = self.agent.request(b"PUT", b"http://s3.test/", bodyProducer=body)
        body.sent.callback(None)
        self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.successResultOf(asked)
        self.assertFalse(self.host.wires[-1].disconnected)

    def test_connection_that_comes_to_be_unused_is_closed_while_a_new_one_is_not_heard(
        self,
    ) -> None:
        """Each time the new one was waited for a while longer."""
        for is_used_again in (False, True):
            host, clock = Host(), MemoryReactorClock()
            agent = Agent.usingEndpointFactory(clock, host, BoundedPool(clock))
            asked = [agent.request(b"GET", b"http://registry.test/") for _ in range(2)]
            clock.advance(HEARD_WITHIN)
            host.protocols[0].dataReceived(b"HTTP/1.1 204 X\r\n\r\n")
            self.assertEqual(self.successResultOf(asked[0]).code, 204)
            if is_used_again:
                asked.append(agent.request(b"GET", b"http://registry.test/"))
            clock.advance(0)
            self.assertEqual(host.wires[0].disconnecting, not is_used_again)
            self.assertEqual(len(host.wires), 2)

    # chunks

    def chunked(self, body: bytes, size: int) -> bytes:
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    def test_body_in_tiny_chunks_is_not_read_on(self) -> None:
        """A chunk of a byte costs as much time as one of 64 KB, and 40 bytes of memory."""
        for size in (1, 5, 10):
            asked = self.ask()
            collector = Collector(10_000_000)
            asked.addCallback(lambda response: response.deliverBody(collector))  # noqa: B023
            sent = self.send(self.chunked(bytes(1_000_000), size), piece=65536)
            self.assertLessEqual(sent, 65536)
            failure: Failure = self.failureResultOf(collector.done)
            self.assertEqual(why(failure.value), "a body in tiny chunks")
            self.assertTrue(self.host.wires[-1].disconnected)

    def test_body_with_more_beside_its_chunks_than_in_them_is_not_read_on(self) -> None:
        """A kilobyte behind the size of each chunk of a byte took a core for half a minute."""
        for size, beside, is_refused in ((1, 900, True), (64, 900, True), (65536, 900, False)):
            asked = self.ask()
            collector = Collector(10_000_000)
            asked.addCallback(lambda response: response.deliverBody(collector))  # noqa: B023
            chunk = b"%x;%b\r\n%b\r\n" % (size, b"x" * beside, bytes(size))
            self.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 100)
            if is_refused:
                failure: Failure = self.failureResultOf(collector.done)
                self.assertEqual(why(failure.value), "a body with too much beside its chunks")
                self.assertTrue(self.host.wires[-1].disconnecting)
            else:
                self.send(b"0\r\n\r\n")
                self.assertEqual(len(self.successResultOf(collector.done)), 100 * size)

    def test_body_of_short_lines_or_in_small_chunks_is_read(self) -> None:
        document = b"\r\n".join([b'  "size": 1,', b"  },", b"  {"] * 100)
        lines = b"\r\n".join([b'      "digest": "sha256:0123456789"'] * 100_000)
        for body, size in ((document, 10), (lines, 8192), (bytes(1_000_000), 64), (b"x" * 400, 1)):
            asked = self.ask()
            collector = Collector(len(body))
            asked.addCallback(lambda response: response.deliverBody(collector))  # noqa: B023
            self.send(self.chunked(body, size), piece=65536)
            self.assertEqual(self.successResultOf(collector.done), body)
