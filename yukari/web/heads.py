"""The head of a reply: its own headers, and those that every reply has."""

from __future__ import annotations

import time

from attrs import define, field
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from yukari import __version__

_START = (
    b"%b %b %b\r\n"
    b"Server: yukari/" + __version__.encode() + b"\r\n"
    b"Date: %b\r\n"
    b"X-Request-Id: %b\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
)
_POLICY = b"Content-Security-Policy: sandbox; default-src 'none'\r\n"
"""Whatever a model says it is, no browser runs it as a page of this host."""


@define(eq=False)
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
