"""
A line with a queue, in no time: several senders of TCP's kind, a bottleneck that drops from its
tail, and receivers whose windows bound what is on its way.

A sender doubles what it has on its way each round trip until bytes are dropped, then grows as cubic
does (RFC 9438). Time passes in ticks; what a sender may send in a tick is one piece of it.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Optional

from attrs import define, field

SEGMENT = 1448
FIRST_WINDOW = 10 * SEGMENT
"""Bytes that a new sender may have on their way (RFC 6928)."""
PROMISED = 64 * 1024
"""Bytes that a receiver of Linux's lets be on their way before it has received any."""
STAMPS = 0.001
"""Seconds between two time stamps of TCP's, with each of which a round trip is measured."""
CUBIC = 0.4
"""Segments a second cubed, by which a sender's window grows."""
SHRINKS = 0.7
"""What a sender's window is multiplied with when bytes were dropped."""


@define(eq=False)
class Flow:
    """A connection through a `Line`: what its sender may do, and what its receiver has seen."""

    each: float = inf
    """Bytes a second that the sender brings at the most."""
    window: float = inf
    """Bytes that the receiver lets be on their way; it never takes back what it has promised."""
    promised: float = field()
    """The first byte that the sender may not send, as it knows."""
    wanted: float = 0.0
    """Bytes that are to be sent and were not, or were dropped."""
    arrived: float = field(default=0.0, init=False)
    """Bytes that the receiver has got."""
    round_trip: Optional[float] = field(default=None, init=False)
    """Seconds, smoothed, as the receiver measures it."""
    least: float = field(default=inf, init=False)
    """The shortest round trip."""
    asked: float = field(default=0.0, init=False)
    """Seconds that requests take to be received, smoothed as the receiver's system does."""
    lost: float = field(default=0.0, init=False)
    """Bytes that were dropped."""
    congestion: float = field(default=float(FIRST_WINDOW), init=False)
    under_way: float = field(default=0.0, init=False)
    """Bytes sent whose receipt the sender does not know of."""
    out_of_order: float = field(default=0.0, init=False)
    """Segments that arrived while an earlier one was missing."""
    _missing_until: float = field(default=-inf, init=False)
    _acknowledged: float = field(default=0.0, init=False)
    _asking: deque[tuple[float, float]] = field(factory=deque, init=False)
    """When each request reaches the sender, and its bytes."""
    _allowance: float = field(default=0.0, init=False)
    _was_most: float = field(default=0.0, init=False)
    _dropped_at: Optional[float] = field(default=None, init=False)

    @promised.default
    def _promises_at_first(self) -> float:
        return min(self.window, PROMISED)

    def asks(self, count: int, at: float) -> None:
        """The receiver asks for so many bytes, and the sender hears that at ``at`` seconds."""
        self._asking.append((at, count))

    def hear(self, now: float, round_trip: float) -> None:
        """Take in what has been asked by now, over a line that has that round trip."""
        while self._asking and self._asking[0][0] <= now:
            self.wanted += self._asking.popleft()[1]
            self.asked += (round_trip - self.asked) / 8

    def may_send(self, tick: float) -> float:
        """Bytes that leave now."""
        if self.each < inf:
            self._allowance = min(self._allowance + self.each * tick, self.each * max(tick, 0.02))
        else:
            self._allowance = inf
        room = min(self.congestion, self.promised - self._acknowledged) - self.under_way
        return max(0.0, min(self.wanted, room, self._allowance))

    def sent(self, count: float) -> None:
        """So many have left."""
        self.wanted -= count
        self.under_way += count
        self._allowance -= count

    def acknowledged(self, count: float, now: float, round_trip: float) -> None:
        """The sender learns that so many were received."""
        allowed = min(self.congestion, self.promised - self._acknowledged)
        was_full = self.under_way >= 0.8 * allowed
        self.under_way -= count
        self._acknowledged += count
        self.promised = max(self.promised, self._acknowledged + self.window)
        if self._dropped_at is None:
            if was_full:
                self.congestion += count
            return
        at = (self._was_most * (1 - SHRINKS) / SEGMENT / CUBIC) ** (1 / 3)
        since = now - self._dropped_at + round_trip
        cubic = self._was_most + CUBIC * SEGMENT * (since - at) ** 3
        if was_full and cubic > self.congestion:
            self.congestion = min(cubic, self.congestion + count / 2)

    def received(self, count: float, round_trip: float, seconds: float, now: float) -> None:
        """So many arrive within ``seconds``, whose request for more had gone so long ago."""
        self.arrived += count
        self.out_of_order += count / SEGMENT * (now < self._missing_until)
        seen = self.round_trip
        weight = 1 - (7 / 8) ** max(1, round(seconds / STAMPS))
        self.round_trip = round_trip if seen is None else seen + (round_trip - seen) * weight
        self.least = min(self.least, round_trip)

    def dropped(self, count: float, now: float, round_trip: float) -> None:
        """So many did not fit into the queue; they are sent again."""
        self.under_way -= count
        self.wanted += count
        self.lost += count
        self._missing_until = now + 1.5 * round_trip  # It is sent again a round trip later.
        if self._dropped_at is None or now - self._dropped_at > round_trip:
            self._dropped_at, self._was_most = now, self.congestion
            self.congestion = max(2.0 * SEGMENT, SHRINKS * self.congestion)


