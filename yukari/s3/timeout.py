"""A timeout that counts silence, not the time that a request takes."""

from __future__ import annotations

from typing import Any, Optional, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

T = TypeVar("T")


@define(eq=False, repr=False)
class SilenceTimeout:
    """Cancels what it watches after ``seconds`` of silence."""

    _clock: IReactorTime
    _seconds: float
    late: bool = field(default=False, init=False)
    """Whether it was silent for too long."""
    _watched: Optional[Deferred[Any]] = field(default=None, init=False)
    _timer: Optional[IDelayedCall] = field(default=None, init=False)
    _over: bool = field(default=False, init=False)

    def watch(self, inner: Deferred[T]) -> Deferred[T]:
        """
        Return the result of ``inner``; CancelledError if it was cancelled, late or from outside.

        An agent reports a cancelled request as a failed one.
        """
        dropped = False

        def drop(_: object) -> None:
            nonlocal dropped
            dropped = True
            inner.cancel()

        watched: Deferred[T] = Deferred(drop)

        def settle(result: Any) -> None:
            self.stop()
            if not dropped:
                watched.callback(result)

        self._watched = watched
        self.heard()
        inner.addBoth(settle)
        return watched

    def heard(self) -> None:
        """Note a sign of life: the silence begins anew."""
        if self._over:
            return  # the body may still be arriving when the request has failed
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._give_up)
        else:
            self._timer.reset(self._seconds)

    def _give_up(self) -> None:
        self._timer = None
        self.late = True
        if self._watched is not None:
            self._watched.cancel()

    def stop(self) -> None:
        """Watch no longer."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
