"""
How many questions upstream is asked at once: requests for manifests, and for the sizes of blobs.

Each of them holds a connection until its reply has been read. Without a bound, a slow upstream and
clients that ask for many models would leave no descriptor for what is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from yukari.names import Repository

MAX_QUESTIONS = 64
"""Questions at once; more wait for their turn."""
MAX_OF_ONE = 16
"""Questions at once for one repository, so that one that hangs leaves room for others."""
LEAST_PATIENCE = 3.0
"""Seconds that a question has while others wait; longer if answers have taken long of late."""
PATIENCE = 4.0
"""As a factor of the longest time that an answer took of late."""
_MEMORY = 0.9
"""By what that time shrinks with each answer."""


@define(eq=False)
class Turn:
    """A question's turn; ``give_up`` ends the question without an answer."""

    name: Repository
    began: float
    give_up: Callable[[], object] = lambda: None
    is_lost: bool = field(default=False, init=False)
    """Whether the question was ended because others wait."""


@define(eq=False)
class Questions:
    """
    Gives turns to at most so many questions at once: to repositories that have few first, and first
    come, first served.

    If others wait, questions that take much longer than the answers of late are ended: those of
    repositories that have many turns first, then the oldest. Half of the turns go on: should all
    answers be slow by now, theirs will tell.
    """

    _clock: IReactorTime
    _most: int = MAX_QUESTIONS
    _of_one: int = MAX_OF_ONE
    _turns: list[Turn] = field(factory=list, init=False)
    """Those in progress, the oldest first."""
    _asked: Counter[Repository] = field(factory=Counter, init=False)
    _waiting: dict[Deferred[Turn], Repository] = field(factory=dict, init=False)
    _slowest: float = field(default=0.0, init=False)
    """Seconds that answers took of late, at most; 0 if there was none."""
    _look: Optional[IDelayedCall] = field(default=None, init=False)
    _look_at: float = field(default=-inf, init=False)
    """When questions may be ended again, by the clock."""

    def begin(self, name: Repository) -> Deferred[Turn]:
        """Wait for a turn, which `end` returns; cancelling gives up waiting."""
        turn: Deferred[Turn] = Deferred(self._forget)
        self._waiting[turn] = name
        self._serve()
        return turn

    def _forget(self, given_up: Deferred[Turn]) -> None:
        self._waiting.pop(given_up, None)
        self._look_later()

    def end(self, turn: Turn, *, answered: bool) -> None:
        """Return a turn."""
        self._turns.remove(turn)
        self._asked[turn.name] -= 1
        if not self._asked[turn.name]:
            del self._asked[turn.name]
        if answered:
            self._slowest = max(self._clock.seconds() - turn.began, _MEMORY * self._slowest)
        self._serve()

    def _serve(self) -> None:
        while len(self._turns) < self._most and (waiting := self._first()) is not None:
            turn = Turn(self._waiting.pop(waiting), self._clock.seconds())
            self._turns.append(turn)
            self._asked[turn.name] += 1
            waiting.callback(turn)
        self._look_later()

    def _first(self) -> Optional[Deferred[Turn]]:
        """Return whose turn is next: one whose repository has the fewest, the first of these."""
        first, fewest = None, self._of_one
        for waiting, name in self._waiting.items():
            if self._asked[name] < fewest:
                first, fewest = waiting, self._asked[name]
                if not fewest:
                    break
        return first

    # questions that are not answered

    @property
    def _patience(self) -> float:
        """Seconds that a question has while others wait."""
        return max(LEAST_PATIENCE, PATIENCE * self._slowest)

    def _look_later(self) -> None:
        """Look again when the oldest question has had its time, if anybody waits for its turn."""
        if self._look is not None and self._look.active():
            self._look.cancel()
        self._look = None
        oldest = next((turn for turn in self._turns if not turn.is_lost), None)
        if self._waiting and oldest is not None and len(self._turns) >= self._most:
            at = max(oldest.began + self._patience, self._look_at)
            wait = max(0.1, at - self._clock.seconds())
            self._look = self._clock.callLater(wait, self._make_room)

    def _make_room(self) -> None:
        """End questions that have had their time, one for each that waits, half of all at most."""
        self._look = None
        now = self._clock.seconds()
        self._look_at = now + self._patience
        until = now - self._patience
        late = [turn for turn in self._turns if turn.began <= until and not turn.is_lost]
        late.sort(key=lambda turn: -self._asked[turn.name])
        waiting = [name for name in self._waiting.values() if self._asked[name] < self._of_one]
        for turn, name in zip(late[: max(1, self._most // 2)], waiting):
            if not self._asked[name] or self._asked[name] < self._asked[turn.name]:
                turn.is_lost = True
                turn.give_up()
        self._look_later()
