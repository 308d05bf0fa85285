"""
How many questions upstream is asked at once: requests for manifests, and for the sizes of blobs.

Each of them holds a connection until its reply has been read. Without a bound, a slow upstream and
clients that ask for many models would leave no descriptor for what is stored.
"""

from __future__ import annotations

from collections import Counter

from attrs import define, field
from twisted.internet.defer import Deferred

from yukari.names import Repository

MAX_QUESTIONS = 64
"""Questions at once; more wait for their turn."""
MAX_OF_ONE = 16
"""Questions at once for one repository, so that one that hangs leaves room for others."""


@define(eq=False)
class Questions:
    """Gives turns, first come, first served, to at most so many questions at once."""

    _most: int = MAX_QUESTIONS
    _of_one: int = MAX_OF_ONE
    _asked: Counter[Repository] = field(factory=Counter, init=False)
    _waiting: dict[Deferred[None], Repository] = field(factory=dict, init=False)

    def begin(self, name: Repository) -> Deferred[None]:
        """Wait for a turn, which `end` returns; cancelling gives up waiting."""
        turn: Deferred[None] = Deferred(self._forget)
        self._waiting[turn] = name
        self._serve()
        return turn

    def _forget(self, given_up: Deferred[None]) -> None:
        self._waiting.pop(given_up, None)

    def end(self, name: Repository) -> None:
        """Return a turn."""
        self._asked[name] -= 1
        if not self._asked[name]:
            del self._asked[name]
        self._serve()

    def _serve(self) -> None:
        room = self._most - self._asked.total()
        for turn, name in list(self._waiting.items()):
            if room <= 0:
                break
            if turn in self._waiting and self._asked[name] < self._of_one:
                del self._waiting[turn]
                self._asked[name] += 1
                room -= 1
                turn.callback(None)
