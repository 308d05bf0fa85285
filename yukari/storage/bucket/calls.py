"""Calls to S3 that a store has in progress, so that none of them outlives it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from yukari.s3.errors import UNREACHABLE, S3Error

T = TypeVar("T")


@define(eq=False, repr=False)
class Calls:
    """Runs coroutines until `interrupt` cancels them all and refuses further ones."""

    _running: set[Deferred[Any]] = field(factory=set, init=False)
    _is_over: bool = field(default=False, init=False)

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return the result of ``call``; `S3Error` if it is interrupted."""
        if self._is_over:
            call.close()
            raise _stopping()
        running = Deferred.fromCoroutine(call)
        self._running.add(running)
        try:
            return await running
        except CancelledError:
            if self._is_over:
                raise _stopping() from None
            raise
        finally:
            self._running.discard(running)

    def interrupt(self) -> None:
        """Cancel every call in progress; harmless when repeated."""
        self._is_over = True
        for running in list(self._running):
            running.cancel()

    async def stop(self) -> None:
        """`interrupt`, then return when every call has ended."""
        self.interrupt()
        while self._running:
            await DeferredList(list(self._running))


def _stopping() -> S3Error:
    return S3Error(UNREACHABLE, 0, "the store is stopping")
