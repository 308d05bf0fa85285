"""
Files that are there whole or not at all, whenever the process or the machine dies.

All of it blocks: for a disk thread.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from twisted.logger import Logger

from yukari.manifest import Body
from yukari.storage.disk.tolerance import link, set_times, sync_directory, sync_file

_BLOCK = 1024 * 1024

_count = itertools.count()
_log = Logger()

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Answers which mean that there is no such file; a link may lead nowhere, or to itself."""
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EISDIR, errno.ENXIO)
"""Answers which mean that what is there cannot be a file of ours: a socket, a directory."""


def is_fault(error: OSError) -> bool:
    """
    Whether a failure does not tell whether there is a file: never to be taken for "not stored".

    Among them are a disk that fails, descriptors that are short, and a server that is away (NFS,
    CIFS, FUSE).
    """
    return error.errno not in (*ABSENT, *_NOT_OURS)


def hides(path: str, error: OSError) -> bool:
    """
    Whether there may be something at ``path`` although it could not be opened or listed.

    A manifest that is hidden so is not served, but its blobs may be needed: none is removed.
    """
    if error.errno == errno.ENOENT:
        return False
    try:
        found = os.lstat(path)
    except OSError as again:
        # Some file systems have no name with a colon and call it invalid.
        return again.errno not in (*ABSENT, errno.EINVAL)
    return error.errno != errno.ENOTDIR or stat.S_ISDIR(found.st_mode)


def write_all(descriptor: int, body: bytes) -> None:
    """Write all of ``body``; OSError."""
    left = memoryview(body)
    while left:
        left = left[os.write(descriptor, left) :]


def pieces_of(body: Body) -> Iterator[bytes]:
    """Yield bytes in order, those from a file a block at a time. Blocks; OSError."""
    if isinstance(body, bytes):
        yield body
        return
    at, end = body.span.start, body.span.end
    while at < end:
        piece = body.read(at, min(_BLOCK, end - at))
        if not piece:
            raise OSError(errno.EIO, "a manifest's file is shorter than it was")
        yield piece
        at += len(piece)


def temporary(directory: str) -> str:
    """Return a path in ``directory`` that nothing else in this process uses."""
    return os.path.join(directory, f"{os.getpid()}-{next(_count)}")


def make_directories(path: str, *, durable: bool = True) -> None:
    """Create ``path`` and what is missing above it, with the umask's mode."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    make_directories(above, durable=durable)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        return
    if durable:
        sync_directory(above)


def set_aside(path: str) -> None:
    """Rename what is in the way of a file or a directory of ours, and say so; OSError."""
    kept = next(each for at in itertools.count(1) if not os.path.lexists(each := f"{path}.bad{at}"))
    os.rename(path, kept)
    _log.error("{path} is unusable: set aside as {kept}", path=path, kept=kept)


def make_way(path: str) -> None:
    """Remove a file, if there is one; set a directory aside. OSError if that fails."""
    remove(path)
    if os.path.isdir(path):
        set_aside(path)


def move(path: str, target: str) -> None:
    """Rename a file in one step; a directory in its place is set aside. OSError."""
    try:
        os.rename(path, target)
    except IsADirectoryError:
        set_aside(target)
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        said = "these are on different file systems, perhaps because one is mounted there"
        raise OSError(errno.EXDEV, said, path, None, target) from None


def replace_file(target: str, body: Body, mtime: int, through: str, first: bytes = b"") -> None:
    """
    Put ``first`` and then ``body`` into the file ``target``, in one step and durably.

    Its mtime becomes ``mtime``, in nanoseconds. The bytes go through a file in the directory
    ``through``, of the same file system. OSError leaves ``target`` as it was.
    """
    made = temporary(through)
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            write_all(descriptor, first)
            for piece in pieces_of(body):
                write_all(descriptor, piece)
            set_times(descriptor, mtime, through)
            sync_file(descriptor, made)
        finally:
            os.close(descriptor)
        move(made, target)
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
    if not link(to, made):
        return False
    try:
        if set_times(made, mtime, through) or mtime:
            move(made, target)
        else:
            # With the present time the link would count as just checked. Readers do without it,
            # but must not find the old one.
            remove(made)
            remove(target)
    except OSError:
        remove(made)
        raise
    if durable:
        sync_directory(os.path.dirname(target))
    return True


def remove(path: str) -> None:
    """Unlink a file; errors are ignored."""
    with suppress(OSError):
        os.unlink(path)
