"""Blobs that pass through the memory: readers share what comes, and nobody waits for ever."""

from __future__ import annotations

from typing import Optional

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import Scene, content_of
from yukari.errors import RegistryError
from yukari.fills.memory import STANDS_AFTER, MemoryReader
from yukari.fills.window import PIECE, Pieces, Window
from yukari.memory import Memory
from yukari.sources.base import SourceFailed
from yukari.spans import Span, SpanSet

MIB = 1024 * 1024


@define(eq=False)
class Client:
    """Takes a span of a blob, ``rate`` bytes a second at most."""

    scene: Scene
    span: Span
    whole: bool = False
    rate: Optional[float] = None
    reader: MemoryReader = field(init=False)
    at: int = field(init=False)
    got: list[bytes] = field(factory=list)
    broken: Optional[BaseException] = None
    waiting: Optional[Deferred[None]] = None
    allowed: float = 0.0
    took_at: float = 0.0
    longest: float = 0.0
    """The longest that it had to wait for its next byte, in seconds."""

    def __attrs_post_init__(self) -> None:
        self.at = self.span.start
        self.reader = self.scene.fill.relay.download.open_reader(self.span, whole=self.whole)
        self.took_at = self.scene.clock.seconds()

    def take(self, seconds: float = 0.0) -> None:
        """Take what may be taken after so much more time."""
        now = self.scene.clock.seconds()
        self.allowed = 10**9 if self.rate is None else self.allowed + seconds * self.rate
        while not self.done and self.allowed >= 1:
            end = min(self.reader.available(self.at), self.span.end)
            if end <= self.at:
                self.longest = max(self.longest, now - self.took_at)
                self._wait()
                break
            count = min(end - self.at, int(self.allowed))
            try:
                data = self.reader.read(self.at, count)
            except OSError as error:
                self.broken = error
                break
            self.got.append(data)
            self.at += len(data)
            self.allowed -= len(data)
            self.took_at = now
        if self.done:
            self.close()

    def _wait(self) -> None:
        if self.waiting is None:
            waiting = self.waiting = self.reader.wait(self.at)
            waiting.addCallbacks(lambda _: None, self._break)
            waiting.addBoth(self._waits_no_more)

    def _break(self, failure: object) -> None:
        self.broken = getattr(failure, "value", None)

    def _waits_no_more(self, _: object) -> None:
        self.waiting = None

    @property
    def done(self) -> bool:
        return self.at == self.span.end or self.broken is not None

    def close(self) -> None:
        if self.reader in self.scene.fill.relay.download.coverage.readers:
            self.reader.close()


def run_once(scene: Scene, clients: list[Client], line: float, tick: float = 0.05) -> None:
    """Upstream's line brings ``line`` bytes a second, in fair shares, for ``tick`` seconds."""
    sending = [each for each in scene.source.open if each.answered]
    for asked in scene.source.open:
        if not asked.answered:
            asked.answer()
        elif not asked.transport.paused:
            asked.send(max(1, int(line * tick / len(sending))))
    for client in clients:
        if not client.done:
            client.take(tick)
    scene.clock.advance(tick)


def run(scene: Scene, clients: list[Client], line: float) -> None:
    """Until all have theirs."""
    for _ in range(10_000):
        if all(client.done for client in clients):
            return
        run_once(scene, clients, line)
    raise AssertionError("it does not end")


