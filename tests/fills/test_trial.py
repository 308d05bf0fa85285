"""What a blob's first requests show of their host."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import Asked, Scene, content_of
from yukari.fills.trial import AS_SOON, AT_ONCE, ENOUGH, LASTS, SECONDS, STOCK_PART, Trial
from yukari.sources.base import SourceFailed
from yukari.sources.pace import FIRST, MUCH, HostPace
from yukari.spans import Span

SIZE = 8 * MUCH
WAITED = 0.05
"""Seconds to the first byte of the first request."""


@define(eq=False)
class Begun:
    """A blob whose first request has brought its first bytes."""

    waited: float = WAITED
    size: int = SIZE
    scene: Scene = field(init=False)
    others: list[Asked] = field(init=False)
    """The next requests."""

    def __attrs_post_init__(self) -> None:
        content: Any = content_of(SIZE) if self.size == SIZE else bytes(self.size)
        self.scene = Scene(content, per_blob=16, in_all=32)
        self.scene.fill.start()
        self.scene.clock.advance(self.waited)
        first = self.scene.source.open[0]
        first.answer()
        first.send(FIRST)
        self.others = self.scene.source.open

    @property
    def pace(self) -> HostPace:
        return self.scene.source.pace_now

    def answer(self, asked: Asked, seconds: float) -> None:
        """After so many seconds."""
        self.scene.clock.advance(seconds)
        asked.answer()
        asked.send(1)


class TrialTests(SynchronousTestCase):
    def test_few_requests_are_on_trial_the_fewer_the_longer_the_host_needs(self) -> None:
        for waited, count in ((0.01, AT_ONCE), (0.1, 6), (0.24, 3), (0.3, 2)):
            self.assertEqual(len(Begun(waited).others), count, waited)

    def test_host_that_answers_them_as_soon_serves_several(self) -> None:
        begun = Begun()
        for at, asked in enumerate(begun.others[:ENOUGH]):
            self.assertIsNone(begun.pace.serves_several)
            begun.answer(asked, WAITED if not at else 0.0)
        self.assertTrue(begun.pace.serves_several)
        self.assertGreater(len(begun.scene.source.open), AT_ONCE)

    def test_host_that_keeps_one_waiting_is_asked_for_all_that_is_left_in_one_piece(self) -> None:
        begun = Begun()
        first, second, *others = begun.others
        begun.answer(first, WAITED)
        first.send(SIZE)
        begun.answer(second, AS_SOON + WAITED + 0.01)
        self.assertIsNone(begun.pace.serves_several)
        second.send(SIZE)
        begun.answer(others[0], 0.0)
        self.assertIs(begun.pace.serves_several, False)
        others[0].send(SIZE)
        for asked in others[1:]:
            begun.answer(asked, 0.01)
            asked.send(SIZE)
        while len(begun.scene.source.open) > 1:
            begun.scene.source.open[0].answer()
            begun.scene.source.open[0].send(SIZE)
        self.assertEqual(begun.scene.source.asked[-1].span.end, SIZE)
        begun.scene.answer_all()
        self.assertEqual(begun.scene.stored(), begun.scene.content)
        self.assertEqual(sum(map(len, begun.scene.source.sent)), SIZE)

    def test_host_that_refuses_two_or_never_answers_serves_one(self) -> None:
        begun = Begun()
        for asked in begun.others[:2]:
            self.assertIsNone(begun.pace.serves_several)
            asked.refuse(SourceFailed("503"))
        self.assertIs(begun.pace.serves_several, False)
        begun = Begun()
        begun.answer(begun.others[0], WAITED)
        begun.scene.clock.pump([0.5] * 3)
        self.assertIs(begun.pace.serves_several, False)

    def test_after_a_minute_it_is_tried_again(self) -> None:
        """Else a line that was busy once would leave one connection at work for ever."""
        pace = HostPace(serves_several=False, judged_at=5.0)
        coverage = Scene(content_of(SIZE)).fill.coverage
        for now, known in ((5.0 + LASTS, False), (5.1 + LASTS, None)):
            Trial().cap([], coverage, pace, 8, now)
            self.assertIs(pace.serves_several, known)

    def test_what_it_shows_serves_the_next_blob(self) -> None:
        scene = Scene(content_of(SIZE))
        scene.source.pace_now.serves_several = False
        scene.fill.start()
        self.assertEqual([asked.span for asked in scene.source.asked], [Span(0, SIZE)])

    def test_slow_host_and_large_blob_are_not_tried(self) -> None:
        """The host is asked for few long ranges, the blob in parts, as by a stock client."""
        for begun in (Begun(SECONDS + 0.1), Begun(size=STOCK_PART + 1)):
            for asked in begun.others:
                begun.answer(asked, 0.3)
            self.assertIsNone(begun.pace.serves_several)
