"""
The order in which waiting readers are served: in turn over their clients, and a client's readers as
they came. So a client whose thousands of readers wait delays them, and hardly anybody else's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from itertools import count
from typing import Optional

from attrs import define, field, frozen

MAX_KNOWN = 4096
"""Clients that are told apart; those that had no more than others are forgotten first."""


@define(eq=False, repr=False)
class Turns:
    """
    How many requests each client's readers have had.

    A client that had no reader waiting counts as having had as many as the others meanwhile (fair
    queueing by virtual time).
    """

    _now: int = field(default=0, init=False)
    """How many requests the client that was served last had had before."""
    _had: dict[Hashable, int] = field(factory=dict, init=False)
    _numbers: count[int] = field(factory=count, init=False)
    _waiting: Counter[Hashable] = field(factory=Counter, init=False)

    def joined(self, client: Hashable) -> None:
        """A reader of the client begins to wait at a position at which none waits."""
        self._waiting[client] += 1

    def left(self, client: Hashable) -> None:
        """No reader waits any more at a position at which a reader of the client was the first."""
        self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client]

    def crowd(self, client: Hashable) -> int:
        """Return how many would wait if every client that waits had as many as this one."""
        return self._waiting[client] * len(self._waiting)

    def number(self) -> int:
        """Return the number of a reader that begins to wait."""
        return next(self._numbers)

    def had(self, client: Hashable) -> int:
        """Return how many requests a client has had: who has had least is next."""
        return max(self._now, self._had.get(client, 0))

    def served(self, client: Hashable) -> None:
        """A request begins for a reader of the client."""
        self._now = self.had(client)
        self._had[client] = self._now + 1
        if len(self._had) > MAX_KNOWN:
            self._had = {each: had for each, had in self._had.items() if had > self._now}


@frozen
class Turn:
    """When a position of a blob is served: by what its client has had, then by its number."""

    had: int
    number: int
    position: int
    client: Hashable


@define(eq=False, repr=False)
class Queues:
    """Positions of one blob that wait, by the clients whose readers came there first."""

    turns: Turns
    _of: dict[int, Hashable] = field(factory=dict, init=False)
    """The client of each position."""
    _queues: dict[Hashable, dict[int, int]] = field(factory=dict, init=False)
    """Each client's positions with their numbers, the first one first."""

    def __contains__(self, position: object) -> bool:
        return position in self._of

    def put(self, position: int, client: Hashable) -> None:
        """Add a position behind the client's others; nothing changes if it is there."""
        if position not in self._of:
            self._of[position] = client
            self._queues.setdefault(client, {})[position] = self.turns.number()

    def put_first(self, positions: dict[int, Hashable]) -> None:
        """Add positions before the others of their clients."""
        added: dict[Hashable, dict[int, int]] = {}
        for position, client in positions.items():
            if position not in self._of:
                self._of[position] = client
                added.setdefault(client, {})[position] = self.turns.number()
        for client, queue in added.items():
            self._queues[client] = queue | self._queues.get(client, {})

    def remove(self, position: int) -> None:
        """Remove a position; harmless if it is not there."""
        if position in self._of:
            client = self._of.pop(position)
            queue = self._queues[client]
            del queue[position]
            if not queue:
                del self._queues[client]

    def first(self) -> Optional[Turn]:
        """Return the turn that comes first; None if nothing waits."""
        had = self.turns.had
        found: Optional[tuple[int, int, int, Hashable]] = None
        for client, queue in self._queues.items():
            position, number = next(iter(queue.items()))
            key = had(client), number, position, client
            if found is None or key[:2] < found[:2]:
                found = key
        return None if found is None else Turn(*found)
