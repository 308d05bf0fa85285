"""
A watch on the reactor that logs whatever holds it too long, with the place in the code.

It is for investigating a stall. It costs a few microseconds a turn and a thread that wakes often,
so it is off unless a setting asks for it.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from typing import Any, Optional

from attrs import define, field
from twisted.logger import Logger

log = Logger()

FRAMES = 5
"""Innermost calls that are logged."""


@define(eq=False, repr=False)
class TurnWatch:
    """
    Stands between ``reactor`` and its epoll object: a turn is the time between two polls.

    ``most`` is in seconds. Reactors other than epoll's are left alone. `start` and `stop` belong to
    the reactor's thread.
    """

    _reactor: Any
    _most: float
    _poller: Any = field(default=None, init=False)
    _began: Optional[float] = field(default=None, init=False)
    """None while the reactor waits."""
    _began_cpu: float = field(default=0.0, init=False)
    _where: str = field(default="", init=False)
    _stopped: threading.Event = field(factory=threading.Event, init=False)

    def start(self) -> None:
        """Watch, from the next turn on."""
        if not hasattr(self._reactor, "_poller"):
            log.warn("LONG_TURNS: this reactor's turns cannot be watched")
            return
        self._poller, self._reactor._poller = self._reactor._poller, self
        arguments = (threading.get_ident(),)
        threading.Thread(target=self._look, args=arguments, daemon=True, name="turns").start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        if self._poller is not None:
            self._reactor._poller, self._poller = self._poller, None

    def poll(self, *arguments: Any) -> Any:
        """Note that the reactor has finished a turn, then wait for the next one as it would."""
        if self._began is not None and (held := time.monotonic() - self._began) > self._most:
            log.warn(
                "the reactor was blocked for {held_ms:.0f} ms, {cpu_ms:.0f} ms of them on the CPU:"
                " {where}",
                held_ms=1000 * held,
                cpu_ms=1000 * (time.thread_time() - self._began_cpu),
                where=self._where or "not seen where",
            )
        self._began, self._where = None, ""
        try:
            return self._poller.poll(*arguments)
        finally:
            self._began_cpu = time.thread_time()
            self._began = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)

    def _look(self, reactors: int) -> None:
        """Look, in a thread of its own, at what the reactor is doing once a turn takes too long."""
        while not self._stopped.wait(self._most / 2):
            began = self._began
            if began is not None and time.monotonic() - began > self._most and not self._where:
                try:
                    calls = traceback.extract_stack(sys._current_frames().get(reactors))[-FRAMES:]
                except AttributeError:
                    continue  # the frames have changed meanwhile
                self._where = " < ".join(f"{call.name}:{call.lineno}" for call in reversed(calls))
