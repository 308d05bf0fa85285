"""In what order those that send files have their turn, and how much each may send in it."""

from __future__ import annotations

from itertools import chain, islice
from typing import Optional, Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

A_TURN = 8 * 1024 * 1024
A_ROUND = 64 * 1024 * 1024
AT_ONCE_LEAST = 64 * 1024
"""
Bytes that leave in one turn of the reactor, some 4 ms, and so the most of one ``sendfile``; bytes
that leave until all readers that take all they are given have had their share; the least share, and
a reader's first. Who finds the turn's bytes gone is first in line for the next one's, but for those
that have got nothing yet.
"""
A_CALL = 16 * 1024
"""What one ``sendfile`` counts as in a turn, however little it sends."""


class Sender(Protocol):
    """What sends, and waits for its turn; see `sendfile.FileSender`."""

    @property
    def begun(self) -> bool:
        """Whether a byte has left."""

    def catch_up(self) -> None:
        """Send: it had to wait, and now there is something left."""


@define
class Turn:
    """
    What may leave before the reactor turns. With thousands of readers there would be no end to a
    turn, and whoever connects or asks meanwhile would wait for it.
    """

    left: int = A_TURN
    """Once it is used up the next turn brings as much again."""
    greedy: set[Sender] = field(factory=set)
    """Those whose readers took all that they were last given."""
    late: dict[Sender, None] = field(factory=dict)
    """Those that found nothing left: out of the poll, the longest-waiting first."""
    new: dict[Sender, None] = field(factory=dict)
    """The same of those that have sent nothing: they go first, and get little."""
    _begins: Optional[IDelayedCall] = None

    def wait(self, sender: Sender) -> None:
        """It is called again when there is something left."""
        (self.late if sender.begun else self.new)[sender] = None

    def waits(self, sender: Sender) -> bool:
        return sender in self.late or sender in self.new

    def leave(self, sender: Sender) -> None:
        """It waits no more."""
        self.late.pop(sender, None)
        self.new.pop(sender, None)

    def share(self, sender: Sender) -> int:
        """How many bytes it may send at once."""
        if not sender.begun:
            return AT_ONCE_LEAST
        return max(AT_ONCE_LEAST, min(A_TURN, A_ROUND // max(1, len(self.greedy))))

    def crowds(self, sender: Sender) -> bool:
        """Whether it and another take all they are given: more than one thread gives them."""
        return sender in self.greedy and len(self.greedy) > 1

    def used(self, count: int, reactor: IReactorTime) -> None:
        """A ``sendfile`` took ``count`` bytes of it."""
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
