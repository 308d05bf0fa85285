"""One request for a part of a blob: what comes, where it goes, and how it ends."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.ending import begin
from tests.fills.doubles import Asked, ScriptedSource, content_of
from yukari.errors import RegistryError, blob_unknown
from yukari.fills.fetcher import ENDS_WITHIN, RangeFetch
from yukari.fills.plan import Plan
from yukari.net.budget import ConnectionBudget, HostLimit, Priority
from yukari.sources.base import Answer, SourceFailed, SourceRefused
from yukari.sources.pace import ORDINARY
from yukari.spans import Span

CONTENT = content_of(5000)


@define(eq=False)
class Ledger:
    """As much of a fill as a fetch sees: it keeps the bytes at their places."""

    source: ScriptedSource = field(factory=lambda: ScriptedSource(CONTENT))
    plan: Plan = field(factory=lambda: Plan(len(CONTENT)))
    got: dict[int, int] = field(factory=dict)
    answers: list[Answer] = field(factory=list)

    is_read: bool = True

    def answered(self, fetch: RangeFetch, answer: Answer) -> None:
        self.answers.append(answer)
        if not answer.asked:
            self.plan.release(fetch.claim)

    def received(self, fetch: RangeFetch, offset: int, data: bytes, *, asked: bool) -> int:
        if asked:
            span = self.plan.arrived(fetch.claim, len(data))
            data = data[: 0 if span is None else len(span)]
        for at, byte in enumerate(data, offset):
            assert self.got.setdefault(at, byte) == byte
            assert CONTENT[at] == byte
        return len(data)


class FetchCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.fill = Ledger()

    def begin(
        self, start: int = 1000, length: int = 1000
    ) -> tuple[RangeFetch, Asked, Deferred[None]]:
        fill: Any = self.fill
        turn = ConnectionBudget(8).take(HostLimit(), Priority.READER)
        assert turn is not None
        fetch = RangeFetch(fill, self.fill.plan.claim(start, length), turn, self.clock)
        ended = Deferred.fromCoroutine(fetch.run())
        return fetch, self.fill.source.asked[-1], ended

    def failed(self, ended: Deferred[None]) -> str:
        return str(self.failureResultOf(ended, SourceFailed).value)


class FetchTests(FetchCase):
    @given(st.lists(st.integers(1, 700), min_size=1, max_size=20))
    def test_a_body_in_any_pieces_lands_at_its_place(self, pieces: list[int]) -> None:
        self.setUp()
        fetch, asked, ended = self.begin()
        self.assertEqual(asked.span, Span(1000, 2000))
        asked.answer()
        for count in [*pieces, 1000]:
            if asked.open:
                asked.send(count)
        self.successResultOf(ended)
        self.assertEqual(sorted(self.fill.got), list(range(1000, 2000)))
        self.assertEqual((fetch.received, fetch.claim.cursor), (1000, 2000))

    def test_a_body_that_is_cut_leaves_the_claim_where_it_stood(self) -> None:
        fetch, asked, ended = self.begin()
        asked.answer()
        asked.send(300)
        asked.cut()
        self.assertEqual(self.failed(ended), "the connection broke")
        self.assertEqual((fetch.claim.cursor, fetch.claim.end), (1300, 2000))

    def test_a_whole_body_that_ends_too_early_is_a_break_too(self) -> None:
        fetch, asked, ended = self.begin()
        asked.answer()
        asked.send(300)
        asked.finish()
        self.failed(ended)

    def test_a_body_that_goes_on_is_cut_where_the_claim_ends(self) -> None:
        fetch, asked, ended = self.begin()
        asked.answer()
        asked._end = 5000
        asked.send(4000)
        self.successResultOf(ended)
        self.assertEqual(sorted(self.fill.got), list(range(1000, 2000)))
        self.assertTrue(asked.transport.stopped)
        asked.transport.stopped = False
        asked._protocol.dataReceived(b"x" * 100)  # what was on its way
        self.assertEqual(len(self.fill.got), 1000)

    def test_body_that_never_says_that_it_ended_is_whole_all_the_same(self) -> None:
        """As behind a header ``Content-Length : 7``: each was waited for, and counted as silent."""
        for start, within in ((0, ENDS_WITHIN), (1000, 0)):
            _, asked, ended = self.begin(start)
            asked.answer(has_length=False)
            asked.send(1000, ends=False)
            self.assertNoResult(ended)
            self.clock.advance(within)
            self.successResultOf(ended)
            self.assertTrue(asked.transport.stopped)

    def test_body_that_ends_behind_its_last_byte_keeps_its_connection(self) -> None:
        """As one in chunks."""
        _, asked, ended = self.begin()
        asked.answer(has_length=False)
        asked.send(1000, ends=False)
        asked.finish()
        self.successResultOf(ended)
        self.assertFalse(asked.transport.stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_page_in_a_blobs_place_counts_as_a_refusal_while_others_are_served(self) -> None:
        """A host that allowed two connections was asked 427 times for three blobs."""
        fill: Any = self.fill
        limit, budget = HostLimit(), ConnectionBudget(8)
        served = budget.take(limit, Priority.READER)
        assert served is not None
        served.answered(0.0, began=0.0)
        for _ in range(2):
            self.clock.advance(1.0)
            turn = budget.take(limit, Priority.READER)
            assert turn is not None
            fetch = RangeFetch(fill, self.fill.plan.claim(0, 1000), turn, self.clock)
            ended = begin(self, fetch.run())
            page = RegistryError("SIZE_INVALID", "blob x has 17 bytes upstream", 502)
            self.fill.source.asked[-1].refuse(SourceRefused(page))
            self.failureResultOf(ended, SourceRefused)
            turn.release()
            self.fill.plan.release(fetch.claim)
        self.assertTrue(limit.is_known)
        self.assertEqual(limit.bears, 1)

    def test_what_the_source_says_is_what_the_fetch_raises(self) -> None:
        for error in (SourceFailed("busy", 5.0, busy=True), SourceRefused(blob_unknown("x"))):
            fetch, asked, ended = self.begin()
            asked.refuse(error)
            self.assertIs(self.failureResultOf(ended).value, error)
            self.assertEqual(self.fill.source.pace_now.active, 0)
            self.fill.plan.release(fetch.claim)

    def test_a_blob_from_its_first_byte_frees_the_claim(self) -> None:
        fetch, asked, ended = self.begin()
        asked.answer(ignoring_range=True)
        self.assertEqual(self.fill.plan.free, len(CONTENT))
        while asked.open:
            asked.send(700)
        self.successResultOf(ended)
        self.assertEqual(len(self.fill.got), len(CONTENT))


class HalvedTests(FetchCase):
    def test_fetch_of_which_another_takes_half_closes_its_connection_there(self) -> None:
        for pieces in ([500], [600], [499, 1], [499, 100]):
            self.setUp()
            fetch, asked, ended = self.begin(1000, 1000)
            asked.answer()
            self.assertEqual(self.fill.plan.halve(fetch.claim), Span(1500, 2000))
            for count in pieces:
                self.assertFalse(asked.transport.stopped)
                asked.send(count)
            self.successResultOf(ended)
            self.assertTrue(asked.transport.stopped)
            self.assertEqual(max(self.fill.got), 1499)
            self.fill.plan.claim(1500, 500)  # ValueError if it is not free.

    def test_seconds_left_are_known_after_a_while_and_not_while_paused(self) -> None:
        fetch, asked, _ = self.begin(1000, 1000)
        self.clock.advance(10.0)
        asked.answer()
        asked.send(100)
        self.assertEqual(fetch.seconds_left(10.1), 0.0)
        self.assertAlmostEqual(fetch.seconds_left(12.0), 18.0)
        fetch.pause()
        self.assertEqual(fetch.seconds_left(12.0), 0.0)


class DroppedTests(FetchCase):
    def test_a_fetch_that_is_dropped_before_the_answer_takes_its_request_back(self) -> None:
        fetch, asked, ended = self.begin()
        fetch.drop("silent")
        self.assertEqual(self.failed(ended), "silent")
        self.assertFalse(asked.open)

    def test_a_fetch_that_is_dropped_within_the_body_closes_it(self) -> None:
        for paused in (False, True):
            self.setUp()
            fetch, asked, ended = self.begin()
            asked.answer()
            asked.send(10)
            if paused:
                fetch.pause()
            fetch.drop("silent")
            fetch.drop("once more")
            self.assertEqual(self.failed(ended), "silent")
            self.assertTrue(asked.transport.stopped)
            fetch.pause()
            fetch.resume()

    def test_a_fetch_that_is_dropped_by_its_own_answer_reads_nothing(self) -> None:
        class Dropping(Ledger):
            def answered(self, fetch: RangeFetch, answer: Answer) -> None:
                fetch.drop("enough")

        self.fill = Dropping()
        fetch, asked, ended = self.begin()
        asked.answer()
        if asked.open:
            asked.send(1000)
        self.assertEqual(self.failed(ended), "enough")
        self.assertTrue(asked.transport.stopped)

    def test_a_fetch_that_is_dropped_by_its_own_bytes_ends_once(self) -> None:
        class Dropping(Ledger):
            def received(self, fetch: RangeFetch, offset: int, data: bytes, *, asked: bool) -> int:
                fetch.drop("enough")
                return len(data)

        self.fill = Dropping()
        fetch, asked, ended = self.begin()
        asked.answer()
        asked.send(100)
        self.assertEqual(self.failed(ended), "enough")
        self.assertTrue(asked.transport.stopped)


class PausedTests(FetchCase):
    def test_a_pause_reaches_the_connection(self) -> None:
        fetch, asked, ended = self.begin()
        asked.answer()
        for paused in (True, True, False, False):
            fetch.pause() if paused else fetch.resume()
            self.assertEqual(asked.transport.paused, paused)

    def test_a_fetch_that_was_paused_before_its_answer_reads_none_of_it(self) -> None:
        fetch, asked, ended = self.begin()
        fetch.pause()
        asked.answer()
        self.assertTrue(asked.transport.paused)
        fetch.resume()
        asked.send(1000)
        self.successResultOf(ended)

    def test_a_pause_is_no_silence(self) -> None:
        fetch, asked, ended = self.begin()
        asked.answer()
        fetch.pause()
        self.clock.advance(100)
        fetch.resume()
        self.assertEqual(fetch.heard_at, 100)


class PaceTests(FetchCase):
    def test_the_host_learns_from_each_request(self) -> None:
        for sent, whole in ((1000, True), (300, False), (0, False)):
            self.setUp()
            pace = self.fill.source.pace_now
            fetch, asked, ended = self.begin()
            self.clock.advance(0.5)
            asked.answer()
            self.assertEqual((pace.active, pace.round_trip), (1, 0.5))
            self.clock.advance(0.5)
            if sent:
                asked.send(sent)
            if not whole:
                asked.cut()
            ended.addErrback(lambda _: None)
            self.assertEqual(pace.active, 0)
            # What it took to the first byte counts as a network's, up to `ORDINARY`.
            seconds = 0.5 + ORDINARY
            expected: Optional[float] = sent / seconds if sent else None
            self.assertEqual(pace.rate(), expected)
            self.assertEqual(pace.longest, 1000 if whole else 0)
