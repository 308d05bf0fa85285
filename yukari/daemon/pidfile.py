"""
twistd's pid file, if the process that it names is not the daemon's any more, or it is no file.

twistd refuses to start while any process has that number: after a crash and a restart of the
machine it may be anybody's, and in a container its own. What keeps two daemons apart is the lock
of the store, not this file.
"""

from __future__ import annotations

import os
import stat

from twisted.logger import Logger

from yukari.fatal import end

log = Logger()

MAX_NUMBERS = 2**31
"""No system numbers its processes so high; twistd fails at a larger one, and takes 0 for one."""
_OURS = (b"twistd", b"yukari")
"""A part of the command line of every process that may have written the file."""


def check_pid_file(path: str) -> None:
    """
    Remove a pid file that names no process's number, this process, or another program.

    Ends the start if there is no file to be had at ``path``: twistd would wait for what a FIFO
    brings, and fail with a traceback at most others.
    """
    try:
        _remove_stale(path)
        if not os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK):
            end(f"{path}: no pid file can be made there: name another by twistd's --pidfile")
    except OSError as error:
        end(f"{path}: no pid file: {error.strerror}: remove it, or name another by --pidfile")


def _remove_stale(path: str) -> None:
    try:
        # Not to wait for one who writes to a FIFO.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        if not os.path.islink(path):
            return
        content = b""  # The file that the link leads to is not there.
    else:
        with open(number, "rb") as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                end(f"{path}: no pid file: it is no file: remove it, or name another by --pidfile")
            content = file.read(64).strip()
    if content.isdigit() and _is_ours(int(content)):
        return
    os.unlink(path)
    log.warn("{path}: removed, it names no daemon", path=path)


def _is_ours(number: int) -> bool:
    """Whether a process may be the daemon; True if that cannot be found out."""
    if number == os.getpid() or not 0 < number < MAX_NUMBERS:
        return False
    try:
        with open(f"/proc/{number}/cmdline", "rb") as file:
            command = file.read(4096)
    except OSError:
        # The process is gone if there is a /proc; otherwise twistd finds out.
        return not os.path.exists("/proc/self/cmdline")
    return any(name in command for name in _OURS)
