"""
A blob that is being fetched: one fill for each digest, however many clients ask for it.

It belongs to the library and not to a request, so it continues when its readers leave. The bytes
are written to a spool, hashed along its prefix, and published when the digest is right. If the disk
has no room, readers get them through memory (`yukari.fills.memory`), a bucket without a spool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.errors import RegistryError, upstream_unreachable
from yukari.fills.coverage import Coverage
from yukari.fills.direct import DirectTransfer, log_no_room, log_wrong
from yukari.fills.download import Download
from yukari.fills.machine import Effect, Event, State, follow
from yukari.fills.memory import Relay
from yukari.fills.plan import Plan
from yukari.fills.ports import FillKeeper, StoreFull
from yukari.fills.progress import STATUS, STORED, Progress, facts_of
from yukari.fills.publication import Publication
from yukari.fills.reader import FillReader
from yukari.fills.spooler import DISK_RESTS, Spooler
from yukari.fills.verifier import UnverifiedTail
from yukari.names import Repository
from yukari.spans import Span, SpanSet
from yukari.storage.ports import DirectUpload, NoRoom, Spool
from yukari.storage.readable import SpoolLost
from yukari.tasks import Slices, Waiters

log = Logger()

ATTEMPTS = 2
"""How often a blob whose digest comes out wrong is fetched before it is given up for now."""


@define(eq=False, kw_only=True, repr=False)  # Timers show it: all that it reaches takes minutes.
class Fill(Download):
    """A download whose bytes are kept on the disk."""

    _keeper: FillKeeper[Fill]
    _in_thread: Callable[..., Deferred[Any]]
    name: Repository
    """The model by which it was first asked for."""
    _found: Optional[Spool] = field(default=None, alias="spool")
    """The spool that an earlier process left."""
    state: State = field(default=State.QUEUED, init=False)
    attempt: int = field(default=1, init=False)
    was_wrong: bool = field(default=False, init=False)
    progress: Progress = field(init=False)
    _tail: UnverifiedTail = field(init=False)
    _disk: Spooler = field(init=False)
    _publication: Publication = field(init=False)
    _opening: Optional[Waiters] = field(default=None, init=False)
    _write_error: Optional[OSError] = field(default=None, init=False)
    """Why the spool could not be written; `open` handles it."""
    _disk_rests_until: float = field(default=0.0, init=False)
    _transfer: Optional[DirectTransfer] = field(default=None, init=False)
    relay: Relay = field(init=False)
    _stopped: bool = field(default=False, init=False)
    _no_room_logged: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.models[self.name] = None
        self.progress = Progress(self._clock.seconds())
        self.relay = Relay(self)
        self._publication = Publication(
            self.digest, self._clock, lambda: self._keeper.publish(self)
        )
        self._disk = Spooler(
            self.digest,
            self._clock,
            self._in_thread,
            self._written,
            self._advance,
            self._unwritten,
            self._found,
        )
        Download.__attrs_post_init__(self)

    def _new_coverage(self) -> Coverage:
        self._tail = UnverifiedTail(self._clock, self.size, lambda: self.coverage.wake_all())
        covered = SpanSet() if self.spool is None else self.spool.covered()
        return Coverage(
            Plan(self.size, covered),
            lambda: self._tail.limit,
            self._is_flowing,
            lambda: self.scheduler.readers_changed(self),
            lambda: self.scheduler.reader_waits(self),
            Slices(self._clock),
            self.spool,
            turns=self.scheduler.turns,
        )

    def _plan_from(self, covered: SpanSet) -> None:
        self.coverage.spool = self.spool
        self.coverage.begin_anew(Plan(self.size, covered))
        self.streaming = False

    @property
    def spool(self) -> Optional[Spool]:
        """The spool, once it is open."""
        return self._disk.spool

    @property
    def error(self) -> Optional[Exception]:
        """Why there will be no more bytes for now."""
        return self.coverage.error

    def _on(self, event: Event, error: Optional[Exception] = None) -> None:
        """Follow the table of states. ``error`` is what readers get from now on."""
        self.state, effects = follow(self.state, event)
        self.coverage.error = error
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        if effect is Effect.FORGET_FAILURES:
            self.tries.begin_anew()
            self.source.retry()
        elif effect is Effect.SUBMIT:
            self.scheduler.submit(self)
        elif effect is Effect.WITHDRAW:
            self._tail.stop()
            self.scheduler.remove(self)
            self.drop_fetches(f"the fill is {self.state.value}")
        elif effect is Effect.BREAK_READERS and self.error is not None:
            self.coverage.break_readers(self.error)
        elif effect is Effect.HASH:
            self._advance()
            self.coverage.wake_all()
        elif effect is Effect.PUBLISH:
            self._disk.keep_open_for(Deferred.fromCoroutine(self._publish(self._disk.digest)))
        elif effect is Effect.SEND_DIRECT:
            assert self._transfer is not None
            going = self._transfer.run().addCallbacks(self._was_sent, lambda _: None)
            self._disk.keep_open_for(going)
        elif effect is Effect.END:
            if self.state is State.DONE:
                self._disk.close()
            elif not self._stopped:
                self._disk.keep_open_for(Deferred.fromCoroutine(self._rest()))
            self._keeper.ended(self)

    # what the library does

    def start(self) -> None:
        """Ask for connections, anew if the fill was suspended and need not rest."""
        if self.state is State.SUSPENDED and self.rests_for() > 0:
            return
        self._on(Event.WANTED, None if self.state is State.SUSPENDED else self.error)
        if self.state is State.FILLING and self.tries.hurry(self._clock.seconds()):
            self.scheduler.runnable(self)

    def rests_for(self) -> float:
        """Return for how many seconds upstream wishes, or the disk needs, to be left alone."""
        now = self._clock.seconds()
        return max(0.0, self.tries.asked_to_wait_until - now, self._disk_rests_until - now)

    def also_in(self, name: Repository) -> None:
        """Note that another repository upstream has the blob too."""
        self.models[name] = None
        self.source.add_repository(name)
        if self.tries.is_asked_to_wait(self._clock.seconds()) and self.source.move_on(soon=True):
            self.tries.begin_elsewhere()
        if self.state is State.FILLING:
            self._disk.note_repository(name)

    def open_reader(self, position: int, *, whole: bool, client: object = None) -> FillReader:
        """Return a new reader that begins at ``position``; a suspended fill is started."""
        reader = FillReader(self.coverage, whole, position, client=client)
        self.start()
        return reader

    async def stop(self) -> None:
        """Drop the connections, write what came, leave the spool for the next start."""
        self._stopped = True
        stopping = RegistryError("UNAVAILABLE", "this cache is stopping", 503)
        self.coverage.error = self.error or stopping
        self._do(Effect.WITHDRAW)
        self._do(Effect.BREAK_READERS)
        if self.scheduler.is_closed:
            self.relay.stop(stopping)
        if self._transfer is not None:
            self._transfer.stop()
        await self._disk.finish_writing()
        self._publication.stop()
        if self._opening is not None:
            await self._opening.wait()
        await self._disk.rest()
        self._disk.close()

    async def discard(self, error: Exception) -> None:
        """Stop for good and throw away what came."""
        self.coverage.error = error
        self.relay.stop(error)
        if self._transfer is not None:
            self._transfer.upload.give_up()
        await self.stop()
        await self._disk.discard()
        if self.kept:
            await self._keeper.discard_kept(self)

    # the spool

    async def open(self) -> None:
        """Open the spool; if there is no room for it, send the blob past the disk or suspend."""
        if self._opening is not None or self.state is not State.QUEUED:
            return
        opening = self._opening = Waiters()
        try:
            if not await self._open_spool():
                return
        except (NoRoom, OSError) as error:
            upload, lost = None, self.spool is None or error is self._write_error
            if lost and not isinstance(error, StoreFull):
                upload = await self._keeper.direct_upload(self)
            self._write_error = None
            if upload is not None:
                await self._drop_spool()
            if self._may_open():
                self._go_without_spool(error, upload)
            return
        finally:
            self._opening = None
            opening.fire()
        self._no_room_logged = False
        self._on(Event.OPENED)

    def _may_open(self) -> bool:
        return self.state is State.QUEUED and not self._stopped

    async def _open_spool(self) -> bool:
        """Open the spool; return whether it is open and still wanted. `NoRoom`, OSError."""
        await self._disk.finish_writing()
        await self._disk.rest()
        if self._write_error is not None:
            raise self._write_error
        await self._keeper.vacated(self)
        if self.spool is None and self._may_open():
            self._disk.spool = await self._keeper.open_spool(self)
            self.kept = 0
        if self.spool is None or not self._may_open():
            return False
        self._tail.begin_anew()
        self._plan_from(self._disk.open())
        self.is_resumed = self.coverage.plan.covered.total > 0
        return True

    def _is_flowing(self) -> bool:
        may = self.spool is not None and self.error is None
        return may and (self.state in (State.PUBLISHING, State.DONE) or self.tries.are_bringing)

    @property
    def takes_bytes(self) -> bool:
        return self.state is State.FILLING and not self._stopped

    @property
    def is_full(self) -> bool:
        return bool(self._disk.held >= self.scheduler.share())

    def front(self) -> Optional[int]:
        slow, coverage = self.source.pace.is_slow_to_answer, self.coverage
        first = coverage.next_needed() if slow else coverage.plan.front()
        return self._half() if first is None else first

    def _keep(self, offset: int, data: bytes) -> None:
        self._disk.add(offset, data)

    def tick(self, now: float) -> None:
        Download.tick(self, now)
        if self.takes_bytes:
            self.progress.note(now, self.upstream_bytes)
            if self.fetches and self.progress.is_to_be_told(now):
                log.info(STATUS, **self.facts())

    def _written(self, spans: Sequence[Span]) -> None:
        self.coverage.covered(spans)
        self.resume_fetches()
        plan = self.coverage.plan
        if plan.front() is None and not plan.claims:
            self._disk.flush()
        self._advance()

    def _unwritten(self, failure: Failure) -> None:
        """The disk is full or broken: readers go on without it, and so does the blob if it can."""
        if self.state is not State.FILLING:
            return
        error, lost = failure.value, SpoolLost(f"cannot be stored: {failure.value}")
        self._disk_rests_until = self._clock.seconds() + DISK_RESTS
        if not isinstance(error, OSError):
            log.failure("{digest}: a write failed", failure, digest=str(self.digest))
            self._on(Event.FAILED, lost)
            return
        self._write_error = error
        self._on(Event.WRITE_FAILED, lost)

    def _advance(self) -> None:
        """Hash what is there; publish once everything is."""
        if not self.takes_bytes:
            return
        plan = self.coverage.plan
        if plan.whole:
            self._tail.await_verdict()
        if self._disk.advance(plan.covered, whole=plan.whole):
            self._on(Event.COMPLETE)

    # the end

    async def _publish(self, found: object) -> None:
        self._tail.stop()
        if found != self.digest:
            self._came_wrong(found)
            wrong = upstream_unreachable("wrong bytes came for this blob; try again")
            await self._start_over(wrong, set_aside=True)
            return
        self._tail.give()
        self.coverage.wake_all()
        self.scheduler.remove(self, has_spool=True)
        try:
            if await self._publication.run():
                log.info(STORED, **self.facts(done=True))
                self._on(Event.STORED)
        except FileNotFoundError:
            await self._start_over(SpoolLost("somebody removed the spool's file"))

    def _came_wrong(self, found: object) -> None:
        self.was_wrong = True
        self._metrics.mismatched()
        log_wrong(self.digest, self.source, found, self.attempt)

    async def _start_over(self, error: Exception, *, set_aside: bool = False) -> None:
        """Discard all bytes, break the readers off, and fetch again, up to `ATTEMPTS` times."""
        self.coverage.break_readers(error)
        await self._drop_spool()
        if set_aside and await self.source.set_aside(alone=not self.is_resumed):
            self.attempt = 0  # One wrong copy is gone: that attempt does not count.
        if self.attempt >= ATTEMPTS or self._stopped:
            self.attempt = 1
            self._on(Event.FAILED, error)
        else:
            self.attempt += 1
            self._on(Event.WRONG)

    async def _drop_spool(self, *, keep: bool = False) -> None:
        """Discard the spool, or close it and ``keep`` its bytes."""
        dropping = Deferred.fromCoroutine(self._disk.discard(keep=keep))
        self._plan_from(SpanSet())
        self.tries.begin_anew()
        await dropping

    async def _rest(self) -> None:
        """Let others have the room of a fill that rests: its spool is closed."""
        await self._disk.finish_writing()
        if self.state is State.SUSPENDED and self.spool is not None:
            self.kept = self.spool.covered().total
            await self._drop_spool(keep=self.kept > 0)

    def give_up(self, error: RegistryError) -> None:
        log.warn("{digest}: {error}", digest=str(self.digest), error=str(error))
        self._on(Event.FAILED, error)

    def _go_without_spool(self, error: Exception, upload: Optional[DirectUpload]) -> None:
        """No room: readers are relayed, and the blob is stored another way, if there is one."""
        log_no_room(self.digest, error, direct=upload is not None, again=self._no_room_logged)
        self._no_room_logged = True
        if upload is not None:
            self._transfer = DirectTransfer(self.digest, upload)
        self._on(Event.FAILED if upload is None else Event.NO_ROOM, SpoolLost(str(error)))

    def _was_sent(self, stored: bool) -> None:
        transfer, self._transfer = self._transfer, None
        assert transfer is not None
        self.upstream_bytes += transfer.upload.came
        if transfer.wrong is not None:
            self._came_wrong(transfer.wrong)
        if transfer.wait:
            self.tries.asked_to_wait_until = self._clock.seconds() + transfer.wait
        if stored:
            log.info(STORED, **self.facts(done=True))
            self._on(Event.STORED)
        else:
            self._on(Event.FAILED, transfer.refused or self.error)

    def facts(self, *, done: bool = False) -> dict[str, Any]:
        """Return how far it is; see `facts_of`."""
        upload = None if self._transfer is None else self._transfer.upload
        state, now = self.state.value, self._clock.seconds()
        return facts_of(self, self.name, state, self.progress, upload, now, done=done)
