"""
A blob on its way: one fill a digest, whoever asks for it and however often.

It belongs to the library and not to a request: no reader's leaving stops it.
The crew lends it connections; what they bring is gathered, written to a spool
in a disk thread, hashed along its prefix, and published when the digest is
right. Readers wait for the byte they need next and read the spool at their own
pace.

    QUEUED ──> FILLING ──> SETTLING ──> DONE
     │ ^         │ ^           │
     │ └─DORMANT<┘ └───────────┘ wrong digest, once
     └─> STRAIGHT ──> DONE, DORMANT

Where the disk has no room for a spool, or fails while one is written, and the
store is not on this disk, the blob goes straight there while its readers are
relayed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.errors import RegistryError, upstream_unreachable
from yukari.fills.fetcher import RangeFetch
from yukari.fills.plan import Plan
from yukari.fills.progress import Progress
from yukari.fills.reader import FillReader
from yukari.fills.retries import LONGEST_BACKOFF, PATIENCE, SILENCE_WAITED_FOR, RetryState
from yukari.fills.tail import WITHHELD, UnverifiedTail
from yukari.fills.verifier import Verifier
from yukari.fills.writer import Pieces, WriteBuffer
from yukari.metrics import Metrics
from yukari.names import Digest, ModelName
from yukari.sources.base import Answer, BlobSource, SourceFailed, SourceRefused
from yukari.sources.pace import STOCK_PARTS
from yukari.spans import Span, SpanSet
from yukari.storage.ports import DirectUpload, NoRoom, Spool, WrongDigest
from yukari.storage.readable import SpoolLost

log = Logger()

ATTEMPTS = 2
"""How often a blob whose digest comes out wrong is fetched before it is given up for now."""
DISK_RESTS = 10.0
"""Seconds for which a disk that failed is not tried again for the same blob."""
HASH_STEP = 8 * 1024 * 1024
KEPT_WAITING = 0.4
"""
Seconds without an answer after which a host is taken to be slow to answer, and not merely to be far
away: connecting to two hosts over TLS takes ten round trips.
"""


class State(enum.Enum):
    """Where a fill stands."""

    QUEUED = "queued"
    FILLING = "filling"
    PUBLISHING = "publishing"
    DIRECT = "direct"
    SUSPENDED = "suspended"
    DONE = "done"


class FillKeeper:
    """What a fill asks of its surroundings; the library answers."""

    async def open_spool(self, fill: Fill) -> Spool:
        """The blob's spool, new or as an earlier process left it; `NoRoom`, OSError."""
        raise NotImplementedError

    async def publish(self, fill: Fill) -> None:
        """Make the verified spool the stored blob; OSError leaves it as it was."""
        raise NotImplementedError

    async def straight(self, fill: Fill) -> Optional[DirectUpload]:
        """How the blob can be stored without a spool; None where it cannot, or is stored."""
        raise NotImplementedError

    def ended(self, fill: Fill) -> None:
        """The fill is `DONE` or `SUSPENDED`; ``fill.error`` says why, where it failed."""
        raise NotImplementedError


