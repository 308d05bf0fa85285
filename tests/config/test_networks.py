"""Networks, and the addresses that lie in them."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.networks import Networks, parse_address


class NetworksTests(SynchronousTestCase):
    def test_addresses_and_networks_of_both_families_and_the_socket(self) -> None:
        networks = Networks.parse("10.0.0.0/8, 192.0.2.7,fd00::/8 2001:db8::1 unix")
        inside = ("10.255.0.1", "192.0.2.7", "fd12::3", "2001:db8::1", "fd00::1%eth0")
        for text in inside:
            self.assertIn(parse_address(text), networks, text)
        for text in ("11.0.0.1", "192.0.2.8", "fe80::1", "2001:db8::2", "::a00:1"):
            self.assertNotIn(parse_address(text), networks, text)
        self.assertIn(None, networks)
        self.assertNotIn(None, Networks.parse("0.0.0.0/0,::/0"))

    @given(st.ip_addresses(v=4), st.integers(0, 32))
    def test_ipv4_inside_ipv6_is_the_same_address(self, address: object, length: int) -> None:
        carried = parse_address(f"::ffff:{address}")
        self.assertEqual(carried, address)
        bits = int(ip_address(str(address))) >> (32 - length) << (32 - length)
        network = f"{ip_address(bits)}/{length}"
        mapped = f"::ffff:{ip_address(bits)}/{96 + length}"
        for text in (network, mapped):
            self.assertIn(carried, Networks.parse(text))
        self.assertEqual(Networks.parse(network), Networks.parse(mapped))

    def test_error_names_the_entry_that_is_no_network(self) -> None:
        for text, named in (
            ("10.0.0.0/8,10.1/16", "'10.1/16' is not"),
            ("10.0.0.1/8", "'10.0.0.1/8' is not (its address has bits beyond its length)"),
            ("localhost", "'localhost' is not"),
            (" , ", "expected networks such as"),
        ):
            error = self.assertRaises(ValueError, Networks.parse, text)
            self.assertIn(named, str(error))

    @given(st.text())
    @example("1.2.3.4%eth0")
    @example("::%%")
    def test_any_text_is_an_address_or_none(self, text: str) -> None:
        found = parse_address(text)
        if found is not None:
            self.assertEqual(parse_address(str(found)), found)
