"""
A blob's bytes on their way out: from a file, from a spool as it grows, or relayed from upstream.

On a plain socket they go by ``os.sendfile``; over TLS, and where there is no
descriptor, they are read in a disk thread. Either way memory is bounded, and a
reader that takes nothing for `STALL` seconds is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from typing import Any, ClassVar, Optional

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPullProducer, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import Request
from zope.interface import implementer

from yukari.blobs import Readable
from yukari.fills.source import Answer, BlobSource, SourceFailed
from yukari.names import Digest
from yukari.rates import Taker
from yukari.spans import Span

STALL = 300.0
"""Seconds after which a reader that takes nothing is dropped."""
A_TURN = 8 * 1024 * 1024
AT_ONCE = 8 * 1024 * 1024
AT_ONCE_LEAST = 64 * 1024
"""
Bytes that leave in one turn of the reactor, some 4 ms, shared by the readers that take all they are
given; the most and the least of one ``sendfile``.
"""
LOOK_AHEAD = 8 * 1024 * 1024
LOOK_EVERY = 512 * 1024
"""
So many bytes ahead a file is looked at, a byte every so often, whether it is in memory; where it is
not it is read in a disk thread first, for ``sendfile`` would have everybody wait for the disk.
"""
NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
READ = 256 * 1024
"""Bytes of one read in a thread."""
RELAY_FIRST = 64 * 1024
RELAY_LONGEST = 16 * 1024 * 1024
"""
Bytes of a relay's first request and of its longest: what a client that leaves at once has cost.
"""
RELAY_SILENCE = 20.0
RELAY_TRIES = 4
RELAY_REST = 0.5
"""Seconds before the second try, doubling."""

InThread = Callable[..., Deferred[Any]]
Join = Callable[[Callable[[], None], Callable[[], None]], Taker]
"""`Line.join` of the line that bounds what a client gets."""


class ReaderGone(Exception):
    """
    The client has closed its connection, or was dropped; nothing more can be sent.

    ``sent`` bytes of the blob had left by ``sendfile``.
    """

    def __init__(self, sent: int = 0) -> None:
        super().__init__(sent)
        self.sent = sent


class Progress:
    """
    Drops a connection that takes nothing for `STALL` seconds although there is something to take.
    """

    def __init__(self, clock: IReactorTime, drop: Callable[[], None]) -> None:
        self._clock = clock
        self._drop = drop
        self._at: Optional[float] = clock.seconds()
        self._timer: Optional[IDelayedCall] = clock.callLater(STALL, self._look)

    def made(self) -> None:
        """Something was taken."""
        self._at = self._clock.seconds()

    def idle(self) -> None:
        """There is nothing to take just now."""
        self._at = None

    def _look(self) -> None:
        now = self._clock.seconds()
        since = now if self._at is None else self._at
        if now - since >= STALL:
            self._timer = None
            self._drop()
        else:
            self._timer = self._clock.callLater(since + STALL - now, self._look)

    def end(self) -> None:
        """No more watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def in_memory(descriptor: int, start: int, end: int) -> bool:
    """
    Whether those bytes of a file can be had without waiting for a disk, as far as the system tells.
    """
    if not NOWAIT:
        return True
    byte = [bytearray(1)]
    try:
        for at in (*range(start, end, LOOK_EVERY), end - 1):
            os.preadv(descriptor, byte, at, NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system that cannot tell, or an error that sendfile will meet
        pass
    return True


def read_ahead(readable: Readable, start: int, end: int) -> None:
    """Have the system read those bytes into memory. Blocks: for a disk thread."""
    while start < end:
        count = len(readable.read(start, min(READ, end - start)))
        if not count:
            return
        start += count


def plain_socket(request: Request) -> Optional[tcp.Connection]:
    """The request's own TCP (or Unix) transport, where bytes may be put on it directly."""
    transport = getattr(request.channel, "transport", None)
    if isinstance(transport, tcp.Connection) and not getattr(transport, "TLS", False):
        return transport
    return None


async def send(
    request: Request,
    readable: Readable,
    span: Span,
    clock: IReactorTime,
    in_thread: InThread,
    join: Optional[Join] = None,
) -> int:
    """
    Send ``span`` behind the headers, which leave first; returns how many bytes of it were sent.

    Fewer than all where the `Readable` broke: what `Readable.wait` failed with is raised as
    `Broken`. `ReaderGone` where the client left.
    """
    request.write(b"")
    transport = plain_socket(request)
    if transport is not None and readable.fileno() is not None:
        return await _FileSender(request, transport, readable, span, clock, in_thread, join).done
    return await _ReadSender(request, readable, span, clock, in_thread, join).run()


class Broken(Exception):
    """The blob's bytes end early; ``sent`` of them have left, and ``error`` is why."""

    def __init__(self, sent: int, error: BaseException) -> None:
        super().__init__(str(error))
        self.sent = sent
        self.error = error


@implementer(IPullProducer)
class _FileSender:
    """
    Stands in for the HTTP channel as the transport's producer while ``sendfile`` puts bytes on its
    socket.

    Twisted calls a pull producer whenever the transport's own buffer is empty
    and the socket writable; `startWriting` asks for the next call.
    """

    _greedy: ClassVar[set[_FileSender]] = set()
    """Those whose readers took all that they were last given."""

    def __init__(
        self,
        request: Any,
        transport: tcp.Connection,
        readable: Readable,
        span: Span,
        clock: IReactorTime,
        in_thread: InThread,
        join: Optional[Join],
    ) -> None:
        self._request = request
        self._channel = request.channel
        self._in_thread = in_thread
        self._transport: Any = transport
        self._readable = readable
        self._span = span
        self._at = span.start
        self._in_memory_until = span.start
        self._registered = False
        self._reading = False
        self._waiting: Optional[Deferred[None]] = None
        self._taker: Optional[Taker] = None
        self._progress = Progress(clock, self._stalled)
        self.done: Deferred[int] = Deferred()
        if self._gone():
            self._end(Failure(ReaderGone()))
            return
        self._transport.unregisterProducer()
        if join is not None:
            self._taker = join(self._hold, self._more)
        self._transport.registerProducer(self, False)
        self._registered = True
        # What the transport holds is ours to wait for; a channel that still does reads no request.
        self._channel.resumeProducing()

    def _gone(self) -> bool:
        return bool(self._request.gone or not self._transport.connected)

    def _stalled(self) -> None:
        self._transport.abortConnection()

    def resumeProducing(self) -> None:
        if self.done.called or self._reading or self._waiting is not None:
            return
        if not self._registered:
            self._transport.startWriting()
            return
        if self._taker is not None and self._taker.held:
            return
        end = min(self._readable.available(self._at), self._span.end)
        if end <= self._at:
            self._wait()
            return
        if self._at >= self._in_memory_until:
            ahead = min(end, self._at + LOOK_AHEAD)
            descriptor = self._readable.fileno()
            assert descriptor is not None
            if not in_memory(descriptor, self._at, ahead):
                self._read(ahead)
                return
            self._in_memory_until = ahead
        share = max(AT_ONCE_LEAST, min(AT_ONCE, A_TURN // max(1, len(self._greedy))))
        if self._taker is not None:
            share = min(share, self._taker.share)
        self._send(min(end, self._in_memory_until, self._at + share))

    def _read(self, end: int) -> None:
        """Have the bytes up to ``end`` in memory, and go on."""
        self._greedy.discard(self)
        self._progress.idle()
        self._reading = True
        work = self._in_thread(read_ahead, self._readable, self._at, end)
        work.addCallbacks(self._read_to, self._unreadable, (end,))

    def _read_to(self, _: None, end: int) -> None:
        self._reading = False
        self._in_memory_until = end
        self._progress.made()
        if not self.done.called:
            self._transport.startWriting()

    def _unreadable(self, failure: Failure) -> None:
        # Once it has ended the file may be closed while it is read.
        self._reading = False
        self._end(Failure(Broken(self._at - self._span.start, failure.value or ReaderGone())))

    def _send(self, end: int) -> None:
        """Put bytes up to ``end`` on the socket, until it is full."""
        descriptor = self._readable.fileno()
        assert descriptor is not None
        self._greedy.add(self)
        before = self._at
        try:
            while self._at < end:
                sent = os.sendfile(self._transport.fileno(), descriptor, self._at, end - self._at)
                if sent == 0:
                    raise OSError("the file is shorter than it was")
                self._at += sent
                self._progress.made()
        except BlockingIOError:
            self._greedy.discard(self)
        except (ConnectionError, TimeoutError):
            self._transport.abortConnection()
            return
        except OSError as error:
            self._end(Failure(Broken(self._at - self._span.start, error)))
            return
        if self._taker is not None:
            self._taker.took(self._at - before)
        if self._at == self._span.end:
            self._end(len(self._span))
        else:
            self._transport.startWriting()

    def _wait(self) -> None:
        self._greedy.discard(self)
        self._progress.idle()
        self._waiting = self._readable.wait(self._at)
        self._waiting.addCallbacks(self._more, self._broke)

    def _hold(self) -> None:
        self._greedy.discard(self)
        self._progress.idle()

    def _more(self, _: None = None) -> None:
        self._waiting = None
        self._progress.made()
        if not self.done.called:
            self._transport.startWriting()

    def _broke(self, failure: Failure) -> None:
        self._waiting = None
        error = failure.value or ReaderGone()
        self._end(Failure(Broken(self._at - self._span.start, error)))

    def stopProducing(self) -> None:
        self._end(Failure(ReaderGone(self._at - self._span.start)))

    def _end(self, result: Any) -> None:
        if self.done.called:
            return
        self._greedy.discard(self)
        self._progress.end()
        if self._taker is not None:
            self._taker.end()
        waiting, self._waiting = self._waiting, None
        if self._registered and not self._gone():
            self._transport.unregisterProducer()
            self._transport.registerProducer(self._channel, True)
        self.done.callback(result)
        if waiting is not None:
            waiting.addErrback(lambda _: None)
            waiting.cancel()


@implementer(IPushProducer)
class _ReadSender:
    """Reads in a disk thread and writes to the request, a block at a time."""

    def __init__(
        self,
        request: Any,
        readable: Readable,
        span: Span,
        clock: IReactorTime,
        in_thread: InThread,
        join: Optional[Join],
    ) -> None:
        self._request = request
        self._readable = readable
        self._span = span
        self._in_thread = in_thread
        self._paused: Optional[Deferred[None]] = None
        self._waiting: Optional[Deferred[None]] = None
        self._gone = bool(request.gone)
        self._join = join
        self._taker: Optional[Taker] = None
        self._turn: Optional[Deferred[None]] = None
        self._progress = Progress(clock, self._stalled)

    def _stalled(self) -> None:
        self._request.channel.forceAbortClient()

    async def run(self) -> int:
        """As `send`."""
        at = self._span.start
        if self._gone:
            self._progress.end()
            raise ReaderGone
        self._request.registerProducer(self, True)
        if self._join is not None:
            self._taker = self._join(self._hold, self._release)
        try:
            while at < self._span.end:
                if self._turn is not None:
                    self._progress.idle()
                    await self._turn
                    self._progress.made()
                    self._check()
                end = min(self._readable.available(at), self._span.end)
                if end <= at:
                    self._progress.idle()
                    self._waiting = self._readable.wait(at)
                    try:
                        await self._waiting
                    except Exception as error:
                        self._check()
                        raise Broken(at - self._span.start, error) from None
                    finally:
                        self._waiting = None
                        self._progress.made()
                    self._check()
                    continue
                count = min(READ, end - at)
                if self._taker is not None:
                    count = min(count, self._taker.share)
                try:
                    data = await self._in_thread(self._readable.read, at, count)
                except OSError as error:
                    raise Broken(at - self._span.start, error) from None
                self._check()
                if not data:
                    short = OSError("the file is shorter than it was")
                    raise Broken(at - self._span.start, short)
                at += len(data)
                if self._taker is not None:
                    self._taker.took(len(data))
                self._request.write(data)
                if self._paused is not None:
                    await self._paused
                self._check()
                self._progress.made()
        finally:
            self._progress.end()
            if self._taker is not None:
                self._taker.end()
            if not self._gone:
                self._request.unregisterProducer()
        return len(self._span)

    def _hold(self) -> None:
        self._turn = Deferred()

    def _release(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.callback(None)

    def _check(self) -> None:
        if self._gone:
            raise ReaderGone

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stopProducing(self) -> None:
        self._gone = True
        self.resumeProducing()
        self._release()
        if self._waiting is not None:
            self._waiting.cancel()


class _RelayBody(Protocol):
    """
    Writes the wanted part of a body to the request; ``ended`` fires with how many bytes of it
    came.
    """

    def __init__(
        self,
        take: Callable[[bytes], None],
        skip: int,
        count: int,
        clock: IReactorTime,
        held: Callable[[], bool],
    ) -> None:
        self._take = take
        self._skip = skip
        self._left = count
        self._count = count
        self._clock = clock
        self._held = held
        self._silence: Optional[IDelayedCall] = clock.callLater(RELAY_SILENCE, self._silent)
        self.paused = False
        self.ended: Deferred[int] = Deferred()

    def connectionMade(self) -> None:
        if self.paused:
            self.pause()

    def _silent(self) -> None:
        self._silence = None
        if self._held():
            self._silence = self._clock.callLater(RELAY_SILENCE, self._silent)
        else:
            self.stop()

    def dataReceived(self, data: bytes) -> None:
        if self._silence is not None:
            self._silence.reset(RELAY_SILENCE)
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        wanted = data[skipped : skipped + self._left]
        self._left -= len(wanted)
        if wanted and not self.ended.called:
            self._take(wanted)
        if not self._left and len(data) > skipped + len(wanted):
            self.stop()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if not self.ended.called:
            self.ended.callback(self._count - self._left)

    def pause(self) -> None:
        self.paused = True
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        transport: Any = self.transport
        if transport is not None:
            transport.pauseProducing()

    def resume(self) -> None:
        self.paused = False
        transport: Any = self.transport
        if not self.ended.called:
            self._silence = self._clock.callLater(RELAY_SILENCE, self._silent)
            if transport is not None:
                transport.resumeProducing()

    def stop(self) -> None:
        """Drop the connection upstream."""
        transport: Any = self.transport
        if transport is not None:
            transport.stopProducing()
        self.connectionLost()


@implementer(IPushProducer)
class Relay:
    """
    Bytes from upstream straight to one client, at that client's pace, stored nowhere.

    They are asked for in growing pieces, so that a client that drops an
    un-ranged GET at once (every classic pull does) has cost little.
    """

    def __init__(
        self,
        source: BlobSource,
        span: Span,
        clock: IReactorTime,
        whole: Optional[Digest] = None,
        so_far: Any = None,
    ) -> None:
        """
        ``whole`` is the digest to be held to, where ``span`` ends a read of the whole blob, and
        ``so_far`` the sha256 of what lies before ``span``.
        """
        self._source = source
        self._whole = whole
        self._hash = so_far or sha256()
        self._at = span.start
        self._end = span.end
        self._clock = clock
        self._hashed = span.start
        self._first: Optional[Answer] = None
        self._length = RELAY_FIRST
        self._body: Optional[_RelayBody] = None
        self._fetching: Optional[Deferred[Answer]] = None
        self._progress: Optional[Progress] = None
        self._taker: Optional[Taker] = None
        self._paused = False
        self._held = False
        self._gone = False

    async def begin(self) -> None:
        """Make sure that upstream sends, before the headers go: `SourceFailed`, `SourceRefused`."""
        if self._first is None:
            self._first = await self._ask()

    async def _ask(self) -> Answer:
        span = Span(self._at, min(self._end, self._at + self._length))
        self._fetching = Deferred.fromCoroutine(self._source.fetch(span))
        self._fetching.addTimeout(
            RELAY_SILENCE,
            self._clock,
            lambda result, _: Failure(SourceFailed("no answer in time")),
        )
        try:
            return await self._fetching
        finally:
            self._fetching = None

    async def run(self, request: Any, join: Optional[Join] = None) -> None:
        """Send it all; `ReaderGone`, or `SourceFailed` when upstream breaks too often."""
        request.write(b"")
        if request.gone:
            raise ReaderGone
        self._request = request
        self._progress = progress = Progress(self._clock, request.channel.forceAbortClient)
        progress.idle()
        request.registerProducer(self, True)
        if join is not None:
            self._taker = join(self._hold, self._release)
        tries = 0
        try:
            while self._at < self._end:
                try:
                    answer, self._first = self._first or await self._ask(), None
                    came = await self._pass_on(request, answer)
                except CancelledError:
                    raise ReaderGone from None
                except SourceFailed as error:
                    came = 0
                    if error.busy or tries + 1 >= RELAY_TRIES:
                        raise
                    await deferLater(self._clock, RELAY_REST * 2**tries)
                if self._gone:
                    raise ReaderGone
                self._at += came
                tries = 0 if came else tries + 1
                if tries >= RELAY_TRIES:
                    raise SourceFailed("upstream broke off")
                self._length = min(RELAY_LONGEST, self._length * 8)
        finally:
            progress.end()
            if self._taker is not None:
                self._taker.end()
            if not self._gone:
                request.unregisterProducer()

    def _take(self, data: bytes) -> None:
        """
        Bytes for the client. The last ones of a whole blob leave only if its digest is right.
        """
        if self._whole is not None:
            self._hash.update(data)
            self._hashed += len(data)
            if self._hashed == self._end and self._hash.hexdigest() != self._whole.hex:
                self._gone = True
                self._request.channel.forceAbortClient()
                return
        self._request.write(data)
        if self._taker is not None:
            self._taker.took(len(data))

    async def _pass_on(self, request: Request, answer: Answer) -> int:
        end = min(answer.span.end, self._end)
        paced = answer.paced
        body = _RelayBody(
            self._take,
            self._at - answer.span.start,
            end - self._at,
            self._clock,
            lambda: paced is not None and paced.held,
        )
        self._body = body
        answer.body.deliverBody(body)
        if self._paused or self._held:
            # Only now: `deliverBody` ends by resuming the transport, whoever had paused it.
            body.pause()
        try:
            return await body.ended
        finally:
            self._body = None

    def pauseProducing(self) -> None:
        if not self._paused:
            self._paused = True
            if self._progress is not None:
                self._progress.made()
            if self._body is not None and not self._held:
                self._body.pause()

    def resumeProducing(self) -> None:
        if self._paused:
            self._paused = False
            if self._progress is not None:
                self._progress.idle()
            if self._body is not None and not self._held:
                self._body.resume()

    def _hold(self) -> None:
        self._held = True
        if self._body is not None and not self._paused:
            self._body.pause()

    def _release(self) -> None:
        self._held = False
        if self._body is not None and not self._paused:
            self._body.resume()

    def stopProducing(self) -> None:
        self._gone = True
        if self._body is not None:
            self._body.stop()
        if self._fetching is not None:
            self._fetching.cancel()
