"""
The marks that admins put on tags: pins, and copies that were made here.

They are a small document in the store, so that they outlive the catalog and are shared by all
daemons of a bucket. Another daemon's changes are seen within `FRESH_FOR`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field, frozen
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from yukari.names import Repository, Tag
from yukari.storage.inventory import Inventory
from yukari.texts import cut

DOCUMENT = "marks.json"
FRESH_FOR = 60.0
"""Seconds after which the document is read again."""
MAX_SHOWN = 1000
"""Characters of a key and of a name in the document that are looked at; a person may write it."""
LATEST = 2.0**37
"""Seconds of the epoch, in the year 6325: no time is later."""
MAX_TRIES = 10
"""Attempts at a change while other daemons change the document too."""


@frozen
class Pin:
    """Who pinned a tag, and when, in seconds of the epoch."""

    by: str
    at: float


@define(eq=False, repr=False)
class Marks:
    """The marks; ``now`` returns the time of day in seconds of the epoch."""

    _inventory: Inventory
    _clock: IReactorTime
    _now: Callable[[], float]
    _pins: dict[str, Any] = field(factory=dict, init=False)
    _copies: dict[str, Any] = field(factory=dict, init=False)
    _version: Optional[str] = field(default=None, init=False)
    _read_at: Optional[float] = field(default=None, init=False)
    _lock: DeferredLock = field(factory=DeferredLock, init=False)

    # the marks, as of the last `refresh`

    def pin(self, name: Repository, tag: Tag) -> Optional[Pin]:
        """Return who pinned a tag, None if nobody did."""
        found = self._pins.get(_key(name, tag))
        return None if found is None else Pin(_by(found), _at(found))

    def pinned(self) -> dict[str, str]:
        """Return who pinned which tags, by ``NAMESPACE/MODEL:TAG``."""
        return {cut(key, MAX_SHOWN): _by(pin) for key, pin in self._pins.items()}

    def may_check(self, name: Repository, tag: Tag) -> bool:
        """Whether upstream may be asked about a tag; False until the marks have been read."""
        return self._read_at is not None and not self.is_copy(name, tag)

    def is_copy(self, name: Repository, tag: Tag) -> bool:
        """Whether a tag was made here, so that upstream is not asked about it."""
        return _key(name, tag) in self._copies

    # changing them

    async def refresh(self) -> None:
        """Read the document, unless that was done just now. OSError."""
        if self._read_at is None or self._clock.seconds() - self._read_at >= FRESH_FOR:
            await self._lock.run(self._read)

    async def set_pin(self, name: Repository, tag: Tag, by: Optional[str]) -> None:
        """Pin a tag, or with None unpin it. OSError."""
        pin = None if by is None else {"by": by, "at": self._now()}
        await self._change(lambda: _put(self._pins, _key(name, tag), pin))

    async def set_copy(self, name: Repository, tag: Tag, of: Optional[str]) -> None:
        """Note that a tag is a copy ``of`` something, or with None that it is none. OSError."""
        if of is None and not self.is_copy(name, tag):
            return
        copy = None if of is None else {"of": of, "at": self._now()}
        await self._change(lambda: _put(self._copies, _key(name, tag), copy))

    async def forget(self, name: Repository, tag: Tag) -> None:
        """Remove the marks of a tag that was removed. OSError."""
        key = _key(name, tag)
        if key in self._pins or key in self._copies:
            await self._change(lambda: _forget(key, self._pins, self._copies))

    async def _change(self, change: Callable[[], object]) -> None:
        await self._lock.run(self._change_now, change)

    async def _change_now(self, change: Callable[[], object]) -> None:
        for _ in range(MAX_TRIES):
            await self._read()
            change()
            content = {"pins": self._pins, "copies": self._copies}
            body = json.dumps(content, indent=1, sort_keys=True).encode()
            if await self._inventory.save(DOCUMENT, body, self._version):
                await self._read()
                return
        raise OSError(f"{DOCUMENT}: others change it all the time")

    async def _read(self) -> None:
        found = await self._inventory.load(DOCUMENT)
        self._read_at = self._clock.seconds()
        self._version = None if found is None else found[1]
        try:
            content = {} if found is None else json.loads(found[0])
            self._pins = _table(content.get("pins"))
            self._copies = _table(content.get("copies"))
        except (ValueError, AttributeError, RecursionError) as error:
            # If it counted as empty, pinned models would be evicted.
            raise OSError(f"{DOCUMENT} is damaged: {error}: mend it or remove it") from None


def _table(found: Any) -> dict[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ValueError("expected objects")
    return found


def _by(pin: dict[str, Any]) -> str:
    return cut(str(pin.get("by", "")), MAX_SHOWN)


def _at(pin: dict[str, Any]) -> float:
    found = pin.get("at")
    return found if isinstance(found, (int, float)) and 0 <= found < LATEST else 0.0


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _forget(key: str, *tables: dict[str, Any]) -> None:
    for table in tables:
        table.pop(key, None)


def _key(name: Repository, tag: Tag) -> str:
    return f"{name}:{tag}"
