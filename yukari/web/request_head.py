"""
The head of a request: read at once if it has arrived whole, and whom it asks for what.

Twisted reads a head line by line, which takes a fifth of the time of a hit. Most heads arrive in
one piece and have nothing unusual: they are read here, and all others by Twisted.
"""

from __future__ import annotations

import re
from typing import Any, Optional

from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers, InvalidHeaderName

HEAD_END = b"\r\n\r\n"
TLS_HANDSHAKE = b"\x16"
"""The first byte from a client that takes this for an https server."""
MAX_HEAD = 2048
"""Bytes of the longest head that is read at once."""
USUAL_LINES = 16
"""Header lines of most requests."""
MAX_FIELDS = 32
"""The most fields of a query: all are parsed, though few paths look at any."""
BODY = (b"content-length", b"transfer-encoding", b"expect")
"""Headers of requests that are more than a head."""

_HEAD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-\xb0]+) (HTTP/1\.[01])\r\n"
    rb"((?:[!-\xff][\t -\xff]*\r\n)+)\r\n"
)
"""
A method, a target and a version as Twisted accepts them, and header lines without control
characters of which none continues the one before.
"""
_HOST = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?"  # RFC 3986, section 3.2.2
)
_ABSOLUTE = re.compile(rb"(?i:https?)://(?:[^/?#@]*@)?([^/?#@]+)(.*)", re.DOTALL)


def read_head(data: bytes) -> Optional[tuple[bytes, bytes, bytes, Headers]]:
    """
    Return a request's method, target, version and headers; None if Twisted has to read it.

    ``data`` is the head if it is one request's, whole and alone, and no body follows.
    """
    if len(data) > MAX_HEAD or data.count(b"\n") > USUAL_LINES + 2:
        return None
    found = _HEAD.fullmatch(data)
    if found is None:
        return None
    method, target, version, fields = found.groups()
    headers = Headers()
    try:
        for line in fields.splitlines():
            name, colon, value = line.partition(b":")
            if not colon:
                return None
            headers.addRawHeader(name, value.strip(b" \t"))
    except InvalidHeaderName:
        return None
    return None if any(map(headers.hasHeader, BODY)) else (method, target, version, headers)


def find_path(target: bytes, version: bytes, headers: Headers) -> Optional[bytes]:
    """
    Return the target as a path, and make the Host header the one asked for.

    Slashes in a row count as one, as for nginx. None if target and Host are ambiguous or malformed,
    or if the query has more than `MAX_FIELDS` fields.
    """
    if target.count(b"&") + target.count(b";") >= MAX_FIELDS:
        return None
    hosts = headers.getRawHeaders(b"host", [])
    if len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)):
        return None
    if not hosts and version == b"HTTP/1.1":
        return None
    absolute = None if target.startswith(b"/") else _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return _with_single_slashes(target)
    # RFC 9112, section 3.2.2: what Host says is ignored then.
    host, path = absolute.groups()
    if not _HOST.fullmatch(host):
        return None
    headers.setRawHeaders(b"host", [host])
    return _with_single_slashes(path if path.startswith(b"/") else b"/" + path)


def _with_single_slashes(target: bytes) -> bytes:
    if b"//" not in target:
        return target
    path, mark, query = target.partition(b"?")
    return re.sub(rb"//+", b"/", path) + mark + query


class LenientLines(HTTPChannel):
    """
    A channel whose lines may end without CR; empty ones may stand before a request.

    So Go's server and nginx take them (RFC 9112, section 2.2).
    """

    requests: list[Any]
    delimiter = b"\n"
    _at_start: bool = True
    """Whether nothing but empty lines has been read since the last request."""

    def lineReceived(self, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        self._at_start = not (line or self.requests)
        if not self._at_start:
            super().lineReceived(line)
