"""
Sending a blob's bytes, from a file or from a spool as it grows.

On a plain socket they leave by ``os.sendfile``. Over TLS a helper thread encrypts them. If there is
no descriptor, they are read in a disk thread. Either way memory is bounded, and a reader that takes
nothing for `STALL` seconds is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import Optional

from twisted.web.http import Request

from yukari.sending.blocks import ReadSender
from yukari.sending.lendable import lendable
from yukari.sending.sendfile import FileSender
from yukari.sending.stall import READ, InThread, Join
from yukari.sending.tls import TlsSender
from yukari.sending.transports import plain_socket
from yukari.sending.workers import Helpers
from yukari.spans import Span
from yukari.storage.disk.page_cache import NOWAIT
from yukari.storage.readable import Readable

LITTLE = 64 * 1024
"""
Bytes that leave together with the headers. All but one of a model's blobs are smaller, and a
``sendfile`` would cost more than it saves. What a socket does not take waits in memory: no more
than the 64 KiB that a transport holds of anything else, and less if there are many connections.
"""


def read_little(descriptor: Optional[int], start: int, end: int) -> bytes:
    """
    Return a short part of a file if it can be read without waiting for a disk, else nothing.
    """
    if descriptor is None or not 0 < end - start <= LITTLE:
        return b""
    data = bytearray(end - start)
    try:
        count = os.preadv(descriptor, [data], start, NOWAIT)
    except BlockingIOError:
        return b""
    except OSError:  # a file system that cannot tell, or an error that others will meet again
        try:
            count = os.preadv(descriptor, [data], start)
        except OSError:
            return b""
    return bytes(data) if count == len(data) else b""


def at_hand(readable: Readable, span: Span) -> bytes:
    """Return the bytes of a span as `read_little`, if they are there by now."""
    if len(span) > LITTLE or readable.available(span.start) < span.end:
        return b""
    return read_little(readable.fileno(), span.start, span.end)


def send(
    request: Request,
    readable: Readable,
    span: Span,
    in_thread: InThread,
    helpers: Helpers,
    join: Optional[Join] = None,
    piece: int = READ,
) -> Awaitable[int]:
    """
    Send ``span`` after the headers; the result is the number of bytes sent. If they are read into
    memory, no more than ``piece`` of them wait for the socket at a time.

    `Broken` if the `Readable` ends early, with the error of `Readable.wait`; `ReaderGone` if the
    client has left.
    """
    has_descriptor = readable.fileno() is not None
    transport = plain_socket(request) if has_descriptor else None
    if transport is not None:
        return FileSender(request, transport, readable, span, in_thread, helpers, join).done
    request.write(b"")
    if has_descriptor:
        connection = lendable(request)
        if connection is not None and helpers.most:
            return TlsSender(helpers, connection, request, readable, span, in_thread, join).run()
    reading = ReadSender(request, readable, span, in_thread, join)
    reading.piece = min(READ, piece)
    return reading.run()
