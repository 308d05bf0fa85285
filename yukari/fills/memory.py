"""
A blob that passes through memory, because no disk keeps it.

Its readers share what comes: one that is a little behind another finds the
bytes in the window, which keeps them while that reader moves. So a crowd costs
little more than one client, and no more connections than a fill has.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Optional

from attrs import define, field

from yukari.errors import RegistryError
from yukari.fills.coverage import Coverage
from yukari.fills.download import Download
from yukari.fills.plan import Claim, Plan
from yukari.fills.reader import Reader
from yukari.fills.window import PIECE, Pieces, Window
from yukari.names import Digest
from yukari.sources.pace import HostPace
from yukari.spans import Span, SpanSet
from yukari.tasks import Slices

FIRST = 64 * 1024
"""Bytes that a new reader's first request asks for: few, as the reader may leave at once."""
GROWTH = 8
"""The factor by which each next request for the same reader is longer."""
READ = 128 * 1024
"""Bytes that a reader takes at once."""
STANDS_AFTER = 2.0
"""Seconds without taking a byte after which the window keeps nothing for a reader."""
FAR = 1024 * 1024
"""Bytes between two readers that are taken to read at different places."""
LOOKS_EVERY = 0.02
"""Seconds between two looks for room while there is none."""


class WrongBytes(OSError):
    """The bytes of a whole blob have another digest; the text says where they came from."""


@define(eq=False, repr=False)
class MemoryReader(Reader):
    """
    A reader of the window. `available`, in the reactor's thread, takes the bytes that `read` then
    returns, so that the window can drop them meanwhile.
    """

    end: int
    """Where it will have read enough."""
    digest: Digest
    download: MemoryDownload
    hash: Any
    """The sha256 of what it has had, if it reads the whole blob."""
    result: str = field(default="relay", init=False)
    length: int = field(default=FIRST, init=False)
    """How many bytes are asked for when it waits next."""
    asked_until: int = field(default=0, init=False)
    moved_at: float = field(init=False)
    _next: list[bytes] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.moved_at = self.download.now
        Reader.__attrs_post_init__(self)

    def available(self, position: int) -> int:
        if position != self.position:
            self.position, self.moved_at = position, self.download.now
            self.download.reader_moved()
        self._next = self.download.pieces.read(position, READ)
        return position + sum(map(len, self._next))

    def read(self, offset: int, count: int) -> bytes:
        """Return the next bytes; `WrongBytes` at the end of a whole blob with a wrong digest."""
        taken, self._next = self._next, []  # The reader may now stand for minutes.
        data = b"".join(taken)[:count]
        if self.whole:
            self.hash.update(data)
            if offset + len(data) == self.size and self.hash.hexdigest() != self.digest.hex:
                raise WrongBytes(f"{self.download.source.describe()} sent wrong bytes")
        return data

    def fileno(self) -> Optional[int]:
        return None

    def was_asked_for(self, end: int) -> None:
        """Note that bytes up to ``end`` have been asked for on its behalf."""
        kept_up = self.position >= self.asked_until
        self.length = self.length * GROWTH if kept_up else FIRST
        self.asked_until = end


