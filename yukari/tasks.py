"""Tools for work that several wait for, that is tried again, or that runs in the background."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any, Optional, TypeVar, cast

from attrs import define, field
from twisted.internet.defer import Deferred, FirstError, gatherResults, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.demand import DEMAND, Demand

log = Logger()

T = TypeVar("T")
U = TypeVar("U")

IN_A_TURN = 32
"""Calls of `Slices` in a turn of the reactor; if each sends a reply, they take 5 to 10 ms."""


def backoff(failures: int, first: float, longest: float) -> float:
    """
    Return the seconds to wait after so many ``failures`` in a row.

    ``first`` after the first one, doubled with each other, at most ``longest``.
    """
    return min(longest, first * 2.0 ** min(max(failures - 1, 0), 30))


def jittered(seconds: float) -> float:
    """Return a wait at random around ``seconds``, so that those who failed together part."""
    return seconds * (0.75 + random.random() / 2)


def surviving(work: Callable[[], object], doing: str) -> Callable[[], Deferred[object]]:
    """
    Wrap ``work`` so that it never fails, for a loop that goes on whatever happens.

    Only the first error is logged, with what the loop was ``doing``.
    """
    failed = False

    def note(failure: Failure) -> None:
        nonlocal failed
        if not failed:
            log.failure("{doing} failed; more such errors are not logged", failure, doing=doing)
        failed = True

    return lambda: maybeDeferred(work).addErrback(note)


async def together(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """
    Return what two coroutines return that run at the same time.

    Raise what the first of them raises that fails; the other one goes on to its end.
    """
    both: list[Deferred[Any]] = [Deferred.fromCoroutine(one), Deferred.fromCoroutine(other)]
    try:
        found, other_found = await gatherResults(both, consumeErrors=True)
    except FirstError as error:
        raise cast(BaseException, error.subFailure.value) from None
    return found, other_found


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all of it, in order, or raise the first error once all has ended."""
    begun = [Deferred.fromCoroutine(each).addBoth(lambda result: [result]) for each in work]
    results: list[Any] = [result for (result,) in await gatherResults(begun)]
    for result in results:
        if isinstance(result, Failure):
            result.raiseException()
    return results


@define(eq=False, repr=False)
class Slices:
    """
    Calls that may come by the thousand, of which few are made in a turn of the reactor.

    So everybody else is answered between them. The first few are made at once.
    """

    _clock: IReactorTime
    _waiting: OrderedDict[Hashable, Callable[[], object]] = field(factory=OrderedDict, init=False)
    _making: bool = field(default=False, init=False)
    _next: Optional[IDelayedCall] = field(default=None, init=False)

    def call(self, calls: Mapping[Any, Callable[[], object]]) -> None:
        """Make the calls, in order; one whose key waits already is made once."""
        self._waiting.update(calls)
        if not self._making and self._next is None:
            self._make_some()

    def _make_some(self) -> None:
        self._next, self._making = None, True
        try:
            for _ in range(IN_A_TURN):
                if not self._waiting:
                    break
                _, call = self._waiting.popitem(last=False)
                call()
        finally:
            self._making = False
            if self._waiting:
                self._next = self._clock.callLater(0, self._make_some)


@define(eq=False, repr=False)
class Waiters:
    """
    Those who wait for one event; cancelling one of them leaves the others waiting.

    If they may be many, ``slices`` continue a few of them in each turn of the reactor.
    """

    _slices: Optional[Slices] = None
    _waiting: dict[Deferred[Any], None] = field(factory=dict, init=False)

    def wait(self) -> Deferred[Any]:
        """Return a Deferred that fires with the next `fire`."""
        waiter: Deferred[Any] = Deferred(lambda given_up: self._waiting.pop(given_up, None))
        self._waiting[waiter] = None
        return waiter

    def wait_at_most(self, seconds: float, clock: IReactorTime) -> Deferred[Any]:
        """As `wait`, but the Deferred fires after ``seconds`` in any case."""
        return self.wait().addTimeout(seconds, clock, lambda *_: None)

    def fire(self, result: Any = None) -> None:
        """Give the result, which may be a `Failure`, to all who wait now."""
        waiting, self._waiting = self._waiting, {}
        if self._slices is not None:
            self._slices.call({waiter: partial(_continue, waiter, result) for waiter in waiting})
            return
        for waiter in waiting:
            _continue(waiter, result)


def _continue(waiter: Deferred[Any], result: Any) -> None:
    if not waiter.called:
        waiter.callback(result)


@define(eq=False, repr=False)
class Coalescer:
    """
    One piece of work for all who ask for it at the same time, by a key; ``slices`` as of `Waiters`.
    """

    _slices: Optional[Slices] = None
    _running: dict[Hashable, tuple[Waiters, Demand]] = field(factory=dict, init=False)
    _work: dict[Hashable, Deferred[Any]] = field(factory=dict, init=False)

    async def run(
        self, key: Hashable, work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any
    ) -> T:
        """
        Return what ``work(*arguments)`` returns, or raise what it raises.

        If work with this key is running, wait for that instead. Cancelling an asker does not cancel
        the work, but the `Demand` that it runs with tells when no asker is left.
        """
        running = self._running.get(key)
        waiters, demand = running or (Waiters(self._slices), Demand())
        answer = waiters.wait()
        demand.joined()
        if running is None:
            self._running[key] = waiters, demand
            self._begin(key, demand, work(*arguments))
        try:
            result: T = await answer
            return result
        finally:
            demand.left()

    def _begin(self, key: Hashable, demand: Demand, work: Coroutine[Any, Any, Any]) -> None:
        context = copy_context()
        context.run(DEMAND.set, demand)
        running = context.run(Deferred.fromCoroutine, work)
        if not running.called:
            self._work[key] = running
        running.addBoth(self._settle, key)

    def _settle(self, result: Any, key: Hashable) -> None:
        self._work.pop(key, None)
        waiters, demand = self._running.pop(key)
        demand.keep()
        waiters.fire(result)

    def stop(self) -> None:
        """Cancel all work that is running."""
        for work in list(self._work.values()):
            work.cancel()


@define(eq=False, repr=False)
class Background:
    """Work whose result nobody needs, by a key; `stop` cancels all of it."""

    _running: dict[Hashable, Deferred[Any]] = field(factory=dict, init=False)
    _waiting: dict[Hashable, Waiters] = field(factory=dict, init=False)
    _stopped: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._running

    def start(
        self,
        key: Hashable,
        work: Coroutine[Any, Any, object],
        failed: Callable[[Failure], None],
    ) -> None:
        """Run ``work`` unless it was stopped; ``failed`` is called with an error, once running."""
        if self._stopped:
            work.close()
            return
        task = Deferred.fromCoroutine(work)
        if not task.called:
            self._running[key] = task
        task.addBoth(self._ended, key, failed)

    def _ended(self, result: Any, key: Hashable, failed: Callable[[Failure], None]) -> None:
        self._running.pop(key, None)
        if isinstance(result, Failure) and not self._stopped:
            failed(result)
        if key in self._waiting:
            self._waiting.pop(key).fire()

    async def ended(self, key: Hashable) -> None:
        """Return when no work with this key is running."""
        while key in self._running:
            await self._waiting.setdefault(key, Waiters()).wait()

    def stop(self) -> None:
        """Cancel what is running and start nothing any more."""
        self._stopped = True
        for task in list(self._running.values()):
            task.cancel()
