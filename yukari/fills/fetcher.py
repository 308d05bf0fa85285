"""One request for a part of one blob, from its beginning to its last byte or failure."""

from __future__ import annotations

from typing import Any, Optional, Protocol

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol as NetworkProtocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from yukari.fills.plan import Claim
from yukari.net.budget import Turn
from yukari.net.throttle import Paced
from yukari.sources.base import Answer, BlobSource, SourceFailed, SourceRefused
from yukari.sources.pace import HostPace
from yukari.spans import Span

STARVED = 16 * 1024
"""Bytes a second below which a request is starved if others for its blob bring far more."""
STARVED_SHARE = 1 / 8
"""The share of the average rate of the blob's requests below which one is starved."""
STARVED_SECONDS = 3.0
"""Seconds over which both are measured."""
TELLS_RATE = 0.5
"""Seconds of a body after which its rate is known."""
ENDS_WITHIN = 0.5
"""Seconds for a body without a length to end behind its last byte, or its connection is dropped."""


class Marks:
    """Counts as of two times in the past; the first of the counts is the time in seconds."""

    def __init__(self, *counts: float) -> None:
        self._older = self._newer = counts

    def since(self, seconds: float, *counts: float) -> Optional[tuple[float, ...]]:
        """Return what was counted in at least the last ``seconds``; None if it is too early."""
        if counts[0] - self._newer[0] >= seconds:
            self._older, self._newer = self._newer, counts
        if counts[0] - self._older[0] < seconds:
            return None
        return tuple(now - then for now, then in zip(counts, self._older))


class Owner(Protocol):
    """The blob's download, as one of its requests knows it."""

    @property
    def source(self) -> BlobSource: ...

    @property
    def is_read(self) -> bool:
        """Whether anybody reads the blob."""

    def answered(self, fetch: RangeFetch, answer: Answer) -> None:
        """A reply's header is here, which may hold something else than was asked for."""

    def received(self, fetch: RangeFetch, offset: int, data: bytes, *, asked: bool) -> int:
        """Take bytes of the body, and return how many of them were new."""


