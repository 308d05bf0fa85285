"""
Files that are there whole or not at all, whenever the process or the machine dies.

All of it blocks: for a disk thread.
"""

from __future__ import annotations

import errno
import itertools
import os
from contextlib import suppress

from twisted.logger import Logger

_log = Logger()
_count = itertools.count()

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Answers which mean that there is no such file."""
_NO_LINKS = (errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""The same of those that have no symbolic links."""
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems answer that cannot fsync a directory."""


def write_all(descriptor: int, body: bytes) -> None:
    """Write all of ``body``; OSError where it cannot."""
    left = memoryview(body)
    while left:
        left = left[os.write(descriptor, left) :]


def temporary(directory: str) -> str:
    """A path in ``directory`` that nobody else in this process uses."""
    return os.path.join(directory, f"{os.getpid()}-{next(_count)}")


def sync_directory(path: str) -> None:
    """
    Make the renames in a directory outlast a power cut.

    A failure is logged, not raised: the rename itself is done by then.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            _log.warn("cannot fsync {path}: {error}", path=path, error=error.strerror)


def make_directories(path: str) -> None:
    """Create ``path`` and what is missing above it, open to readers whatever the umask."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    make_directories(above)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        return
    os.chmod(path, 0o755)
    sync_directory(above)


def replace_file(target: str, body: bytes, mtime: int, through: str) -> None:
    """
    Put ``body`` at ``target`` with ``mtime`` in nanoseconds, in one step and durably.

    The bytes go through a file in the directory ``through``, of the same file
    system. OSError leaves ``target`` as it was.
    """
    made = temporary(through)
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(descriptor, body)
            os.utime(descriptor, ns=(mtime, mtime))
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(made, target)
    except OSError:
        remove(made)
        raise
    sync_directory(os.path.dirname(target))


def replace_link(target: str, to: str, mtime: int, through: str, *, durable: bool = True) -> bool:
    """
    Put a symbolic link to ``to`` at ``target`` with ``mtime`` in nanoseconds, in one step.

    As `replace_file`; False if the file system has no such links. What is not ``durable`` may be
    lost in a power cut.
    """
    made = temporary(through)
    try:
        os.symlink(to, made)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    try:
        os.utime(made, ns=(mtime, mtime), follow_symlinks=False)
        os.rename(made, target)
    except OSError:
        remove(made)
        raise
    if durable:
        sync_directory(os.path.dirname(target))
    return True


def remove(path: str) -> None:
    """Unlink a file if that can be."""
    with suppress(OSError):
        os.unlink(path)
