"""
Networks in CIDR notation, and the addresses that lie in them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Optional, Union

from attrs import frozen

Address = Union[IPv4Address, IPv6Address]

UNIX = "unix"
"""The entry in a list of networks that stands for clients of a Unix socket."""


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Optional[Address]:
    """
    Parse an address; None if the text is not one.

    The zone (``%eth0``) is dropped, and IPv4 inside IPv6 (``::ffff:…``) becomes IPv4.
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@frozen
class Networks:
    """A set of networks; ``in`` tests an address, or None for a Unix socket."""

    each: tuple[Union[IPv4Network, IPv6Network], ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, text: str) -> Networks:
        """Parse ``10.0.0.0/8, 192.0.2.7, fd00::/8, unix``; `ValueError` says what was expected."""
        words = [word for word in re.split(r"[,\s]+", text) if word]
        if not words:
            raise ValueError("expected networks such as 10.0.0.0/8,fd00::/8")
        return cls(
            tuple(_network(word) for word in words if word != UNIX),
            UNIX in words,
        )

    def __contains__(self, address: Optional[Address]) -> bool:
        if address is None:
            return self.unix
        return any(address in network for network in self.each)


NOBODY = Networks()


def _network(text: str) -> Union[IPv4Network, IPv6Network]:
    try:
        network = ip_network(text)
    except ValueError as error:
        why = " (its address has bits beyond its length)" if "host bits" in str(error) else ""
        raise ValueError(
            f"expected networks such as 10.0.0.0/8,fd00::/8, which {text[:50]!a} is not{why}"
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((mapped, network.prefixlen - 96))
    return network