@define
class _Piece:
    flow: Flow
    count: float
    sent_at: float
    due: float = 0.0


@define(eq=False)
class Line:
    """``rate`` bytes a second, ``base`` seconds there and back, ``queue`` seconds of bytes."""

    rate: float
    base: float
    queue: float
    flows: list[Flow] = field(factory=list, init=False)
    now: float = field(default=0.0, init=False)
    waits: list[float] = field(factory=list, init=False)
    """For each tick, how long a byte that came then had to queue, in seconds."""
    _queued: float = field(default=0.0, init=False)
    _pieces: deque[_Piece] = field(factory=deque, init=False)
    _there: deque[_Piece] = field(factory=deque, init=False)
    _back: deque[_Piece] = field(factory=deque, init=False)
    _turn: int = field(default=0, init=False)

    def join(self, flow: Flow) -> Flow:
        """Add a connection, which has just been made."""
        self.flows.append(flow)
        flow.asked = flow.least = self.round_trip
        return flow

    @property
    def round_trip(self) -> float:
        """Seconds there and back now."""
        return self.base + self._queued / self.rate

    def _send(self, tick: float) -> None:
        self._turn += 1  # No flow is always the first, or has always the last room.
        first = self._turn % max(1, len(self.flows))
        for flow in self.flows[first:] + self.flows[:first]:
            flow.hear(self.now, self.round_trip)
            count = flow.may_send(tick)
            if count < 1:
                continue
            room = max(0.0, self.queue * self.rate - self._queued)
            flow.sent(count)
            if count > room:
                flow.dropped(count - room, self.now, self.round_trip)
                count = room
            if count >= 1:
                self._queued += count
                self._pieces.append(_Piece(flow, count, self.now))

    def _serve(self, tick: float) -> None:
        left = self.rate * tick
        while self._pieces and left > 0:
            piece = self._pieces[0]
            count = min(left, piece.count)
            left -= count
            piece.count -= count
            self._queued -= count
            there = _Piece(piece.flow, count, piece.sent_at, self.now + self.base / 2)
            self._there.append(there)
            if piece.count < 1e-6:
                self._pieces.popleft()

    def _deliver(self) -> None:
        while self._there and self._there[0].due <= self.now:
            piece = self._there.popleft()
            round_trip = piece.due - piece.sent_at + self.base / 2
            piece.flow.received(piece.count, round_trip, piece.count / self.rate, self.now)
            piece.due += self.base / 2
            self._back.append(piece)
        while self._back and self._back[0].due <= self.now:
            piece = self._back.popleft()
            round_trip = piece.due - piece.sent_at
            piece.flow.acknowledged(piece.count, self.now, round_trip)

    def advance(self, tick: float) -> None:
        """Let so many seconds pass."""
        self._send(tick)
        self._serve(tick)
        self.now += tick
        self._deliver()
        self.waits.append(self._queued / self.rate)
