"""The blocks that a host, such as a cache, sends for a Range within them, by its replies."""

from __future__ import annotations

from math import gcd

from attrs import define, field

from yukari.spans import Span


@define(eq=False)
class Blocks:
    """Blocks of ``size`` bytes, 1 for a host that sends just what it is asked for."""

    size: int = field(default=1, init=False)
    _edges: int = field(default=0, init=False)
    """The largest number that divides all edges of blocks seen so far."""

    def sent(self, found: Span, asked: Span, size: int) -> None:
        """A reply to a request for the bytes ``asked``, of ``size``, held those ``found``."""
        if found.start < asked.start:
            self._edges = gcd(self._edges, found.start)
        if asked.end < found.end < size:
            self._edges = gcd(self._edges, found.end)
        self.size = max(1, self._edges)

    def around(self, span: Span) -> Span:
        """Return a span with the rest of its blocks, which come anyway."""
        return Span(span.start // self.size * self.size, -(-span.end // self.size) * self.size)
