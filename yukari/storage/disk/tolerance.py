"""
What a file system may refuse without a store being lost, and the one log line that says so.

CIFS, Azure Files, Lustre, GPFS and NFS refuse some of what local disks do. What is done here is
nice to have: if it is refused, a warning says once what is lost, and the store goes on.
"""

from __future__ import annotations

import errno
import os
from typing import Union

from twisted.logger import Logger

REFUSED = frozenset(
    (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTTY)
    + (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EOVERFLOW)
)
"""Errors of calls that a file system does not know, or refuses to this user."""

GENERAL = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    + (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
)
"""Errors that are not one call's alone: a directory that vanished, a disk that is full."""

_TIMES = "the time of a manifest's last check is that of its last write"
_LENGTH = "the room of a blob is taken as its bytes arrive"
_SYNC = "a power cut may undo the last seconds, and a blob that it tears is fetched again"
_LINKS = "Ollama 0.40 gets copies of the manifests in place of links"

_log = Logger()
_told: set[tuple[str, int]] = set()
"""The calls whose refusal was logged, with their file systems."""


def without(call: str, lost: str, path: str, error: OSError) -> None:
    """Warn, once for each file system, that ``call`` is refused; other errors are raised."""
    if error.errno not in REFUSED:
        raise error
    _warn(call, lost, path, error)


def _without_nicety(call: str, lost: str, path: str, error: OSError) -> None:
    """As `without`, for any error of ``call`` alone."""
    if error.errno in GENERAL:
        raise error
    _warn(call, lost, path, error)


def _warn(call: str, lost: str, path: str, error: OSError) -> None:
    try:
        device = os.stat(path).st_dev
    except OSError:
        device = 0
    if (call, device) not in _told:
        _told.add((call, device))
        _log.warn(
            "{path}: its file system refuses {call} ({error}): {lost}",
            path=path,
            call=call,
            error=error.strerror,
            lost=lost,
            banner=True,
        )


def set_times(target: Union[int, str], mtime: int, directory: str) -> bool:
    """Set a file's or a link's own mtime, in nanoseconds; False if that is refused."""
    try:
        if isinstance(target, int):
            os.utime(target, ns=(mtime, mtime))
        else:
            os.utime(target, ns=(mtime, mtime), follow_symlinks=False)
    except NotImplementedError:
        return False
    except OSError as error:
        _without_nicety("utimes", _TIMES, directory, error)
        return False
    return True


def set_length(number: int, size: int, directory: str) -> None:
    """Make an empty file as long as what will be written to it, if the file system can."""
    try:
        os.ftruncate(number, size)
    except OSError as error:
        _without_nicety("ftruncate", _LENGTH, directory, error)


def link(to: str, path: str) -> bool:
    """Make a symbolic link at ``path``; False if that is refused."""
    try:
        os.symlink(to, path)
    except OSError as error:
        _without_nicety("symlink", _LINKS, os.path.dirname(path), error)
        return False
    return True


def sync_file(number: int, path: str) -> None:
    """Make a file's bytes outlast a power cut; OSError if the disk fails."""
    try:
        os.fsync(number)
    except OSError as error:
        without("fsync", _SYNC, os.path.dirname(path), error)


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
        _warn("fsync of a directory", _SYNC, path, error)
