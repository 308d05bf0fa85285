"""
The client of a request, and the host name that it used.

Both come from the connection, or from the X-Forwarded headers if the connection is from one of
TRUSTED_PROXIES. From anyone else these headers are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Optional

from yukari.config.networks import Address, Networks, parse_address

_HOP = re.compile(r"\[([^][]*)\](?::[0-9]+)?|([^:]*):[0-9]+")
"""An address with a port, as some proxies write it; IPv6 in brackets."""
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_HOST = re.compile(r"[A-Za-z0-9_.-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")


def address(request: Any) -> Optional[Address]:
    """Return the client's address, IPv4 also if inside IPv6; None for a Unix socket."""
    channel = request.channel
    peer: Optional[Address] = channel.address
    if not channel.is_proxy:
        return peer
    return behind(peer, _forwarded(request, b"for"), request.site.trusted_proxies)


def name(request: Any) -> str:
    """Return the client's address as text, ``-`` for a Unix socket."""
    channel = request.channel
    found = address(request)
    if found is channel.address:
        return str(channel.name)
    return "-" if found is None else str(found)


def host(request: Any) -> str:
    """Return the host, and its port if any, by which the client reached us; "" if unknown."""
    said = _forwarded(request, b"host") if request.channel.is_proxy else []
    if said and _HOST.fullmatch(said[-1]):
        return said[-1]
    return (request.getHeader(b"host") or b"").decode("latin-1")


def is_host(text: str) -> bool:
    """Whether this is a host's name or address, and its port if any, and nothing else."""
    return bool(_HOST.fullmatch(text))


def is_secure(request: Any) -> bool:
    """Whether the client speaks https."""
    said = _forwarded(request, b"proto") if request.channel.is_proxy else []
    return said[-1].lower() == "https" if said else bool(request.isSecure())


def said_id(request: Any) -> Optional[str]:
    """
    Return the id that a trusted proxy gave the request; None if it gave none or a malformed one.
    """
    said = request.getHeader(b"x-request-id") if request.channel.is_proxy else None
    return said.decode("ascii") if said and _ID.fullmatch(said) else None


def behind(
    peer: Optional[Address], forwarded: Sequence[str], proxies: Networks
) -> Optional[Address]:
    """
    Return the client behind ``peer``.

    Each trusted proxy has appended the address that it saw to ``forwarded``. So the search goes
    from the end to the first address that is not a trusted proxy's, or that cannot be read.
    """
    client = peer
    for each in reversed(forwarded):
        if client not in proxies:
            break
        found = _HOP.fullmatch(each)
        hop = parse_address(found[1] or found[2] or "" if found else each)
        if hop is None:
            break
        client = hop
    return client


def _forwarded(request: Any, what: bytes) -> list[str]:
    """Return the parts of the request's X-Forwarded headers of one kind, in order."""
    values = request.requestHeaders.getRawHeaders(b"x-forwarded-" + what) or []
    return [part.strip() for value in values for part in value.decode("latin-1").split(",")]
