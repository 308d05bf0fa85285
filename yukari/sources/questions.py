"""
How many questions upstream is asked at once: requests for manifests, and for the sizes of blobs.

Each of them holds a connection until its reply has been read. Without a bound, a slow upstream and
clients that ask for many models would leave no descriptor for what is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from yukari.names import Repository

MAX_QUESTIONS = 64
"""Questions at once; more wait for their turn."""
MAX_OF_ONE = 16
"""Questions at once for one repository, so that one that hangs leaves room for others."""
BEGUN_IN_A_TURN = 8
"""
Questions after which the reactor turns before others begin, if as many are in progress: each takes
half a millisecond, and as much again when it is answered.
"""
FAILED_IN_A_TURN = 64
"""Questions after which the reactor turns, too, if they fail as soon as they begin."""
LEAST_PATIENCE = 3.0
"""Seconds that a question has while others wait; longer if answers have taken long of late."""
PATIENCE = 4.0
"""As a factor of the longest time that an answer took of late."""
_MEMORY = 0.9
"""By what that time shrinks with each answer."""


@define(eq=False, repr=False)
class Turn:
    """A question's turn; ``interrupt`` ends the question, which may be asked again later."""

    name: Repository
    client: Hashable
    began: float
    interrupt: Callable[[], object] = lambda: None
    is_lost: bool = field(default=False, init=False)
    """Whether the question was interrupted because others wait."""


@define(eq=False, repr=False)
class Questions:
    """
    Gives turns to at most so many questions at once: to clients that have few first, of these to
    what has not been asked yet, then to repositories that have few; first come, first served.

    If others wait, questions that take much longer than the answers of late are interrupted. The
    oldest half of the turns go on, one of each repository: if upstream is slow, their answers will
    tell, and what was interrupted is asked again.
    """

    _clock: IReactorTime
    _most: int = MAX_QUESTIONS
    _of_one: int = MAX_OF_ONE
    _turns: list[Turn] = field(factory=list, init=False)
    """Those in progress, the oldest first."""
    _asked: Counter[Repository] = field(factory=Counter, init=False)
    _clients: Counter[Hashable] = field(factory=Counter, init=False)
    _waiting: dict[Hashable, tuple[dict[Deferred[Turn], Repository], ...]] = field(
        factory=dict, init=False
    )
    """By client: what waits for the first time, and what was interrupted."""
    _slowest: float = field(default=0.0, init=False)
    """Seconds that answers took of late, at most; 0 if there was none."""
    _look: Optional[IDelayedCall] = field(default=None, init=False)
    _begun: int = field(default=0, init=False)
    """Questions that have begun since the reactor turned."""
    _next: Optional[IDelayedCall] = field(default=None, init=False)
    _is_serving: bool = field(default=False, init=False)

    def begin(
        self, name: Repository, client: Hashable = None, *, again: bool = False
    ) -> Deferred[Turn]:
        """
        Wait for a turn, which `end` gives back; cancelling gives up waiting.

        ``again`` says that the question was interrupted.
        """

        def give_up(turn: Deferred[Turn]) -> None:
            self._forget(turn, client)
            self._look_later()

        turn: Deferred[Turn] = Deferred(give_up)
        self._waiting.setdefault(client, ({}, {}))[again][turn] = name
        self._serve()
        return turn

    def _forget(self, waiting: Deferred[Turn], client: Hashable) -> Repository:
        """Take out of its queue what waits there, and return what it is about."""
        queues = self._waiting[client]
        name = next(queue.pop(waiting) for queue in queues if waiting in queue)
        if not any(queues):
            del self._waiting[client]
        return name

    def end(self, turn: Turn, *, answered: bool) -> None:
        """Give a turn back; ``answered`` is whether it brought an answer."""
        self._turns.remove(turn)
        self._asked[turn.name] -= 1
        if not self._asked[turn.name]:
            del self._asked[turn.name]
        self._clients[turn.client] -= 1
        if not self._clients[turn.client]:
            del self._clients[turn.client]
        if answered:
            self._slowest = max(self._clock.seconds() - turn.began, _MEMORY * self._slowest)
        self._serve()

    def _serve(self) -> None:
        if self._is_serving:
            return  # Else each that fails at once would begin the next within this call.
        self._is_serving = True
        try:
            self._begin_waiting()
        finally:
            self._is_serving = False
        self._look_later()

    def _begin_waiting(self) -> None:
        failed = 0
        while len(self._turns) < self._most and (found := self._first()) is not None:
            in_progress = min(self._begun, len(self._turns))
            if in_progress >= BEGUN_IN_A_TURN or failed >= FAILED_IN_A_TURN:
                if self._next is None:
                    self._next = self._clock.callLater(0, self._go_on)
                break
            waiting, client = found
            self._begun += 1
            turn = Turn(self._forget(waiting, client), client, self._clock.seconds())
            self._turns.append(turn)
            self._asked[turn.name] += 1
            self._clients[client] += 1
            waiting.callback(turn)
            failed += turn not in self._turns

    def _go_on(self) -> None:
        """Begin more: the reactor has turned."""
        self._next, self._begun = None, 0
        self._serve()

    def _first(self) -> Optional[tuple[Deferred[Turn], Hashable]]:
        """Return whose turn is next, and its client."""
        for client in sorted(self._waiting, key=self._clients.__getitem__):
            for queue in self._waiting[client]:
                first, fewest = None, self._of_one
                for waiting, name in queue.items():
                    if self._asked[name] < fewest:
                        first, fewest = waiting, self._asked[name]
                        if not fewest:
                            break
                if first is not None:
                    return first, client
        return None

    # questions that are not answered

    @property
    def _patience(self) -> float:
        """Seconds that a question has while others wait."""
        return max(LEAST_PATIENCE, PATIENCE * self._slowest)

    def _expendable(self) -> Iterator[Turn]:
        """Yield the turns that may be lost once they have had their time, the oldest first."""
        going_on: set[Repository] = set()
        for turn in self._turns:
            if turn.is_lost:
                continue
            if len(going_on) < self._most // 2 and turn.name not in going_on:
                going_on.add(turn.name)
            else:
                yield turn

    def _look_later(self) -> None:
        """Look again when a question has had its time, if anybody waits for its turn."""
        if self._look is not None and self._look.active():
            self._look.cancel()
        self._look = None
        if self._waiting and len(self._turns) >= self._most:
            first = next(self._expendable(), None)
            if first is not None:
                wait = max(0.1, first.began + self._patience - self._clock.seconds())
                self._look = self._clock.callLater(wait, self._make_room)

    def _make_room(self) -> None:
        """Interrupt questions that have had their time, one for each that could go on then."""
        self._look = None
        until = self._clock.seconds() - self._patience
        late = [turn for turn in self._expendable() if turn.began <= until]
        late.sort(key=lambda turn: -self._asked[turn.name])
        waiting = [
            name
            for queues in self._waiting.values()
            for queue in queues
            for name in queue.values()
            if self._asked[name] < self._of_one
        ]
        for turn, name in zip(late, waiting):
            if not self._asked[name] or self._asked[name] < self._asked[turn.name]:
                turn.is_lost = True
                turn.interrupt()
        self._look_later()
