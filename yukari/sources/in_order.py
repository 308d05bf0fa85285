"""
Whether a host's first byte comes the later, the farther it is from a blob's beginning.

A proxy may scan a file up to the bytes asked for before it answers; a server may have its requests
wait for each other, which are made in the order of the bytes. From either a blob comes no sooner if
it is asked for at several places at once. Without I/O and without a clock: times are seconds of the
caller's.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field, frozen

ANSWERS = 48
"""Answers that are looked at."""
LEAST = 8
"""Fewer answers than that tell nothing."""
EARLIER = 2
"""
So many answers must have come before the last so many were asked for: requests of one moment wait
for each other at any host.
"""
SPREAD = 0.05
"""Seconds by which the longest wait must exceed the shortest: less is chance."""
CHANCE = 0.1
"""The part of that time by which answers may, on average, be off the straight line through all."""
HALF = 0.5
"""
If the first byte of a part comes later by at least this share of the time in which one connection
brings all bytes before it, that one connection is enough.
"""
TELLS = 64 * 1024
"""Bytes of a body that tell a connection's rate."""
AT_ONCE = 0.02
"""Seconds that a body lasts at least: what bounds a rate lets some bytes pass at once."""
_MEMORY = 0.8
"""The weight of earlier bodies at each new one."""


@frozen
class _Answer:
    asked_at: float
    offset: int
    seconds: float
    """From the request to its first byte."""


@define(eq=False)
class InOrder:
    """What one host's answers tell of that."""

    seconds_per_byte: float = field(default=0.0, init=False)
    """By which the first byte comes later for each byte that it is farther; 0 for none."""
    _first: float = field(default=0.0, init=False)
    _answers: deque[_Answer] = field(factory=lambda: deque(maxlen=ANSWERS), init=False)
    _bytes: float = field(default=0.0, init=False)
    _seconds: float = field(default=0.0, init=False)

    @property
    def is_needed(self) -> bool:
        """Whether one request for all that is left brings it as soon as several for parts."""
        return self.seconds_per_byte * self.rate >= HALF

    @property
    def rate(self) -> float:
        """Bytes a second of one connection's bodies; 0 while that is not known."""
        return self._bytes / self._seconds if self._seconds else 0.0

    def later(self, offset: int) -> float:
        """Return by how many seconds a byte comes later than a blob's first."""
        return self.seconds_per_byte * offset

    def body(self, count: int, seconds: float) -> None:
        """A body of ``count`` bytes took so many seconds."""
        if count >= TELLS:
            self._bytes = self._bytes * _MEMORY + count
            self._seconds = self._seconds * _MEMORY + max(AT_ONCE, seconds)

    def answered(self, asked_at: float, offset: int, seconds: float) -> None:
        """The first byte, at ``offset``, of a request of that time has come after ``seconds``."""
        self._answers.append(_Answer(asked_at, offset, seconds))
        self.seconds_per_byte = self._slope()

    def _slope(self) -> float:
        answers, count = self._answers, len(self._answers)
        spread = max(each.seconds for each in answers) - min(each.seconds for each in answers)
        if count < LEAST or spread < SPREAD or not self._are_of_several_times():
            return 0.0
        offset = sum(each.offset for each in answers) / count
        seconds = sum(each.seconds for each in answers) / count
        apart = sum((each.offset - offset) ** 2 for each in answers)
        if not apart:
            return 0.0
        both = sum((each.offset - offset) * (each.seconds - seconds) for each in answers)
        slope = both / apart
        first = seconds - slope * offset
        chance = CHANCE * spread
        off = sum((first + slope * each.offset - each.seconds) ** 2 for each in answers) / count
        return slope if slope > 0 and first >= -chance and off <= chance**2 else 0.0

    def _are_of_several_times(self) -> bool:
        asked = sorted(each.asked_at for each in self._answers)
        came = sorted(each.asked_at + each.seconds for each in self._answers)
        return came[EARLIER - 1] <= asked[-EARLIER]
