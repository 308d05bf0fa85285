"""
Whose request it is, and by which name it came: asked of the connection, and of the X-Forwarded
headers where it comes from one of TRUSTED_PROXIES. Whatever anybody else says there is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Optional

from yukari.config.networks import Address, Networks, parse_address

_HOP = re.compile(r"\[([^][]*)\](?::[0-9]+)?|([^:]*):[0-9]+")
"""An address with a port, as some proxies write it; IPv6's between brackets."""
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_HOST = re.compile(r"[A-Za-z0-9_.-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")


def address(request: Any) -> Optional[Address]:
    """The client's address, IPv4's also where IPv6 carries it; None behind a Unix socket."""
    return behind(_peer(request), _forwarded(request, b"for"), request.site.trusted_proxies)


def host(request: Any) -> str:
    """The host, with its port where it has one, by which the client reached us; "" for unknown."""
    said = _forwarded(request, b"host") if _by_proxy(request) else []
    if said and _HOST.fullmatch(said[-1]):
        return said[-1]
    return (request.getHeader(b"host") or b"").decode("latin-1")


def is_secure(request: Any) -> bool:
    """Whether the client speaks https."""
    said = _forwarded(request, b"proto") if _by_proxy(request) else []
    return said[-1].lower() == "https" if said else bool(request.isSecure())


def said_id(request: Any) -> Optional[str]:
    """The id that a trusted proxy gave the request; None where it gave none or a strange one."""
    said = request.getHeader(b"x-request-id") if _by_proxy(request) else None
    return said.decode("ascii") if said and _ID.fullmatch(said) else None


def behind(
    peer: Optional[Address], forwarded: Sequence[str], proxies: Networks
) -> Optional[Address]:
    """
    Whose request comes from ``peer``: each trusted proxy has put the address that it saw at the
    end of ``forwarded``, so the last one that is not a trusted proxy's, or that nobody can read,
    ends the search.
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


def _by_proxy(request: Any) -> bool:
    return _peer(request) in request.site.trusted_proxies


def _peer(request: Any) -> Optional[Address]:
    """Who connected; None for a Unix socket."""
    host: Optional[str] = getattr(request.getClientAddress(), "host", None)
    return None if host is None else parse_address(host)


def _forwarded(request: Any, what: bytes) -> list[str]:
    """The parts of the request's X-Forwarded headers of one kind, in their order."""
    values = request.requestHeaders.getRawHeaders(b"x-forwarded-" + what) or []
    return [part.strip() for value in values for part in value.decode("latin-1").split(",")]
