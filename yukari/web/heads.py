"""The head of a reply: its own headers, and those that every reply has."""

from __future__ import annotations

import time
from typing import Any

from attrs import define, field
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from yukari import __version__
from yukari.sending.transports import write_now
from yukari.web.request_head import LenientLines

BAD_REQUEST = 400, b"Bad Request"
REQUEST_TIMEOUT = 408, b"Request Timeout"
TOO_LARGE = 413, b"Content Too Large"
TOO_MANY = 429, b"Too Many Requests"
BUSY = 503, b"Service Unavailable"
HEADERS_TOO_LARGE = 431, b"Request Header Fields Too Large"
"""The statuses of requests that are refused before a resource sees them."""

_START = (
    b"%b %b %b\r\n"
    b"Server: yukari/" + __version__.encode() + b"\r\n"
    b"Date: %b\r\n"
    b"X-Request-Id: %b\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
)
_POLICY = b"Content-Security-Policy: sandbox; default-src 'none'\r\n"
"""Whatever a model says it is, no browser runs it as a page of this host."""


@define(eq=False, repr=False)
class Dates:
    """The Date header's value, made once a second."""

    _second: int = field(default=-1, init=False)
    _text: bytes = field(default=b"", init=False)

    def now(self) -> bytes:
        """Return the present second's."""
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._text = datetimeToString(now)
        return self._text


def reply_head(
    version: bytes, code: bytes, reason: bytes, headers: Headers, *, id: bytes, date: bytes
) -> bytes:
    """
    Return a reply's head up to and with the empty line.

    A page has a Content-Security-Policy of its own among its ``headers``.
    """
    lines = [_START % (version, code, reason, date, id)]
    if not headers.hasHeader(b"content-security-policy"):
        lines.append(_POLICY)
    for name, values in headers.getAllRawHeaders():
        for value in values:
            lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(b"\r\n")
    return b"".join(lines)


class HeadFirst(LenientLines):
    """A channel whose replies' heads leave in one call with what follows them, if that is there."""

    site: Any
    transport: Any
    _head: bytes = b""
    """A reply's head that waits for the first bytes of its body."""

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        self._head = self._make_head(self.requests[0], version, code, reason, headers)

    def write(self, data: bytes) -> None:
        """Write bytes of a reply's body; the first together with its head."""
        head, self._head = self._head, b""
        if head:
            write_now(self.transport, head + data)
        else:
            self.transport.write(data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def end_head(self) -> None:
        """Write the head of a reply that has no body yet."""
        head, self._head = self._head, b""
        if head:
            write_now(self.transport, head)

    def _make_head(
        self, request: Any, version: bytes, code: bytes, reason: bytes, headers: Headers
    ) -> bytes:
        id, date = request.id.encode(), self.site.dates.now()
        return reply_head(version, code, reason, headers, id=id, date=date)
