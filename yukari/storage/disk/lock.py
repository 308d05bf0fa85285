"""
One daemon owns a directory: an advisory lock that dies with its process.

The directory itself is locked, so that the lock holds when files in it are removed by hand. Where a
file system cannot do that, a file in it is: by ``flock``, else by ``lockf``, else by being there,
with the process that made it in it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from contextlib import suppress
from typing import Any, Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.config.files import read_file
from yukari.storage.disk.atomic import set_aside
from yukari.storage.disk.tolerance import REFUSED
from yukari.storage.ports import StoreUnusable

_held: set[tuple[int, int]] = set()
"""
Device and inode of the directories that this process holds otherwise than by ``flock``, which alone
tells a process from itself.
"""


class _Taken(Exception):
    """Another process holds the lock."""


@define(eq=False)
class DirectoryLock:
    """
    The lock of ``directory``, held from `take` to `release` or the process's end.

    ``file`` names the process that holds it; it stays unless it is the lock itself.
    """

    directory: str
    file: str
    _descriptors: list[int] = field(factory=list, init=False)
    _inode: Optional[tuple[int, int]] = field(default=None, init=False)
    _record: bool = field(default=False, init=False)
    """Whether the file is the lock by being there."""

    _log = Logger()

    def take(self) -> None:
        """Take the lock; `StoreUnusable` names the process that holds it, if it is known."""
        inode = _inode_of(self.directory)
        try:
            if inode in _held:
                raise _Taken
            locked = self._lock(os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY), lockf=False)
            if _is_in_the_way(self.file):
                set_aside(self.file)
            number = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
            if not self._lock(number, lockf=True) and not locked:
                self._record_process()
                self._log.warn(
                    "{path}: its file system has no locks: {file} says that it is in use",
                    path=self.directory,
                    file=self.file,
                )
            if not self._record:
                self._name_process(number)
        except _Taken:
            self.release()
            raise StoreUnusable(
                f"{self.directory} is in use by another yukari{self._holder()}: "
                "stop that one or choose another directory"
            ) from None
        except OSError:
            self.release()
            raise
        self._inode = inode
        if not locked:
            _held.add(inode)

    def renew(self) -> None:
        """Hold it again if the directory or the file was removed meanwhile; errors as `take`."""
        if self._inode is None:
            return
        try:
            unchanged = _inode_of(self.directory) == self._inode and os.path.exists(self.file)
        except OSError:
            unchanged = False
        if not unchanged:
            self.release()
            self.take()

    def release(self) -> None:
        """Release the lock; harmless when repeated."""
        if self._record:
            with suppress(OSError):
                os.unlink(self.file)
        self._record = False
        if self._inode is not None:
            _held.discard(self._inode)
            self._inode = None
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

    def _record_process(self) -> None:
        """Take the file itself as the lock, unless the process that it names is alive."""
        mine = _process(os.getpid())
        with open(self.file, encoding="ascii", errors="replace") as file:
            text = file.read(1000)
        if text.strip():
            try:
                there = json.loads(text)
                alive = there["machine"] != mine["machine"] or there == _process(there["pid"])
            except (ValueError, TypeError, KeyError, RecursionError):
                alive = False
            if alive:
                raise _Taken
        made = f"{self.file}-{os.getpid()}"
        with open(made, "w", encoding="ascii") as file:
            json.dump(mine, file)
        os.rename(made, self.file)
        with open(self.file, encoding="ascii") as file:
            if json.load(file) != mine:
                raise _Taken
        self._record = True

    def _holder(self) -> str:
        """Return the process that holds the lock, for a message; "" if it is not known."""
        try:
            found = json.loads(read_file(self.file, 1000))
        except (OSError, ValueError, RecursionError):
            return ""
        if isinstance(found, dict):
            return f" (process {found.get('pid')} on {found.get('machine')}; see {self.file})"
        return f" (process {found})" if isinstance(found, int) else ""


def _is_in_the_way(path: str) -> bool:
    """Whether there is something that is no file, such as a directory."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        return error.errno == errno.ELOOP


def _inode_of(path: str) -> tuple[int, int]:
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
