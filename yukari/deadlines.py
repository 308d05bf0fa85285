"""
Deadlines of many things that all have the same time, with one timer.

A timer of the reactor's own takes some 400 bytes, and stays for a while after it was cancelled:
with three of them a connection, 12,800 connections took 15 MB more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Optional, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

LENIENT = 0.001
"""Seconds by which a deadline may come early: sums of floats differ in their last digits."""

T = TypeVar("T", bound=Hashable)


@define(eq=False, repr=False)
class Deadlines(Generic[T]):
    """Calls ``late`` with whatever was begun ``seconds`` ago and has not ended since."""

    _clock: IReactorTime
    seconds: float
    _late: Callable[[T], object]
    _due: dict[T, float] = field(factory=dict, init=False)
    """When each is late, the first one first."""
    _timer: Optional[IDelayedCall] = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self._due)

    def begin(self, thing: T) -> None:
        """Begin a thing's time, or begin it anew."""
        self._due.pop(thing, None)
        self._due[thing] = self._clock.seconds() + self.seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self.seconds, self._look)

    def end(self, thing: T) -> None:
        """End a thing's time; harmless if it does not run."""
        if self._due.pop(thing, None) is not None and not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        late = []
        for thing, due in self._due.items():
            if due > now + LENIENT:
                self._timer = self._clock.callLater(due - now, self._look)
                break
            late.append(thing)
        for thing in late:
            if self._due.pop(thing, None) is not None:
                try:
                    self._late(thing)
                except Exception:  # The others are late all the same.
                    log.failure("ending what is late")