@define(eq=False, kw_only=True, repr=False)
class MemoryDownload(Download):
    """A download whose bytes stay in the window while readers are about to need them."""

    window: Window
    pieces: Pieces = field(init=False)
    _is_submitted: bool = field(default=False, init=False)
    _no_room_at: Optional[float] = field(default=None, init=False)
    """When there was no room for what a reader waits for."""

    def _new_coverage(self) -> Coverage:
        self.pieces = Pieces(self._awaited, self._places, self._forgot)
        return Coverage(
            Plan(self.size),
            lambda: self.size,
            lambda: False,
            self._readers_changed,
            lambda: self.scheduler.reader_waits(self),
            Slices(self._clock),
            turns=self.scheduler.turns,
        )

    @property
    def now(self) -> float:
        """The clock's seconds."""
        return self._clock.seconds()

    def open_reader(
        self, span: Span, *, whole: bool, hashed: Any = None, client: object = None
    ) -> MemoryReader:
        """
        Return a reader of ``span``. ``whole`` says that it is held to the digest, and ``hashed`` is
        the sha256 of what it has had before.
        """
        self.coverage.error = None
        return MemoryReader(
            self.coverage,
            whole,
            span.start,
            span.end,
            self.digest,
            self,
            hashed or sha256(),
            client=client,
        )

    def stop(self, error: Exception) -> None:
        """Fetch no more; readers get ``error``."""
        self.coverage.error = error
        self.drop_fetches("stopping")
        self.coverage.break_readers(error)

    def give_up(self, error: RegistryError) -> None:
        self.stop(error)

    # readers

    def _readers_changed(self) -> None:
        if not self.is_read:
            self.drop_fetches("nobody reads it")
            self._leave_if_done()
        elif not self._is_submitted:
            self._is_submitted = True
            self.tries.begin_anew()
            self.source.retry()
            self.window.join(self.pieces)
            self.scheduler.submit(self)
        else:
            self.scheduler.readers_changed(self)

    def _leave_if_done(self) -> None:
        if self._is_submitted and not self.is_read and not self.fetches:
            self._is_submitted = False
            self.scheduler.remove(self)
            self.window.leave(self.pieces)
            self.coverage.begin_anew(Plan(self.size))

    def reader_moved(self) -> None:
        """Look for room, which a reader that has moved may leave."""
        if self._no_room_at is not None and self.now - self._no_room_at >= LOOKS_EVERY:
            self._look_for_room()

    def _look_for_room(self) -> None:
        self._no_room_at = None
        self.resume_fetches()
        self.scheduler.runnable(self)

    def _moving(self) -> list[MemoryReader]:
        since = self.now - STANDS_AFTER
        readers: Any = self.coverage.readers
        return [reader for reader in readers if reader.moved_at >= since]

    def _awaited(self) -> SpanSet:
        covered = self.coverage.plan.covered
        awaited = SpanSet()
        for reader in self._moving():
            awaited.add(reader.position, covered.until(reader.position))
        return awaited

    def _places(self) -> int:
        return len({reader.position // FAR for reader in self.coverage.readers})

    def _forgot(self, span: Span) -> None:
        self.coverage.plan.forget(span)

    # requests

    async def open(self) -> None:
        """There is nothing to open."""

    @property
    def takes_bytes(self) -> bool:
        return self._is_submitted and self.is_read and self.coverage.error is None

    @property
    def is_full(self) -> bool:
        if not self.streaming or self.window.make_room():
            return False
        self._no_room_at = self.now
        return True

    def fetch_cap(self) -> int:
        return 0 if self._no_room_at is not None else Download.fetch_cap(self)

    def length(self, pace: HostPace, crowding: float, at_once: int) -> int:
        places = min(pace.limit.at_most(self.fetch_cap()), max(1, self._places()))
        return pace.length(self.size, places, crowding, at_once=at_once)

    def front(self) -> Optional[int]:
        return None

    def claim(self, start: int, pace: HostPace, crowding: float, at_once: int) -> Optional[Claim]:
        readers: Any = self.coverage.waiting_at(start)
        length = self.length(pace, crowding, at_once)
        if not pace.is_slow_to_answer:
            length = min(length, max((each.length for each in readers), default=FIRST))
        length = min(length, self.window.share())
        length = min(length, max((each.end for each in readers), default=self.size) - start)
        room = self.window.reserve(self.pieces, length)
        if room < min(length, PIECE):
            self.window.release(self.pieces, room)
            self._no_room_at = self.now
            return None
        claim = self.coverage.plan.claim(start, room)
        self.window.release(self.pieces, room - (claim.end - claim.cursor))
        for reader in readers:
            reader.was_asked_for(claim.end)
        return claim

    def _release(self, claim: Claim) -> None:
        if claim in self.coverage.plan.claims:
            self.window.release(self.pieces, claim.end - claim.cursor)
        Download._release(self, claim)

    def fetch_ended(self, fetch: Any, failure: Any) -> None:
        Download.fetch_ended(self, fetch, failure)
        self._leave_if_done()

    def tick(self, now: float) -> None:
        Download.tick(self, now)
        if self._no_room_at is not None:
            self._look_for_room()

    def _keep(self, offset: int, data: bytes) -> None:
        span = Span(offset, offset + len(data))
        if any(reader.position < span.end for reader in self.coverage.readers):
            self.window.put(self.pieces, offset, data)
            self.coverage.covered([span])
        else:
            # An upstream that ignores Range sends what comes before it too.
            self.window.release(self.pieces, len(data))
            self.coverage.plan.forget(span)


@define(eq=False, repr=False)
class Relay:
    """A download's blob by way of the memory, for those whose spool is lost."""

    _of: Download
    _download: Optional[MemoryDownload] = field(default=None, init=False)

    @property
    def is_read(self) -> bool:
        """Whether anybody reads the blob so."""
        return self._download is not None and self._download.is_read

    @property
    def download(self) -> MemoryDownload:
        """The download through memory, made when it is first needed."""
        if self._download is None:
            self._download = MemoryDownload(
                digest=self._of.digest,
                size=self._of.size,
                source=self._of.source,
                scheduler=self._of.scheduler,
                clock=self._of._clock,
                metrics=self._of._metrics,
                window=self._of.scheduler.window,
            )
            self._download.models = self._of.models
        return self._download

    def stop(self, error: Exception) -> None:
        """Fetch no more; readers get ``error``."""
        if self._download is not None:
            self._download.stop(error)
