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

MAX_NUMBERS = 2**31
"""No system numbers its processes so high; twistd fails at a larger one, and takes 0 for one."""
_OURS = (b"twistd", b"yukari")
"""A part of the command line of every process that may have written the file."""


def remove_stale(path: str) -> None:
    """Remove a pid file that names no process's number, this process, or another program."""
    try:
        with open(path, "rb") as file:
            content = file.read(64).strip()
    except FileNotFoundError:
        content = b""  # If it is there, it is a link to a file that is not.
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
    if number == os.getpid() or not 0 < number < MAX_NUMBERS:
        return False
    try:
        with open(f"/proc/{number}/cmdline", "rb") as file:
            command = file.read(4096)
    except OSError:
        return True  # gone, which twistd finds out, or there is no /proc
    return any(name in command for name in _OURS)
