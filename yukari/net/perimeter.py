"""
Which addresses are private, and which registries may send this cache there.

A registry on a public address that redirects to ``http://169.254.169.254/`` or ``http://10.0.0.7/``
would have this cache ask what the registry itself cannot reach.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Optional, Union

from attrs import define, field

from yukari.net.http import BadRedirect

_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL = tuple(map(IPv6Network, ("64:ff9b:1::/48", "::ffff:0:0:0/96", "fec0::/10")))
"""Translated within a network (RFC 8215, RFC 7915), or within a site; public to some Pythons."""


def is_private(host: str) -> Optional[bool]:
    """
    Whether an address is loopback, private, link-local or another that is not public; None if
    ``host`` is a name.

    IPv4 addresses count in every form that connecting takes: ``127.1``, ``0x7f000001``,
    ``::ffff:127.0.0.1``.
    """
    if host.lower().rstrip(".").rpartition(".")[2] == "localhost":
        return True
    address: Union[IPv4Address, IPv6Address]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = IPv4Address(socket.inet_aton(host.rstrip(".")))
        except (OSError, ValueError):
            return None
    if isinstance(address, IPv6Address):
        if any(address in each for each in _LOCAL):
            return True
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64 or int(address) >> 32 == 0 and int(address) > 0xFFFF:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return not address.is_global or address.is_multicast


class Outside(BadRedirect):
    """A registry on a public address points to a private one."""


@define(eq=False, repr=False)
class Perimeter:
    """
    Keeps a registry on a public address from sending this cache to private ones.

    A registry that is on a private address itself may name others. Where a connection goes is
    learnt when it is made; of a connection that a proxy makes, only the URL's host is known.
    """

    _registry: tuple[str, int]
    """Its host, IPv6 without brackets, and its port, as URLs have them."""
    _address: str
    """Where to connect for it: its host, or another name or address."""
    _inside: Optional[bool] = field(init=False)
    """Whether the registry is on a private address; None until that is known."""

    def __attrs_post_init__(self) -> None:
        self._inside = is_private(self._address)

    def check(self, place: tuple[str, int]) -> None:
        """Raise `Outside` if a URL's host is a private address that may not be asked."""
        if place != self._registry and not self._inside and is_private(place[0]):
            raise _outside(place[0])

    def connected(self, place: tuple[str, int], address: str) -> None:
        """Raise `Outside` if the address that a host turned out to have may not be asked."""
        private = bool(is_private(address))
        if place == self._registry:
            self._inside = private
        elif private and self._inside is False:
            raise _outside(place[0])


def _outside(host: str) -> Outside:
    return Outside(f"it points to {host[:80]!a}, a private address, but is on a public one itself")
