"""
A blob's bytes from its source in order, at the pace of the caller.

There is one connection at a time, and no more is read ahead than one read of a
socket brings. If the source breaks off, the rest is requested again.
"""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from yukari.net.budget import Priority, Turn
from yukari.net.http import within
from yukari.sources.base import Answer, BlobSource, SourceFailed, SourceRefused
from yukari.sources.pace import LARGEST
from yukari.spans import Span
from yukari.tasks import backoff, jittered

SILENCE = 20.0
"""Seconds without a byte after which a connection that is waited for is dropped."""
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
"""Seconds between two tries, doubling from the first to the longest."""
PATIENCE = 900.0
"""Seconds of failures without a byte after which it is given up."""


@define(eq=False, repr=False)
class SequentialReader:
    """The bytes of a blob of ``size`` bytes; `close` it when done."""

    _source: BlobSource
    _size: int
    _clock: IReactorTime
    position: int = field(default=0, init=False)
    """The next byte to be handed out."""
    came: int = field(default=0, init=False)
    """Bytes that came from the source, those that were skipped too."""
    _body: Optional[_Body] = field(default=None, init=False)
    _failed_since: Optional[float] = field(default=None, init=False)
    _failures: int = field(default=0, init=False)

    _log = Logger()

    async def read_into(self, buffer: bytearray) -> None:
        """
        Fill ``buffer`` with the next bytes; `SourceRefused`, or `SourceFailed` if none arrive.
        """
        room, filled = memoryview(buffer), 0
        while filled < len(room):
            try:
                if self._body is None:
                    self._body = await self._ask()
            except SourceFailed as error:
                await self._rest(error)
                continue
            except SourceRefused as refused:
                if refused.error.code != "SIZE_INVALID" or not self.position:
                    raise
                # The size was right until now: this is a portal's page, or an error as 200.
                await self._rest(SourceFailed(str(refused)))
                continue
            count = await self._body.read_into(room[filled:])
            filled += count
            self.position += count
            if count:
                self._failed_since, self._failures = None, 0
            if filled < len(room):
                body, self._body = self._body, None
                if not body.whole:
                    await self._rest(SourceFailed("the connection broke"))

    async def _ask(self) -> _Body:
        pace = self._source.pace
        turn = None
        if pace.budget is not None:
            turn = await pace.budget.wait(pace.limit, Priority.AHEAD)
        began = self._clock.seconds()
        try:
            return await self._ask_now(turn, began)
        except BaseException as error:
            if turn is not None:
                if isinstance(error, SourceFailed) and not error.moved:
                    turn.refused(self._clock.seconds(), began=began, definite=error.busy)
                turn.release()
            raise

    async def _ask_now(self, turn: Optional[Turn], began: float) -> _Body:
        if turn is not None:
            turn.sent(began)
        span = Span(self.position, min(self._size, self.position + LARGEST))
        fetching = Deferred.fromCoroutine(self._source.fetch(span))
        patience = max(SILENCE, self._source.pace.answers_within)
        try:
            answer = await within(patience, fetching, self._clock)
        except TimeoutError:
            raise SourceFailed("no answer in time") from None
        if answer.paced is not None:
            answer.paced.yields = lambda: True  # No client waits for it.
        answer.pace.headers_after(self._clock.seconds() - began)
        skipped = self.position - answer.span.start
        missing = answer.span.end - self.position
        if turn is not None:
            turn.moved(answer.pace.limit)
            turn.answered(self._clock.seconds(), began=began)
        body = _Body(self, skipped, missing, self._clock, answer, turn)
        answer.body.deliverBody(body)
        return body

    async def _rest(self, error: SourceFailed) -> None:
        """Wait before the next try; raises ``error`` once there were enough of them."""
        now = self._clock.seconds()
        if self._failed_since is None:
            self._failed_since = now
        asked = error.retry_after or 0.0
        if now + asked - self._failed_since >= PATIENCE:
            raise error
        self._failures += 1
        wait = jittered(backoff(self._failures, FIRST_WAIT, LONGEST_WAIT))
        wait = max(wait, asked)
        self._log.debug("byte {at}: {error}", at=self.position, error=str(error))
        await deferLater(self._clock, wait)

    def go_back(self, position: int) -> None:
        """Hand out the bytes from ``position`` next, which come once more; nobody reads now."""
        if position != self.position:
            self.close()
            self.position = position

    def close(self) -> None:
        """Drop the connection, if there is one."""
        if self._body is not None:
            self._body.stop()
            self._body = None


class _Body(Protocol):
    """
    A reply's body, read on only while there is a buffer to read into.

    ``skipped`` bytes come before the wanted ones, of which there are ``count``.
    """

    def __init__(
        self,
        owner: SequentialReader,
        skipped: int,
        count: int,
        clock: IReactorTime,
        answer: Answer,
        turn: Optional[Turn],
    ) -> None:
        self._owner = owner
        self._turn = turn
        self._paced = answer.paced
        self._pace = answer.pace
        self._skip = skipped
        self._missing = count
        self._clock = clock
        self._over: list[bytes] = []
        """Bytes of one read for which there was no buffer."""
        self._room: Optional[memoryview] = None
        self._filled = 0
        self._reading: Optional[Deferred[int]] = None
        self._silence: Optional[IDelayedCall] = None
        self._ended = False

    @property
    def whole(self) -> bool:
        """Whether the whole body arrived."""
        return not self._missing

    def read_into(self, room: memoryview) -> Deferred[int]:
        """Fires with the number of bytes read: fewer than fit only if the body ended."""
        self._room, self._filled = room, 0
        reading: Deferred[int] = Deferred(self._give_up)
        self._reading = reading
        over, self._over = self._over, []
        for data in over:
            self._put(data)
        if self._reading is not None:
            if self._ended:
                self._fire()
            else:
                self._silence = self._clock.callLater(SILENCE, self._silent)
                self._flow("resumeProducing")
        return reading

    def _silent(self) -> None:
        self._silence = None
        if self._paced is not None and self._paced.held:
            self._silence = self._clock.callLater(SILENCE, self._silent)
        else:
            self.stop()

    def _give_up(self, _: Deferred[int]) -> None:
        self._reading = None
        self.stop()

    def dataReceived(self, data: bytes) -> None:
        self._owner.came += len(data)
        held = self._room is None or (self._paced is not None and self._paced.held)
        self._pace.received(self._clock.seconds(), len(data), is_read=False, held=held)
        if self._silence is not None:
            self._silence.reset(SILENCE)
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        wanted = data[skipped : skipped + self._missing]
        self._missing -= len(wanted)
        if wanted:
            self._put(wanted)
        if len(data) > skipped + len(wanted):
            self.stop()

    def _put(self, data: bytes) -> None:
        if self._room is None:
            self._over.append(data)
            self._pause()
            return
        count = min(len(data), len(self._room) - self._filled)
        self._room[self._filled : self._filled + count] = data[:count]
        self._filled += count
        if self._filled == len(self._room):
            if count < len(data):
                self._over.append(data[count:])
            self._pause()
            self._fire()

    def _pause(self) -> None:
        # One that has come whole ends by itself, and its connection is used again.
        if self._missing:
            self._flow("pauseProducing")

    def _fire(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._room = None
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.callback(self._filled)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        self._ended = True
        if self._turn is not None:
            self._turn.release()
        self._fire()

    def stop(self) -> None:
        """Drop the connection; it may never say that it closed (TLS with reading paused)."""
        self._flow("stopProducing")
        self.connectionLost()

    def _flow(self, what: str) -> None:
        transport: Any = self.transport
        if transport is not None and not self._ended:
            getattr(transport, what)()
