"""The head of a reply: its own headers, and those that every reply has."""

from __future__ import annotations

import time

from attrs import define, field
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from yukari import __version__

_SERVER = b"Server: yukari/" + __version__.encode()
_SAFE = b"X-Content-Type-Options: nosniff"
_POLICY = b"Content-Security-Policy: sandbox; default-src 'none'"
"""Whatever a model says it is, no browser runs it as a page of this host."""


@define(eq=False)
class Dates:
    """The Date header's value, made once a second."""

    _second: int = field(default=-1, init=False)
    _text: bytes = field(default=b"", init=False)

    def now(self) -> bytes:
        """Return the value."""
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
    lines = [
        b"%b %b %b" % (version, code, reason),
        _SERVER,
        b"Date: " + date,
        b"X-Request-Id: " + id,
        _SAFE,
    ]
    if not headers.hasHeader(b"content-security-policy"):
        lines.append(_POLICY)
    for name, values in headers.getAllRawHeaders():
        lines += [b"%b: %b" % (name, value) for value in values]
    lines += [b"", b""]
    return b"\r\n".join(lines)
