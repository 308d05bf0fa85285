"""A tunnel through a proxy: what is sent, and how each answer is handled."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import connectionDone
from twisted.trial.unittest import SynchronousTestCase

from tests.net.doubles import Asked
from yukari.config.proxies import Proxy
from yukari.net.tunnel import ANSWER_WITHIN, LONGEST_HEAD, ProxyFailed

HEAD = b"HTTP/1.1 200 Connection established\r\nProxy-agent: some/1\r\n\r\n"


class TunnelTests(SynchronousTestCase):
    def failure(self, asked: Asked) -> str:
        self.assertEqual(asked.clock.getDelayedCalls(), [])
        self.assertTrue(asked.aborted)
        return str(self.failureResultOf(asked.opened, ProxyFailed).value)

    def test_connect_names_the_target_and_the_credentials(self) -> None:
        asked = Asked(Proxy.parse("http://me:secret@proxy.example:3128"))
        lines = asked.reached.transport.value().split(b"\r\n")
        self.assertEqual(lines[0], b"CONNECT registry.example:443 HTTP/1.1")
        self.assertIn(b"Host: registry.example:443", lines)
        self.assertIn(b"Proxy-Authorization: Basic bWU6c2VjcmV0", lines)
        self.assertEqual(lines[-2:], [b"", b""])

    @given(st.lists(st.integers(1, len(HEAD)), max_size=6))
    def test_an_answer_in_any_pieces_opens_the_tunnel(self, cuts: list[int]) -> None:
        asked = Asked()
        edges = [0, *sorted(cuts), len(HEAD)]
        for start, end in zip(edges, edges[1:]):
            asked.reached.protocol.dataReceived(HEAD[start:end])
        inner: Any = self.successResultOf(asked.opened)
        asked.reached.protocol.dataReceived(b"and more")
        self.assertEqual(inner.data, b"and more")
        self.assertIs(inner.transport, asked.reached.transport)
        self.assertEqual(asked.clock.getDelayedCalls(), [])
        asked.reached.protocol.connectionLost(connectionDone)
        self.assertTrue(inner.closed)

    def test_a_page_that_comes_with_the_answer_is_no_byte_of_the_tunnels(self) -> None:
        """Go's client ignores it; the TLS in the tunnel broke on it."""
        asked = Asked()
        asked.reached.protocol.dataReceived(HEAD + b"<html>connected</html>")
        inner: Any = self.successResultOf(asked.opened)
        asked.reached.protocol.dataReceived(b"\x16")
        self.assertEqual(inner.data, b"\x16")

    @given(st.binary(max_size=200))
    def test_other_answers_do_not_open_the_tunnel(self, answer: bytes) -> None:
        asked = Asked()
        asked.reached.protocol.dataReceived(answer)
        asked.reached.protocol.connectionLost(connectionDone)
        said = str(self.failureResultOf(asked.opened, ProxyFailed).value)
        self.assertTrue(said.startswith("the proxy proxy.example:3128 "), said)
        self.assertTrue(said.isascii() and said.isprintable(), said)

    def test_a_refusal_has_the_proxys_status_and_phrase(self) -> None:
        for head, words in (
            (b"HTTP/1.1 407 Proxy Authentication Required", "407 Proxy Authentication Required"),
            (b"HTTP/1.0 403", "403"),
            (b"HTTP/1.1 302 Found", "302 Found"),
            (b"HTTP/1.1 100 Continue", "100 Continue"),
        ):
            asked = Asked()
            asked.reached.protocol.dataReceived(head + b"\r\n\r\n")
            self.assertEqual(self.failure(asked), f"the proxy proxy.example:3128 refused: {words}")

    def test_an_endless_header_is_refused(self) -> None:
        asked = Asked()
        asked.reached.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n" + b"a" * LONGEST_HEAD)
        self.assertIn("does not answer as an HTTP proxy", self.failure(asked))

    def test_silence_is_timed_out(self) -> None:
        asked = Asked()
        asked.clock.advance(ANSWER_WITHIN - 0.1)
        self.assertNoResult(asked.opened)
        asked.reached.protocol.dataReceived(b"HTTP/1.1 ")
        asked.clock.advance(0.2)
        self.assertEqual(self.failure(asked), "the proxy proxy.example:3128 is silent")

    def test_cancelling_drops_the_connection(self) -> None:
        asked = Asked()
        asked.opened.cancel()
        self.failureResultOf(asked.opened, CancelledError)
        self.assertTrue(asked.aborted)
        self.assertEqual(asked.clock.getDelayedCalls(), [])
