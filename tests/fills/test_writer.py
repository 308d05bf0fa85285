"""Every byte is written once, at its place, one write at a time, in whatever order they arrive."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from yukari.fills.writer import BATCH, DELAY, Pieces, WriteBuffer
from yukari.spans import Span

UNIT = BATCH // 8
"""Bytes in one step of the machine: eight of them are a batch."""
SIZE = 64
"""Of the machine's blob, in units."""


class Disk:
    """Takes one write at a time and ends it when told."""

    def __init__(self) -> None:
        self.pieces: Pieces = ()
        self.writing: Deferred[None] | None = None
        self.writes = 0
        self.cells: dict[int, bytes] = {}

    def write(self, pieces: Pieces) -> Deferred[None]:
        assert self.writing is None, "two writes at once"
        self.pieces = [(start, [*buffers]) for start, buffers in pieces]
        self.writing = Deferred()
        self.writes += 1
        return self.writing

    @property
    def count(self) -> int:
        """How many bytes are being written."""
        return sum(len(buffer) for _, buffers in self.pieces for buffer in buffers)

    def done(self) -> None:
        """The write has ended well."""
        pieces, self.pieces = self.pieces, ()
        for start, buffers in pieces:
            for buffer in buffers:
                assert start not in self.cells, f"{start} written twice"
                self.cells[start] = buffer
                start += len(buffer)
        self._end(None)

    def broken(self) -> None:
        """It has failed."""
        self.pieces = ()
        self._end(Failure(OSError("full")))

    def _end(self, result: object) -> None:
        writing, self.writing = self.writing, None
        assert writing is not None
        writing.callback(result)  # type: ignore[arg-type]


class WriteBufferMachine(RuleBasedStateMachine):
    """A `WriteBuffer` against what a test put in."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.disk = Disk()
        self.told: list[Span] = []
        self.failures: list[Failure] = []
        self.buffer = WriteBuffer(self.clock, self.disk.write, self.note, self.failures.append)
        self.given: dict[int, bytes] = {}
        self.closing: list[Deferred[None]] = []
        self.closed_at = 0

    def note(self, spans: Sequence[Span]) -> None:
        self.told += spans

    def _add(self, at: int, units: int) -> None:
        start, data = at * UNIT, bytes([at]) * (units * UNIT)
        self.buffer.add(start, data)
        if not self.closing and not self.failures:
            for unit in range(units):
                self.given[start + unit * UNIT] = data[:UNIT]
            self.given[start] = data
            for unit in range(1, units):
                del self.given[start + unit * UNIT]

    def _free(self) -> list[int]:
        taken = {
            (start + at) // UNIT
            for start, data in self.given.items()
            for at in range(0, len(data), UNIT)
        }
        return [unit for unit in range(SIZE) if unit not in taken]

    @precondition(lambda self: self._free())
    @rule(data=st.data(), units=st.integers(1, 10))
    def add(self, data: st.DataObject, units: int) -> None:
        free = self._free()
        at = data.draw(st.sampled_from(free))
        run = 1
        while run < units and at + run in free:
            run += 1
        self._add(at, run)

    @rule()
    def nothing_comes(self) -> None:
        self.buffer.add(0, b"")

    @rule(seconds=st.sampled_from((DELAY / 3, DELAY, 1.0)))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.disk.writing is None and seconds >= DELAY and not self.failures:
            assert self.buffer.held == 0, "nothing is written although it waited"

    @rule()
    def flush(self) -> None:
        self.buffer.flush()

    @precondition(lambda self: self.disk.writing is not None)
    @rule()
    def written(self) -> None:
        self.disk.done()

    @precondition(lambda self: self.disk.writing is not None and len(self.given) > 12)
    @rule()
    def broken(self) -> None:
        self.disk.broken()
        assert len(self.failures) == 1
        assert self.disk.writing is None

    @precondition(lambda self: len(self.given) > 8)
    @rule()
    def close(self) -> None:
        self.closing.append(Deferred.fromCoroutine(self.buffer.close()))

    @invariant()
    def what_is_written_is_what_came(self) -> None:
        for start, data in self.disk.cells.items():
            assert self.given[start] == data
        told = sum(len(span) for span in self.told)
        assert told == sum(map(len, self.disk.cells.values()))

    @invariant()
    def held_is_what_came_and_is_not_written(self) -> None:
        came = sum(map(len, self.given.values()))
        written = sum(map(len, self.disk.cells.values()))
        assert self.buffer.held == (0 if self.failures else came - written)

    @invariant()
    def a_batch_does_not_wait(self) -> None:
        if self.disk.writing is None and not self.failures:
            assert self.buffer.held < BATCH

    @invariant()
    def closed_means_that_all_is_written(self) -> None:
        for closing in self.closing:
            assert closing.called == (self.disk.writing is None)
        if self.closing and self.disk.writing is None:
            assert self.buffer.held == 0

    def teardown(self) -> None:
        if not self.failures:
            closing = Deferred.fromCoroutine(self.buffer.close())
            while self.disk.writing is not None:
                assert not closing.called
                self.disk.done()
            assert closing.called
            assert self.disk.cells == self.given
        assert self.clock.getDelayedCalls() == []


class WriteBufferTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = Disk()
        self.spans: list[Span] = []
        self.buffer = WriteBuffer(self.clock, self.disk.write, self.spans.extend, self.fail)

    def test_any_schedule(self) -> None:
        run_state_machine_as_test(WriteBufferMachine)

    def test_little_waits_a_moment_for_more(self) -> None:
        self.buffer.add(0, b"ab")
        self.buffer.add(2, b"cd")
        self.assertEqual(self.disk.writes, 0)
        self.clock.advance(DELAY)
        self.assertEqual(self.disk.pieces, [(0, [b"ab", b"cd"])])

    def test_a_batch_is_written_at_once_and_the_next_one_gathers_meanwhile(self) -> None:
        self.buffer.add(0, bytes(BATCH))
        self.buffer.add(BATCH, bytes(BATCH))
        self.buffer.add(9 * BATCH, bytes(BATCH))
        self.assertEqual((self.disk.writes, self.disk.count), (1, BATCH))
        self.disk.done()
        self.assertEqual((self.disk.writes, self.disk.count), (2, 2 * BATCH))
        self.disk.done()
        self.assertEqual(
            self.spans,
            [Span(0, BATCH), Span(BATCH, 2 * BATCH), Span(9 * BATCH, 10 * BATCH)],
        )

    def test_nothing_is_taken_once_it_closes(self) -> None:
        self.buffer.add(0, b"ab")
        closing = Deferred.fromCoroutine(self.buffer.close())
        self.buffer.add(2, b"cd")
        self.assertNoResult(closing)
        self.disk.done()
        self.successResultOf(closing)
        self.assertEqual(self.spans, [Span(0, 2)])

    def test_what_is_added_while_a_write_is_reported_is_written_too(self) -> None:
        def more(spans: Sequence[Span]) -> None:
            self.spans.extend(spans)
            if len(self.spans) < 5:
                self.buffer.add(spans[-1].end, bytes(BATCH))
                self.buffer.flush()

        self.buffer = WriteBuffer(self.clock, self.disk.write, more, self.fail)
        self.buffer.add(0, bytes(BATCH))
        while self.disk.writing is not None:
            self.disk.done()
        self.assertEqual(len(self.disk.cells), 5)
        self.assertEqual((self.buffer.held, self.clock.getDelayedCalls()), (0, []))
