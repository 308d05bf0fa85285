"""
The connections to one host, what they bring together, and what bounds it.

It has no timer: it looks at its connections when bytes arrive, at most ten times a second.
"""

from __future__ import annotations

from math import inf
from typing import Optional

from attrs import define, field
from cachetools import LRUCache

from yukari.net.flight import Flight
from yukari.net.tcp import UNBOUNDED, Connection, Reading

MAX_HOSTS = 256
"""Hosts that are remembered."""
HELD = 1.0
"""Seconds after a pause of ours during which what arrives says nothing of the line."""


@define(eq=False, repr=False)
class HostLine:
    """What is known of the way to one host."""

    flight: Flight = field(factory=Flight, init=False)
    _connections: list[Connection] = field(factory=list, init=False)
    """Some of them may be closed by now."""
    _seen: int = field(default=0, init=False)
    """How many there were at the last look at them."""
    _opening: int = field(default=0, init=False)
    """How many more are being made."""
    _window: Optional[int] = field(default=None, init=False)
    """What each of them may have on its way; None for no bound."""
    _read_at: float = field(default=-inf, init=False)
    """When bytes last arrived that a client waits for."""
    _held_at: float = field(default=-inf, init=False)
    """When a connection last had to pause because of us."""

    def begin(self) -> None:
        """A connection is being made; `connected` or `failed` follows."""
        self._opening += 1

    def waited_for(self, now: float) -> None:
        """Something is asked for that a client waits for."""
        self._read_at = now
        self.flight.waited_for()

    def failed(self) -> None:
        """It could not be made."""
        self._opening -= 1

    def connected(self, connection: Connection) -> None:
        """It was made."""
        self._opening -= 1
        self._connections.append(connection)
        if self._read():
            window = self.promised
            if window is None:
                connection.bound(UNBOUNDED)
            self._bound(window)

    @property
    def promised(self) -> Optional[int]:
        """
        How many bytes may be on their way at first on a connection that is being made; None for
        any number.
        """
        unseen = max(0, len(self._connections) - self._seen)
        return self.flight.share(unseen + self._opening)

    def _read(self) -> dict[Connection, Reading]:
        """What the system tells of each connection that is open."""
        self._connections = [each for each in self._connections if each.is_open]
        found = {each: each.read() for each in self._connections}
        return {each: reading for each, reading in found.items() if reading is not None}

    def _bound(self, window: Optional[int]) -> None:
        """Let so many bytes be on their way on each connection; None for no bound."""
        if window is None and self._window is None:
            return
        self._window = window
        for each in self._connections:
            # Again, even if it is the same: the system's own growth forgets it.
            each.bound(UNBOUNDED if window is None else window)

    def received(self, now: float, *, is_read: bool, held: bool) -> bool:
        """
        Bytes of a blob have arrived; ``is_read`` if a client waits for some of that blob, ``held``
        if its connection must pause now because of our disk, our memory, or UPSTREAM_RATE. Returns
        whether it has looked at all of them.
        """
        if is_read:
            self._read_at = now
        if held:
            self._held_at = now
        if not self.flight.is_due(now) or now - self._held_at <= HELD:
            return False
        self._look(now)
        return True

    def _look(self, now: float) -> None:
        is_read = now - self._read_at < HELD
        readings = self._read()
        window = self.flight.look(now, readings, is_read=is_read)
        if readings:
            self._bound(window)
        self._seen = len(self._connections)


@define(eq=False, repr=False)
class HostLines:
    """The lines to all hosts, by the host and the port in their URLs."""

    _lines: LRUCache[tuple[str, int], HostLine] = field(
        factory=lambda: LRUCache(MAX_HOSTS), init=False
    )

    def of(self, place: tuple[str, int]) -> HostLine:
        """Return the line to a host (IPv6 without brackets) and port."""
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = HostLine()
        return line
