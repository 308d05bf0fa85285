"""Bytes of blobs that pass through memory, for as long as a reader may want them."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable

from attrs import define, field

from yukari.memory import Memory
from yukari.spans import Span, SpanSet

PIECE = 64 * 1024
"""Bytes up to which arriving bytes are joined to the piece before them."""


@define(eq=False, repr=False)
class Pieces:
    """The bytes of one blob that are in the window, in pieces as they arrived."""

    awaited: Callable[[], SpanSet]
    """The bytes that readers are about to need."""
    places: Callable[[], int]
    """The number of places, far from each other, at which the blob is read."""
    forgot: Callable[[Span], None]
    """Called with bytes that were dropped to make room."""
    reserved: int = 0
    """Bytes that are requested and have not arrived."""
    _starts: list[int] = field(factory=list, init=False)
    _at: dict[int, bytes] = field(factory=dict, init=False)

    def put(self, start: int, data: bytes) -> int:
        """Keep ``data``, and return where the piece begins that it is now part of."""
        before = bisect_right(self._starts, start) - 1
        if before >= 0:
            first = self._starts[before]
            joined = self._at[first]
            if first + len(joined) == start and len(joined) < PIECE:
                self._at[first] = joined + data
                return first
        insort(self._starts, start)
        self._at[start] = data
        return start

    def span(self, start: int) -> Span:
        """Return the span of the piece that begins there."""
        return Span(start, start + len(self._at[start]))

    def remove(self, start: int) -> Span:
        """Drop the piece that begins there, and return its span."""
        span = self.span(start)
        del self._at[start]
        del self._starts[bisect_right(self._starts, start) - 1]
        return span

    def read(self, start: int, count: int) -> list[bytes]:
        """Return the bytes from ``start`` that are here without a gap, at most ``count``."""
        found: list[bytes] = []
        at = bisect_right(self._starts, start) - 1
        while count > 0 and 0 <= at < len(self._starts):
            first = self._starts[at]
            data = self._at[first]
            if not first <= start < first + len(data):
                break
            part = data[start - first : start - first + count]
            found.append(part)
            start, count, at = start + len(part), count - len(part), at + 1
        return found


@define(eq=False, repr=False)
class Window:
    """
    Bytes in memory or asked for, as far as there is ``memory``. When there is no room, the oldest
    bytes are dropped that no reader is about to need.
    """

    memory: Memory = field(factory=Memory)
    used: int = field(default=0, init=False)
    """Bytes that are here or requested."""
    _blobs: dict[Pieces, None] = field(factory=dict, init=False)
    _ages: dict[tuple[Pieces, int], None] = field(factory=dict, init=False)
    """Every piece, oldest first."""

    def __attrs_post_init__(self) -> None:
        self.memory.give_up = self._drop_unneeded

    def share(self) -> int:
        """The number of bytes that may be requested at once for each place that is read."""
        places = sum(pieces.places() for pieces in self._blobs)
        return max(PIECE, self.memory.most // 2 // max(1, places))

    def join(self, pieces: Pieces) -> None:
        """Add a blob."""
        self._blobs[pieces] = None

    def leave(self, pieces: Pieces) -> None:
        """Remove a blob that nobody reads any more."""
        self.release(pieces, pieces.reserved)
        for each, start in [key for key in self._ages if key[0] is pieces]:
            self._drop(each, start)
        self._blobs.pop(pieces, None)

    def reserve(self, pieces: Pieces, count: int) -> int:
        """Make room for up to ``count`` bytes, and return for how many there is room."""
        self.make_room(count)
        count = min(count, self.memory.free)
        self._take(count)
        pieces.reserved += count
        return count

    def release(self, pieces: Pieces, count: int) -> None:
        """Release reserved bytes that will not arrive."""
        count = min(count, pieces.reserved)
        pieces.reserved -= count
        self._give_back(count)

    def put(self, pieces: Pieces, start: int, data: bytes) -> None:
        """Keep ``data``: reserved bytes that have arrived."""
        arrived = min(len(data), pieces.reserved)
        pieces.reserved -= arrived
        self._take(len(data) - arrived)
        self._ages[pieces, pieces.put(start, data)] = None

    def make_room(self, count: int = 1) -> bool:
        """Drop what no reader is about to need; return whether ``count`` bytes have room."""
        self._drop_unneeded(count - self.memory.free)
        return self.memory.free >= count

    def _drop_unneeded(self, count: int) -> None:
        """Drop ``count`` bytes, or as many as no reader is about to need."""
        if count <= 0:
            return
        awaited = {pieces: pieces.awaited() for pieces in self._blobs}
        for pieces, start in list(self._ages):
            if (pieces, start) not in self._ages:
                continue  # Dropped for an upload, which took the room of one before.
            span = pieces.span(start)
            if awaited[pieces].gap(span.start, span.end) == span:
                count -= len(span)
                pieces.forgot(self._drop(pieces, start))
                if count <= 0:
                    break

    def _drop(self, pieces: Pieces, start: int) -> Span:
        del self._ages[pieces, start]
        dropped = pieces.remove(start)
        self._give_back(len(dropped))
        return dropped

    def _take(self, count: int) -> None:
        self.used += count
        self.memory.take(count)

    def _give_back(self, count: int) -> None:
        self.used -= count
        self.memory.release(count)
