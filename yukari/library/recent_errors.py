"""The last warnings and errors of the log, kept for those who look at the status page."""

from __future__ import annotations

from collections import deque

from attrs import define, field, frozen
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

MAX_KEPT = 50
"""Warnings and errors that are kept."""
MAX_TEXT = 500
"""Characters that are kept of each."""


@frozen
class Trouble:
    """A warning or an error; ``at`` is in seconds of the epoch."""

    at: float
    level: str
    """``warning`` or ``error``."""
    text: str


@implementer(ILogObserver)
@define(eq=False, repr=False)
class RecentErrors:
    """Keeps the last `MAX_KEPT` of them."""

    kept: deque[Trouble] = field(factory=lambda: deque(maxlen=MAX_KEPT), init=False)

    def start(self) -> None:
        """Listen to the log."""
        globalLogPublisher.addObserver(self)

    def stop(self) -> None:
        """Listen no more."""
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level")
        if level is None or level < LogLevel.warn or event.get("banner"):
            return
        failure = event.get("log_failure")
        text = formatEvent(event)
        if failure is not None:
            text = f"{text}: {failure.getErrorMessage()}"
        kind = "warning" if level is LogLevel.warn else "error"
        self.kept.append(Trouble(event.get("log_time", 0.0), kind, text[:MAX_TEXT]))
