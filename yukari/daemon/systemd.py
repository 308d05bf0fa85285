"""
What systemd is told: that the daemon is ready, that it stops, and that its reactor turns.

Each is a datagram to the socket that NOTIFY_SOCKET names, as in sd_notify(3).
Where that is not set, nobody is told.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Optional

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

log = Logger()


def watchdog_period(environment: Mapping[str, str], process: int) -> Optional[float]:
    """Seconds between two signs of life; None where systemd waits for none of this process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(process)) != str(process):
        return None
    # Half of what it waits for, as sd_watchdog_enabled(3) recommends.
    return int(microseconds) / 2e6 if microseconds.isdecimal() and int(microseconds) else None


@define(eq=False)
class Notifier:
    """Tells systemd, if it was systemd that started this ``process``."""

    _clock: IReactorTime
    _environment: Mapping[str, str]
    _process: int
    _alive: Optional[LoopingCall] = field(default=None, init=False)

    def ready(self) -> None:
        """The daemon serves; signs of life from now on."""
        self._tell("READY=1")
        period = watchdog_period(self._environment, self._process)
        if period is not None:
            self._alive = LoopingCall(self._tell, "WATCHDOG=1")
            self._alive.clock = self._clock
            self._alive.start(period)

    def stopping(self, seconds: float) -> None:
        """The daemon ends, ``seconds`` from now at the latest, whatever the unit allows."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stop(self) -> None:
        """No more signs of life."""
        if self._alive is not None and self._alive.running:
            self._alive.stop()

    def _tell(self, what: str) -> None:
        path = self._environment.get("NOTIFY_SOCKET", "")
        if not path:
            return
        # An @ stands for the zero that begins the name of an abstract socket.
        address = "\0" + path[1:] if path.startswith("@") else path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
                wire.setblocking(False)
                wire.sendto(what.encode(), address)
        except OSError as error:
            log.warn("systemd cannot be told {what}: {error}", what=what, error=error)
