"""Bytes from upstream straight to one client, not stored."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Optional

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import Request
from zope.interface import implementer

from yukari.names import Digest
from yukari.net.budget import Priority, Turn
from yukari.net.throttle import Taker
from yukari.sending.stall import Join, ReaderGone, StallWatch
from yukari.sources.base import Answer, BlobSource, SourceFailed
from yukari.spans import Span

RELAY_FIRST = 64 * 1024
RELAY_LONGEST = 16 * 1024 * 1024
"""Bytes of a relay's first request and of its longest: the cost of a client that leaves at once."""
RELAY_SILENCE = 20.0
RELAY_TRIES = 4
RELAY_REST = 0.5
"""Seconds before the second try, doubling."""


class _RelayBody(Protocol):
    """
    Writes the wanted part of a body to the request; ``ended`` fires with the number of bytes that
    arrived of it.
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
    Bytes from upstream straight to one client, at that client's pace, not stored.

    They are requested in growing pieces, so that a client that drops an un-ranged GET at once
    (every classic pull does) costs little.
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
        ``whole`` is the digest to check if ``span`` ends a read of the whole blob; ``so_far`` is
        the sha256 of the bytes before ``span``.
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
        self._fetching: Optional[Deferred[Any]] = None
        self._turn: Optional[Turn] = None
        self._watch: Optional[StallWatch] = None
        self._taker: Optional[Taker] = None
        self._paused = False
        self._held = False
        self._gone = False

    async def begin(self) -> None:
        """
        Make sure that upstream sends, before the headers leave: `SourceFailed`, `SourceRefused`.
        """
        if self._first is None:
            self._first = await self._ask()

    async def _ask(self) -> Answer:
        pace = self._source.pace
        if pace.budget is not None:
            self._fetching = pace.budget.wait(pace.limit, Priority.READER)
            self._turn = await self._fetching
        span = Span(self._at, min(self._end, self._at + self._length))
        self._fetching = Deferred.fromCoroutine(self._source.fetch(span))
        self._fetching.addTimeout(
            RELAY_SILENCE,
            self._clock,
            lambda result, _: Failure(SourceFailed("no answer in time")),
        )
        began = self._clock.seconds()
        try:
            answer: Answer = await self._fetching
        except BaseException as error:
            if self._turn is not None:
                if isinstance(error, SourceFailed) and not error.moved:
                    self._turn.refused(self._clock.seconds(), began=began, definite=error.busy)
                self._turn.release()
            raise
        finally:
            self._fetching = None
        if self._turn is not None:
            self._turn.moved(answer.pace.limit)
            self._turn.answered(self._clock.seconds())
        return answer

    async def run(self, request: Any, join: Optional[Join] = None) -> None:
        """Send all of it; `ReaderGone`, or `SourceFailed` if upstream breaks too often."""
        request.write(b"")
        if request.gone:
            raise ReaderGone
        self._request = request
        self._watch = watch = StallWatch(self._clock, request.channel.forceAbortClient)
        watch.idle()
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
            watch.end()
            if self._taker is not None:
                self._taker.end()
            if not self._gone:
                request.unregisterProducer()

    def _take(self, data: bytes) -> None:
        """
        Pass bytes to the client. The last ones of a whole blob leave only if its digest is right.
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
            # Only now: `deliverBody` ends by resuming the transport, even if it was paused.
            body.pause()
        try:
            return await body.ended
        finally:
            self._body = None
            if self._turn is not None:
                self._turn.release()

    def pauseProducing(self) -> None:
        if not self._paused:
            self._paused = True
            if self._watch is not None:
                self._watch.made()
            if self._body is not None and not self._held:
                self._body.pause()

    def resumeProducing(self) -> None:
        if self._paused:
            self._paused = False
            if self._watch is not None:
                self._watch.idle()
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
