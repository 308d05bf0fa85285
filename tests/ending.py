"""Work that a test begins and that ends with the test, whatever it waits for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

T = TypeVar("T")


def begin(case: SynchronousTestCase, work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """
    Begin ``work`` for a test, and cancel it at the test's end.

    A coroutine that is merely left is closed by the garbage collector, which then runs its
    ``finally`` in the midst of another test; what that wakes may be closed already.
    """
    begun = Deferred.fromCoroutine(work)
    case.addCleanup(_end, begun)
    return begun


def _end(begun: Deferred[Any]) -> None:
    begun.addErrback(_forget)
    begun.cancel()


def _forget(failure: Failure) -> None:
    """It has ended."""
