"""
For whom a piece of work is done, and whether anybody still waits for it.

Both belong to the context in which a coroutine runs, so that they need not be handed through every
call between a request and the question that it leads to upstream.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import ContextVar
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred

CLIENT: ContextVar[Hashable] = ContextVar("CLIENT", default=None)
"""The client whose request is being answered; None for work of the cache's own."""


@define(eq=False, repr=False)
class Demand:
    """Those who wait for one piece of work, which may be shared."""

    _askers: int = field(default=0, init=False)
    _withdrawn: Optional[Deferred[Any]] = field(default=None, init=False)
    """Cancelled once nobody waits any more."""

    def joined(self) -> None:
        """One more waits."""
        self._askers += 1

    def left(self) -> None:
        """One waits no more."""
        self._askers -= 1
        if not self._askers and self._withdrawn is not None:
            self._withdrawn.cancel()

    def withdraw(self, waiting: Deferred[Any]) -> None:
        """Cancel ``waiting`` once nobody waits for the work, until the next `keep`."""
        self._withdrawn = waiting
        if not self._askers:
            waiting.cancel()

    def keep(self) -> None:
        """Go on with the work whoever leaves."""
        self._withdrawn = None


DEMAND: ContextVar[Optional[Demand]] = ContextVar("DEMAND", default=None)
"""Those who wait for the work in progress; None if it goes on without anybody."""