class MemoryTests(SynchronousTestCase):
    def scene(self, size: int = 8 * MIB, **settings: int) -> Scene:
        return Scene(content_of(MIB) * (size // MIB), **settings)

    def assert_right(self, clients: list[Client]) -> None:
        for client in clients:
            content = client.scene.content[client.span.start : client.span.end]
            self.assertIsNone(client.broken)
            self.assertEqual(b"".join(client.got) == content, True)

    def test_a_herd_costs_little_more_than_one_and_no_more_connections(self) -> None:
        scene = self.scene(16 * MIB)
        scene.scheduler.window.memory.most = 8 * MIB
        step = MIB
        clients = [
            Client(scene, Span(part * step, (part + 1) * step), rate=rate * 100_000)
            for rate in range(6, 26)
            for part in range(16)
        ]
        most = 0

        def sample() -> None:
            nonlocal most
            most = max(most, len(scene.source.open))

        scene.scheduler.window.memory.most = 8 * MIB
        for _ in range(10_000):
            if all(client.done for client in clients):
                break
            run_once(scene, clients, 4 * MIB)
            sample()
        self.assert_right(clients)
        self.assertLessEqual(most, scene.per_blob)
        self.assertLessEqual(sum(map(len, scene.source.sent)), 2 * 16 * MIB)
        self.assertEqual(scene.scheduler.window.used, 0)

    def test_a_client_that_stands_holds_up_nobody_for_long(self) -> None:
        scene = self.scene()
        scene.scheduler.window.memory.most = MIB
        standing = Client(scene, Span(0, 8 * MIB), rate=1.0)
        moving = Client(scene, Span(0, 8 * MIB))
        run(scene, [moving], 4 * MIB)
        self.assert_right([moving])
        self.assertLess(moving.longest, STANDS_AFTER + 1.0)
        standing.rate = None
        run(scene, [standing], 4 * MIB)
        self.assert_right([standing])

    def test_memory_is_bounded_whatever_comes(self) -> None:
        scene = self.scene()
        scene.scheduler.window.memory.most = MIB
        clients = [Client(scene, Span(at * MIB, 8 * MIB), rate=500_000.0) for at in range(8)]
        for _ in range(200):
            run_once(scene, clients, 16 * MIB)
            held = sum(len(data) for data in scene.fill.relay.download.pieces._at.values())
            self.assertLessEqual(held, MIB)
        run(scene, clients, 16 * MIB)
        self.assert_right(clients)

    def test_an_upstream_that_ignores_range_is_paused_for_those_who_move(self) -> None:
        scene = self.scene()
        scene.scheduler.window.memory.most = MIB
        slow = Client(scene, Span(0, 8 * MIB), rate=2_000_000.0)
        quick = Client(scene, Span(2 * MIB, 8 * MIB))
        quick.take()
        (asked,) = scene.source.open
        asked.answer(ignoring_range=True)
        for _ in range(1000):
            if slow.done and quick.done:
                break
            if asked.open and not asked.transport.paused:
                asked.send(200_000)
            slow.take(0.05)
            quick.take(0.05)
            scene.clock.advance(0.05)
        self.assert_right([slow, quick])
        self.assertEqual(len(scene.source.asked), 1)

    def test_a_whole_blob_of_another_digest_lacks_its_end(self) -> None:
        scene = self.scene(MIB)
        scene.source.content = content_of(MIB, seed=1)
        client = Client(scene, Span(0, MIB), whole=True)
        run(scene, [client], MIB)
        self.assertIsInstance(client.broken, OSError)
        self.assertLess(client.at, MIB)

    def test_nothing_is_left_once_nobody_reads(self) -> None:
        scene = self.scene()
        client = Client(scene, Span(0, 8 * MIB))
        client.take()
        scene.source.open[0].answer()
        scene.source.open[0].send(1000)
        client.close()
        self.assertEqual(scene.source.open, [])
        self.assertEqual((scene.scheduler.window.used, scene.scheduler.fills), (0, {}))
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_an_upstream_that_fails_is_an_error_and_asked_again_by_the_next(self) -> None:
        scene = self.scene()
        client = Client(scene, Span(0, 100))
        client.take()
        for _ in range(60):
            for asked in scene.source.open:
                asked.refuse(SourceFailed("connection refused"))
            scene.clock.advance(0.5)
        self.assertIsInstance(client.broken, RegistryError)
        client.close()
        again = Client(scene, Span(0, 100))
        again.take()
        run(scene, [again], MIB)
        self.assert_right([again])


class WindowTests(SynchronousTestCase):
    @settings(max_examples=50)
    @given(
        st.lists(
            st.tuples(st.sampled_from("prx"), st.integers(0, 40), st.integers(1, 3)), max_size=60
        )
    )
    def test_any_order_of_coming_reading_and_making_room(
        self, history: list[tuple[str, int, int]]
    ) -> None:
        """The window holds what was put there and was not dropped."""
        window, here = Window(Memory(20 * PIECE)), SpanSet()
        content = content_of(64 * 100) * 1024

        def forgot(span: Span) -> None:
            here.remove(span.start, span.end)

        pieces = Pieces(lambda: SpanSet(), lambda: 1, forgot)
        window.join(pieces)
        for what, at, count in history:
            start, length = at * PIECE // 2, count * PIECE // 2
            if what == "p" and here.until(start) == start:
                gap = here.gap(start, start + length)
                assert gap is not None
                if window.reserve(pieces, len(gap)) == len(gap):
                    window.put(pieces, gap.start, content[gap.start : gap.end])
                    here.add(gap.start, gap.end)
            elif what == "r":
                found = b"".join(pieces.read(start, length))
                end = min(here.until(start), start + length)
                self.assertEqual(found == content[start:end], True)
            elif what == "x":
                window.make_room(length)
            self.assertLessEqual(window.used, window.memory.most)
            self.assertEqual(window.used - pieces.reserved, here.total)
        window.leave(pieces)
        self.assertEqual((window.used, window.memory.used), (0, 0))

    def test_bytes_that_nobody_needs_make_room_for_a_part_of_an_upload(self) -> None:
        window = Window(Memory(10 * PIECE))
        pieces = Pieces(lambda: SpanSet(), lambda: 1, lambda _: None)
        window.join(pieces)
        for at in range(10):
            window.reserve(pieces, PIECE)
            window.put(pieces, at * PIECE, b"x" * PIECE)
        part = Deferred.fromCoroutine(window.memory.lend(3 * PIECE))
        self.successResultOf(part)
        self.assertEqual(window.used, 7 * PIECE)
