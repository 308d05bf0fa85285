"""
Sending a blob's bytes, from a file or from a spool as it grows.

On a plain socket they leave by ``os.sendfile``. Over TLS a helper thread encrypts them. If there is
no descriptor, they are read in a disk thread. Either way memory is bounded, and a reader that takes
nothing for `STALL` seconds is dropped.
"""

from __future__ import annotations

import os
from typing import Optional

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request

from yukari.sending.blocks import ReadSender
from yukari.sending.sendfile import FileSender
from yukari.sending.stall import InThread, Join
from yukari.sending.tls import TlsSender, lendable
from yukari.sending.transports import plain_socket
from yukari.sending.workers import Helpers
from yukari.spans import Span
from yukari.storage.disk.page_cache import in_memory
from yukari.storage.readable import Readable

LITTLE = 32 * 1024
"""
Bytes that leave together with the headers. All but one of a model's blobs are smaller, and a
``sendfile`` would cost more than it saves.
"""


def at_hand(readable: Readable, span: Span) -> bytes:
    """
    Return the bytes of a short span if they can be read without waiting for a disk, else none.
    """
    descriptor = readable.fileno()
    little = 0 < len(span) <= LITTLE and readable.available(span.start) >= span.end
    if descriptor is None or not little or not in_memory(descriptor, span.start, span.end):
        return b""
    try:
        data = os.pread(descriptor, len(span), span.start)
    except OSError:  # which the slow path will meet again
        return b""
    return data if len(data) == len(span) else b""


async def send(
    request: Request,
    readable: Readable,
    span: Span,
    clock: IReactorTime,
    in_thread: InThread,
    helpers: Helpers,
    join: Optional[Join] = None,
) -> int:
    """
    Send ``span`` after the headers and return the number of bytes sent.

    `Broken` if the `Readable` ends early, with the error of `Readable.wait`; `ReaderGone` if the
    client has left.
    """
    if join is None and (data := at_hand(readable, span)):
        request.write(data)
        return len(data)
    request.write(b"")
    if readable.fileno() is not None:
        transport = plain_socket(request)
        if transport is not None:
            sender = FileSender(request, transport, readable, span, clock, in_thread, helpers, join)
            return await sender.done
        connection = lendable(request)
        if connection is not None and helpers.most:
            secure = TlsSender(request, readable, span, clock, in_thread, join, helpers, connection)
            return await secure.run()
    return await ReadSender(request, readable, span, clock, in_thread, join).run()
