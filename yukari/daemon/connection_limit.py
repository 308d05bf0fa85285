"""
A limit on clients' connections, so that descriptors are left for everything else.

A daemon without descriptors could open no blob, no spool and no connection upstream, and Twisted
would disconnect new clients.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, Optional

from attrs import define, field
from twisted.internet import tcp
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from yukari.web.drain import Drain

log = Logger()

KEPT_BACK = 256
"""
Descriptors kept for blobs, spools, S3, questions to upstream and Python itself, beside those for
upstream's blobs.
"""
RESERVE = 64
"""Descriptors that are left free whatever takes them: no connection is accepted into these."""
CLIENT_CONNECTIONS = 4096
"""The most connections of one client: 64 machines behind one NAT, each an old Ollama with 64."""
ACCEPTS = 768
"""
Connections that are accepted in one turn of the reactor at most, some 20 ms. Whoever comes behind a
crowd waits for a turn, with some of the crowd's requests in each, for so many. Those that find the
system's queue full, as when two hundred machines open 64 each, try again after 1, 3 and 7 seconds.
"""
LOOK_EVERY = 0.01
LOOK_EACH = 0.0001
"""
Seconds for which nobody is accepted after a client found no room: at least, and for each
connection, for a look goes through all of them.
"""
REFUSED = 64
"""
Requests that are refused at once if a client finds no room: they wait for upstream, and what is
stored can be had at once.
"""
SAY_EVERY = 600.0
"""Seconds between two log lines that there is no room."""


def room_for(open_files: int, upstream: int) -> int:
    """
    Return how many connections of clients the limit of open files allows; at least half of it.
    """
    return max(open_files - upstream - KEPT_BACK, open_files // 2)


def most_of_one_client(room: int) -> int:
    """Return the default of a client's own limit, which leaves some connections for others."""
    return min(CLIENT_CONNECTIONS, max(1, room * 3 // 4))


def lowest_free() -> int:
    """Return the lowest free descriptor: at least as many are open."""
    try:
        number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return sys.maxsize
        raise
    os.close(number)
    return number


@define(eq=False, repr=False)
class ConnectionLimiter:
    """
    Accepts at most ``most`` connections; further ones wait in the system's queue.

    Before anyone has to wait, idle connections are closed, and then requests refused that wait for
    upstream.
    """

    most: int
    _drain: Drain
    _clock: IReactorTime
    _open_files: Optional[int] = None
    """The limit of open files; None for none."""
    _at_once: int = field(default=ACCEPTS, init=False)
    _ports: list[Any] = field(factory=list, init=False)
    _look: Optional[IDelayedCall] = field(default=None, init=False)
    _said_at: Optional[float] = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._drain.room = self.most

    def guard(self, port: Any) -> None:
        """Make a port accept only as many connections as there is room for."""
        if not isinstance(port, tcp.Port):
            return
        accept = port.doRead

        def accept_some() -> None:
            room = self._room()
            if room > 0:
                # Twisted would start with as many as last time, often one, however many wait.
                port.numberAccepts = min(self._at_once, room)
                accept()
            else:
                self._drain.refuse_waiting(REFUSED)
                self._shut()

        port.doRead = accept_some  # type: ignore[method-assign]
        self._ports.append(port)

    def stop(self) -> None:
        """Stop checking: the ports are about to close, and first accept everyone who waits."""
        self._at_once = self.most
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _room(self) -> int:
        room = self.most - self._drain.count()
        if self._open_files is not None:
            room = min(room, self._open_files - RESERVE - lowest_free())
        if room <= 0:
            self._drain.close_unused(self._at_once)
        return room

    def _shut(self) -> None:
        for port in self._ports:
            port.stopReading()
        if self._look is None:
            wait = max(LOOK_EVERY, LOOK_EACH * self._drain.count())
            self._look = self._clock.callLater(wait, self._open_again)
        now = self._clock.seconds()
        if self._said_at is None or now - self._said_at >= SAY_EVERY:
            self._said_at = now
            log.error(
                "{count} connections of clients, as many as the limit of open files leaves room"
                " for: more wait until some end; raise it (ulimit -n, LimitNOFILE=)",
                count=self._drain.count(),
            )

    def _open_again(self) -> None:
        self._look = None
        for port in self._ports:
            if port.connected:
                port.startReading()
