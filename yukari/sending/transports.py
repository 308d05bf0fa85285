"""The socket of a request, if it is a plain one."""

from __future__ import annotations

import errno
import os
from typing import Any, Optional

from twisted.internet import tcp
from twisted.logger import Logger
from twisted.web.http import Request

_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_READ = 256 * 1024
"""Bytes read at once in the place of a ``sendfile``."""

_log = Logger()
_warned = False


def plain_socket(request: Request) -> Optional[tcp.Connection]:
    """Return the request's TCP (or Unix) transport, if bytes may be put on its socket directly."""
    transport = getattr(request.channel, "transport", None)
    if isinstance(transport, tcp.Connection) and not getattr(transport, "TLS", False):
        return transport
    return None


def flush(transport: Any) -> None:
    """
    Send what has been written, as far as the socket takes it.

    Twisted would do so in the reactor's next turn, and under load other requests wait for that
    turn. The reactor meets any error then.
    """
    if transport.connected and not transport.disconnecting and transport.doWrite() is not None:
        transport.startWriting()


def without_sendfile(error: OSError) -> None:
    """Warn once that a file system has no ``sendfile``."""
    global _warned
    if not _warned:
        _warned = True
        _log.warn(
            "the store's file system refuses sendfile ({error}): blobs are read and written, which"
            " costs more CPU time",
            error=error.strerror,
        )


def put(out: int, source: int, start: int, count: int) -> int:
    """
    Send bytes of a file by the system; return how many the socket takes, 0 if it is full.

    OSError as from ``sendfile``, and if the file ends before ``start``. Some file systems, mostly
    FUSE's and network ones, know no ``sendfile``: they are read.
    """
    try:
        sent = os.sendfile(out, source, start, count)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno not in _NO_SENDFILE:
            raise
        without_sendfile(error)
        try:
            sent = os.write(out, os.pread(source, min(count, _READ), start))
        except BlockingIOError:
            return 0
    if not sent:
        raise OSError("the file is shorter than it was")
    return sent