@define(eq=False, repr=False)
class RangeFetch:
    """
    One request: asks the fill's source for a claim's bytes, and hands on what comes.

    Backpressure reaches it by `pause` and `resume`, impatience by `drop`.
    """

    fill: Owner
    claim: Claim
    turn: Turn
    _clock: IReactorTime
    received: int = field(default=0, init=False)
    """Bytes of the body that arrived, wanted or not."""
    new: int = field(default=0, init=False)
    """Those of them that the fill did not have."""
    began_at: float = field(init=False)
    heard_at: float = field(init=False)
    """When bytes last arrived, in the clock's seconds."""
    answered: bool = field(default=False, init=False)
    """Whether the reply has begun."""
    _answered_at: float = field(default=0.0, init=False)
    _begins_at: float = field(default=0.0, init=False)
    """When its first byte came."""
    _is_header_counted: bool = field(default=False, init=False)
    paused: bool = field(default=False, init=False)
    was_too_slow: bool = field(default=False, init=False)
    """Whether it was dropped because others waited; what it brought says nothing of the host."""
    _marks: Marks = field(init=False)
    """The time, and the bytes that have arrived."""
    _shares: Optional[Marks] = field(default=None, init=False)
    """The same since the reply began, and the same of all requests for the blob together."""
    _paced: Optional[Paced] = field(default=None, init=False)
    _pace: Optional[HostPace] = field(default=None, init=False)
    _request: Optional[Deferred[Answer]] = field(default=None, init=False)
    _body: Optional[_BodyReader] = field(default=None, init=False)
    _dropped: Optional[str] = field(default=None, init=False)
    _was_refused: bool = field(default=True, init=False)
    """Whether a missing body counts as the host's refusal: the request was not taken back."""

    def __attrs_post_init__(self) -> None:
        self.began_at = self.heard_at = self._clock.seconds()
        self._marks = Marks(self.heard_at, 0)

    @property
    def held(self) -> bool:
        """Whether it is silent because others have their turn on the upstream line."""
        return self._paced is not None and self._paced.held

    async def run(self) -> None:
        """
        Return when the claim's bytes have all come; raises `SourceFailed` or `SourceRefused`.
        """
        began = self._clock.seconds()
        pace = self.fill.source.pace
        since = pace.begin(began, is_read=self.fill.is_read)
        self.turn.sent(began)
        first = self.claim.cursor
        span = Span(first, self.claim.end)
        self._request = Deferred.fromCoroutine(self.fill.source.fetch(span))
        try:
            answer = await self._request
            self._request = None
            self.answered = True
            self.heard_at = self._answered_at = self._clock.seconds()
            self.turn.moved(answer.pace.limit)
            self.turn.begins(self.heard_at, began=began)
            if answer.pace is not pace:
                pace.end(self.heard_at)
                pace = answer.pace
                since = pace.begin(self.heard_at, is_read=self.fill.is_read)
            if answer.paced is not None:
                self._paced = answer.paced
                self._paced.yields = lambda: not self.fill.is_read
            self._pace = pace
            if not pace.limit.is_overtaken(began):
                self._count_header(pace)
            whole = await self._read(answer)
        except CancelledError:
            self._not_served(began, SourceFailed("silent", moved=not self._was_refused))
            raise SourceFailed(self._dropped or "given up") from None
        except SourceFailed as error:
            self._not_served(began, error)
            raise
        except SourceRefused as error:
            if error.error.code == "SIZE_INVALID":
                # A page in the blob's place may say that there are too many requests.
                self._not_served(began, SourceFailed(str(error)))
            raise
        finally:
            now = self._clock.seconds()
            pace.end(now)
            if self.received and not self.was_too_slow:
                done = self.claim.cursor == self.claim.end
                pace.measured(
                    self.received,
                    now - began,
                    since=since,
                    whole=done,
                    body=now - self._answered_at,
                )
        if not whole:
            self._not_served(began, SourceFailed("no body", moved=not self._was_refused))
            raise SourceFailed(self._dropped or "the connection broke")

    def _not_served(self, began: float, error: SourceFailed) -> None:
        if not self.received and not error.moved:
            self.turn.refused(self._clock.seconds(), began=began, definite=error.busy)

    async def _read(self, answer: Answer) -> bool:
        if self._dropped is None:
            self.fill.answered(self, answer)
        if self._dropped is not None:
            answer.body.deliverBody(_BodyReader(self, 0, 0, asked=False))
            return False
        self._body = body = _BodyReader(
            self, answer.span.start, answer.span.end, asked=answer.asked
        )
        if not answer.has_length:
            body.ends_by(self._clock, answer.pace)
        answer.body.deliverBody(body)
        if self.paused:
            # Again: `deliverBody` ends by resuming the transport, whoever had paused it.
            self._body.pause()
        return await self._body.ended

    def got(self, offset: int, data: bytes, *, asked: bool) -> None:
        """Take bytes of the body, which belong at ``offset``."""
        now = self._clock.seconds()
        if not self.received:
            self._begins_at = now
            self.turn.answered(now, began=self.began_at)
            if self._pace is not None:
                self._pace.has_sent = True
                if not (self.paused or self.held):
                    self._pace.in_order.answered(self.began_at, offset, now - self.began_at)
                self._count_header(self._pace)
                if not (self.paused or self.held):
                    self._pace.body_after(now - self.heard_at)
        self.heard_at = now
        self.received += len(data)
        self.new += self.fill.received(self, offset, data, asked=asked)
        if self._pace is not None:
            held = self.paused or self.held
            self._pace.received(self.heard_at, len(data), is_read=self.fill.is_read, held=held)

    def _count_header(self, pace: HostPace) -> None:
        """
        Tell the host's pace how long the header took, once. That of a reply which overtakes others
        counts with its body: without one it is a refusal, and says nothing of the others' time.
        """
        if not self._is_header_counted:
            self._is_header_counted = True
            seconds = self._answered_at - self.began_at
            if pace.in_order.is_needed:  # Then shorter requests would wait longer for nothing.
                seconds = max(0.0, seconds - pace.in_order.later(self.claim.cursor))
            pace.headers_after(seconds)

    def drop(self, why: str, *, silent: bool = False, slow: bool = False) -> None:
        """
        Close the connection; `run` raises `SourceFailed` with ``why``. ``silent`` and ``slow`` say
        that this is the host's doing.
        """
        if self._dropped is None:
            self._dropped = why
            self._was_refused = silent
            self.was_too_slow = slow
            if silent and not self.answered:
                self.fill.source.pace.lost(self._clock.seconds() - self.began_at)
            if self._request is not None:
                self._request.cancel()
            elif self._body is not None:
                self._body.stop()

    def seconds_left(self, now: float) -> float:
        """Return for how long it goes on bringing bytes as it has done; 0 if that is not known."""
        seconds = now - self._begins_at
        if self.paused or self.held or not self.received or seconds < TELLS_RATE:
            return 0.0
        return (self.claim.end - self.claim.cursor) * seconds / self.received

    @property
    def waited(self) -> float:
        """The seconds from the request to its first byte, which has come."""
        return self._begins_at - self.began_at

    def rate_of_late(self, now: float, seconds: float) -> Optional[float]:
        """
        Return bytes a second over at least the last ``seconds``; None if it is younger, or paused.
        """
        if self.paused or self.held:
            self._marks = Marks(now, self.received)
            return None
        passed = self._marks.since(seconds, now, self.received)
        return None if passed is None else passed[1] / passed[0]

    def is_starved(self, now: float, seconds_of_all: float, of_all: int) -> bool:
        """
        Whether it brings next to nothing, and far less than the blob's requests do on the average,
        which together have brought ``of_all`` bytes in ``seconds_of_all`` until now.
        """
        if not self.answered or self._may_be_late(now):
            return False
        counts = now, self.received, seconds_of_all, of_all
        if self._shares is None or self.paused or self.held:
            self._shares = Marks(*counts)
            return False
        passed = self._shares.since(STARVED_SECONDS, *counts)
        if passed is None:
            return False
        seconds, own, seconds_passed, brought = passed
        rate = own / seconds
        return rate < STARVED and rate * seconds_passed < STARVED_SHARE * brought

    def _may_be_late(self, now: float) -> bool:
        """Whether its host takes its time between a header and a body, and this may be such."""
        pace = self._pace
        return not self.received and pace is not None and now - self.heard_at < pace.answers_within

    def pause(self) -> None:
        """Read nothing more for now."""
        if not self.paused:
            self.paused = True
            if self._body is not None:
                self._body.pause()

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            self.heard_at = self._clock.seconds()
            if self._body is not None:
                self._body.resume()


