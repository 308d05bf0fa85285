"""A fill's states: whatever happens, in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.fills.machine import TRANSITIONS, Effect, Event, ImpossibleEvent, State, follow


def walks() -> st.SearchStrategy[list[Event]]:
    return st.lists(st.sampled_from(Event), max_size=40)


def walked(events: list[Event]) -> list[tuple[State, Event, State, tuple[Effect, ...]]]:
    """The steps of a new fill to which these events happen, without those that cannot."""
    state, steps = State.QUEUED, []
    for event in events:
        try:
            after, effects = follow(state, event)
        except ImpossibleEvent:
            continue
        steps.append((state, event, after, effects))
        state = after
    return steps


class MachineTests(SynchronousTestCase):
    @given(walks())
    def test_a_fill_is_with_the_scheduler_only_while_it_may_need_connections(
        self, events: list[Event]
    ) -> None:
        submitted = False
        for _, _, state, effects in walked(events):
            for effect in effects:
                if effect is Effect.SUBMIT:
                    submitted = True
                elif effect in (Effect.WITHDRAW, Effect.PUBLISH):
                    submitted = False
            if submitted:
                self.assertIn(state, (State.QUEUED, State.FILLING))

    @given(walks())
    def test_the_keeper_learns_once_of_each_end(self, events: list[Event]) -> None:
        for before, _, state, effects in walked(events):
            ended = before not in (state,) and state in (State.DONE, State.SUSPENDED)
            self.assertEqual(Effect.END in effects, ended)

    @given(walks())
    def test_done_is_the_end(self, events: list[Event]) -> None:
        for before, event, state, effects in walked(events):
            if before is State.DONE:
                self.assertEqual((event, state, effects), (Event.WANTED, State.DONE, ()))

    @given(walks())
    def test_readers_of_a_spool_that_is_given_up_fail(self, events: list[Event]) -> None:
        for before, _, state, effects in walked(events):
            if before is State.FILLING and state in (State.QUEUED, State.SUSPENDED):
                self.assertIn(Effect.BREAK_READERS, effects)
                self.assertLess(effects.index(Effect.WITHDRAW), effects.index(Effect.BREAK_READERS))

    def test_every_state_can_be_reached_and_wanted(self) -> None:
        reached = {State.QUEUED} | {state for state, _ in TRANSITIONS.values()}
        self.assertEqual(reached, set(State))
        for state in State:
            follow(state, Event.WANTED)

    def test_what_cannot_happen_is_an_error_that_says_what(self) -> None:
        with self.assertRaisesRegex(ImpossibleEvent, "write failed while done"):
            follow(State.DONE, Event.WRITE_FAILED)
