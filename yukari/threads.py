"""
Blocking work in threads, and the end of a store's work that nobody waits for any more.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Optional, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, execute, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

DISK_THREADS = 6
"""Threads for a store's blocking work: enough that one slow disk call does not hold up others."""

T = TypeVar("T")
InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments in a disk thread, as ``deferToThreadPool`` does."""


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
        Call ``work`` in a disk thread, then ``ended`` in the reactor's.

        Cancelling the Deferred lets the thread finish its work; ``undo`` then gets the result.
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
        """Return when no call is in progress."""
        while self._under_way:
            await DeferredList(list(self._under_way))


@define(eq=False, repr=False)
class Threads:
    """
    Runs blocking work in threads of its own, because the reactor's pool is also for DNS.

    Before `start` the work is done at once, in the caller's thread; after `stop` it is refused.
    """

    _reactor: Any
    _name: str
    _most: int
    _pool: Optional[ThreadPool] = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        """Use threads from now on."""
        self._pool = ThreadPool(0, self._most, self._name)
        self._pool.start()

    def stop(self) -> None:
        """Wait for the work in progress and end the threads."""
        pool, self._pool = self._pool, None
        self._stopped = True
        if pool is not None:
            pool.stop()

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if self._stopped:
            return fail(OSError(errno.ESHUTDOWN, "the daemon is stopping"))
        if self._pool is None:
            return execute(work, *arguments)
        return deferToThreadPool(self._reactor, self._pool, work, *arguments)


def run_sync(work: Deferred[Any]) -> Any:
    """Return the result of work that needs no reactor, or raise its error."""
    results: list[Any] = []
    work.addBoth(results.append)
    if not results:
        raise RuntimeError("this must not wait for the reactor")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]
