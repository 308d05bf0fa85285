"""
A file of users and bcrypt hashes of their passwords, as ``htpasswd -B`` writes it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from secrets import token_bytes
from typing import Any

import bcrypt
from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from yukari.config.files import read_file

REMEMBERED = 300.0
"""Seconds for which a correct password is accepted without bcrypt, which takes some 0.2 s."""
MOST_BYTES = 1_000_000
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


@define(eq=False)
class Passwords:
    """The users of a file; of a correct password only a keyed hash is remembered."""

    path: str
    _in_thread: Callable[..., Deferred[Any]]
    _clock: IReactorTime
    _hashes: dict[bytes, bytes] = field(factory=dict, init=False)
    _right: dict[bytes, tuple[bytes, float]] = field(factory=dict, init=False)
    _key: bytes = field(factory=lambda: token_bytes(32), init=False)
    _one: DeferredLock = field(factory=DeferredLock, init=False)
    """One check at a time: somebody who guesses occupies one thread, not all of them."""

    def __attrs_post_init__(self) -> None:
        self.load()

    def load(self) -> None:
        """Read the file again; on `OSError` or `ValueError` everything stays as it was."""
        hashes = parse(read_file(self.path, MOST_BYTES))
        if hashes != self._hashes:
            self._hashes = hashes
            self._right.clear()

    async def accept(self, user: bytes, password: bytes) -> bool:
        """
        Whether this is the user's password; an unknown user is checked against a hash as well.
        """
        if not user:
            return False
        shown = hmac.digest(self._key, user + b":" + password, "sha256")
        right, until = self._right.get(user, (b"", 0.0))
        if self._clock.seconds() < until and hmac.compare_digest(right, shown):
            return True
        hashes = self._hashes
        hashed = hashes.get(user) or next(iter(hashes.values()))
        # bcrypt has always used 72 bytes at most; its library now refuses longer passwords.
        good = await self._check(password[:72], hashed)
        if not good or user not in hashes or hashes is not self._hashes:
            return False
        self._right[user] = shown, self._clock.seconds() + REMEMBERED
        return True

    async def _check(self, password: bytes, hashed: bytes) -> bool:
        await self._one.acquire()
        checked: Deferred[bool] = Deferred()
        # A client that leaves does not end the thread: the next check waits for it all the same.
        work = self._in_thread(bcrypt.checkpw, password, hashed)
        work.addBoth(self._checked).chainDeferred(checked)
        return await checked

    def _checked(self, result: Any) -> Any:
        self._one.release()
        return result
