"""What a store does in disk threads, and what becomes of it when nobody waits any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList

T = TypeVar("T")
InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments in a disk thread: ``deferToThreadPool`` without its first two."""


class DiskWork:
    """A store's calls to disk threads; the store has the two fields."""

    _in_thread: InThread
    _under_way: set[Deferred[Any]]

    def _run(
        self,
        work: Callable[..., T],
        *args: Any,
        ended: Callable[[], None] = lambda: None,
        undo: Callable[[T], object] = lambda _: None,
    ) -> Deferred[T]:
        """
        Call ``work`` in a disk thread; then ``ended``, in the reactor's.

        Cancelling the Deferred leaves the thread to end its work; ``undo`` then
        takes what came of it.
        """
        answer: Deferred[T] = Deferred()
        under_way = self._in_thread(work, *args)
        self._under_way.add(under_way)

        def done(result: Any, failed: bool) -> None:
            self._under_way.discard(under_way)
            ended()
            if answer.called:
                if not failed:
                    undo(result)
            elif failed:
                answer.errback(result)
            else:
                answer.callback(result)

        under_way.addCallbacks(done, done, (False,), {}, (True,), {})
        return answer

    async def _disk_work_ended(self) -> None:
        """Returns when no call is under way any more."""
        while self._under_way:
            await DeferredList(list(self._under_way))
