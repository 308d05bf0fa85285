"""
A file of users and bcrypt hashes of their passwords, as ``htpasswd -B`` writes it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Hashable
from math import ceil
from secrets import token_bytes
from typing import Any

import bcrypt
from attrs import define, field
from cachetools import LRUCache
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from yukari.config.files import read_file
from yukari.errors import RegistryError, too_many

REMEMBERED = 300.0
"""Seconds for which a correct password is accepted without bcrypt, which takes some 0.2 s."""
FREE_GUESSES = 10
"""Wrong passwords of one address before it has to wait: 1 s, then twice as long each time."""
LONGEST_WAIT = 60.0
"""Seconds that an address has to wait at most."""
MAX_ADDRESSES = 4096
"""Addresses that are remembered as having been wrong."""
MAX_FILE_BYTES = 1_000_000
"""Bytes of the file at most."""
_LINE = re.compile(
    rb"([^:\s][^:]*):(\$2[aby]\$(?:0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31})"
)
"""bcrypt's cost is a power of two: at 16 one password takes four seconds, at 31 a day and more."""


def parse(text: bytes) -> dict[bytes, bytes]:
    """Return the hashes by user; `ValueError` names the wrong line and repeats nothing of it."""
    found: dict[bytes, bytes] = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        entry = _LINE.fullmatch(line)
        if entry is None:
            raise ValueError(
                f"line {number}: expected USER:HASH as htpasswd -B writes it, bcrypt of a cost from"
                " 4 to 16"
            )
        if entry[1] in found:
            raise ValueError(f"line {number}: this user is there twice")
        found[entry[1]] = entry[2]
    if not found:
        raise ValueError("there is no user in it")
    return found


def _cost(hashed: bytes) -> int:
    """Return a hash's cost: bcrypt's time doubles with each step."""
    return int(hashed[4:6])


def _compare(password: bytes, hashed: bytes, slowest: int) -> bool:
    """Compare a password in the time that a hash of the cost ``slowest`` takes."""
    good = bcrypt.checkpw(password, hashed)
    # Each cost takes twice the time of the one before it: these add up.
    for cost in range(_cost(hashed), slowest):
        bcrypt.checkpw(password, b"$2b$%02d$" % cost + hashed[7:])
    return good


@define(eq=False, repr=False)
class Passwords:
    """The users of a file; of a correct password only a keyed hash is remembered."""

    path: str
    _in_thread: Callable[..., Deferred[Any]]
    _clock: IReactorTime
    _hashes: dict[bytes, bytes] = field(factory=dict, init=False)
    _right: dict[bytes, tuple[bytes, float]] = field(factory=dict, init=False)
    _wrong: LRUCache[Hashable, tuple[int, float]] = field(
        factory=lambda: LRUCache(MAX_ADDRESSES), init=False
    )
    """By address, how often it was wrong and until when it has to wait."""
    _key: bytes = field(factory=lambda: token_bytes(32), init=False)
    _one: DeferredLock = field(factory=DeferredLock, init=False)
    """One check at a time: somebody who guesses occupies one thread, not all of them."""

    def __attrs_post_init__(self) -> None:
        self.load()

    def load(self) -> None:
        """Read the file again; on `OSError` or `ValueError` everything stays as it was."""
        hashes = parse(read_file(self.path, MAX_FILE_BYTES))
        if hashes != self._hashes:
            self._hashes = hashes
            self._right.clear()

    async def accept(self, user: bytes, password: bytes, address: Hashable = None) -> bool:
        """
        Whether this is the user's password.

        It takes as long for every user, known or not, whatever the hash costs. `RegistryError` if
        ``address`` has guessed wrong too often: it has to wait, longer each time.
        """
        if not user:
            return False
        shown = hmac.digest(self._key, user + b":" + password, "sha256")
        right, until = self._right.get(user, (b"", 0.0))
        if self._clock.seconds() < until and hmac.compare_digest(right, shown):
            return True
        hashes = self._hashes
        slowest = max(map(_cost, hashes.values()))
        hashed = hashes.get(user) or max(hashes.values(), key=_cost)
        # bcrypt has always used 72 bytes at most; its library now refuses longer passwords.
        check = password[:72], hashed, slowest
        good = await self._check(check, address, known=user in hashes)
        if not good or user not in hashes or hashes is not self._hashes:
            return False
        self._right[user] = shown, self._clock.seconds() + REMEMBERED
        return True

    def _check_patience(self, address: Hashable) -> None:
        _, until = self._wrong.get(address, (0, 0.0))
        wait = until - self._clock.seconds()
        if wait > 0:
            raise too_many("too many wrong passwords, try again later", ceil(wait))

    def _count(self, address: Hashable, good: bool) -> None:
        """Remember how often an address was wrong; who comes by a Unix socket has none."""
        if address is None:
            return
        if good:
            self._wrong.pop(address, None)
            return
        times = self._wrong.get(address, (0, 0.0))[0] + 1
        wait = min(LONGEST_WAIT, 2.0 ** (times - FREE_GUESSES)) if times >= FREE_GUESSES else 0.0
        self._wrong[address] = times, self._clock.seconds() + wait

    async def _check(
        self, check: tuple[bytes, bytes, int], address: Hashable, *, known: bool
    ) -> bool:
        self._check_patience(address)
        await self._one.acquire()
        try:
            self._check_patience(address)
        except RegistryError:
            # Later, or each of a waiting crowd would be refused from within the one before it.
            self._clock.callLater(0, self._one.release)
            raise
        checked: Deferred[bool] = Deferred()
        # A client that leaves does not end the thread: the next check waits for it all the same.
        checking = self._in_thread(_compare, *check)
        checking.addBoth(self._checked, address, known).chainDeferred(checked)
        return await checked

    def _checked(self, result: Any, address: Hashable, known: bool) -> Any:
        if isinstance(result, bool):
            self._count(address, result and known)
        self._one.release()
        return result
