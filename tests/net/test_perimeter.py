"""The addresses to which a registry may redirect the cache."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.proxies import Proxies
from yukari.net.agent import Connections
from yukari.net.perimeter import Outside, Perimeter, is_private

PRIVATE = (
    *("127.0.0.1", "10.0.0.7", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
    *("127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "100.64.0.1", "224.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:a00:1"),
    *("::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "localhost", "LOCALHOST.", "x.localhost"),
    *("64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "fec0::1"),
)
PUBLIC = ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "134744072")
NAMES = ("registry.ollama.ai", "my_registry", "localhost.example", "10.0.0.1.nip.io", "", "a..b")
REGISTRY = ("registry.test", 443)


class PerimeterTests(SynchronousTestCase):
    def test_addresses_are_private_in_every_way_to_write_them(self) -> None:
        for host in PRIVATE:
            self.assertIs(is_private(host), True, host)
        for host in PUBLIC:
            self.assertIs(is_private(host), False, host)
        for host in NAMES:
            self.assertIsNone(is_private(host), host)

    def test_a_public_registry_leads_to_no_private_address(self) -> None:
        perimeter = Perimeter(REGISTRY, REGISTRY[0])
        perimeter.connected(REGISTRY, "8.8.8.8")
        for host in PRIVATE:
            self.assertRaises(Outside, perimeter.check, (host, 80))
        for address in ("127.0.0.1", "::1", "::ffff:10.0.0.1"):
            self.assertRaises(Outside, perimeter.connected, ("cdn.test", 443), address)
        for host in (*PUBLIC, *NAMES):
            perimeter.check((host, 443))
        perimeter.connected(("cdn.test", 443), "8.8.4.4")

    def test_a_private_registry_leads_anywhere(self) -> None:
        named = Perimeter(REGISTRY, REGISTRY[0])
        named.connected(REGISTRY, "10.0.0.2")
        for perimeter in (named, Perimeter(("::1", 5000), "::1"), Perimeter(REGISTRY, "10.0.0.2")):
            for host in PRIVATE:
                perimeter.check((host, 80))
            perimeter.connected(("cdn.test", 443), "10.0.0.3")

    def test_the_registry_itself_is_asked_wherever_it_is(self) -> None:
        perimeter = Perimeter(REGISTRY, REGISTRY[0])
        for address in ("8.8.8.8", "127.0.0.1", "8.8.8.8"):
            perimeter.connected(REGISTRY, address)
            perimeter.check(REGISTRY)

    def test_behind_a_proxy_only_what_a_url_says_counts(self) -> None:
        """The registry's own address is not known there."""
        perimeter = Perimeter(REGISTRY, REGISTRY[0])
        self.assertRaises(Outside, perimeter.check, ("10.0.0.7", 80))
        perimeter.connected(("storage.internal", 443), "10.0.0.7")

    def test_neither_a_proxy_nor_a_connection_is_asked_for_a_private_address(self) -> None:
        for environment in (
            {},
            {"HTTP_PROXY": "http://127.0.0.1:3128", "HTTPS_PROXY": "http://p:1"},
        ):
            reactor = MemoryReactorClock()
            perimeter = Perimeter(REGISTRY, REGISTRY[0])
            connections = Connections(
                reactor, 1, proxies=Proxies.read(environment), perimeter=perimeter
            )
            for url in (b"http://10.0.0.7/x", b"https://[::ffff:10.0.0.7]:8443/", b"http://[::1]/"):
                self.failureResultOf(connections.agent.request(b"GET", url), Outside)
            self.assertEqual(reactor.tcpClients, [])
