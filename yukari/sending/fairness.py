"""The order in which file senders get their turn, and how much each may send in it."""

from __future__ import annotations

from itertools import chain, islice
from typing import Optional, Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

A_TURN = 8 * 1024 * 1024
A_ROUND = 64 * 1024 * 1024
AT_ONCE_LEAST = 64 * 1024
"""
Limits in bytes. `A_TURN` is what leaves in one turn of the reactor, some 4 ms, and so the most of
one ``sendfile``; `A_ROUND` what leaves until all greedy readers have had their share;
`AT_ONCE_LEAST` the smallest share, which is also a reader's first.

A sender that finds the turn's bytes used up is first in line in the next turn, after those that
have sent nothing yet.
"""
HELPED_MOST = 256
"""
Greedy readers beyond which helper threads do not pay. A helper sends megabytes at a time, so that
of thousands of readers the last would wait for all the others; and clients need the cores.
"""
A_CALL = 16 * 1024
"""Bytes that one ``sendfile`` counts as in a turn, at least."""


class Sender(Protocol):
    """A sender that waits for its turn; see `sendfile.FileSender`."""

    @property
    def begun(self) -> bool:
        """Whether a byte has left."""

    def catch_up(self) -> None:
        """Send now: it had to wait, and its turn has come."""


@define
class Turn:
    """
    The bytes that may leave before the reactor turns.

    Without a bound, thousands of readers would make a turn endless, and new connections and
    requests would wait for its end.
    """

    left: int = A_TURN
    """Bytes left; the next turn starts afresh."""
    greedy: set[Sender] = field(factory=set)
    """Senders whose readers took everything that they were last given."""
    late: dict[Sender, None] = field(factory=dict)
    """Senders that found nothing left: not polled, the longest-waiting first."""
    new: dict[Sender, None] = field(factory=dict)
    """The same for senders that have sent nothing yet: they go first, and get little."""
    _begins: Optional[IDelayedCall] = None

    def wait(self, sender: Sender) -> None:
        """Call the sender again when there is something left."""
        (self.late if sender.begun else self.new)[sender] = None

    def waits(self, sender: Sender) -> bool:
        return sender in self.late or sender in self.new

    def leave(self, sender: Sender) -> None:
        """Stop waiting."""
        self.late.pop(sender, None)
        self.new.pop(sender, None)

    def share(self, sender: Sender) -> int:
        """Return the bytes that the sender may send at once."""
        if not sender.begun:
            return AT_ONCE_LEAST
        return max(AT_ONCE_LEAST, min(A_TURN, A_ROUND // max(1, len(self.greedy))))

    def crowds(self, sender: Sender) -> bool:
        """
        Whether this sender and others take everything they are given, so that helper threads pay.
        """
        return sender in self.greedy and 1 < len(self.greedy) <= HELPED_MOST

    def used(self, count: int, reactor: IReactorTime) -> None:
        """Count a ``sendfile`` of ``count`` bytes."""
        self.left -= max(count, A_CALL)
        if self.left <= 0 and self._begins is None:
            self._begins = reactor.callLater(0, self._begin, reactor)

    def _begin(self, reactor: IReactorTime) -> None:
        self._begins = None
        self.left = A_TURN
        for sender in list(islice(chain(self.new, self.late), A_TURN // A_CALL)):
            if self.left <= 0:
                break
            if self.waits(sender):
                self.leave(sender)
                sender.catch_up()
        if (self.new or self.late) and self._begins is None:
            self._begins = reactor.callLater(0, self._begin, reactor)
