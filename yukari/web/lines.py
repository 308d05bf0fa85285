"""The lines of a request's head, as Go's server and nginx take them (RFC 9112, section 2.2)."""

from __future__ import annotations

from typing import Any

from twisted.web.http import HTTPChannel


class LenientLines(HTTPChannel):
    """A channel whose lines may end without CR; empty ones may stand before a request."""

    requests: list[Any]
    delimiter = b"\n"
    _at_start: bool = True
    """Whether nothing but empty lines has been read since the last request."""

    def lineReceived(self, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        self._at_start = not (line or self.requests)
        if not self._at_start:
            super().lineReceived(line)
