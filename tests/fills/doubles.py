"""
A source, a disk and a keeper that do what a test says, when it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed

from tests.storage.memory import MemoryStore
from yukari.fills.fill import Fill
from yukari.fills.ports import FillKeeper
from yukari.fills.scheduler import HELD, FetchScheduler
from yukari.names import DEFAULT, Digest, Repository
from yukari.net.throttle import Line, Paced
from yukari.sources.base import Answer
from yukari.sources.pace import HostPace
from yukari.spans import Span
from yukari.storage.ports import DirectUpload, Spool

NAME = Repository(DEFAULT, "library", "m")


ROWS = [bytes((at * 31 + first) % 256 for at in range(251)) for first in range(256)]
"""Pieces of contents, by their first byte."""


def content_of(size: int, seed: int = 0) -> bytes:
    """Bytes that differ by their place."""
    firsts = ((row * (251 * 31 + 17) + seed) % 256 for row in range(size // 251 + 1))
    return b"".join(ROWS[first] for first in firsts)[:size]


@define(eq=False)
class Transport:
    """What a body's protocol gets as its transport."""

    paused: bool = False
    stopped: bool = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.stopped = True

    loseConnection = stopProducing


@define(eq=False)
class Asked:
    """One request to the source, to be answered, fed and ended by the test."""

    source: ScriptedSource
    span: Span
    reply: Deferred[Answer]
    at: int = field(init=False)
    transport: Transport = field(factory=Transport)
    answered: bool = False
    ended: bool = False
    _protocol: Any = None
    _end: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.at, self._end = self.span.start, self.span.end

    def deliverBody(self, protocol: IProtocol) -> None:
        self._protocol = protocol
        protocol.makeConnection(self.transport)  # type: ignore[arg-type]
        self.transport.resumeProducing()  # As Twisted's does, whoever has paused it.

    def answer(self, *, ignoring_range: bool = False, has_length: bool = True) -> None:
        """The reply's header: 206, or a 200 with the whole blob."""
        self.answered = True
        if ignoring_range:
            self.at, self._end = 0, len(self.source.content)
        else:
            self.source.pace_now.ranges = self.source.ranges = True
        span = Span(self.at, self._end)
        paced = None if self.source.line is None else Paced(self, self.source.line)
        asked = span == self.span
        pace = self.source.pace_now
        self.reply.callback(Answer(span, asked, pace, paced or self, paced, has_length))

    def refuse(self, error: Exception) -> None:
        """No reply but a failure."""
        self.answered = self.ended = True
        self.reply.errback(error)

    def send(self, count: int, *, ends: bool = True) -> None:
        """So many bytes of the body arrive; at its last one the body ``ends``."""
        if self.transport.stopped:
            self.ended = True
            return
        data = self.source.content[self.at : min(self.at + count, self._end)]
        self.source.sent.append(Span(self.at, self.at + len(data)))
        self.at += len(data)
        self._protocol.dataReceived(data)
        if self.at == self._end and ends:
            self.finish()

    def finish(self) -> None:
        """The body ends as a whole one does."""
        self.ended = True
        self._protocol.connectionLost(Failure(ResponseDone()))

    def cut(self) -> None:
        """The connection breaks."""
        self.ended = True
        self._protocol.connectionLost(Failure(ResponseFailed([])))

    @property
    def open(self) -> bool:
        """Whether something can still happen to it."""
        if self.reply.called and not self.answered:
            return False  # it was cancelled
        return not self.ended and not self.transport.stopped


@define(eq=False)
class ScriptedSource:
    """A `BlobSource` whose every reply the test makes; ``sent`` is what left it, in order."""

    content: bytes
    asked: list[Asked] = field(factory=list)
    sent: list[Span] = field(factory=list)
    ranges: bool = False
    pace_now: HostPace = field(factory=HostPace)
    line: Optional[Line] = None
    repositories: list[Repository] = field(factory=list)
    set_asides: list[bool] = field(factory=list)
    removes: list[bool] = field(factory=list)
    """What the next calls of `set_aside` return."""
    elsewhere: list[bool] = field(factory=list)
    """What the next calls of `move_on` return."""

    @property
    def pace(self) -> HostPace:
        return self.pace_now

    async def fetch(self, span: Span) -> Answer:
        asked = Asked(self, span, Deferred())
        self.asked.append(asked)
        return await asked.reply

    def add_repository(self, name: Repository) -> None:
        self.repositories.append(name)

    def retry(self) -> None:
        pass

    def move_on(self, *, soon: bool = False) -> bool:
        return self.elsewhere.pop() if self.elsewhere else False

    def describe(self) -> str:
        return "a script"

    async def set_aside(self, *, alone: bool) -> bool:
        self.set_asides.append(alone)
        return self.removes.pop(0) if self.removes else False

    @property
    def open(self) -> list[Asked]:
        """The requests that are under way."""
        return [asked for asked in self.asked if asked.open]


