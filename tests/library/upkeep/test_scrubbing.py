"""Stored blobs are read again in their time, in their turn, and no faster than that needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.strategies import result_of
from yukari.library.catalog.catalog import Catalog
from yukari.library.catalog.file import CatalogFile
from yukari.library.upkeep.scrubbing import (
    AT_LEAST_APART,
    HEADROOM,
    IDLE_RATE,
    START_AFTER,
    Scrubber,
)
from yukari.names import Digest
from yukari.spans import Span
from yukari.storage.ports import NoRoom

DAY = 86_400.0
PERIOD = 30 * DAY
MB = 1_000_000


@define(eq=False)
class Copy:
    copies: Recorded
    digest: Digest
    size: int

    async def hash(self, into: Any, span: Span) -> None:
        self.copies.reads.append((self.copies.clock.seconds(), self.digest, span))
        if self.digest in self.copies.unreadable:
            raise OSError("I/O error")
        if span.end == self.size:
            into.update(self.copies.names[self.digest])

    async def set_aside(self) -> Optional[str]:
        raise AssertionError("a right copy is taken away")

    def close(self) -> None:
        self.copies.open_files -= 1


@define(eq=False)
class Recorded:
    """`Copies` that are right, and that tell when which of their bytes are read."""

    clock: Clock
    sizes: dict[Digest, int] = field(factory=dict)
    names: dict[Digest, bytes] = field(factory=dict)
    reads: list[tuple[float, Digest, Span]] = field(factory=list)
    unreadable: set[Digest] = field(factory=set)
    open_files: int = 0
    place: str = "disk"
    step: int = MB

    def put(self, name: str, size: int) -> Digest:
        digest = Digest.of(name.encode())
        self.sizes[digest], self.names[digest] = size, name.encode()
        return digest

    def among(self) -> Optional[Mapping[Digest, int]]:
        return None

    async def open(self, digest: Digest) -> Optional[Copy]:
        if digest not in self.sizes:
            return None
        self.open_files += 1
        return Copy(self, digest, self.sizes[digest])

    async def drop(self, digest: Digest) -> None:
        pass

    def begun(self) -> list[Digest]:
        """The blobs in the order in which they were read."""
        return [digest for _, digest, span in self.reads if not span.start]


@define(eq=False)
class Scene:
    """A scrubber of copies, and the catalog that outlives its processes."""

    clock: Clock = field(factory=Clock)
    period: float = PERIOD
    busy: Callable[[], bool] = lambda: False
    copies: Recorded = field(init=False)
    catalog: Catalog = field(init=False)
    scrubber: Scrubber = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.clock.advance(100 * DAY)
        self.copies = Recorded(self.clock)
        self.catalog = Catalog(":memory:", maybeDeferred, self.clock, self.clock.seconds)

    def has(self, name: str, size: int, verified_at: Optional[float] = None) -> Digest:
        """A blob is stored from now on."""
        digest = self.copies.put(name, size)
        result_of(self.catalog.run(CatalogFile.blobs_stored, [(digest, size)], verified_at))
        return digest

    def start(self) -> None:
        """A new process."""
        self.scrubber = Scrubber(
            copies=self.copies,
            period=self.period,
            library=None,  # type: ignore[arg-type]
            catalog=self.catalog,
            clock=self.clock,
            is_busy=self.busy,
            now=self.clock.seconds,
        )
        self.scrubber.start()

    def run(self, seconds: float) -> None:
        """Time passes, from one timer to the next."""
        end = self.clock.seconds() + seconds
        while self.clock.calls and self.clock.calls[0].getTime() <= end:
            self.clock.advance(max(0.0, self.clock.calls[0].getTime() - self.clock.seconds()))
        self.clock.advance(end - self.clock.seconds())


class ScrubberTests(SynchronousTestCase):
    def scene(self, **more: Any) -> Scene:
        scene = Scene(**more)
        self.addCleanup(lambda: scene.scrubber.stop())
        return scene

    def test_blobs_that_were_never_verified_come_first_then_the_longest_ago(self) -> None:
        scene = self.scene()
        old = scene.has("old", MB, verified_at=10 * DAY)
        older = scene.has("older", MB, verified_at=5 * DAY)
        copied = [scene.has(f"copied {each}", MB) for each in range(2)]
        scene.start()
        scene.run(PERIOD)
        begun = scene.copies.begun()
        self.assertEqual(set(begun[:2]), set(copied))
        self.assertEqual(begun[2:4], [older, old])

    def test_next_process_goes_on_where_the_last_one_was(self) -> None:
        """Else the blobs that sort last would never be read by a daemon that restarts daily."""
        scene = self.scene()
        for each in range(20):
            scene.has(str(each), MB)
        for _ in range(40):
            scene.start()
            scene.run(DAY)
            scene.scrubber.stop()
        self.assertEqual(len(set(scene.copies.begun())), 20)
        self.assertEqual(scene.copies.open_files, 0)

    def test_one_small_blob_is_not_read_over_and_over(self) -> None:
        scene = self.scene()
        scene.has("only", 10)
        scene.start()
        scene.run(PERIOD)
        self.assertLessEqual(len(scene.copies.begun()), 1 / AT_LEAST_APART)
        scene.scrubber.stop()
        before = len(scene.copies.begun())
        for _ in range(10):
            scene.start()
            scene.run(START_AFTER + 1)
            scene.scrubber.stop()
        self.assertLessEqual(len(scene.copies.begun()), before + 1)

    def test_busy_daemon_reads_a_large_blob_no_faster_than_it_has_to(self) -> None:
        for busy, least, most in ((False, 9, 11), (True, 2_000_000, 2_600_000)):
            scene = self.scene(busy=lambda busy=busy: busy)
            scene.has("large", 40 * MB)
            scene.start()
            scene.run(PERIOD)
            times = [at for at, _, _ in scene.copies.reads[:40]]
            self.assertGreater(times[-1] - times[0], least, busy)
            self.assertLess(times[-1] - times[0], most, busy)
            scene.scrubber.stop()

    def test_unreadable_blob_is_reported_and_stops_nothing(self) -> None:
        scene = self.scene()
        digests = [scene.has(str(each), MB) for each in range(3)]
        scene.copies.unreadable.add(digests[0])
        scene.start()
        with capturedLogs() as logs:
            scene.run(PERIOD)
        self.assertLessEqual(set(digests), set(scene.copies.begun()))
        self.assertEqual(scene.copies.open_files, 0)
        said = [str(formatEvent(each)) for each in logs if each["log_level"].name == "error"]
        self.assertIn(f"{digests[0]}: cannot be read from the disk: I/O error", said)
        self.assertEqual(scene.scrubber.status().damaged, len(said))

    def test_disk_that_has_no_room_for_a_right_copy_stops_nothing(self) -> None:
        """No other blob was read again, and on a full disk none at all until a restart."""

        async def replace(*_: object) -> None:
            raise NoRoom("the disk is full")

        self.patch(Scrubber, "_replace", replace)
        scene = self.scene()
        digests = [scene.has(str(each), MB) for each in range(3)]
        scene.copies.names[digests[0]] = b"something else"
        scene.start()
        scene.run(PERIOD)
        self.assertLessEqual(set(digests), set(scene.copies.begun()))

    def test_blob_that_is_gone_keeps_no_turn(self) -> None:
        scene = self.scene()
        gone, there = scene.has("gone", MB), scene.has("there", MB)
        del scene.copies.sizes[gone]
        scene.start()
        scene.run(PERIOD)
        self.assertIn(there, scene.copies.begun())

    def test_time_that_was_set_back_stops_nothing(self) -> None:
        scene = self.scene()
        digest = scene.has("of the future", MB, verified_at=1000 * DAY)
        scene.start()
        scene.run(PERIOD)
        self.assertIn(digest, scene.copies.begun())

    def test_blobs_stored_while_it_rests_are_read_before_others_again(self) -> None:
        scene = self.scene()
        first = scene.has("first", 50 * MB)
        scene.start()
        scene.run(DAY)
        later = scene.has("copied in", 50 * MB)
        scene.run(PERIOD)
        self.assertEqual(scene.copies.begun()[:2], [first, later])

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.integers(1, 60 * MB), min_size=1, max_size=12),
        st.sampled_from((600.0, DAY, PERIOD)),
        st.booleans(),
    )
    def test_every_copy_is_read_once_a_period_and_the_average_is_kept(
        self, sizes: list[int], period: float, busy: bool
    ) -> None:
        scene = Scene(period=period, busy=lambda: busy)
        began = scene.clock.seconds()
        digests = {scene.has(str(at), size) for at, size in enumerate(sizes)}
        scene.start()
        scene.run(3 * period)
        scene.scrubber.stop()
        for start in (0, 1, 2):
            since, until = began + start * period, began + (start + 1) * period
            read = {digest for at, digest, _ in scene.copies.reads if since <= at < until}
            self.assertEqual(read, digests)
        # Never more than the average, beyond the blob that is being read.
        average = max(1.0, HEADROOM * sum(sizes) / period)
        got = 0
        for at, _, span in scene.copies.reads:
            got += len(span)
            self.assertLessEqual(got, average * (at - began) + max(sizes) + MB)
        self.assertGreater(IDLE_RATE, 0)
