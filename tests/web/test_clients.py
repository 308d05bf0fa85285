"""The client of a request behind proxies."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.sending.doubles import Talk
from yukari.config.networks import Networks, parse_address
from yukari.web.clients import behind

PROXIES = Networks.parse("10.0.0.0/8,fd00::/8,unix")
PROXY = IPv4Address("TCP", "10.0.0.1", 4711)
STRANGER = IPv4Address("TCP", "192.0.2.7", 4711)


def client(peer: Any, *headers: str) -> str:
    """The client of a request, as the log has it."""
    talk = Talk(peer=peer, site={"trusted_proxies": PROXIES})
    with capturedLogs() as events:
        talk.ask("/healthz", *headers)
    return next(str(event["client"]) for event in events if "client" in event)


class AddressTests(SynchronousTestCase):
    def test_a_strangers_header_is_ignored(self) -> None:
        self.assertEqual(client(STRANGER, "X-Forwarded-For: 198.51.100.1"), "192.0.2.7")

    def test_a_trusted_proxy_names_the_client(self) -> None:
        self.assertEqual(client(PROXY, "X-Forwarded-For: 198.51.100.1"), "198.51.100.1")
        self.assertEqual(client(PROXY), "10.0.0.1")

    def test_addresses_that_the_client_made_up_are_ignored(self) -> None:
        for forwarded in (
            ["127.0.0.1, 198.51.100.1"],
            ["10.0.0.9, 198.51.100.1, 10.0.0.8"],
            ["127.0.0.1", "198.51.100.1"],
        ):
            headers = [f"X-Forwarded-For: {each}" for each in forwarded]
            self.assertEqual(client(PROXY, *headers), "198.51.100.1", forwarded)

    def test_ports_and_brackets_are_read(self) -> None:
        for text, expected in (
            ("198.51.100.1:4711", "198.51.100.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
        ):
            self.assertEqual(client(PROXY, f"X-Forwarded-For: {text}"), expected)

    def test_behind_an_unreadable_address_the_proxy_is_the_client(self) -> None:
        for text in ("unknown", "", "198.51.100.1, ?", "198.51.100.1,", "\xff"):
            self.assertEqual(client(PROXY, f"X-Forwarded-For: {text}"), "10.0.0.1", text)

    def test_connections_of_all_kinds_have_an_address_or_none(self) -> None:
        header = "X-Forwarded-For: 198.51.100.1"
        for peer in (
            UNIXAddress(None),
            IPv6Address("TCP", "::ffff:10.0.0.1", 4711),
            IPv6Address("TCP", "fd00::1", 4711),
        ):
            self.assertEqual(client(peer, header), "198.51.100.1", peer)
        self.assertEqual(client(UNIXAddress(None)), "-")

    @given(st.ip_addresses(), st.lists(st.ip_addresses(network="10.0.0.0/8")), st.lists(st.text()))
    def test_the_client_is_the_last_address_that_is_no_proxy(
        self, stranger: Any, proxies: list[Any], made_up: list[str]
    ) -> None:
        stranger = parse_address(str(stranger))
        if stranger in PROXIES:
            return
        forwarded = [*made_up, str(stranger), *map(str, proxies)]
        self.assertEqual(behind(parse_address("10.0.0.1"), forwarded, PROXIES), stranger)
        self.assertEqual(behind(stranger, forwarded, PROXIES), stranger)

    @given(st.lists(st.text() | st.ip_addresses().map(str)))
    def test_no_header_is_an_error(self, forwarded: list[str]) -> None:
        self.assertIsNotNone(behind(parse_address("10.0.0.1"), forwarded, PROXIES))


class NameTests(SynchronousTestCase):
    """The command that the front page shows."""

    def page(self, peer: Any, *headers: str) -> str:
        talk = Talk(peer=peer, site={"trusted_proxies": PROXIES})
        talk.ask("/", *headers)
        return talk.replies()[0].body.decode()

    def test_a_trusted_proxy_names_host_and_scheme(self) -> None:
        headers = "X-Forwarded-Host: models.example", "X-Forwarded-Proto: https"
        self.assertIn("ollama pull models.example/library/", self.page(PROXY, *headers))
        self.assertIn("ollama pull --insecure localhost/library/", self.page(STRANGER, *headers))

    def test_a_malformed_forwarded_host_is_ignored(self) -> None:
        for name in ("a b", "", "<script>", "a/b", "\xff"):
            page = self.page(PROXY, f"X-Forwarded-Host: {name}")
            self.assertIn("ollama pull --insecure localhost/library/", page, name)
