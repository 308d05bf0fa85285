"""
The memory for bytes that pass through without a disk: what is relayed, what goes into a bucket, and
large manifests while they are parsed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred

MOST = 48 * 1024 * 1024
"""Bytes of all that passes through, including those that are requested for clients."""


@define(eq=False, repr=False)
class Memory:
    """
    At most ``most`` bytes. Uploads get at most half, and come before clients' next requests.
    """

    most: int = MOST
    used: int = field(default=0, init=False)
    give_up: Callable[[int], object] = field(default=lambda _: None, init=False)
    """Called to release so many of the bytes that are kept in case somebody asks for them."""
    _parts: int = field(default=0, init=False)
    """Bytes that uploads have of it."""
    _waiting: deque[tuple[int, Deferred[None]]] = field(factory=deque, init=False)
    """Parts of uploads, and their bytes, first come first."""
    _lending: bool = field(default=False, init=False)

    @property
    def free(self) -> int:
        """Bytes that can be taken at once."""
        first = self._waiting[0][0] if self._waiting else 0
        promised = first if self._parts + first <= self.most // 2 else 0
        return max(0, self.most - self.used - promised)

    def take(self, count: int) -> None:
        """Count bytes as used."""
        self.used += count

    def claim(self, count: int) -> None:
        """Count bytes that cannot wait as used: what is kept is given up, and others wait."""
        self.give_up(self.used + count - self.most)
        self.take(count)

    def release(self, count: int) -> None:
        """Give back bytes that were taken."""
        self.used -= count
        self._lend()

    async def lend(self, count: int) -> None:
        """Return once a part of so many bytes may come; `give_back` them."""
        turn: Deferred[None] = Deferred(self._gave_up)
        self._waiting.append((count, turn))
        self._lend()
        await turn

    def give_back(self, count: int) -> None:
        """Give back the bytes of a part."""
        self._parts -= count
        self.release(count)

    def _gave_up(self, turn: Deferred[None]) -> None:
        self._waiting = deque(each for each in self._waiting if each[1] is not turn)
        self._lend()

    def _lend(self) -> None:
        if self._lending:
            return  # What is given up for a part is released meanwhile.
        self._lending = True
        while self._waiting and self._may_lend(self._waiting[0][0]):
            count, turn = self._waiting.popleft()
            self._parts += count
            self.used += count
            turn.callback(None)
        self._lending = False

    def _may_lend(self, count: int) -> bool:
        if self._parts + count > self.most // 2:
            return False
        if self.used + count > self.most:
            self.give_up(self.used + count - self.most)
        return self.used + count <= self.most
