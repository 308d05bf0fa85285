"""
The catalog: which versions of which tags are stored, on which blobs they stand, who pulled them.

It is a SQLite file beside the store. The files of the store are the truth; the catalog makes them
quick to ask, and is made anew from them if it is missing, damaged or of another version (see
`yukari.library.upkeep.index`). Only the counts of pulls are lost then.

Pulls are gathered and written together, so that a hit costs no write.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, Optional, ParamSpec, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Usage
from yukari.library.catalog.schema import LOCKED_FOR, STILL_LOCKED_FOR, is_sound
from yukari.names import Digest, Repository, Tag
from yukari.threads import InThread

log = Logger()

T = TypeVar("T")
P = ParamSpec("P")

WRITE_AFTER = 5.0
"""Seconds for which pulls are gathered before they are written."""
NO_LOCKS = "locking protocol"
"""SQLite's message if locks fail while the file is used; it has tried for ten seconds by then."""
FULL = "is full"
"""The end of SQLite's message about a full disk."""
RESERVE = 1024 * 1024
"""Bytes kept free for the catalog on a disk that other programs fill: whatever is removed from the
store has to be noted, and that takes room."""
MAX_GATHERED = 10_000
"""Pulled tags that are gathered at most."""


class CatalogUnusable(Exception):
    """The catalog cannot be read or written now; the text says why."""


@define(eq=False, repr=False)
class Catalog:
    """
    The file at ``path``, which may be ``:memory:``.

    ``in_thread`` calls a function in one thread, always the same or at once; ``now`` returns the
    time of day in seconds of the epoch.
    """

    _path: str
    _in_thread: InThread
    _clock: IReactorTime
    _now: Callable[[], float]
    lost: Callable[[], None] = lambda: None
    """Called when the catalog was made anew and knows nothing of what is stored."""
    noted: Callable[[Repository, Tag], None] = lambda *_: None
    """Called with each tag that is pulled."""
    _file: Optional[CatalogFile] = field(default=None, init=False)
    _pulls: dict[tuple[Repository, Tag], Usage] = field(factory=dict, init=False)
    _sent: dict[tuple[Repository, Digest], int] = field(factory=dict, init=False)
    _timer: Optional[IDelayedCall] = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _locked: bool = field(default=False, init=False)
    """Whether the last call waited in vain for another program."""
    _reserved: bool = field(default=False, init=False)
    """Whether the reserve is on the disk."""

    async def stop(self) -> None:
        """Write what was gathered and close the file."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.flush()
        await self._in_thread(self._close)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    async def run(
        self, method: Callable[Concatenate[CatalogFile, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """
        Call a method of `CatalogFile` in the catalog's thread.

        A damaged file is made anew, and the method is called once more. `CatalogUnusable`.
        """
        try:
            result: T = await self._in_thread(self._call, method, args, kwargs)
        except (OSError, sqlite3.Error) as error:
            raise CatalogUnusable(f"{self._path}: {error}") from None
        if self._file is not None and self._file.is_new:
            self._file.is_new = False
            self.lost()
        return result

    async def check(self, in_thread: InThread) -> None:
        """
        Make the file anew if it is damaged somewhere, be it where nobody has read yet.

        ``in_thread`` calls a function in any other thread. `CatalogUnusable`.
        """
        if self._file is None or self._file.is_in_memory:
            return
        if await in_thread(is_sound, self._path) or self._stopped:
            return
        log.error("{path}: it is damaged: made anew", path=self._path)
        await self.run(CatalogFile.reset)

    def _call(self, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._file is not None and self._file.is_removed:
            log.warn("{path}: gone and made anew", path=self._path)
            self._close()
        if self._file is None:
            self._file = self._opened()
            self._keep_reserve()
        try:
            result = method(self._file, *args, **kwargs)
        except sqlite3.OperationalError as error:
            if str(error).endswith(FULL) and self._reserved:
                self._reserved = False
                with suppress(FileNotFoundError):
                    os.unlink(self._reserve)
            elif NO_LOCKS in str(error):
                self._close()
                self._file = self._in_memory(error)
            else:
                # The disk is full, or busy: the file is as it was.
                if "locked" in str(error):
                    self._locked = True
                    self._file.wait_for_lock(STILL_LOCKED_FOR)
                raise
            result = method(self._file, *args, **kwargs)
        except sqlite3.DatabaseError as error:
            log.error("{path}: {error}: made anew", path=self._path, error=str(error))
            self._file.reset()
            result = method(self._file, *args, **kwargs)
        if self._locked:
            self._locked = False
            self._file.wait_for_lock(LOCKED_FOR)
        self._keep_reserve()
        return result

    @property
    def _reserve(self) -> str:
        return f"{self._path}-reserve"

    def _keep_reserve(self) -> None:
        """Put the reserve on the disk, if there is room."""
        if self._reserved or self._file is None or self._file.is_in_memory:
            return
        if not hasattr(os, "posix_fallocate"):  # As on macOS.
            return
        try:
            descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE)
            finally:
                os.close(descriptor)
            self._reserved = True
        except OSError:
            with suppress(OSError):
                os.unlink(self._reserve)

    def _opened(self) -> CatalogFile:
        try:
            if self._path != ":memory:":
                os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
            return CatalogFile(self._path)
        except (OSError, sqlite3.Error) as error:
            # A directory that is read-only, or on a file system that SQLite cannot use.
            return self._in_memory(error)

    def _in_memory(self, error: Exception) -> CatalogFile:
        log.warn(
            "{path}: {error}: the catalog is kept in memory, and pulls are counted until the"
            " daemon ends",
            path=self._path,
            error=str(error),
        )
        return CatalogFile(":memory:")

    # pulls

    def pulled(self, name: Repository, tag: Tag, client: str) -> None:
        """Count a pull of a tag by the client with this address."""
        self.noted(name, tag)
        now = self._now()
        usage = self._pulls.get((name, tag))
        if usage is None:
            if len(self._pulls) >= MAX_GATHERED:
                return
            usage = self._pulls[name, tag] = Usage(first=now)
        usage.pulls += 1
        usage.last = now
        usage.clients.add(client)
        self._write_soon()

    def sent(self, name: Repository, digest: Digest, count: int) -> None:
        """Count bytes of a blob that were sent as part of a model."""
        if count and (len(self._sent) < MAX_GATHERED or (name, digest) in self._sent):
            self._sent[name, digest] = self._sent.get((name, digest), 0) + count
            self._write_soon()

    def _write_soon(self) -> None:
        if self._timer is None and not self._stopped:
            self._timer = self._clock.callLater(WRITE_AFTER, self._write_now)

    def _write_now(self) -> None:
        self._timer = None
        Deferred.fromCoroutine(self.flush()).addErrback(
            lambda failure: log.failure("writing the catalog", failure)
        )

    async def flush(self) -> None:
        """Write what was gathered now."""
        pulls, self._pulls = self._pulls, {}
        sent, self._sent = self._sent, {}
        if not pulls and not sent:
            return
        try:
            await self.run(CatalogFile.use, pulls, sent)
        except CatalogUnusable as error:
            log.warn("pulls are not counted: {error}", error=str(error))
