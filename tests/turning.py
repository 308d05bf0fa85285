"""A clock by which a turn of the reactor takes a second, so that tests can tell two turns apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock


class Turning(Clock):
    """What is to be called later, and as soon as may be, is called a second later."""

    def callLater(
        self, delay: float, call: Callable[..., Any], *args: Any, **kw: Any
    ) -> IDelayedCall:
        return super().callLater(delay or 1, call, *args, **kw)
