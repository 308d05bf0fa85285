"""
NO_PROXY: the hosts that are reached without a proxy, in the forms of many programs.

There is no standard. It reads the forms of curl, wget, Go, Python, Java (``|``, ``10.*``), Windows
(``;``, ``<local>``) and Docker (paths of sockets).
"""

from __future__ import annotations

import re
from fnmatch import translate
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import Optional, Union

from attrs import frozen

from yukari.config.setting import InvalidSetting
from yukari.config.urls import HOST

_SEPARATORS = re.compile(r"[\s,;|]+")
_LOCAL = "<local>"
_NO_HOST = re.compile(r"(?:[a-z]+://)?/(?!/).*|(?:unix|npipe|fd):.*|<-loopback>", re.IGNORECASE)
"""Entries that are accepted but name no host: paths of sockets, and Chromium's <-loopback>."""
_ENTRY = re.compile(
    r"(?P<scheme>(?:[a-z][a-z0-9+.-]*:)?//)?"
    r"(?:\[(?P<v6>[^]]*)\](?P<bits>/[0-9]{1,3})?|(?P<host>[^:/@]*(?:/[0-9.]+)?))"
    r"(?::(?:(?P<port>[0-9]{1,5})|\*))?(?:/|(?(scheme)/.*))?",
    re.IGNORECASE,
)
_SHORT_NETWORK = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){0,2})/([0-9]{1,2})")
_GLOB = re.compile(r"[A-Za-z0-9_*.-]+")
_EXPECTED = "expected *, <local>, hosts, addresses or networks, each with :PORT or without"

Network = Union[IPv4Network, IPv6Network]


@frozen
class Exempt:
    """One entry of NO_PROXY: ``hosts``, a regular expression, or a network; at one port or all."""

    hosts: str = ""
    network: Optional[Network] = None
    port: Optional[int] = None

    @classmethod
    def parse(cls, text: str) -> Exempt:
        """
        Parse an entry; `InvalidSetting`.

        It is ``*``, ``<local>`` (names without a dot), ``example.com`` (with its subdomains),
        ``192.168.*``, ``host-*``, an address, a network, or a URL of one of these.
        """
        if text.lower() == _LOCAL:
            return cls(r"[^.:]+")
        network = _network(text)
        if network is not None:
            return cls(network=network)
        found = _ENTRY.fullmatch(text)
        if found is None or not 0 < int(found["port"] or 1) < 65536:
            raise InvalidSetting(_EXPECTED)
        port = int(found["port"]) if found["port"] else None
        host = found["host"] if found["v6"] is None else found["v6"] + (found["bits"] or "")
        network = _network(host)
        if network is not None:
            return cls(network=network, port=port)
        if found["v6"] is not None:
            raise InvalidSetting(_EXPECTED)
        return cls(_hosts(host), port=port)

    def covers(self, host: str, port: int) -> bool:
        """Whether it matches this host, IPv6 without brackets, at this port."""
        if self.port is not None and self.port != port:
            return False
        name = host.lower().rstrip(".")
        if self.network is not None:
            try:
                address = ip_address(name)
            except ValueError:
                return False
            mapped = getattr(address, "ipv4_mapped", None)
            return address in self.network or (mapped is not None and mapped in self.network)
        return re.fullmatch(self.hosts, name) is not None


def parse_no_proxy(text: str) -> tuple[tuple[Exempt, ...], tuple[str, ...]]:
    """Return the entries that can be read, and the text of the others."""
    exempt, strange = [], []
    for entry in _SEPARATORS.split(text):
        entry = entry.strip("\"'")
        if not entry or _NO_HOST.fullmatch(entry):
            continue
        between = _range(entry)
        if between:
            exempt += [Exempt(network=each) for each in between]
            continue
        try:
            exempt.append(Exempt.parse(entry))
        except InvalidSetting:
            strange.append(entry)
    return tuple(exempt), tuple(strange)


def _network(text: str) -> Optional[Network]:
    """Parse an address or a network, perhaps short (``10/8``) or with a zone (``%eth0``)."""
    text = text.partition("%")[0] if ":" in text else text
    short = _SHORT_NETWORK.fullmatch(text)
    if short is not None:
        text = f"{short[1]}{'.0' * (3 - short[1].count('.'))}/{short[2]}"
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return ip_network((mapped, network.prefixlen - 96))
    return network


def _range(text: str) -> list[Network]:
    """Return the networks that hold ``10.0.0.1-9``, or ``10.0.0.1-10.0.0.9``; empty for neither."""
    first, _, last = text.partition("-")
    if "." not in last:
        last = f"{first.rpartition('.')[0]}.{last}"
    try:
        return list(summarize_address_range(IPv4Address(first), IPv4Address(last)))
    except ValueError:
        return []


def _hosts(text: str) -> str:
    """Return a regular expression for a domain and its subdomains, or for a pattern with stars."""
    if re.fullmatch(r"(?:[0-9]{1,3}\.){1,3}", text):
        text += "*"  # 192.168. is a prefix
    domain = text.removeprefix("*.").removeprefix(".").rstrip(".").lower()
    if domain in ("*", "**"):
        return ".*"
    if "*" not in domain:
        try:
            domain = domain if domain.isascii() else domain.encode("idna").decode("ascii")
        except UnicodeError:
            raise InvalidSetting(_EXPECTED) from None
        if not HOST.fullmatch(domain) or domain[-1].isdigit():
            raise InvalidSetting(_EXPECTED)
        return rf"(?:.*\.)?{re.escape(domain)}"
    if not _GLOB.fullmatch(domain):
        raise InvalidSetting(_EXPECTED)
    # A pattern of numbers is for addresses: 10.* is not 10.example.com.
    numbers = r"(?=[0-9.]*\Z)" if re.fullmatch(r"[0-9.*]+", domain) else ""
    return numbers + translate(domain)  # its stars do not backtrack
