"""How many questions upstream is asked at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.names import DEFAULT, Repository
from yukari.sources.questions import Questions

NAMES = [Repository(DEFAULT, "library", f"m{number}") for number in range(3)]


class QuestionsTests(SynchronousTestCase):
    def begun(self, turns: list[Deferred[None]]) -> list[bool]:
        return [bool(turn.called) for turn in turns]

    def test_so_many_at_once_and_the_others_in_their_order(self) -> None:
        questions = Questions(2, 2)
        turns = [questions.begin(name) for name in NAMES * 2]
        self.assertEqual(self.begun(turns), [True] * 2 + [False] * 4)
        questions.end(NAMES[0])
        self.assertEqual(self.begun(turns), [True] * 3 + [False] * 3)

    def test_a_repository_that_hangs_leaves_turns_for_others(self) -> None:
        questions = Questions(4, 2)
        hanging = [questions.begin(NAMES[0]) for _ in range(100)]
        self.assertEqual(sum(self.begun(hanging)), 2)
        self.successResultOf(questions.begin(NAMES[1]))

    def test_who_gives_up_waiting_takes_no_turn(self) -> None:
        questions = Questions(1, 1)
        questions.begin(NAMES[0])
        given_up, next_one = questions.begin(NAMES[1]), questions.begin(NAMES[2])
        given_up.cancel()
        self.failureResultOf(given_up)
        questions.end(NAMES[0])
        self.successResultOf(next_one)

    @given(st.lists(st.tuples(st.sampled_from(("begin", "end", "cancel")), st.integers(0, 2))))
    def test_the_bounds_hold_and_no_turn_is_lost(self, steps: list[tuple[str, int]]) -> None:
        questions = Questions(3, 2)
        asked: list[tuple[Repository, Deferred[None]]] = []
        for step, number in steps:
            running = [each for each in asked if each[1].called]
            waiting = [each for each in asked if not each[1].called]
            if step == "begin":
                asked.append((NAMES[number], questions.begin(NAMES[number])))
            elif step == "end" and running:
                asked.remove(running[0])
                questions.end(running[0][0])
            elif step == "cancel" and waiting:
                asked.remove(waiting[0])
                waiting[0][1].addErrback(lambda _: None)
                waiting[0][1].cancel()
            names = [name for name, turn in asked if turn.called]
            self.assertLessEqual(len(names), 3)
            self.assertTrue(all(names.count(name) <= 2 for name in NAMES))
            for name, turn in asked:
                if not turn.called:
                    self.assertTrue(len(names) == 3 or names.count(name) == 2)
