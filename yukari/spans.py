"""
Byte spans and sets of them: which bytes of a blob are there.

A `Span` is half-open, ``start <= byte < end``. A `SpanSet` holds disjoint,
non-touching spans in order; it is what a fill's coverage is made of.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from attrs import define, field, frozen


@frozen(order=True)
class Span:
    """The bytes from ``start`` up to, not including, ``end``; never empty, never negative."""

    start: int
    end: int

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"span {self.start}-{self.end}: expected 0 <= start < end")

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def as_range(self) -> str:
        """The value of a request's Range header."""
        return f"bytes={self.start}-{self.end - 1}"


@define
class SpanSet:
    """A set of bytes, kept as the fewest spans that hold them."""

    _starts: list[int] = field(factory=list)
    _ends: list[int] = field(factory=list)
    total: int = 0
    """The number of bytes in the set."""

    @classmethod
    def of(cls, spans: Iterable[Span]) -> SpanSet:
        made = cls()
        for span in spans:
            made.add(span.start, span.end)
        return made

    def __iter__(self) -> Iterator[Span]:
        return (Span(start, end) for start, end in zip(self._starts, self._ends))

    def __len__(self) -> int:
        """The number of spans, not of bytes."""
        return len(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add ``start <= byte < end``; what is there already stays."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
            self.total -= sum(self._ends[first:last]) - sum(self._starts[first:last])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self.total += end - start

    def remove(self, start: int, end: int) -> None:
        """Remove ``start <= byte < end``; missing bytes are no error."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        left, right = self._starts[first], self._ends[last - 1]
        self.total -= sum(self._ends[first:last]) - sum(self._starts[first:last])
        kept = [(a, b) for a, b in ((left, start), (end, right)) if a < b]
        self._starts[first:last] = [a for a, _ in kept]
        self._ends[first:last] = [b for _, b in kept]
        self.total += sum(b - a for a, b in kept)

    def until(self, position: int) -> int:
        """The end of the run of bytes that begins at ``position``; itself if it is not there."""
        at = bisect_right(self._starts, position) - 1
        if at >= 0 and position < self._ends[at]:
            return self._ends[at]
        return position

    def gap(self, position: int, end: int) -> Span | None:
        """The first run of missing bytes at or after ``position`` and before ``end``."""
        start = self.until(position)
        if start >= end:
            return None
        at = bisect_right(self._starts, start)
        stop = self._starts[at] if at < len(self._starts) else end
        return Span(start, min(stop, end))