class _BodyReader(NetworkProtocol):
    """
    Hands a body's bytes to its fetch; ``ended`` fires with whether all of ``start`` to ``end``
    came.

    By `ends_by` it does not wait long for the end of a body of which all bytes have come: some say
    neither how long they are nor that they have ended.
    """

    _is_cut = False
    """Whether another request brings the rest of what was asked for."""
    _clock: Optional[IReactorTime] = None
    _pace: Optional[HostPace] = None
    _late: Optional[IDelayedCall] = None

    def __init__(self, fetch: RangeFetch, start: int, end: int, *, asked: bool) -> None:
        self._fetch = fetch
        self._at = start
        self._end = end
        self._asked = asked
        self._stopped = False
        self.ended: Deferred[bool] = Deferred()

    def ends_by(self, clock: IReactorTime, pace: HostPace) -> None:
        """Drop the connection if the body does not end soon behind its last byte."""
        self._clock, self._pace = clock, pace

    def _is_late(self) -> None:
        if self._pace is not None:
            self._pace.ends_bodies = False
        self.stop()

    def connectionMade(self) -> None:
        if self._at >= self._end:
            self.stop()
        elif self._fetch.paused:
            self.pause()

    def dataReceived(self, data: bytes) -> None:
        if self._stopped:
            return
        if self._asked and self._fetch.claim.end < self._end:
            self._end, self._is_cut = self._fetch.claim.end, True
        room = self._end - self._at
        if room <= 0:
            self.stop()
            return
        self._fetch.got(self._at, data[:room], asked=self._asked)
        self._at += min(len(data), room)
        if len(data) > room or (self._is_cut and self._at == self._end):
            self.stop()
        elif self._at == self._end and self._clock is not None and self._pace is not None:
            within = ENDS_WITHIN if self._pace.ends_bodies else 0.0
            self._late = self._clock.callLater(within, self._is_late)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        if self._late is not None and self._late.active():
            self._late.cancel()
        if not self.ended.called:
            self.ended.callback(self._at == self._end)

    def _producer(self) -> Any:
        return self.transport

    def stop(self) -> None:
        """Drop the connection; it may never say that it closed (TLS with reading paused)."""
        self._stopped = True
        if self.transport is not None:
            self._producer().stopProducing()
        self.connectionLost()

    def pause(self) -> None:
        if self.transport is not None and not self._stopped:
            self._producer().pauseProducing()

    def resume(self) -> None:
        if self.transport is not None and not self._stopped:
            self._producer().resumeProducing()
