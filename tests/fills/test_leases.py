"""Whatever becomes of requests for blobs, their turns come back."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import (
    NAME,
    Asked,
    Keeper,
    Scene,
    ScriptedDisk,
    ScriptedSource,
    content_of,
)
from tests.storage.memory import MemoryStore
from yukari.errors import RegistryError, blob_unknown
from yukari.fills.fill import Fill
from yukari.fills.reader import FillReader
from yukari.fills.scheduler import FetchScheduler
from yukari.metrics import Metrics
from yukari.names import Digest
from yukari.net.budget import ConnectionBudget, HostLimit
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.sources.pace import HostPace
from yukari.sources.sequential import SequentialReader

SIZES = (3_000_000, 200_000, 10)
GONE = blob_unknown(Digest("0" * 64))
FAILURES = (
    SourceFailed("moved", moved=True),
    SourceFailed("busy", busy=True),
    SourceFailed("wait", 2.0, busy=True),
    SourceFailed("broken", broken=True),
    SourceRefused(GONE),
    SourceRefused(RegistryError("SIZE_INVALID", "another size", 502)),
    ValueError("a bug"),
)


class Broken(Metrics):
    """Metrics with a bug."""

    def retried(self) -> None:
        raise ZeroDivisionError


def forget(_: object) -> None:
    pass


class Leases(RuleBasedStateMachine):
    """Fills and uploads past the disk, which share the connections to two hosts."""

    @initialize(most=st.integers(1, 12))
    def begin(self, most: int) -> None:
        self.clock, self.disk = Clock(), ScriptedDisk()
        self.budget = ConnectionBudget(most)
        self.paces = [HostPace(budget=self.budget, limit=HostLimit()) for _ in range(2)]
        self.scheduler = FetchScheduler(self.clock, 4, most)
        self.fills: list[Fill] = []
        self.sources: list[ScriptedSource] = []
        self.readers: list[FillReader] = []
        self.streams: list[tuple[SequentialReader, Deferred[None]]] = []

    def source(self, size: int, host: int) -> ScriptedSource:
        source = ScriptedSource(content_of(size), pace_now=self.paces[host])
        self.sources.append(source)
        return source

    @rule(size=st.sampled_from(SIZES), host=st.integers(0, 1), whole=st.booleans())
    def fill(self, size: int, host: int, whole: bool) -> None:
        source = self.source(size, host)
        fill = Fill(
            digest=Digest.of(source.content if whole else b"other"),
            size=size,
            source=source,
            scheduler=self.scheduler,
            keeper=Keeper(MemoryStore()),
            in_thread=self.disk,
            clock=self.clock,
            name=NAME,
        )
        self.fills.append(fill)
        fill.start()

    @rule(size=st.sampled_from(SIZES), host=st.integers(0, 1))
    def stream(self, size: int, host: int) -> None:
        stream = SequentialReader(self.source(size, host), size, self.clock)
        reading = Deferred.fromCoroutine(stream.read_into(bytearray(size)))
        self.streams.append((stream, reading.addErrback(forget)))

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), part=st.floats(0, 1, exclude_max=True))
    def read(self, data: Any, part: float) -> None:
        fill = data.draw(st.sampled_from(self.fills))
        reader = fill.open_reader(int(part * fill.size), whole=False)
        reader.wait(reader.position).addErrback(forget)
        self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.readers.remove(reader)
        reader.close()

    @property
    def asked(self) -> list[Asked]:
        return [asked for source in self.sources for asked in source.open]

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), host=st.integers(0, 1), ignoring_range=st.booleans())
    def answer(self, data: Any, host: int, ignoring_range: bool) -> None:
        asked = data.draw(st.sampled_from(self.asked))
        if not asked.answered:
            asked.source.pace_now = self.paces[host]
            asked.answer(ignoring_range=ignoring_range)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), why=st.sampled_from(FAILURES))
    def fail(self, data: Any, why: Exception) -> None:
        asked = data.draw(st.sampled_from(self.asked))
        if asked.answered:
            asked.cut()
        else:
            asked.refuse(why)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), count=st.sampled_from((1, 5000, 10**9)), ends=st.booleans())
    def send(self, data: Any, count: int, ends: bool) -> None:
        asked = data.draw(st.sampled_from(self.asked))
        if not asked.answered or asked.transport.paused:
            return
        if asked.at < asked._end:
            asked.send(count, ends=ends)
        else:
            asked.finish()

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), how=st.sampled_from(("drop", "give up", "stop", "discard")))
    def interrupt(self, data: Any, how: str) -> None:
        fill = data.draw(st.sampled_from(self.fills))
        if how == "drop":
            fill.drop_fetches("dropped")
        elif how == "give up":
            if fill.takes_bytes:
                fill.give_up(GONE)
        else:
            self.fills.remove(fill)
            ended = fill.stop() if how == "stop" else fill.discard(GONE)
            Deferred.fromCoroutine(ended)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), cancels=st.booleans())
    def end_stream(self, data: Any, cancels: bool) -> None:
        stream, reading = data.draw(st.sampled_from(self.streams))
        self.streams.remove((stream, reading))
        if cancels:
            reading.cancel()
        stream.close()
        reading.cancel()

    @rule(seconds=st.sampled_from((0.06, 0.5, 3.0, 30.0)))
    def wait(self, seconds: float) -> None:
        self.clock.pump([seconds / 2] * 2)

    @rule(slow=st.booleans())
    def work(self, slow: bool) -> None:
        self.disk.slow = slow
        while self.disk.waiting and not slow:
            self.disk.work()

    @invariant()
    def counts_are_possible(self) -> None:
        if hasattr(self, "budget"):
            held = sum(len(fill.fetches) for fill in self.fills)
            assert held <= self.budget.used <= min(held + len(self.streams), self.budget.most)
            assert self.budget.used == sum(pace.limit.active for pace in self.paces)
            assert all(0 <= pace.limit.served <= pace.limit.active for pace in self.paces)

    def teardown(self) -> None:
        if not hasattr(self, "budget"):
            return
        for reader in self.readers:
            reader.close()
        for stream, reading in self.streams:
            reading.cancel()
            stream.close()
        for fill in self.fills:
            Deferred.fromCoroutine(fill.stop())
        self.work(slow=False)
        assert self.budget.used == 0
        for pace in self.paces:
            limit = pace.limit
            assert (pace.active, limit.active, limit.served, limit.extra) == (0, 0, 0, 0)
            assert not limit.unanswered
        assert not self.clock.getDelayedCalls()


class LeasesTests(SynchronousTestCase):
    def test_turn_comes_back_though_its_blob_cannot_note_the_end(self) -> None:
        """One bug in a rare path would take a connection for good each time it is met."""
        scene = Scene(content_of(1000))
        scene.fill._metrics = Broken()
        scene.fill.start()
        scene.source.open[0].refuse(SourceFailed("broken"))
        self.assertEqual(scene.source.pace_now.limit.active, 0)
        self.assertIsNotNone(scene.fill.error)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_any_order_of_events_returns_every_turn(self) -> None:
        run_state_machine_as_test(
            Leases, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
        )
        self.flushLoggedErrors(ValueError)
