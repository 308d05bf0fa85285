"""
The directory of a daemon's spools, whatever the store behind it.

One daemon owns it, and makes it again if it vanishes meanwhile. All of it blocks: for a disk
thread.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.config.units import FreeSpace, shown_bytes
from yukari.names import Digest, Repository
from yukari.storage.disk.atomic import make_directories, remove, set_aside
from yukari.storage.disk.lock import SPOOL_LOCK, DirectoryLock, inode_of, owner_above
from yukari.storage.disk.space import Reservation, Room, Statvfs
from yukari.storage.disk.spool import COVER, COVER_MADE, DATA, SpoolFile
from yukari.storage.ports import NoRoom, StoreUnusable

_SPOOL = re.compile(
    rf"(sha256-[0-9a-f]{{64}})(?:{re.escape(DATA)}|{re.escape(COVER)}|{re.escape(COVER_MADE)})"
)
_LONGEST = len(f"sha256-{64 * '0'}{COVER_MADE}")
"""Characters in the longest name that a file here has."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@define(eq=False, repr=False)
class OwnedDirectories:
    """
    ``directories`` that a daemon works in, which it owns; ``locks`` are those that name it.
    """

    directories: tuple[str, ...]
    locks: tuple[DirectoryLock, ...]
    _within: list[DirectoryLock] = field(factory=list, init=False)
    """The locks of the other directories."""
    _lock: Lock = field(factory=Lock, init=False)

    _log = Logger()

    def take(self) -> None:
        """Make what is missing and own it; OSError, `StoreUnusable`."""
        try:
            ours = self._places
            for directory in self.directories:
                is_ours = os.path.dirname(directory) in ours
                if is_ours and os.path.lexists(directory) and not os.path.isdir(directory):
                    set_aside(directory)
                make_directories(directory)
            for lock in self.locks:
                lock.take()
            self._take_within()
            for directory in self.directories:
                _try_writing(directory)
        except BaseException:
            self.release()
            raise

    @property
    def _places(self) -> set[str]:
        """The directories of the locks' files."""
        return {os.path.dirname(lock.file) for lock in self.locks if lock.file is not None}

    def _take_within(self) -> None:
        """Own the directories that have no lock of their own, unless another daemon does."""
        held = {lock.inode for lock in (*self.locks, *self._within) if lock.inode is not None}
        places = sorted({*self.directories, *self._places})
        for directory in places:
            if inode_of(directory) not in held:
                lock = DirectoryLock(directory)
                lock.take()
                self._within.append(lock)
                held.add(inode_of(directory))
        for directory in places:
            if (error := owner_above(directory, held)) is not None:
                raise error

    def restore(self) -> bool:
        """Make directories again that vanished; whether any had. OSError."""
        if all(map(os.path.isdir, self.directories)) and all(
            lock.file is None or os.path.exists(lock.file) for lock in self.locks
        ):
            return False
        with self._lock:
            gone = [each for each in self.directories if not os.path.isdir(each)]
            for directory in gone:
                make_directories(directory)
            try:
                for lock in (*self.locks, *self._within):
                    lock.renew()
                self._take_within()
            except StoreUnusable as error:
                raise OSError(errno.EBUSY, str(error), self.directories[0]) from None
        if gone:
            self._log.error(
                "{gone}: gone and made again; what was in there is fetched when it is asked for",
                gone=", ".join(gone),
            )
        return bool(gone)

    def release(self) -> None:
        """Let others have them; harmless when repeated."""
        for lock in (*self.locks, *self._within):
            lock.release()
        self._within.clear()


@define(eq=False, repr=False)
class SpoolDir:
    """Spools in ``path``; ``min_free`` of its file system stays free."""

    path: str
    min_free: FreeSpace
    _statvfs: Statvfs = os.statvfs
    room: Room = field(init=False)
    lock: DirectoryLock = field(init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.room = Room(self.path, self.min_free, self._statvfs)
        self.lock = DirectoryLock(self.path, os.path.join(self.path, SPOOL_LOCK))

    def reopen(self, hold: Callable[[int], Optional[Reservation]]) -> list[SpoolFile]:
        """
        Open every spool that an earlier process left; `hold` reserves a blob's size elsewhere.

        One that names no repository stays closed: nobody knows where to fetch the rest of it until
        somebody asks for the blob. So does one that its disk could never hold: the room for it
        would be kept from all others.
        """
        spools = []
        for digest in self._digests():
            spool = SpoolFile.reopen(self.path, digest)
            if spool is None:
                continue
            why = None if spool.repositories else "names no repository"
            if spool.size > self.room.size():
                why = f"is of a blob of {shown_bytes(spool.size)}, more than its disk has"
            if why is not None:
                self._log.warn(
                    "spool {digest} {why}: it waits until the blob is asked for",
                    digest=str(digest),
                    why=why,
                )
                spool.close()
                continue
            spool.take_room(self.room.hold(spool.missing), hold(spool.size))
            spools.append(spool)
        return spools

    def new(self, digest: Digest, size: int, repository: Repository, *rooms: Room) -> SpoolFile:
        """
        Open the spool that was left, or an empty one; `NoRoom`, OSError.

        What it lacks is reserved here, the whole in the other ``rooms``.
        """
        held: list[Reservation] = []
        left = None
        if os.path.exists(os.path.join(self.path, digest.file_name + COVER)):
            left = SpoolFile.reopen(self.path, digest)
        if left is not None and left.size != size:
            left.discard()
            left = None
        try:
            for room in (self.room, *rooms):
                held.append(room.reserve(size if held or left is None else left.missing))
            if left is not None:
                left.take_room(*held)
                left.note_repository(repository)
            return left or SpoolFile.create(self.path, digest, size, repository, *held)
        except (OSError, NoRoom) as error:
            if left is not None:
                left.close()
            for reservation in held:
                reservation.release()
            if isinstance(error, OSError) and error.errno in _FULL:
                raise NoRoom(f"{self.path}: {error.strerror}") from None
            raise

    def _digests(self) -> list[Digest]:
        """Return the digests of all spools, sorted; remove files in the making."""
        found = set()
        for entry in os.listdir(self.path):
            if match := _SPOOL.fullmatch(entry):
                found.add(Digest.parse(match[1]))
                if entry.endswith(COVER_MADE):
                    remove(os.path.join(self.path, entry))
        return sorted(found)


def put_back(spool: SpoolFile) -> None:
    """Close a spool that nobody takes; keep its bytes, if there are any."""
    if spool.covered().total:
        spool.close()
    else:
        spool.discard()


def clear(directory: str) -> None:
    """Remove the files in a directory of files in the making."""
    for name in os.listdir(directory):
        remove(os.path.join(directory, name))


def check_file_system(made: str, directories: Iterable[str]) -> None:
    """`StoreUnusable` if a file in ``made`` cannot be renamed into the others; OSError."""
    for directory in directories:
        if os.stat(directory).st_dev != os.stat(made).st_dev:
            raise StoreUnusable(
                f"{directory} and {made} are on different file systems, perhaps because one"
                " is mounted there: what is stored must be on one file system"
            )


def _try_writing(directory: str) -> None:
    """
    Create and rename a file in a directory, with a name as long as a blob's.

    OSError if that fails, but not if the disk is full: what is stored can still be served.
    """
    path = os.path.join(directory, f".yukari-start-{os.getpid()}".ljust(_LONGEST, "-"))
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        raise
    try:
        os.rename(path, f"{path}-renamed")
    except OSError:
        remove(path)
        raise
    os.unlink(f"{path}-renamed")
