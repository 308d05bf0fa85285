"""Sending a file's bytes by ``sendfile``: they never enter this process."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any, ClassVar, Optional

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from yukari.net.throttle import Taker
from yukari.sending.fairness import Turn
from yukari.sending.stall import Broken, InThread, Join, ReaderGone
from yukari.sending.transports import bound_unsent, flush, holds, put, set_option
from yukari.sending.workers import A_PIECE, Helpers, Piece
from yukari.spans import Span
from yukari.storage.disk.page_cache import LOOK_AHEAD, in_memory, read_ahead
from yukari.storage.readable import Readable

CORKED_LEAST = 128 * 1024
"""
The smallest bound of unsent bytes with which a connection stays corked after its head and the first
bytes behind it, which always leave together. A cork holds back less than a segment, up to 64 KiB.
Those bytes count as unsent too, and Linux calls a socket writable while twice its unsent bytes are
below the bound: with a lower bound nothing would move until the cork's timer fires, 0.2 s later.
"""
COUNTED_BESIDE_CROWD = 8
"""
How often a byte counts in a turn of the reactor while requests wait for theirs, if its reader has
had some already: the turns are shorter then, and everybody's first byte leaves earlier.
"""
CORK: Optional[int] = getattr(socket, "TCP_CORK", None)
"""Makes the system send whole segments only: without it each ``sendfile`` ends with a short one."""


@implementer(IPullProducer)
class FileSender:
    """
    Replaces the HTTP channel as the transport's producer, and the transport itself as what the
    reactor calls when the socket is writable: ``sendfile`` then puts bytes on it.

    Twisted calls a pull producer when the transport's own buffer, which may still hold the headers,
    is empty. From then on until the end the transport's ``doWrite`` is ours: its own would leave
    the poll and rejoin it, and send nothing, for each of our turns. ``done`` fires with the result
    of `sending.send`.
    """

    turn: ClassVar[Turn] = Turn()

    def __init__(
        self,
        request: Any,
        transport: tcp.Connection,
        readable: Readable,
        span: Span,
        in_thread: InThread,
        helpers: Helpers,
        join: Optional[Join],
    ) -> None:
        self._request = request
        self._channel = request.channel
        self._in_thread = in_thread
        self._helpers = helpers
        self._transport: Any = transport
        self._readable = readable
        self._span = span
        self._at = span.start
        self._in_memory_until = span.start
        self._registered = False
        self._in_place = False
        self._reading = False
        self._helped = False
        self._corks = True
        self._corked = False
        self._waiting: Optional[Deferred[None]] = None
        self._taker: Optional[Taker] = None
        self._stalls = request.site.stalls
        self.done: Deferred[int] = Deferred()
        if self._gone():
            self._end(Failure(ReaderGone()))
            return
        self._stalls.begin(self)
        bound = bound_unsent(self._transport, request.site.drain.count())
        self._cork(True)
        request.write(b"")  # the head, which leaves with the first bytes
        self._corks = bound >= CORKED_LEAST
        self._transport.unregisterProducer()
        if join is not None:
            self._taker = join(self._hold, self._go_on)
        self._transport.registerProducer(self, False)
        self._registered = True
        # We wait for what the transport holds; a channel that still waits for it reads no request.
        self._channel.resumeProducing()
        if holds(self._transport):
            flush(self._transport)
        else:
            self.resumeProducing()

    @property
    def begun(self) -> bool:
        """Whether a byte has left."""
        return self._at > self._span.start

    def _gone(self) -> bool:
        return bool(self._request.gone or not self._transport.connected)

    def _cork(self, corked: bool) -> None:
        if corked != self._corked and (self._corks or not corked):
            self._corked = corked
            set_option(self._transport, CORK, corked)

    def stalled(self) -> None:
        """Drop a reader that has taken nothing for too long."""
        self._transport.abortConnection()

    def resumeProducing(self) -> None:
        """Send: the transport's own buffer is empty, unless this is the call from registering."""
        if not self._registered:
            return
        if not self._in_place and not self.done.called:
            self._in_place = True
            self._transport.doWrite = self._write
            self._write()
        if not self._rests() and not self.turn.waits(self):
            self._transport.startWriting()

    def _write(self) -> None:
        """Send if there is a turn for it: the socket is writable."""
        if self._rests():
            self._transport.stopWriting()
        elif self.turn.left <= 0:
            self._transport.stopWriting()
            self.turn.wait(self)
        else:
            self._send_some()

    def catch_up(self) -> None:
        """Send: the socket was writable in an earlier turn, and now there is something left."""
        self._send_some()
        if self._rests():
            return
        if self in self.turn.greedy:
            self.turn.wait(self)
        else:
            self._transport.startWriting()

    def _rests(self) -> bool:
        return (
            self.done.called
            or self._reading
            or self._helped
            or self._waiting is not None
            or (self._taker is not None and self._taker.held)
        )

    def _send_some(self) -> None:
        end = min(self._readable.available(self._at), self._span.end)
        if end <= self._at:
            self._wait()
            return
        descriptor = self._readable.fileno()
        assert descriptor is not None
        if self._at >= self._in_memory_until:
            ahead = min(end, self._at + LOOK_AHEAD)
            if not in_memory(descriptor, self._at, ahead):
                self._read(ahead)
                return
            self._in_memory_until = ahead
        end = min(end, self._in_memory_until)
        share = self.turn.share(self)
        if self._taker is not None:
            share = min(share, self._taker.share)
        elif self._helpers.pay and self.turn.crowds(self):
            self._be_helped(min(end, self._at + max(A_PIECE, share)))
            return
        self._send(descriptor, min(end, self._at + share))

    def _send(self, descriptor: int, end: int) -> None:
        """Put the file's bytes up to ``end`` on the socket, or as many as it takes."""
        asked = end - self._at
        self._cork(True)
        try:
            sent = put(self._transport.fileno(), descriptor, self._at, asked)
        except OSError:
            self._failed(Failure())
        else:
            if not self._corks:
                self._cork(False)
            others_first = self.begun and self._request.site.crowds.want_blobs
            count = COUNTED_BESIDE_CROWD * sent if others_first else sent
            self.turn.used(count, self._transport.reactor)
            self._sent(sent, asked)

    def _be_helped(self, end: int) -> None:
        """Let a helper thread do the same."""
        asked = end - self._at
        self._helped = True
        self._transport.stopWriting()
        sending = self._helpers.send(partial(self._piece, asked))
        sending.addCallbacks(self._was_helped, self._was_not_helped, (asked,))

    def _piece(self, asked: int) -> Optional[Piece]:
        if self.done.called or self._readable.available(self._at) < self._at + asked:
            return None
        descriptor = self._readable.fileno()
        if descriptor is None:
            return None
        self._cork(True)
        return self._transport.fileno(), descriptor, self._at, asked

    def _was_helped(self, sent: Optional[int], asked: int) -> None:
        self._helped = False
        if not self.done.called:
            self._sent(sent or 0, asked)
        if not self.done.called:
            self._transport.startWriting()

    def _was_not_helped(self, failure: Failure) -> None:
        self._helped = False
        if not self.done.called:
            self._failed(failure)

    def _sent(self, sent: int, asked: int) -> None:
        """Count the bytes that have left, of those that were offered."""
        self._at += sent
        if sent == asked:
            self.turn.greedy.add(self)
        else:
            self.turn.greedy.discard(self)
        if sent:
            self._stalls.begin(self)
        if self._taker is not None:
            self._taker.took(sent)
        if self._at == self._span.end:
            self._end(len(self._span))

    def _failed(self, failure: Failure) -> None:
        """End: the socket or the file is broken."""
        if failure.check(ConnectionError, TimeoutError):
            self.turn.greedy.discard(self)
            self._transport.abortConnection()
        else:
            self._broke(failure)

    def _read(self, end: int) -> None:
        """Read the bytes up to ``end`` into memory, then continue."""
        self._rest()
        self._reading = True
        work = self._in_thread(read_ahead, self._readable, self._at, end)
        work.addCallbacks(self._read_to, self._unreadable, (end,))

    def _read_to(self, _: None, end: int) -> None:
        self._reading = False
        self._in_memory_until = end
        self._go_on()

    def _unreadable(self, failure: Failure) -> None:
        # After the end the file may be closed while it is being read.
        self._reading = False
        self._broke(failure)

    def _wait(self) -> None:
        """Continue when there are more bytes."""
        self._rest()
        self._waiting = self._readable.wait(self._at)
        self._waiting.addCallbacks(self._more, self._broke)

    def _more(self, _: None) -> None:
        self._waiting = None
        self._go_on()

    def _broke(self, failure: Failure) -> None:
        self._waiting = None
        error = failure.value or ReaderGone()
        self._end(Failure(Broken(self._at - self._span.start, error)))

    def _hold(self) -> None:
        """Pause: the line that bounds all readers has nothing for this one."""
        self.turn.greedy.discard(self)
        self._stalls.end(self)
        self._cork(False)

    def _rest(self) -> None:
        """Pause: there is nothing to send."""
        self._transport.stopWriting()
        self._hold()

    def _go_on(self) -> None:
        if not self.done.called:
            self._stalls.begin(self)
            self._transport.startWriting()

    def stopProducing(self) -> None:
        self._end(Failure(ReaderGone(self._at - self._span.start)))

    def _end(self, result: Any) -> None:
        if self.done.called:
            return
        if self._in_place:
            self._transport.stopWriting()
            del self._transport.doWrite
        self.turn.greedy.discard(self)
        self.turn.leave(self)
        self._stalls.end(self)
        if self._taker is not None:
            self._taker.end()
        waiting, self._waiting = self._waiting, None
        if self._registered and not self._gone():
            self._cork(False)
            self._transport.unregisterProducer()
            self._transport.registerProducer(self._channel, True)
        self.done.callback(result)
        if waiting is not None:
            waiting.addErrback(lambda _: None)
            waiting.cancel()