@define(eq=False)
class Fill:
    """One blob of ``size`` bytes on its way from ``source``."""

    digest: Digest
    size: int
    source: BlobSource
    crew: Any
    _keeper: FillKeeper
    _in_thread: Callable[..., Deferred[Any]]
    _clock: IReactorTime
    name: ModelName
    """The model by which it was first asked for."""
    spool: Optional[Spool] = None
    _metrics: Metrics = field(factory=Metrics)
    state: State = field(default=State.QUEUED, init=False)
    error: Optional[Exception] = field(default=None, init=False)
    """Why there will be no more bytes for now."""
    plan: Plan = field(init=False)
    readers: dict[FillReader, None] = field(factory=dict, init=False)
    waiting: dict[FillReader, None] = field(factory=dict, init=False)
    lanes: dict[RangeFetch, float] = field(factory=dict, init=False)
    """The connections at work, each with when it began."""
    withheld: UnverifiedTail = field(init=False)
    upstream_bytes: int = field(default=0, init=False)
    retries: int = field(default=0, init=False)
    most_lanes: int = field(default=0, init=False)
    attempt: int = field(default=1, init=False)
    streaming: bool = field(default=False, init=False)
    """Upstream ignores Range: one connection brings everything."""
    tries: RetryState = field(init=False)
    progress: Progress = field(init=False)
    _gatherer: WriteBuffer = field(init=False)
    _verifier: Optional[Verifier] = field(default=None, init=False)
    _hashing: bool = field(default=False, init=False)
    _working: set[Deferred[None]] = field(factory=set, init=False)
    _retry_publishing: Optional[Deferred[None]] = field(default=None, init=False)
    _opening: Optional[Deferred[None]] = field(default=None, init=False)
    _disk_failed: Optional[OSError] = field(default=None, init=False)
    """What writing the spool came to; it is for `open` to say what follows."""
    _disk_rests_until: float = field(default=0.0, init=False)
    _way: Optional[DirectUpload] = field(default=None, init=False)
    _going_straight: Optional[Deferred[None]] = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _said: bool = field(default=False, init=False)
    """That there is no room for it: each reader tries anew."""

    def __attrs_post_init__(self) -> None:
        self.tries = RetryState()
        self.progress = Progress(self._clock.seconds())
        self.withheld = UnverifiedTail(self._clock, self.size, self._wake_all)
        self._plan_from(SpanSet() if self.spool is None else self.spool.covered())

    def _plan_from(self, covered: SpanSet) -> None:
        self.plan = Plan(self.size, covered)
        self._gatherer = WriteBuffer(self._clock, self._write, self._written, self._unwritten)
        self.streaming = False

    # what the library does

    def start(self) -> None:
        """Ask the crew for connections, anew if the fill was dormant and need not rest."""
        if self.state is State.SUSPENDED:
            if self.rests_for() > 0:
                return
            self.state = State.QUEUED
            self.error = None
            self.tries.begin_anew()
            self.source.retry()
        if self.state is State.QUEUED:
            self.crew.enlist(self)

    def rests_for(self) -> float:
        """How many seconds from now upstream wishes, or the disk needs, to be left alone."""
        until = max(self.tries.asked_to_wait_until, self._disk_rests_until)
        return max(0.0, until - self._clock.seconds())

    def also_in(self, name: ModelName) -> None:
        """Another repository upstream has the blob too."""
        self.source.add_repository(name)
        spool = self.spool
        if spool is not None and self.state is State.FILLING and name not in spool.repositories:
            self._busy_with(self._in_thread(spool.note_repository, name))

    def open_reader(self, position: int, *, whole: bool) -> FillReader:
        """A new reader that begins at ``position``; wakes a dormant fill."""
        reader = FillReader(self, whole, position)
        self.readers[reader] = None
        self.start()
        self.crew.wanted(self)
        return reader

    async def open(self) -> None:
        """
        Take the spool in hand, so that lanes can begin; the crew calls this when it is the fill's
        turn.
        """
        if self._opening is not None or self.state is not State.QUEUED:
            return
        opening: Deferred[None] = Deferred()
        self._opening = opening
        try:
            if not await self._open_spool():
                return
        except (NoRoom, OSError) as error:
            way = None
            if self.spool is None or error is self._disk_failed:
                way = await self._keeper.straight(self)
            self._disk_failed = None
            if way is not None:
                await self._drop_spool()
            if self._may_open():
                self._without_spool(error, way)
            return
        finally:
            self._opening = None
            opening.callback(None)
        self._said = False
        self.state = State.FILLING
        self._advance()
        self._wake_all()

    def _without_spool(self, error: Exception, way: Optional[DirectUpload]) -> None:
        """No room: readers are relayed, and the blob is stored another way, if there is one."""
        say = log.error if isinstance(error, OSError) else log.warn
        say, self._said = (log.debug if self._said else say), True
        if way is None:
            say(
                "{digest}: cannot be stored on this disk: {error}",
                digest=str(self.digest),
                error=str(error),
            )
            self._end(State.SUSPENDED, SpoolLost(str(error)))
            return
        say(
            "{digest}: {error}: it goes straight into the bucket, as fast as that takes it,"
            " and clients get it from upstream meanwhile",
            digest=str(self.digest),
            error=str(error),
        )
        self.state = State.DIRECT
        self.error = SpoolLost(str(error))
        self.crew.dismiss(self)
        for reader in list(self.readers):
            reader.broke(self.error)
        self._way = way
        self._going_straight = Deferred.fromCoroutine(self._go_straight(way))
        self._busy_with(self._going_straight)

    async def _go_straight(self, way: DirectUpload) -> None:
        state, error = State.SUSPENDED, self.error
        try:
            await way.run()
            state = State.DONE
        except SourceRefused as refused:
            error = refused.error
        except WrongDigest as wrong:
            self._say_wrong(wrong.found)
        except (SourceFailed, OSError) as failed:
            log.warn("{digest}: not stored: {error}", digest=str(self.digest), error=str(failed))
        except CancelledError:
            return
        except Exception:
            log.failure("{digest}: not stored", digest=str(self.digest))
        finally:
            self.upstream_bytes += way.came
            self._way = None
        if state is State.DONE:
            log.info("{digest}: {size} bytes in {seconds} s, {rate} MB/s", **self.facts(done=True))
        self._end(state, error)

    def _may_open(self) -> bool:
        return self.state is State.QUEUED and not self._stopped

    async def _open_spool(self) -> bool:
        """Whether the spool is in hand, and still wanted."""
        await self._gatherer.close()
        await self._quiet()
        if self._disk_failed is not None:
            raise self._disk_failed
        if self.spool is None and self._may_open():
            self.spool = await self._keeper.open_spool(self)
        if self.spool is None or not self._may_open():
            return False
        if self._verifier is None:
            self._verifier = Verifier(self.spool.open())
        self.withheld.begin_anew()
        self._plan_from(self.spool.covered())
        return True

    async def stop(self) -> None:
        """Drop the connections, write what came, leave the spool for the next start."""
        self._stopped = True
        self.error = self.error or RegistryError("UNAVAILABLE", "this cache is stopping", 503)
        self.crew.dismiss(self)
        self._drop_lanes("stopping")
        self.withheld.stop()
        for reader in list(self.readers):
            reader.broke(self.error)
        if self._going_straight is not None:
            self._going_straight.cancel()
        await self._gatherer.close()
        if self._retry_publishing is not None:
            self._retry_publishing.callback(None)
        if self._opening is not None:
            opened: Deferred[None] = Deferred()
            self._opening.chainDeferred(opened)
            await opened
        await self._quiet()
        self._close()

    async def _quiet(self) -> None:
        """Returns when no work with the spool is under way."""
        while self._working:
            await next(iter(self._working))

    def _close(self) -> None:
        if self._verifier is not None:
            self._verifier.close()
        if self.spool is not None:
            self.spool.close()

    async def discard(self, error: Exception) -> None:
        """Stop for good and throw away what came."""
        self.error = error
        if self._way is not None:
            self._way.give_up()
        await self.stop()
        if self.spool is not None:
            await self._in_thread(self.spool.discard)

    # what readers do

    def is_flowing(self) -> bool:
        """Whether bytes come, so that a reply may be begun before its first byte is here."""
        if self.spool is None or self.error is not None:
            return False
        if self.state in (State.PUBLISHING, State.DONE):
            return True
        return self.tries.are_bringing

    def reader_waits(self, reader: FillReader) -> None:
        self.waiting[reader] = None
        self.crew.reader_waits(reader)

    def reader_waits_no_more(self, reader: FillReader) -> None:
        self.waiting.pop(reader, None)
        self.crew.reader_waits_no_more(reader)

    def reader_left(self, reader: FillReader) -> None:
        self.readers.pop(reader, None)
        self.crew.wanted(self)

    def _wake_all(self) -> None:
        for reader in list(self.waiting):
            reader.wake()

    # what the crew does

    def lane_cap(self) -> int:
        """How many connections it may use just now."""
        if self.state is not State.FILLING or self.streaming or self._stopped:
            return 0
        most: int = self.crew.per_blob
        if self.source.ranges and not self.tries.are_failing:
            return most
        return min(most, STOCK_PARTS) if self.is_kept_waiting() else 1

    def is_kept_waiting(self) -> bool:
        """
        Whether its first request has no answer for so long that it is asked for in large parts
        meanwhile, as a stock client does.
        """
        if self.tries.are_failing or self.source.ranges or not self.lanes:
            return False
        pace = self.source.pace
        if pace.round_trip is not None and not pace.ranges:
            return False  # It ignores Range: each of its replies would be the whole blob.
        first, began = next(iter(self.lanes.items()))
        return not first.answered and self._clock.seconds() - began >= KEPT_WAITING

    @property
    def awaits_an_answer(self) -> bool:
        """Whether it can use more connections once the one at work has its answer."""
        if not self.lanes or self.tries.are_failing:
            return False
        return self.lane_cap() == 1 < int(self.crew.per_blob)

    def add_lane(self, lane: RangeFetch) -> None:
        """A connection begins for this fill."""
        now = self._clock.seconds()
        self.tries.begin(now)
        self.lanes[lane] = now
        self.most_lanes = max(self.most_lanes, len(self.lanes))
        if self._full():
            lane.pause()

    def lane_ended(self, lane: RangeFetch, failure: Optional[Failure]) -> None:
        """A connection ended, well or not."""
        began = self.lanes.pop(lane, 0.0)
        self.plan.release(lane.claim)
        if self.streaming and not self.lanes:
            self.streaming = False
        if self._stopped or self.state is not State.FILLING:
            return
        if failure is None:
            self.tries.succeeded()
            return
        error = failure.value
        if isinstance(error, SourceRefused):
            if error.error.code == "SIZE_INVALID" and self.plan.covered.total:
                # The size was right until now: what came is a portal's page, or an error as 200.
                self._failed(SourceFailed(str(error)), lane, began)
                return
            self.give_up(error.error)
        elif isinstance(error, SourceFailed):
            self._failed(error, lane, began)
        else:
            log.failure("{digest}: a connection ended", failure, digest=str(self.digest))
            self._failed(SourceFailed("an internal error"), lane, began)

    def _failed(self, error: SourceFailed, lane: RangeFetch, began: float) -> None:
        self.retries += 1
        self._metrics.retried()
        log.debug("{digest}: {error}", digest=str(self.digest), error=str(error))
        delay = self.tries.failed(
            error,
            self._clock.seconds(),
            began=began,
            brought=lane.new > 0,
        )
        if delay > PATIENCE:
            self.give_up(self.tries.reason())

    def tick(self, now: float) -> None:
        """
        Twice a second: drop silent connections, give up a hopeless fill, tell how far a long one
        is.
        """
        if self.state is not State.FILLING:
            return
        self.progress.note(now, self.upstream_bytes)
        silent = [lane for lane in self.lanes if self._is_silent(lane, now)]
        if silent:
            self.tries.fell_silent()
        for lane in silent:
            lane.drop(f"silent for {now - lane.heard_at:.0f} s", silent=True)
        if self.tries.are_hopeless(now):
            self.give_up(self.tries.reason())
        elif self.lanes and self.progress.is_to_be_told(now):
            log.info("{digest}: {percent} %, {rate} MB/s, {seconds_left} s to go", **self.facts())

    def was_held_up(self, seconds: float) -> None:
        """This process did nothing for so long, which was not its connections' silence."""
        now = self._clock.seconds()
        for lane in self.lanes:
            lane.heard_at = min(now, lane.heard_at + seconds)

    def _is_silent(self, lane: RangeFetch, now: float) -> bool:
        if lane.held:
            lane.heard_at = now
        quiet = now - lane.heard_at
        if lane.paused or quiet < SILENCE_WAITED_FOR:
            return False
        borne = self.tries.longest_silence(waited_for=self._is_waited_for(lane))
        if not lane.answered:
            borne = max(borne, self.source.pace.answers_within)
        return quiet >= borne

    def _is_waited_for(self, lane: RangeFetch) -> bool:
        claim = lane.claim
        return any(claim.cursor <= reader.position < claim.end for reader in self.waiting)

    def answered(self, lane: RangeFetch, answer: Answer) -> bool:
        """A reply's header is here; returns whether it holds what was asked for."""
        if answer.asked:
            self.crew.offer(self)
            return True
        answer.pace.ranges = False
        if self.streaming:
            lane.drop("one connection brings it all")
        self.streaming = True
        return False

    def received(self, lane: RangeFetch, offset: int, data: bytes, *, asked: bool) -> int:
        """Bytes of the blob came in; returns how many of them were new."""
        self.upstream_bytes += len(data)
        if self._stopped or self.state is not State.FILLING:
            return 0
        new = 0
        if asked:
            span = self.plan.arrived(lane.claim, len(data))
            if span is not None:
                new = len(span)
                self._gatherer.add(span.start, data[:new] if new < len(data) else data)
        else:
            for span in self.plan.admit(offset, offset + len(data)):
                new += len(span)
                self._gatherer.add(span.start, data[span.start - offset : span.end - offset])
        if new and self.tries.came(self._clock.seconds()):
            self._wake_all()
            self.crew.offer(self)
        if self._full():
            for other in list(self.lanes):
                other.pause()
        return new

    def _full(self) -> bool:
        return bool(self._gatherer.held >= self.crew.share())

    # the spool

    def _write(self, pieces: Pieces) -> Deferred[None]:
        assert self.spool is not None
        return self._in_thread(self.spool.write, pieces)

    def _written(self, spans: Sequence[Span]) -> None:
        for span in spans:
            self.plan.cover(span)
        if not self._full():
            for lane in list(self.lanes):
                lane.resume()
        for reader in list(self.waiting):
            for span in spans:
                if span.start <= reader.position < span.end:
                    reader.wake()
                    break
        if self.plan.front() is None and len(self.plan.claims) == 0:
            self._gatherer.flush()
        self._advance()

    def _unwritten(self, failure: Failure) -> None:
        """The disk is full or broken: readers go on without it, and so does the blob if it can."""
        if self.state is not State.FILLING:
            return
        error = failure.value
        lost = SpoolLost(f"cannot be stored: {error}")
        self._disk_rests_until = self._clock.seconds() + DISK_RESTS
        if not isinstance(error, OSError):
            log.failure("{digest}: a write failed", failure, digest=str(self.digest))
            self._end(State.SUSPENDED, lost)
            return
        self._disk_failed = error
        self.state, self.error = State.QUEUED, lost
        self.withheld.stop()
        self.crew.dismiss(self)
        self._drop_lanes("the disk fails")
        for reader in list(self.readers):
            reader.broke(lost)
        self.crew.enlist(self)

    def _advance(self) -> None:
        """Hash what is there; settle once everything is."""
        if self._stopped or self.state is not State.FILLING:
            return
        if self.plan.whole:
            self.withheld.await_verdict()
        if self._hashing:
            return
        verifier = self._verifier
        assert verifier is not None
        end = self.plan.covered.until(verifier.position)
        if end - verifier.position >= (1 if self.plan.whole else WITHHELD):
            self._hashing = True
            step = min(end, verifier.position + HASH_STEP)
            work = self._in_thread(verifier.advance, step)
            self._busy_with(work.addCallbacks(self._hashed, self._unreadable))
        elif self.plan.whole and verifier.position == self.size:
            self.state = State.PUBLISHING
            self._busy_with(Deferred.fromCoroutine(self._settle(verifier.digest())))

    def _busy_with(self, work: Deferred[None]) -> None:
        """Work that must have ended before the spool is closed."""
        ended: Deferred[None] = Deferred()
        self._working.add(ended)

        def settle(result: object) -> None:
            if isinstance(result, Failure):
                log.failure("{digest}: a fill broke", result, digest=str(self.digest))
            self._working.discard(ended)
            ended.callback(None)

        work.addBoth(settle)

    def _hashed(self, _: None) -> None:
        self._hashing = False
        self._advance()

    def _unreadable(self, failure: Failure) -> None:
        self._hashing = False
        self._unwritten(failure)

    async def _settle(self, found: Digest) -> None:
        self.withheld.stop()
        if found != self.digest:
            await self._wrong(found)
            return
        self.withheld.give()
        self._wake_all()
        self.crew.dismiss(self)
        while True:
            try:
                await self._keeper.publish(self)
            except FileNotFoundError:
                await self._start_over(SpoolLost("somebody removed the spool's file"))
                return
            except OSError as error:
                if self._stopped:
                    return
                log.error(
                    "{digest}: cannot be published: {error}",
                    digest=str(self.digest),
                    error=str(error),
                )
                if await self._stopped_within(LONGEST_BACKOFF):
                    return
            else:
                break
        log.info("{digest}: {size} bytes in {seconds} s, {rate} MB/s", **self.facts(done=True))
        self._end(State.DONE, None)

    async def _stopped_within(self, seconds: float) -> bool:
        again: Deferred[None] = Deferred()
        self._retry_publishing = again
        timer = self._clock.callLater(seconds, again.callback, None)
        await again
        if timer.active():
            timer.cancel()
        self._retry_publishing = None
        return self._stopped

    async def _wrong(self, found: Digest) -> None:
        """What came hashes to something else: nobody gets more of it, and it is tried once more."""
        self._say_wrong(found)
        await self._start_over(
            upstream_unreachable("upstream sent wrong bytes for this blob; try again")
        )

    def _say_wrong(self, found: Digest) -> None:
        self._metrics.mismatched()
        log.error(
            "{digest}: upstream sent {found}: thrown away, attempt {attempt}",
            digest=str(self.digest),
            found=str(found),
            attempt=self.attempt,
        )

    async def _start_over(self, error: Exception) -> None:
        """Throw away what came, tell the readers, and fetch it again, up to `ATTEMPTS` times."""
        for reader in list(self.readers):
            reader.broke(error)
        await self._drop_spool()
        if self.attempt >= ATTEMPTS or self._stopped:
            self.attempt = 1
            self._end(State.SUSPENDED, error)
        else:
            self.attempt += 1
            self.state = State.QUEUED
            self.crew.dismiss(self)
            self.crew.enlist(self)

    async def _drop_spool(self) -> None:
        """Throw away what came, if anything did."""
        spool, self.spool = self.spool, None
        verifier, self._verifier = self._verifier, None
        self._plan_from(SpanSet())
        self.tries.begin_anew()
        if verifier is not None:
            verifier.close()
        if spool is not None:
            await self._in_thread(spool.discard)

    # the end

    def give_up(self, error: RegistryError) -> None:
        """End it for now."""
        log.warn("{digest}: {error}", digest=str(self.digest), error=str(error))
        self._end(State.SUSPENDED, error)

    def _drop_lanes(self, why: str) -> None:
        for lane in list(self.lanes):
            lane.drop(why)

    def _end(self, state: State, error: Optional[Exception]) -> None:
        self.state = state
        self.error = error
        self.withheld.stop()
        self.crew.dismiss(self)
        self._drop_lanes("the fill ended")
        if error is not None:
            for reader in list(self.readers):
                reader.broke(error)
        if state is State.DONE:
            self._close()
        elif not self._stopped:
            self._busy_with(Deferred.fromCoroutine(self._release_empty()))
        self._keeper.ended(self)

    async def _release_empty(self) -> None:
        """A spool with nothing in it is not kept open for the next try."""
        await self._gatherer.close()
        spool = self.spool
        if self.state is not State.SUSPENDED or spool is None or spool.covered().total:
            return
        await self._drop_spool()

    # what people see

    def facts(self, *, done: bool = False) -> dict[str, Any]:
        """How far it is, for the log and for ``/fills``: bytes, seconds, MB/s (10**6)."""
        now = self._clock.seconds()
        received, covered = self.upstream_bytes, self.plan.covered.total
        if self._way is not None:
            received, covered = received + self._way.came, self._way.sent
        rate = self.progress.rate(now, received, of_late=not done)
        left = self.size - covered
        return {
            "digest": str(self.digest),
            "model": str(self.name),
            "state": self.state.value,
            "size": self.size,
            "covered": covered,
            "percent": round(100 * covered / self.size, 1) if self.size else 100.0,
            "rate": round(rate / 1e6, 2),
            "seconds": round(now - self.progress.began_at, 3),
            "seconds_left": round(left / rate) if rate > 0 else None,
            "readers": len(self.readers),
            "connections": self.most_lanes if done else len(self.lanes),
            "retries": self.retries,
            "upstream_bytes": received,
        }
