"""
Sending a file's bytes over TLS: a helper thread encrypts them and puts them on the socket.

Twisted would do both in the reactor's thread, a record at a time. Here the thread borrows the
connection's OpenSSL state for one piece of the file, and the reactor's thread keeps what the client
sends meanwhile until it has the state back.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from functools import partial
from typing import Any, Optional

from attrs import define, field
from OpenSSL.SSL import Connection, Error, WantReadError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.internet.task import deferLater
from zope.interface import implementer

from yukari.sending.blocks import BlockSender
from yukari.sending.lendable import Lendable
from yukari.sending.stall import ReaderGone
from yukari.sending.transports import bound_unsent, flush, flush_gathered, may_wait
from yukari.sending.workers import Helpers, Piece
from yukari.storage.disk.page_cache import LOOK_AHEAD, in_memory, read_ahead

BLOCK = 64 * 1024
"""
Bytes that are encrypted before they are put on the socket: enough for the calls to cost little, few
enough to stay in the core's cache. The rest of a block that a slow reader does not take waits in
this process; if there are many connections, blocks are smaller.
"""
TURN = 1024 * 1024
"""Bytes after which a helper leaves a reader if another one waits for it."""
PATIENCE = 0.02
LOOK = 0.004
"""
Seconds that a helper waits for room on a full socket in one piece while nobody else waits for it,
and between two looks whether somebody does. Going through the reactor costs more under load.
"""
NO_DESCRIPTORS = 0.1
"""Seconds until the next attempt if the process has no file descriptor left."""
PARTIAL_WRITE = 0x1
"""OpenSSL's ``SSL_MODE_ENABLE_PARTIAL_WRITE``, which pyOpenSSL sets and does not name."""


def write_whole_blocks(context: Any) -> None:
    """Let a context's later connections encrypt more than a record in one call."""
    if hasattr(context, "clear_mode"):  # Older versions of pyOpenSSL have none.
        context.clear_mode(PARTIAL_WRITE)


def encrypt(
    out: int,
    source: int,
    start: int,
    count: int,
    connection: Connection,
    wanted: Callable[[], object],
    most: int = BLOCK,
) -> tuple[int, bytes]:
    """
    Encrypt bytes of a file, ``most`` at a time, and put them on a socket, until it is full.

    Returns early if the thread is ``wanted`` elsewhere. The result is how many bytes were
    encrypted, and those encrypted ones that the socket did not take. OSError if the file ends
    before ``start`` or cannot be read, ReaderGone if the connection is broken.
    """
    block = memoryview(bytearray(min(most, count)))
    at, end, rest = start, start + count, b""
    to = _Socket(out, wanted)
    while at < end and not rest and not (at - start >= TURN and wanted()):
        try:
            read = os.preadv(source, [block[: end - at]], at)
        except OSError:
            if at > start:  # The next call will meet it again.
                break
            raise
        if not read:
            if at > start:
                break
            raise OSError("the file is shorter than it was")
        try:
            done = 0
            while done < read:
                done += connection.send(block[done:read])
            rest = to.put(_encrypted(connection, read))
        except (Error, OSError):
            raise ReaderGone from None
        at += read
    return at - start, rest


def _encrypted(connection: Connection, count: int) -> bytes:
    """Return all that OpenSSL has made of ``count`` bytes."""
    size = count + count // 64 + 1024
    data = connection.bio_read(size)
    if len(data) < size:
        return data
    more = [data]  # The client has asked for small records.
    try:
        while True:
            more.append(connection.bio_read(size))
    except WantReadError:
        return b"".join(more)


@define
class _Socket:
    """Where one piece goes; it waits for room up to `PATIENCE` in all."""

    _out: int
    _wanted: Callable[[], object]
    _looks: int = field(init=False, default=int(PATIENCE / LOOK))

    def put(self, data: bytes) -> bytes:
        """Return what the socket does not take; OSError if it is broken."""
        rest = memoryview(data)
        while True:
            try:
                rest = rest[os.write(self._out, rest) :]
            except BlockingIOError:
                pass
            if not rest:
                return b""
            if not self._has_room():
                return bytes(rest)

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        while self._looks > 0 and not self._wanted():
            if poll.poll(LOOK * 1000):
                return True
            self._looks -= 1
        return False


