"""How many questions upstream is asked at once."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.turning import Turning
from yukari.names import DEFAULT, Repository
from yukari.sources.questions import (
    BEGUN_IN_A_TURN,
    LEAST_PATIENCE,
    MAX_QUESTIONS,
    PATIENCE,
    Questions,
    Turn,
)

NAMES = [Repository(DEFAULT, "library", f"m{number}") for number in range(3)]
OTHER = Repository(DEFAULT, "library", "other")


class QuestionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.answers: list[Repository] = []
        self.most = 0

    def questions(self, most: int, of_one: int) -> Questions:
        return Questions(self.clock, most, of_one)

    def answered(self, questions: Questions, seconds: float) -> None:
        """An answer took so long."""
        turn = self.successResultOf(questions.begin(NAMES[0]))
        self.clock.advance(seconds)
        questions.end(turn, answered=True)

    def lose(self, questions: Questions, turn: Turn, lost: list[Turn]) -> None:
        lost.append(turn)
        questions.end(turn, answered=False)

    def begun(self, turns: list[Deferred[Turn]]) -> list[bool]:
        return [bool(turn.called) for turn in turns]

    def test_so_many_at_once_and_the_others_in_their_order(self) -> None:
        questions = self.questions(2, 2)
        turns = [questions.begin(name) for name in NAMES * 2]
        self.assertEqual(self.begun(turns), [True] * 2 + [False] * 4)
        questions.end(self.successResultOf(turns[0]), answered=True)
        self.assertEqual(self.begun(turns), [True] * 3 + [False] * 3)

    def test_many_begin_a_few_in_each_turn_of_the_reactor(self) -> None:
        """Sixty-four at once held up everybody else for 60 ms."""
        clock = Turning()
        questions = Questions(clock)
        turns = [
            questions.begin(Repository(DEFAULT, "library", f"m{at}"))
            for at in range(MAX_QUESTIONS + 1)
        ]
        for round in range(1, MAX_QUESTIONS // BEGUN_IN_A_TURN + 1):
            self.assertEqual(sum(self.begun(turns)), round * BEGUN_IN_A_TURN)
            clock.advance(1)
        self.assertEqual(sum(self.begun(turns)), MAX_QUESTIONS)
        questions.end(self.successResultOf(turns[0]), answered=True)
        clock.advance(1)
        self.successResultOf(turns[-1])

    def test_crowd_whose_questions_fail_at_once_keeps_no_turn(self) -> None:
        """
        Each began the next from within, until Python's stack was full: upstream that could not be
        reached while many waited kept turns for good, and some clients got no answer.
        """
        questions = self.questions(3, 3)
        first = [self.successResultOf(questions.begin(name)) for name in NAMES]
        waiting = [
            questions.begin(Repository(DEFAULT, "library", f"w{at}")).addCallback(
                lambda turn: questions.end(turn, answered=False)
            )
            for at in range(500)
        ]
        for turn in first:
            questions.end(turn, answered=False)
        while self.clock.getDelayedCalls():
            self.clock.advance(0)
        for each in waiting:
            self.successResultOf(each)
        turns = [questions.begin(name) for name in NAMES]
        self.assertEqual(self.begun(turns), [True] * 3)

    def test_a_repository_that_hangs_leaves_turns_for_others(self) -> None:
        questions = self.questions(4, 2)
        hanging = [questions.begin(NAMES[0]) for _ in range(100)]
        self.assertEqual(sum(self.begun(hanging)), 2)
        self.successResultOf(questions.begin(NAMES[1]))

    def test_who_gives_up_waiting_takes_no_turn(self) -> None:
        questions = self.questions(1, 1)
        first = self.successResultOf(questions.begin(NAMES[0]))
        given_up, next_one = questions.begin(NAMES[1]), questions.begin(NAMES[2])
        given_up.cancel()
        self.failureResultOf(given_up)
        questions.end(first, answered=True)
        self.successResultOf(next_one)

    def test_questions_that_hang_lose_their_turns_to_those_that_wait(self) -> None:
        """Sixty-four models that hung kept every other model waiting for half a minute."""
        lost: list[Turn] = []
        questions = self.questions(4, 2)
        self.answered(questions, 0.1)
        turns = [self.successResultOf(questions.begin(NAMES[at])) for at in (0, 1, 1, 2)]
        for turn in turns:
            turn.interrupt = partial(self.lose, questions, turn, lost)
        self.clock.advance(60.0)
        self.assertEqual(lost, [])  # Nobody waits.
        waiting = questions.begin(OTHER)
        self.clock.advance(0.1)
        self.successResultOf(waiting)
        self.assertEqual(lost, turns[2:3])  # Its repository has two.
        self.clock.advance(60.0)
        self.assertEqual(len(lost), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_questions_have_their_time_while_all_answers_are_slow(self) -> None:
        """An upstream that takes eight seconds for each answer would never give one."""
        for slowest, patience in ((8.0, PATIENCE * 8.0), (0.01, LEAST_PATIENCE)):
            questions = self.questions(1, 1)
            self.answered(questions, slowest)
            turn = self.successResultOf(questions.begin(NAMES[0]))
            turn.interrupt = lambda: questions.end(turn, answered=False)  # noqa: B023
            waiting = questions.begin(NAMES[1])
            self.clock.advance(patience - 0.1)
            self.assertNoResult(waiting)
            self.clock.advance(0.1)
            self.successResultOf(waiting)

    def test_a_repository_that_has_no_turn_is_next(self) -> None:
        questions = self.questions(4, 4)
        turns = [self.successResultOf(questions.begin(NAMES[0])) for _ in range(4)]
        waiting = [questions.begin(name) for name in (NAMES[0], NAMES[0], OTHER)]
        questions.end(turns[0], answered=True)
        self.assertEqual(self.begun(waiting), [False, False, True])

    def ask(self, questions: Questions, name: Repository, seconds: float) -> None:
        """Ask for what takes so long to answer, again whenever the question is interrupted."""

        def begun(turn: Turn) -> None:
            def interrupt() -> None:
                answer.cancel()
                questions.end(turn, answered=False)
                questions.begin(name, again=True).addCallback(begun)

            def answered() -> None:
                questions.end(turn, answered=True)
                self.answers.append(name)

            answer = self.clock.callLater(seconds, answered)
            turn.interrupt = interrupt
            self.most = max(self.most, len(questions._turns))

        questions.begin(name).addCallback(begun)

    def test_a_registry_that_is_slow_for_every_model_answers_all_of_them(self) -> None:
        """Of two hundred models that took ten seconds each, all but the last few failed."""
        for seconds, within in ((10.0, 50.0), (25.0, 115.0)):
            self.setUp()
            questions = Questions(self.clock)
            for at in range(200):
                self.ask(questions, Repository(DEFAULT, "library", f"m{at}"), seconds)
            self.clock.pump([0.5] * int(2 * within))
            self.assertEqual(len(self.answers), 200)
            self.assertEqual(self.most, MAX_QUESTIONS)

    def test_models_that_hang_do_not_hold_up_another_client(self) -> None:
        """Hundreds of one client's that hung were all asked before another's first."""
        questions = Questions(self.clock)
        for at in range(600):
            self.ask(questions, Repository(DEFAULT, "library", f"m{at}"), 1000.0)
        turn = questions.begin(OTHER, "another client")
        self.clock.pump([0.5] * int(2 * LEAST_PATIENCE))
        self.successResultOf(turn)
        self.assertEqual(self.answers, [])

    def test_what_was_interrupted_is_asked_after_what_was_not_asked_yet(self) -> None:
        questions = self.questions(1, 1)
        turn = self.successResultOf(questions.begin(NAMES[0]))
        again = questions.begin(NAMES[1], again=True)
        first = questions.begin(NAMES[2])
        questions.end(turn, answered=True)
        questions.end(self.successResultOf(first), answered=True)
        self.successResultOf(again)

    @given(st.lists(st.tuples(st.sampled_from(("begin", "end", "cancel")), st.integers(0, 2))))
    def test_the_bounds_hold_and_no_turn_is_lost(self, steps: list[tuple[str, int]]) -> None:
        questions = Questions(Clock(), 3, 2)
        asked: list[tuple[Repository, Deferred[Turn]]] = []
        for step, number in steps:
            running = [each for each in asked if each[1].called]
            waiting = [each for each in asked if not each[1].called]
            if step == "begin":
                asked.append((NAMES[number], questions.begin(NAMES[number])))
            elif step == "end" and running:
                asked.remove(running[0])
                questions.end(self.successResultOf(running[0][1]), answered=True)
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
