"""
The bytes of a blob that are there, between its readers and its fetches.

Readers know which bytes are there, and wait for others; fetches know which
bytes are wanted, and tell when they are there. Neither knows the other.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Optional, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from yukari.fills.plan import Claim, Plan
from yukari.fills.turns import Queues, Turn, Turns
from yukari.spans import Span
from yukari.storage.ports import Spool
from yukari.tasks import Slices


class Waiter(Protocol):
    """A reader as its coverage knows it."""

    client: Hashable
    """Whose readers take turns with those of others."""

    @property
    def position(self) -> int:
        """The byte that it needs next."""

    def wake(self) -> None:
        """More bytes may be there."""

    def let_go(self) -> Optional[Deferred[None]]:
        """Stop waiting, and return the Deferred that waited, to be failed; None if none did."""


def _break(waiting: Deferred[None], error: Exception) -> None:
    if not waiting.called:
        waiting.errback(error)


@define(eq=False, repr=False)
class Coverage:
    """
    The bytes of one blob that are there, and the readers that wait for others.

    ``readers_changed`` is called when a reader joins or leaves, ``wanted`` when one begins to wait.
    """

    plan: Plan
    _limit: Callable[[], int]
    """Returns how far those readers may read that do not check the blob's digest."""
    _flows: Callable[[], bool]
    _readers_changed: Callable[[], None]
    _wanted: Callable[[], None]
    slices: Slices
    """Continue the readers, of which thousands may wait for the same bytes."""
    spool: Optional[Spool] = None
    """The file that readers read from, if there is one."""
    error: Optional[Exception] = None
    """Why there will be no more bytes for now."""
    turns: Turns = field(factory=Turns)
    """Shared with the other blobs."""
    readers: dict[Waiter, None] = field(factory=dict, init=False)
    _at: dict[int, dict[Waiter, None]] = field(factory=dict, init=False)
    _owners: dict[int, Hashable] = field(factory=dict, init=False)
    """The clients whose readers came first to these positions."""
    _positions: list[int] = field(factory=list, init=False)
    """The positions at which readers wait, in order."""
    _unserved: Queues = field(init=False)
    """Positions that no fetch serves, as far as is known."""

    def __attrs_post_init__(self) -> None:
        self._unserved = Queues(self.turns)

    # for readers

    @property
    def is_flowing(self) -> bool:
        """Whether bytes are arriving, so that a reply can begin before its first byte is here."""
        return self._flows()

    def available(self, position: int, *, whole: bool) -> int:
        """Return the end of the bytes that are there from ``position``."""
        end = self.plan.covered.until(position)
        return min(end, self._limit()) if whole else end

    def joined(self, reader: Waiter) -> None:
        self.readers[reader] = None
        self._readers_changed()

    def left(self, reader: Waiter) -> None:
        self.readers.pop(reader, None)
        self._readers_changed()

    def waits(self, reader: Waiter) -> None:
        """Have a reader wait for the byte at its position."""
        position = reader.position
        if position not in self._at:
            self._at[position] = {}
            self._owners[position] = reader.client
            self.turns.joined(reader.client)
            insort(self._positions, position)
            self._unserved.put(position, reader.client)
        self._at[position][reader] = None
        self._wanted()

    def waits_no_more(self, reader: Waiter) -> None:
        """Take back `waits`; harmless if the reader does not wait."""
        position = reader.position
        waiting = self._at.get(position)
        if waiting is None:
            return
        waiting.pop(reader, None)
        if not waiting:
            del self._at[position]
            self.turns.left(self._owners.pop(position))
            del self._positions[bisect_left(self._positions, position)]
            self._unserved.remove(position)

    # for whoever owns the blob

    def begin_anew(self, plan: Plan) -> None:
        """Fetch the blob again, by a new ``plan``."""
        self.plan = plan
        for position in self._positions:
            self._unserved.put(position, self._owners[position])

    def wake_all(self) -> None:
        """Wake all readers."""
        self._wake(list(self._positions))

    def break_readers(self, error: Exception) -> None:
        """Report to all readers that the blob cannot be read."""
        waiting = [told for reader in list(self.readers) if (told := reader.let_go()) is not None]
        self.slices.call({told: partial(_break, told, error) for told in waiting})

    # for fetches

    @property
    def crowd(self) -> int:
        """The number of positions at which readers wait."""
        return len(self._positions)

    @property
    def waits_since(self) -> Optional[Turn]:
        """The turn of the reader that is next to be served; None if a fetch serves each."""
        return self._unserved.first()

    def next_wanted(self) -> Optional[int]:
        """Return the byte to fetch for the reader whose turn it is; None if all are served."""
        while (first := self._unserved.first()) is not None:
            wanted = self.plan.wanted(first.position)
            if wanted is not None:
                return wanted
            self._unserved.remove(first.position)
        return None

    def next_needed(self) -> Optional[int]:
        """Return the first free byte for the reader that will wait soonest; None if none is."""
        taken, size = self.plan.taken, self.plan.size
        ends = ((reader.position, taken.until(reader.position)) for reader in self.readers)
        runs = [(end - position, end) for position, end in ends if end < size]
        return min(runs)[1] if runs else self.plan.front()

    def waiting_at(self, position: int) -> list[Waiter]:
        """Return the readers that wait for the byte at ``position``."""
        return list(self._at.get(position, ()))

    def released(self, claim: Claim) -> None:
        """A claim's fetch has ended: what did not come must be fetched by another."""
        first, last = claim.cursor, claim.end
        self.plan.release(claim)
        if first < last:
            again = self._within(first, last)
            self._unserved.put_first({each: self._owners[each] for each in again})

    def is_waited_for(self, claim: Claim) -> bool:
        """Whether a reader waits for one of the claim's bytes that have not arrived."""
        at = bisect_left(self._positions, claim.cursor)
        return at < len(self._positions) and self._positions[at] < claim.end

    def covered(self, spans: Sequence[Span]) -> None:
        """Wake the readers of bytes that are there now."""
        for span in spans:
            self.plan.cover(span)
        for span in spans:
            self._wake(self._within(span.start, span.end))

    def _within(self, start: int, end: int) -> list[int]:
        first = bisect_left(self._positions, start)
        return self._positions[first : bisect_left(self._positions, end, first)]

    def _wake(self, positions: list[int]) -> None:
        readers = (reader for position in positions for reader in self._at.get(position, ()))
        self.slices.call({reader: reader.wake for reader in readers})
