"""
Waiting for a registry that wishes to be left alone for a moment: 429 with Retry-After.

hf.co limits the requests of an address, and a cache is one address for a whole network. A pull that
comes too early by some seconds would fail though nobody is at fault: its question waits instead.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import ceil
from typing import Any, Optional, TypeVar

from attrs import define, evolve, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from yukari.errors import RegistryError

T = TypeVar("T")

WAITED_FOR = 10.0
"""Seconds that a question waits at most, in all; an Ollama client is willing to wait longer."""


@define(eq=False, repr=False)
class Patience:
    """Waits for one registry: nothing is asked of it while it wishes to be left alone."""

    _clock: IReactorTime
    _until: float = field(default=0.0, init=False)
    _error: Optional[RegistryError] = field(default=None, init=False)
    """What it said last."""

    async def ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the answer to a question, which is asked again after a wait. `RegistryError`."""
        began = self._clock.seconds()
        while True:
            left = self._until - self._clock.seconds()
            if left > 0:
                if self._error is not None and self._until - began > WAITED_FOR:
                    raise evolve(self._error, retry_after=ceil(left))
                await deferLater(self._clock, left)
                continue
            try:
                return await question()
            except RegistryError as error:
                if error.status != 429 or not error.retry_after:
                    raise
                self._until = self._clock.seconds() + error.retry_after
                self._error = evolve(error)
                if self._until - began > WAITED_FOR:
                    raise