@implementer(IPullProducer)
class TlsSender(BlockSender):
    """
    Replaces Twisted's TLS as the producer of the TCP transport under it.

    A piece begins when that transport's buffer is empty, so that bytes stay in order: it is given
    what a helper could not put on the socket, and whatever OpenSSL has to say between two pieces.
    """

    def __init__(self, helpers: Helpers, connection: Lendable, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._helpers = helpers
        self._connection = connection
        self._secure: Any = self._request.channel.transport
        self._transport: Any = self._secure.transport
        self._producer: Any = None
        self._in_memory_until = self._at
        self._full = False
        self._kept = b""

    def _take_over(self) -> None:
        self._producer = self._transport.producer
        self._transport.unregisterProducer()
        if self._producer is not None:
            # A channel that waits for what the transport holds reads no request: now we wait.
            self._producer.resumeProducing()
        bound_unsent(self._transport, self._request.site.drain.count())
        flush_gathered(self._secure)
        self._transport.registerProducer(self, False)

    def _give_back(self) -> None:
        if self._transport.connected:
            self._transport.unregisterProducer()
            if self._producer is not None and not self._transport.disconnecting:
                self._transport.registerProducer(self._producer, True)

    def _check(self) -> None:
        if self._gone:
            raise ReaderGone(self._at - self._span.start)

    async def _put(self, end: int) -> int:
        await self._look_ahead(end)
        await self._emptied()
        try:
            answer = await self._helped(min(end, self._in_memory_until))
        except ReaderGone:
            self._transport.abortConnection()
            raise ReaderGone(self._at - self._span.start) from None
        except OSError as error:
            raise self._broken(error) from None
        self._check()
        count, rest = answer or (0, b"")
        self._transport.write(rest)
        if self._full:
            self._full = False
            self._transport.resumeProducing()
        if self._kept:
            self._secure.dataReceived(self._kept)
        if answer is None:
            await deferLater(self._transport.reactor, NO_DESCRIPTORS)
        return count

    def _helped(self, end: int) -> Deferred[Any]:
        """
        Let a helper `encrypt` up to ``end``; fires with its answer, None if it has none.

        Cancelling leaves the connection to the helper until it is done.
        """
        answer: Deferred[Any] = Deferred()
        lent = self._connection.lend(self._pause)
        piece = partial(self._piece, end)
        most = min(BLOCK, may_wait(self._request.site.drain.count()) // 2)
        helping = self._helpers.send(piece, encrypt, lent, lambda: self._helpers.waiting, most)
        helping.addBoth(self._returned, answer)
        return answer

    def _returned(self, result: Any, answer: Deferred[Any]) -> None:
        self._kept = self._connection.take_back()
        if not answer.called:
            answer.callback(result)

    async def _look_ahead(self, end: int) -> None:
        """Return when some of the bytes up to ``end`` can be read without waiting for a disk."""
        if self._at < self._in_memory_until:
            return
        descriptor = self._readable.fileno()
        end = min(end, self._at + LOOK_AHEAD)
        if descriptor is None or not in_memory(descriptor, self._at, end):
            try:
                await self._in_thread(read_ahead, self._readable, self._at, end)
            except OSError as error:
                raise self._broken(error) from None
            self._check()
        self._in_memory_until = end

    async def _emptied(self) -> None:
        """Return when the transport holds nothing."""
        emptied = self._paused = Deferred()
        flush(self._transport)
        if not emptied.called:
            await emptied
        self._check()

    def _piece(self, end: int) -> Optional[Piece]:
        descriptor = self._readable.fileno()
        if self._gone or descriptor is None:
            return None
        return self._transport.fileno(), descriptor, self._at, end - self._at

    def _pause(self) -> None:
        if not self._full:
            self._full = True
            self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        if self._transport.disconnecting:  # The client has closed TLS.
            self.stopProducing()
        else:
            self._resume()
