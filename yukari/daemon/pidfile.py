"""
twistd's pid file, if the process that it names is not the daemon's any more.

twistd refuses to start while any process has that number: after a crash and a restart of the
machine it may be anybody's, and in a container its own. What keeps two daemons apart is the lock
of the store, not this file.
"""

from __future__ import annotations

import os

from twisted.logger import Logger

log = Logger()

_OURS = (b"twistd", b"yukari")
"""A part of the command line of every process that may have written the file."""


def remove_stale(path: str) -> None:
    """Remove a pid file that names no number, this process, or another program."""
    try:
        with open(path, "rb") as file:
            content = file.read(64).strip()
    except OSError:
        return
    if content.isdigit() and _is_ours(int(content)):
        return
    try:
        os.unlink(path)
    except OSError:
        return  # twistd reports what is wrong with it
    log.warn("{path}: removed, it names no daemon", path=path)


def _is_ours(number: int) -> bool:
    """Whether a process may be the daemon; True if that cannot be found out."""
    if number == os.getpid():
        return False
    try:
        with open(f"/proc/{number}/cmdline", "rb") as file:
            command = file.read(4096)
    except OSError:
        return True  # gone, which twistd finds out, or there is no /proc
    return any(name in command for name in _OURS)
