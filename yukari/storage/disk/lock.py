"""
One daemon owns a directory: an advisory lock that dies with its process.

The directory itself is locked, so that the lock holds when files in it are removed by hand. Where a
file system cannot do that, a file in it is: by ``flock``, else by ``lockf``, else by being there,
with the process that made it in it. The directories in it that a daemon works in are locked, too: a
second daemon may be told to use one of them, or a directory below one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Container
from contextlib import suppress
from typing import Any, Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.config.files import read_file
from yukari.storage.disk.atomic import set_aside
from yukari.storage.disk.tolerance import REFUSED
from yukari.storage.ports import StoreUnusable

STORE_LOCK = os.path.join("yukari", "lock")
SPOOL_LOCK = "yukari-spool.lock"
"""The files that are locked, in a store's directory and in one of spools."""
TREES = ("blobs", "manifests", "manifests-v2", "yukari")
"""The directories in a store's in which nothing but the store's may be."""

Inode = tuple[int, int]
"""A file's device and number."""

_held: set[Inode] = set()
"""
Device and inode of the directories that this process holds otherwise than by ``flock``, which alone
tells a process from itself.
"""


class _Taken(Exception):
    """Another process holds the lock."""


@define(eq=False, repr=False)
class DirectoryLock:
    """
    The lock of ``directory``, held from `take` to `release` or the process's end.

    ``file`` names the process that holds it; it stays unless it is the lock itself. Without one the
    directory alone is locked, if its file system can do that.
    """

    directory: str
    file: Optional[str] = None
    _descriptors: list[int] = field(factory=list, init=False)
    inode: Optional[Inode] = field(default=None, init=False)
    """The directory's while it is held."""
    _record: bool = field(default=False, init=False)
    """Whether the file is the lock by being there."""

    _log = Logger()

    def take(self) -> None:
        """Take the lock; `StoreUnusable` names the process that holds it, if it is known."""
        inode = inode_of(self.directory)
        try:
            if inode in _held:
                raise _Taken
            locked = self._lock(os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY), lockf=False)
            if self.file is not None:
                self._lock_file(self.file, locked=locked)
        except _Taken:
            self.release()
            raise in_use(self.directory, self.file) from None
        except OSError:
            self.release()
            raise
        self.inode = inode
        if not locked:
            _held.add(inode)

    def _lock_file(self, file: str, *, locked: bool) -> None:
        """Lock the file in the directory, which is ``locked`` itself or cannot be."""
        if _is_in_the_way(file):
            set_aside(file)
        number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if not self._lock(number, lockf=True) and not locked:
            self._record_process(file)
            self._log.warn(
                "{path}: its file system has no locks: {file} says that it is in use",
                path=self.directory,
                file=file,
                banner=True,
            )
        if not self._record:
            self._name_process(number)

    def renew(self) -> None:
        """Hold it again if the directory or the file was removed meanwhile; errors as `take`."""
        if self.inode is None:
            return
        try:
            unchanged = inode_of(self.directory) == self.inode
            unchanged = unchanged and (self.file is None or os.path.exists(self.file))
        except OSError:
            unchanged = False
        if not unchanged:
            self.release()
            self.take()

    def release(self) -> None:
        """Release the lock; harmless when repeated."""
        if self._record and self.file is not None:
            with suppress(OSError):
                os.unlink(self.file)
        self._record = False
        if self.inode is not None:
            _held.discard(self.inode)
            self.inode = None
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _lock(self, number: int, *, lockf: bool) -> bool:
        """Lock an open file; False if the file system cannot."""
        self._descriptors.append(number)
        for call in (fcntl.flock, fcntl.lockf)[: 2 if lockf else 1]:
            try:
                call(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                    raise _Taken from None
                if call is fcntl.lockf and error.errno == errno.EACCES:
                    raise _Taken from None
                if error.errno not in (*REFUSED, errno.EIO):
                    raise
            else:
                return True
        return False

    def _name_process(self, number: int) -> None:
        """Write this process's number for people, as far as the file system lets it be written."""
        with suppress(OSError):
            text = b"%d" % os.getpid()
            os.pwrite(number, text.ljust(os.fstat(number).st_size - 1) + b"\n", 0)
            os.ftruncate(number, len(text) + 1)
            os.pwrite(number, b"\n", len(text))

    def _record_process(self, path: str) -> None:
        """Take the file itself as the lock, unless the process that it names is alive."""
        mine = _process(os.getpid())
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(1000)
        if text.strip():
            try:
                there = json.loads(text)
                alive = there["machine"] != mine["machine"] or there == _process(there["pid"])
            except (ValueError, TypeError, KeyError, RecursionError):
                alive = False
            if alive:
                raise _Taken
        made = f"{path}-{os.getpid()}"
        with open(made, "w", encoding="ascii") as file:
            json.dump(mine, file)
        os.rename(made, path)
        with open(path, encoding="ascii") as file:
            if json.load(file) != mine:
                raise _Taken
        self._record = True


def owner_above(directory: str, ours: Container[Inode]) -> Optional[StoreUnusable]:
    """
    Return the error of a directory that lies in one of another yukari; None if it lies in none.

    ``ours`` has the directories that this one holds itself.
    """
    path = os.path.realpath(directory)
    while (above := os.path.dirname(path)) != path:
        path = above
        files = [os.path.join(path, SPOOL_LOCK)]
        if os.path.basename(path) in TREES:
            files.append(os.path.join(os.path.dirname(path), STORE_LOCK))
        for file in files:
            with suppress(OSError):
                if inode_of(path) not in ours and os.path.isfile(file) and _is_locked(path, file):
                    return in_use(path, file, f"{directory} lies in {path}, which")
    return None


def in_use(directory: str, file: Optional[str], what: Optional[str] = None) -> StoreUnusable:
    """Return the error of a directory that another process holds, with its ``file``."""
    holder = "" if file is None else _holder(file)
    return StoreUnusable(
        f"{what or directory} is in use by another yukari{holder}: "
        "stop that one or choose another directory"
    )


def _is_locked(*paths: str) -> bool:
    """Whether a process has locked any of these, as far as their file system tells; OSError."""
    for path in paths:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                return True
        finally:
            os.close(number)
    return False


def _holder(file: str) -> str:
    """Return the process that holds the lock, for a message; "" if it is not known."""
    try:
        found = json.loads(read_file(file, 1000))
    except (OSError, ValueError, RecursionError):
        return ""
    if isinstance(found, dict):
        return f" (process {found.get('pid')} on {found.get('machine')}; see {file})"
    return f" (process {found})" if isinstance(found, int) else ""


def _is_in_the_way(path: str) -> bool:
    """Whether there is something that is no file, such as a directory."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        return error.errno == errno.ELOOP or os.path.islink(path)  # It leads nowhere.


def inode_of(path: str) -> Inode:
    """Return what tells a file from all others; OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _process(pid: int) -> dict[str, Any]:
    """Return facts that identify a process among those of all machines; empty if there is none."""
    found: dict[str, Any] = {"pid": pid, "machine": os.uname().nodename}
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            found["boot"] = file.read().strip()
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name before it may hold anything; the time of its start is the 22nd field.
            found["began"] = file.read().rpartition(")")[2].split()[19]
    except OSError:
        with suppress(OSError):
            os.kill(pid, 0)
            return found
        return {}
    return found
