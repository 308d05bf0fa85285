"""The sockets of requests: plain ones, and those under TLS."""

from __future__ import annotations

import os
import socket
from typing import Any, Optional

from twisted.internet import tcp
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.web.http import Request

UNSENT = 128 * 1024 * 1024
UNSENT_MOST = 4 * 1024 * 1024
UNSENT_LEAST = 16 * 1024
"""
Unsent bytes that may wait in the system: for all connections together, and the most and the least
for one. When only the system bounded them, 3,200 slow readers took all of its memory for TCP, 2.2
GB, and all other traffic waited.
"""
HELD = 32 * 1024 * 1024
HELD_LEAST = 4 * 1024
"""
Bytes of replies that may wait in this process until sockets take them: for all connections
together, and for one at the least.
"""
READ = 16 * 1024 * 1024
"""Bytes of requests that are read and wait to be complete, of all connections together."""
NOTSENT_LOWAT: Optional[int] = getattr(socket, "TCP_NOTSENT_LOWAT", None)

_READ = 256 * 1024
"""Bytes read at once in the place of a ``sendfile``."""

_log = Logger()
_warned = False


def plain_socket(request: Request) -> Optional[tcp.Connection]:
    """Return the request's TCP (or Unix) transport, if bytes may be put on its socket directly."""
    transport = getattr(request.channel, "transport", None)
    return transport if _is_plain(transport) else None


def _is_plain(transport: Any) -> bool:
    return isinstance(transport, tcp.Connection) and not getattr(transport, "TLS", False)


def set_option(transport: Any, option: Optional[int], value: int) -> None:
    """Set a TCP option if the system has it; Unix sockets have none."""
    if option is not None and transport.socket.family != socket.AF_UNIX:
        transport.socket.setsockopt(socket.IPPROTO_TCP, option, value)


def bound_unsent(transport: Any, connections: int) -> int:
    """Bound the unsent bytes of one of so many connections, and return the bound."""
    bound = max(UNSENT_LEAST, min(UNSENT // max(1, connections), UNSENT_MOST))
    set_option(transport, NOTSENT_LOWAT, bound)
    return bound


def may_wait(connections: int) -> int:
    """Return the bytes that may wait for one of so many connections."""
    return max(HELD_LEAST, HELD // max(1, connections))


def bound_held(transport: Any, connections: int) -> int:
    """
    Bound what a new connection, one of so many, reads at once and lets wait; return that bound.
    """
    most = max(HELD_LEAST, READ // max(1, connections))
    if _is_plain(transport):
        transport.bufferSize = min(transport.bufferSize, most)
    return most


def flush(transport: Any) -> None:
    """
    Send what has been written, as far as the socket takes it.

    Twisted would do so in the reactor's next turn, and under load other requests wait for that
    turn. The reactor meets any error then.
    """
    if transport.connected and not transport.disconnecting and transport.doWrite() is not None:
        transport.startWriting()


def holds(transport: Any) -> bool:
    """Whether a plain transport has bytes that its socket has not taken yet."""
    return bool(transport.dataBuffer or transport._tempDataLen)


def flush_gathered(secure: Any) -> None:
    """
    Encrypt and send what was written over TLS, as far as the socket takes it.

    Twisted gathers small writes until the reactor's next turn, and sends them in the one after.
    """
    if isinstance(secure, BufferingTLSTransport):
        secure._aggregator.flush()
        if _is_plain(secure.transport):
            flush(secure.transport)


def write_now(transport: Any, data: bytes) -> None:
    """Write to a transport, and send what its socket takes at once."""
    if _is_plain(transport) and transport.connected and not holds(transport):
        # Nothing waits there, as a rule: to enter and leave the poll would cost two system calls.
        sent = transport.writeSomeData(data)
        if isinstance(sent, int):
            data = data[sent:]
    transport.write(data)
    flush_gathered(transport)


def forget_producer(transport: Any) -> None:
    """
    Break the cycle in which Twisted leaves a TLS transport that has ended, its producer and what
    they have, until garbage is collected: 20 MB of four hundred.
    """
    if isinstance(transport, TLSMemoryBIOProtocol):
        transport._producer = None


def without_sendfile(error: OSError) -> None:
    """Warn once that a file system has no ``sendfile``."""
    global _warned
    if not _warned:
        _warned = True
        _log.warn(
            "sendfile from the store is refused ({error}): blobs are read and written, which"
            " costs more CPU time",
            error=error.strerror,
            banner=True,
        )


def put(out: int, source: int, start: int, count: int) -> int:
    """
    Send bytes of a file by the system; return how many the socket takes, 0 if it is full.

    OSError as from the socket or the file, and if the file ends before ``start``. Some file
    systems, mostly FUSE's and network ones, know no ``sendfile``, and some sandboxes forbid it:
    files are read there.
    """
    sent: Optional[int]
    try:
        sent = os.sendfile(out, source, start, count)
    except BlockingIOError:
        return 0
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        data = os.pread(source, min(count, _READ), start)
        try:
            sent = os.write(out, data)
        except BlockingIOError:
            sent = None
        without_sendfile(error)
        if sent is None:
            return 0
    if not sent:
        raise OSError("the file is shorter than it was")
    return sent
