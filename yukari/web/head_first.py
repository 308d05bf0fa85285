"""Sending a reply's head together with the first bytes of its body."""

from __future__ import annotations

from typing import Any

from twisted.web.http_headers import Headers

from yukari.sending.transports import write_now
from yukari.web.heads import reply_head
from yukari.web.lines import LenientLines


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