@define(eq=False)
class ScriptedDisk:
    """
    An ``in_thread`` whose work is done when the test says so; at once while ``slow`` is unset.
    """

    slow: bool = False
    failing: Optional[Exception] = None
    held: frozenset[str] = frozenset()
    """Names of the work that is not done at all for now."""
    waiting: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = field(factory=list)

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, work, arguments))
        if not self.slow:
            self.work()
        return done

    def work(self) -> None:
        """Do the oldest piece of work that is not held."""
        ready = [job for job in self.waiting if job[1].__name__ not in self.held]
        if not ready:
            return
        done, work, arguments = ready[0]
        self.waiting.remove(ready[0])
        if self.failing is not None and work.__name__ == "write":
            done.errback(self.failing)
            return
        try:
            result = work(*arguments)
        except Exception as error:
            done.errback(error)
        else:
            done.callback(result)


@define(eq=False, slots=False)
class Keeper(FillKeeper[Fill]):
    """A library of one fill, over a store in memory."""

    store: MemoryStore = field(factory=MemoryStore)
    ends: list[Fill] = field(factory=list)
    failing: Optional[Exception] = None
    way: Optional[DirectUpload] = None

    async def vacated(self, fill: Fill) -> None:
        """Nobody else has the blob."""

    async def open_spool(self, fill: Fill) -> Spool:
        return await self.store.new_spool(fill.digest, fill.size, fill.name)

    async def discard_kept(self, fill: Fill) -> None:
        spool = await self.open_spool(fill)
        spool.discard()

    async def publish(self, fill: Fill) -> None:
        if self.failing is not None:
            raise self.failing
        assert fill.spool is not None
        await self.store.publish(fill.spool)

    async def direct_upload(self, fill: Fill) -> Optional[DirectUpload]:
        return self.way

    def ended(self, fill: Fill) -> None:
        self.ends.append(fill)


@define(eq=False)
class Scene:
    """One fill and everything it touches."""

    content: bytes
    per_blob: int = 4
    in_all: int = 8
    held: int = HELD
    digest: Optional[Digest] = None
    clock: Clock = field(factory=Clock)
    disk: ScriptedDisk = field(factory=ScriptedDisk)
    keeper: Keeper = field(factory=Keeper)
    source: ScriptedSource = field(init=False)
    scheduler: FetchScheduler = field(init=False)
    fill: Fill = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.source = ScriptedSource(self.content)
        self.scheduler = FetchScheduler(self.clock, self.per_blob, self.in_all, self.held)
        self.fill = self.new_fill()

    def new_fill(self, spool: Optional[Spool] = None) -> Fill:
        return Fill(
            digest=self.digest or Digest.of(self.content),
            size=len(self.content),
            source=self.source,
            scheduler=self.scheduler,
            keeper=self.keeper,
            in_thread=self.disk,
            clock=self.clock,
            name=NAME,
            spool=spool,
        )

    def feed(self) -> None:
        """Every request gets its header or its bytes."""
        for asked in self.source.open:
            if not asked.answered:
                asked.answer()
            elif not asked.transport.paused:
                asked.send(10**9)

    def answer_all(self) -> None:
        """Feed all requests until the fill ends; time passes as needed."""
        for _ in range(1000):
            self.feed()
            while self.disk.waiting:
                self.disk.work()
            self.clock.advance(0.06)
            if self.fill in self.keeper.ends:
                return
        raise AssertionError("the fill does not end")

    def stored(self) -> Optional[bytes]:
        """What was published, None where nothing was."""
        results: list[Any] = []
        Deferred.fromCoroutine(self.keeper.store.open_blob(self.fill.digest)).addCallback(
            results.append
        )
        return None if results[0] is None else results[0].read(0, len(self.content) + 1)
