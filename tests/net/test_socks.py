"""Connections through a SOCKS proxy: what is sent, and how each answer is handled."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import connectionDone
from twisted.trial.unittest import SynchronousTestCase

from tests.net.doubles import Asked
from yukari.config.proxies import Proxy
from yukari.net.socks import Socks, Socks4
from yukari.net.tunnel import ANSWER_WITHIN, ProxyFailed

PLAIN = Proxy("proxy.example", 1080, "socks5h")
WITH_USER = Proxy("proxy.example", 1080, "socks5h", (b"me", b"secret"))
OPEN = b"\5\0\0\1\0\0\0\0\0\0"
"""The reply to CONNECT that the connection is made, from an IPv4 address."""


def asked(proxy: Proxy = PLAIN, host: str = "registry.example") -> Asked:
    """A proxy that has been greeted."""
    return Asked(proxy, host, opening=Socks)


class SocksTests(SynchronousTestCase):
    def failure(self, tried: Asked) -> str:
        self.assertEqual(tried.clock.getDelayedCalls(), [])
        self.assertTrue(tried.aborted)
        return str(self.failureResultOf(tried.opened, ProxyFailed).value)

    def test_a_name_is_left_to_the_proxy_and_an_address_is_sent_as_one(self) -> None:
        for host, address in (
            ("registry.example", b"\3\x10registry.example"),
            ("10.1.2.3", b"\1\n\1\2\3"),
            ("2001:db8::1", b"\4" + bytes.fromhex("20010db8000000000000000000000001")),
        ):
            tried = asked(host=host)
            self.assertEqual(tried.reached.transport.value(), b"\5\1\0")
            self.assertEqual(tried.answer(b"\5\0"), b"\5\1\0" + address + b"\x01\xbb")
            tried.answer(OPEN)
            self.successResultOf(tried.opened)

    def test_a_user_and_a_password_are_sent_if_the_proxy_wants_them(self) -> None:
        tried = asked(WITH_USER)
        self.assertEqual(tried.reached.transport.value(), b"\5\2\0\2")
        self.assertEqual(tried.answer(b"\5\2"), b"\1\2me\6secret")
        self.assertEqual(tried.answer(b"\1\0")[:4], b"\5\1\0\3")
        self.assertEqual(asked(WITH_USER).answer(b"\5\0")[:4], b"\5\1\0\3")

    @given(
        st.lists(st.integers(1, 60), max_size=6),
        st.sampled_from((b"\1" + bytes(6), b"\4" + bytes(18), b"\3\4some\0\0")),
        st.sampled_from((b"", b"more")),
    )
    def test_answers_in_any_pieces_open_the_connection(
        self, cuts: list[int], bound: bytes, more: bytes
    ) -> None:
        """Bytes behind the reply belong to what goes through; none may be lost."""
        tried, answer = asked(WITH_USER), b"\5\2\1\0\5\0\0" + bound + more
        edges = [0, *sorted(cuts), len(answer)]
        for start, end in zip(edges, edges[1:]):
            tried.reached.protocol.dataReceived(answer[start:end])
        inner: Any = self.successResultOf(tried.opened)
        tried.reached.protocol.dataReceived(b"and more")
        self.assertEqual(inner.data, more + b"and more")
        self.assertEqual(tried.clock.getDelayedCalls(), [])
        tried.reached.protocol.connectionLost(connectionDone)
        self.assertTrue(inner.closed)

    def test_each_refusal_says_why(self) -> None:
        for answers, words in (
            ((b"\5\xff",), "wants another authentication"),
            ((b"\5\2", b"\1\1"), "refused the user and the password"),
            ((b"\5\0", b"\5\1\0\1"), "did not connect: it failed"),
            ((b"\5\0", b"\5\2\0\1"), "did not connect: its rules do not allow it"),
            ((b"\5\0", b"\5\4\0\3"), "did not connect: the host is unreachable"),
            ((b"\5\0", b"\5\5\0\1"), "did not connect: connection refused"),
            ((b"\5\0", b"\5\x63\0\1"), "did not connect: error 99"),
            ((b"HTTP/1.0 400 Bad Request",), "does not answer as a SOCKS5 proxy"),
            ((b"\4\x5a",), "does not answer as a SOCKS5 proxy"),
        ):
            tried = asked(WITH_USER)
            for answer in answers:
                tried.answer(answer)
            self.assertEqual(self.failure(tried), f"the proxy proxy.example:1080 {words}")

    def test_a_missing_password_is_reported(self) -> None:
        tried = asked()
        tried.answer(b"\5\2")
        self.assertIn("wants another authentication", self.failure(tried))

    @given(st.binary(max_size=300))
    @example(b"\5\0\5\0\0\3")
    def test_other_answers_do_not_open_the_connection(self, answer: bytes) -> None:
        tried = asked()
        tried.reached.protocol.dataReceived(b"\5\0\5\1" + answer)
        tried.reached.protocol.connectionLost(connectionDone)
        said = str(self.failureResultOf(tried.opened, ProxyFailed).value)
        self.assertTrue(said.startswith("the proxy proxy.example:1080 "), said)

    def test_silence_is_timed_out_at_every_step(self) -> None:
        for answers in ((), (b"\5",), (b"\5\0",), (b"\5\0", b"\5\0\0\1\0")):
            tried = asked()
            for answer in answers:
                tried.answer(answer)
            tried.clock.advance(ANSWER_WITHIN - 0.1)
            self.assertNoResult(tried.opened)
            tried.clock.advance(0.2)
            self.assertEqual(self.failure(tried), "the proxy proxy.example:1080 is silent")

    def test_cancelling_drops_the_connection(self) -> None:
        tried = asked()
        tried.opened.cancel()
        self.failureResultOf(tried.opened, CancelledError)
        self.assertTrue(tried.aborted)
        self.assertEqual(tried.clock.getDelayedCalls(), [])

    def test_a_name_too_long_for_the_protocol_is_refused(self) -> None:
        tried = asked(host="a" * 256)
        tried.answer(b"\5\0")
        self.assertIn("too long a name for SOCKS", self.failure(tried))


class Socks4Tests(SynchronousTestCase):
    def asked(self, host: str, user: bytes = b"") -> Asked:
        """A SOCKS4 proxy."""
        credentials = (user, b"") if user else None
        proxy = Proxy("proxy.example", 1080, "socks4a", credentials)
        return Asked(proxy, host, opening=Socks4)

    def test_a_name_follows_the_user_and_an_address_stands_before_it(self) -> None:
        for host, user, expected in (
            ("10.1.2.3", b"", b"\4\1\x01\xbb\n\1\2\3\0"),
            ("10.1.2.3", b"me", b"\4\1\x01\xbb\n\1\2\3me\0"),
            ("a.example", b"me", b"\4\1\x01\xbb\0\0\0\1me\0a.example\0"),
        ):
            tried = self.asked(host, user)
            self.assertEqual(tried.reached.transport.value(), expected)
            tried.answer(b"\0\x5a" + bytes(6) + b"more")
            inner: Any = self.successResultOf(tried.opened)
            self.assertEqual(inner.data, b"more")

    def test_each_refusal_says_why(self) -> None:
        for host, answer, words in (
            ("a.example", b"\0\x5b" + bytes(6), "did not connect: error 91"),
            ("a.example", b"HTTP/1.0 400", "does not answer as a SOCKS4 proxy"),
            ("2001:db8::1", b"", "SOCKS4 knows no IPv6 addresses"),
        ):
            tried = self.asked(host)
            tried.reached.protocol.dataReceived(answer)
            self.assertIn(words, str(self.failureResultOf(tried.opened, ProxyFailed).value))
            self.assertEqual(tried.clock.getDelayedCalls(), [])
