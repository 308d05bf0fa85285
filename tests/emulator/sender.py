"""Sending answers: sendfile at the rate that is allowed."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from tests.emulator.answers import HOLD, RESET, Answer, Step, Stretch
from tests.emulator.content import MIB
from tests.emulator.settings import Settings

if TYPE_CHECKING:
    from tests.emulator.connection import Connection


TICK = 0.02
"""Seconds between two shares of a throttled line."""


class Line:
    """Shares the bytes per second among the senders, a little at each tick."""

    def __init__(self, reactor: Any, settings: Settings) -> None:
        self._reactor = reactor
        self._settings = settings
        self._senders: set[Sender] = set()
        self._tick: Any = None
        self._last = 0.0
        self._left = 0.0

    def join(self, sender: Sender) -> None:
        self._senders.add(sender)

    def leave(self, sender: Sender) -> None:
        self._senders.discard(sender)
        if not self._senders and self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def allowance(self, sender: Sender) -> float:
        """How many bytes the sender may send now; where none, it is woken when there are."""
        if self._settings.line is None and self._rate(sender) is None:
            return math.inf
        if sender.budget < 1 and self._tick is None:
            self._last = self._reactor.seconds()
            self._tick = self._reactor.callLater(TICK, self._share)
        return sender.budget

    def _rate(self, sender: Sender) -> float | None:
        return self._settings.rate if sender.rate is None else sender.rate

    def _share(self) -> None:
        now = self._reactor.seconds()
        passed, self._last = min(now - self._last, 0.25), now
        line = self._settings.line
        pool = math.inf if line is None else line * passed + self._left
        wants = sorted((self._want(sender, passed, pool), id(sender), sender)
                       for sender in self._senders)  # fmt: skip
        self._tick = self._reactor.callLater(TICK, self._share)
        for at, (want, _, sender) in enumerate(wants):
            given = min(want, pool / (len(wants) - at))
            sender.budget += given
            pool -= given
        self._left = 0.0 if line is None else min(pool, line * 0.05)
        for _, _, sender in wants:
            sender.wake()

    def _want(self, sender: Sender, passed: float, pool: float) -> float:
        """At most its rate, and no saving up beyond a tenth of a second."""
        rate = self._rate(sender)
        if rate is None:
            line = self._settings.line
            return MIB if line is None else max(0.0, max(line * 0.1, pool) - sender.budget)
        return max(0.0, min(rate * passed, rate * max(0.1, passed) - sender.budget))


class Sender:
    """
    A pull producer that carries out an answer's steps on a TCP transport.

    The transport asks for more only when its own buffer is empty, which is
    when the socket may be given bytes of the file directly (sendfile).
    """

    def __init__(self, connection: Connection, answer: Answer) -> None:
        self._connection = connection
        self._emulator = connection.emulator
        self._transport: Any = connection.transport
        self._steps = answer.steps
        self._digest = answer.digest
        self._step: Step | None = None
        self._begun = False
        self._waiting = False
        self._held = False
        self.rate = answer.rate
        self.budget = 0.0

    def start(self) -> None:
        if self._digest is not None:
            self._emulator.line.join(self)
        self._transport.registerProducer(self, False)

    def wake(self) -> None:
        """There may be an allowance again."""
        if self._waiting:
            self._waiting = False
            self._transport.startWriting()

    def release(self) -> None:
        """Go on where the answer was held."""
        if self._held:
            self._held = False
            self._transport.startWriting()

    def resumeProducing(self) -> None:
        if not self._begun:  # Registration asks for bytes before the head has left.
            self._begun = True
            self._transport.startWriting()
            return
        if self._held or self._waiting:
            return
        step = self._step if self._step is not None else next(self._steps, None)
        self._step = None
        if step is None:
            self._end()
            self._connection.answered()
        elif isinstance(step, bytes):
            self._transport.write(step)
            self._transport.startWriting()
        elif isinstance(step, Stretch) and step.wrong:
            right = os.pread(self._emulator.content.fileno(), step.count, step.offset)
            self._transport.write(bytes(byte ^ 0xFF for byte in right))
            self._count(step.count)
        elif isinstance(step, Stretch):
            self._send_file(step)
        elif step == HOLD:
            self._held = True
            self._emulator.hold(self.release)
        else:
            self._end()
            if step == RESET:
                self._transport.abortConnection()
            else:
                self._transport.loseConnection()

    def _send_file(self, step: Stretch) -> None:
        allowed = min(step.count, self._emulator.line.allowance(self), MIB)
        if allowed < 1:
            self._step = step
            self._waiting = True
            return
        try:
            sent = os.sendfile(
                self._transport.fileno(),
                self._emulator.content.fileno(),
                step.offset,
                int(allowed),
            )
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end()
            self._transport.abortConnection()
            return
        if self.budget >= sent:
            self.budget -= sent
        self._count(sent)
        if sent < step.count:
            self._step = Stretch(step.offset + sent, step.count - sent)
        self._transport.startWriting()

    def _count(self, sent: int) -> None:
        if self._digest is not None:
            self._emulator.counters.sent += sent
            self._emulator.counters.sent_by_digest[self._digest] += sent

    def stopProducing(self) -> None:
        self._held = self._waiting = False
        self._emulator.line.leave(self)

    def _end(self) -> None:
        self._emulator.line.leave(self)
        self._transport.unregisterProducer()
