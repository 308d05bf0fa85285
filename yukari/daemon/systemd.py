"""
Notifications to systemd: the daemon is ready, is stopping, and its reactor turns.

Each is a datagram to the socket in NOTIFY_SOCKET, as in sd_notify(3). Without that variable nothing
is sent.
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
    """
    Return the seconds between two keep-alives; None if systemd expects none from this process.
    """
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(process)) != str(process):
        return None
    # Half of the timeout, as sd_watchdog_enabled(3) recommends.
    return int(microseconds) / 2e6 if microseconds.isdecimal() and int(microseconds) else None


@define(eq=False, repr=False)
class Notifier:
    """Notifies systemd, if systemd started this ``process``."""

    _clock: IReactorTime
    _environment: Mapping[str, str]
    _process: int
    _alive: Optional[LoopingCall] = field(default=None, init=False)

    def ready(self) -> None:
        """Report that the daemon serves, and start sending keep-alives."""
        self._tell("READY=1")
        period = watchdog_period(self._environment, self._process)
        if period is not None:
            self._alive = LoopingCall(self._tell, "WATCHDOG=1")
            self._alive.clock = self._clock
            self._alive.start(period)

    def stopping(self, seconds: float) -> None:
        """Report that the daemon ends within ``seconds``, whatever timeout the unit has."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stop(self) -> None:
        """Stop sending keep-alives."""
        if self._alive is not None and self._alive.running:
            self._alive.stop()

    def _tell(self, what: str) -> None:
        path = self._environment.get("NOTIFY_SOCKET", "")
        if not path:
            return
        # An @ stands for the zero byte at the start of the name of an abstract socket.
        address = "\0" + path[1:] if path.startswith("@") else path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
                wire.setblocking(False)
                wire.sendto(what.encode(), address)
        except OSError as error:
            log.warn("cannot notify systemd of {what}: {error}", what=what, error=error)
