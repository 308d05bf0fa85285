"""A bound on the header lines of a request: each takes memory, however short it is."""

from __future__ import annotations

from typing import Any

from yukari.web.heads import BUSY, HEADERS_TOO_LARGE, HeadFirst
from yukari.web.request_head import USUAL_LINES

MAX_LINES = 100
"""The most header lines of a request, as for Apache."""
LINE_COST = 256
"""Bytes of memory that each line beyond `USUAL_LINES` is counted as."""


class CountedLines(HeadFirst):
    """A channel that refuses a request with too many lines, or if many requests have many."""

    requests: list[Any]

    def headerReceived(self, line: bytes) -> bool:
        count = self._receivedHeaderCount
        if count >= MAX_LINES:
            self.refuse(HEADERS_TOO_LARGE)
        elif count >= USUAL_LINES and not self.requests[-1].hold(LINE_COST):
            self.refuse(BUSY)
        else:
            return bool(super().headerReceived(line))
        return False

    def refuse(self, why: tuple[int, bytes]) -> None:
        """Answer the request that is being read with a bare status, and close."""
        raise NotImplementedError
