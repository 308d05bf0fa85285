"""Turns for requests: never more than there are, readers first, and as many as a host bears."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.net.budget import (
    AT_FIRST,
    FIRST_OF_BLOBS,
    PROBE_FIRST,
    READERS_ENOUGH,
    ConnectionBudget,
    HostLimit,
    Priority,
    Turn,
)
from yukari.net.useful import LEAST, Useful


def taken(budget: ConnectionBudget, limit: HostLimit, priority: Priority = Priority.READER) -> Turn:
    turn = budget.take(limit, priority)
    assert turn is not None
    return turn


class BudgetTests(SynchronousTestCase):
    def test_no_more_turns_are_given_than_there_are(self) -> None:
        budget, limit = ConnectionBudget(2), HostLimit()
        first = taken(budget, limit)
        taken(budget, limit)
        self.assertIsNone(budget.take(limit, Priority.READER))
        first.release()
        first.release()
        taken(budget, limit)
        self.assertIsNone(budget.take(limit, Priority.READER))

    def test_a_turn_that_comes_back_goes_to_a_reader_before_older_upkeep(self) -> None:
        budget, limit, order = ConnectionBudget(1), HostLimit(), list[str]()
        turn = taken(budget, limit)
        turns = {}
        for priority in (Priority.UPKEEP, Priority.AHEAD, Priority.READER):
            turns[priority] = budget.wait(limit, priority)
            turns[priority].addCallback(lambda turn, name: order.append(name), priority.name)
        turn.release()
        self.assertEqual(order, ["READER"])

    def test_who_waits_no_more_gets_no_turn(self) -> None:
        budget, limit = ConnectionBudget(1), HostLimit()
        turn = taken(budget, limit)
        waiting = budget.wait(limit, Priority.READER)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        turn.release()
        self.assertEqual(budget.used, 0)

    def test_a_share_is_kept_for_readers(self) -> None:
        budget, limit = ConnectionBudget(16), HostLimit()
        limit._bears = 16.0
        while budget.take(limit, Priority.UPKEEP) is not None:
            pass
        self.assertEqual(budget.used, 12)
        while budget.take(limit, Priority.AHEAD) is not None:
            pass
        self.assertEqual(budget.used, 14)
        taken(budget, limit)

    def test_nobody_overtakes_those_that_wait_for_the_same(self) -> None:
        budget, limit = ConnectionBudget(8), HostLimit()
        turns = [taken(budget, limit) for _ in range(8)]
        waiting = budget.wait(limit, Priority.AHEAD)
        turns.pop().release()  # An eighth is kept for readers: it still waits.
        self.assertFalse(waiting.called)
        self.assertIsNone(budget.take(limit, Priority.UPKEEP))
        turns.pop().release()
        self.assertTrue(waiting.called)

    def test_a_turn_that_nobody_waits_for_is_offered_to_the_watchers(self) -> None:
        budget, limit, freed = ConnectionBudget(1), HostLimit(), list[int]()
        budget.watch(lambda: freed.append(budget.used))
        taken(budget, limit).release()
        self.assertEqual(freed, [0])

    def test_a_redirected_request_counts_for_the_host_it_went_to(self) -> None:
        budget, registry, store = ConnectionBudget(8), HostLimit(), HostLimit()
        turn = taken(budget, registry)
        turn.moved(store)
        turn.answered(1.0, began=0.0)
        self.assertEqual((registry.active, store.active, store.served), (0, 1, 1))
        turn.release()
        self.assertEqual((store.active, store.served, budget.used), (0, 0, 0))


def storm(bears: int, requests: int, seconds: int) -> tuple[int, int]:
    """
    Return how many requests a host served and refused in so many seconds.

    ``requests`` are always wanted; the host serves ``bears`` at once and refuses the others. Each
    takes two seconds; a refused one is repeated a quarter of a second later.
    """
    budget, limit = ConnectionBudget(requests), HostLimit()
    ends: dict[Turn, float] = {}
    served = refused = 0
    rests_until = 0.0
    for tick in range(4 * seconds):
        now = tick / 4
        for turn in [turn for turn, end in ends.items() if end <= now]:
            del ends[turn]
            turn.release()
        while now >= rests_until:
            taken = budget.take(limit, Priority.AHEAD)
            if taken is None:
                break
            if len(ends) < bears:
                taken.answered(now + 0.01, began=now)
                ends[taken] = now + 2.0
                served += 1
            else:
                taken.refused(now + 0.02, began=now)
                taken.release()
                refused += 1
                rests_until = now + 0.25
    return served, refused


class HostLimitTests(SynchronousTestCase):
    def test_an_unknown_host_gets_as_many_as_it_answers(self) -> None:
        budget, limit = ConnectionBudget(64), HostLimit()
        turns = []
        while (turn := budget.take(limit, Priority.UPKEEP)) is not None:
            turns.append(turn)
        self.assertEqual(len(turns), AT_FIRST)
        while turns:
            turns.pop(0).answered(1.0, began=0.0)
            while (turn := budget.take(limit, Priority.UPKEEP)) is not None:
                turns.append(turn)
        self.assertEqual(budget.used, 48)

    def test_waiting_readers_are_not_held_up_by_what_is_not_known(self) -> None:
        budget, limit = ConnectionBudget(64), HostLimit()
        for _ in range(64):
            taken(budget, limit)

    def test_few_more_than_are_of_use_are_sent_for_blobs_that_none_brings(self) -> None:
        budget, limit, elsewhere = ConnectionBudget(64), HostLimit(Useful(LEAST)), HostLimit()
        turns = [taken(budget, limit) for _ in range(READERS_ENOUGH)]
        self.assertIsNone(budget.take(limit, Priority.READER))
        for _ in range(2):
            while (turn := budget.take(limit, Priority.READER, is_first=True)) is not None:
                turns.append(turn)
            self.assertEqual(limit.active, READERS_ENOUGH + FIRST_OF_BLOBS)
            self.assertIsNone(budget.take(limit, Priority.AHEAD, is_first=True))
            turns.pop().moved(elsewhere)
            turns.pop().release()
        while turns:
            turns.pop().release()
        self.assertEqual((limit.active, limit.extra, elsewhere.extra), (0, 0, 2))

    def test_a_host_that_serves_one_or_two_is_kept_busy_and_seldom_refuses(self) -> None:
        for bears in (1, 2, 3):
            served, refused = storm(bears, 32, 120)
            self.assertGreaterEqual(served, bears * 120 / 2 * 0.8, bears)
            self.assertLess(refused, 30, bears)

    def test_an_explicit_wish_counts_at_once(self) -> None:
        budget, limit = ConnectionBudget(64), HostLimit()
        turns = [taken(budget, limit) for _ in range(32)]
        turns[0].refused(1.0, began=0.5, definite=True)
        self.assertLessEqual(limit.bears, 16)

    def test_a_host_that_starves_some_gets_as_many_as_it_serves(self) -> None:
        for active, starved, bears in ((8, 5, 3), (5, 5, 2), (3, 5, 2)):
            budget, limit = ConnectionBudget(64), HostLimit()
            turns = [taken(budget, limit) for _ in range(active)]
            turns[0].starves(1.0, starved)
            self.assertEqual(limit.bears, bears, (active, starved))

    def test_a_host_that_is_down_is_not_taken_to_be_crowded(self) -> None:
        budget, limit = ConnectionBudget(64), HostLimit()
        for now in range(100):
            turn = taken(budget, limit)
            turn.refused(now + 0.5, began=now)
            turn.release()
        self.assertEqual(limit.bears, AT_FIRST)

    def test_header_without_a_body_is_a_refusal(self) -> None:
        """It counted as an answer: a host that sends those to a crowd seemed to bear ever more."""
        budget, limit = ConnectionBudget(64), HostLimit()
        for now in range(20):
            turns = [taken(budget, limit)]
            while len(turns) < 8 and (turn := budget.take(limit, Priority.READER)) is not None:
                turns.append(turn)
            for turn in turns:
                turn.begins(now + 0.1, began=now)
            turns[0].answered(now + 0.1, began=now)
            for turn in turns[1:]:
                turn.refused(now + 0.2, began=now)
            self.assertEqual((limit.served, limit.active), (1, len(turns)))
            for turn in turns:
                turn.release()
        self.assertEqual(limit.bears, 1)
        self.assertEqual((limit.served, limit.active), (0, 0))

    def test_rare_failures_change_nothing(self) -> None:
        budget, limit = ConnectionBudget(64), HostLimit()
        for now in range(1000):
            turns = [taken(budget, limit) for _ in range(20)]
            for turn in turns[1:]:
                turn.answered(now + 0.1, began=now)
            turns[0].refused(now + 0.2, began=now)
            for turn in turns:
                turn.release()
        self.assertGreaterEqual(limit.bears, AT_FIRST)

    def test_one_more_is_tried_again_after_a_while(self) -> None:
        limit = HostLimit()
        limit.active = 8
        limit.refused(1.0, began=0.0, definite=True)
        before = limit.bears
        for at in range(100):
            limit.active = limit.served = limit.bears
            limit.grow(2.0 + PROBE_FIRST + at, began=1.0)
            limit.served = 0
        self.assertGreater(limit.bears, before)

    def test_upkeep_has_more_only_where_no_round_trip_shows_a_queue(self) -> None:
        """Its replies came before their queue was seen, and a dozen connections filled it."""
        budget = ConnectionBudget(64)
        for priority, added in ((Priority.READER, 1), (Priority.AHEAD, 1), (Priority.UPKEEP, 0)):
            limit = HostLimit(Useful(LEAST))
            turn = budget.take(limit, priority)
            assert turn is not None
            turn.begins(0.1, began=0.0)
            self.assertEqual(limit.useful.allowed, LEAST + added, priority)
            turn.release()

    @given(
        st.lists(
            st.tuples(st.sampled_from("agrs"), st.integers(0, 64), st.booleans(), st.floats(0, 99))
        )
    )
    def test_it_is_always_given_at_least_one(
        self, history: list[tuple[str, int, bool, float]]
    ) -> None:
        limit, now = HostLimit(), 0.0
        for what, active, definite, passed in history:
            now += passed
            limit.active = active
            if what == "a":
                limit.answered(now, began=now - passed)
            elif what == "g":
                limit.shrink(limit.grow(now, began=now - passed))
            elif what == "r":
                limit.refused(now, began=now - passed / 2, definite=definite)
            else:
                limit.served = 0
            self.assertGreaterEqual(limit.bears, 1)


class BudgetMachine(RuleBasedStateMachine):
    """The counts are right, whatever is taken, waited for, given up and returned."""

    @initialize(most=st.integers(1, 9))
    def begin(self, most: int) -> None:
        self.budget = ConnectionBudget(most)
        self.hosts = [HostLimit(), HostLimit()]
        self.turns: list[Turn] = []
        self.waiting: list[Deferred[None]] = []
        self.now = 0.0

    @rule(host=st.integers(0, 1), priority=st.sampled_from(Priority))
    def take(self, host: int, priority: Priority) -> None:
        turn = self.budget.take(self.hosts[host], priority)
        if turn is not None:
            self.turns.append(turn)

    @rule(host=st.integers(0, 1), priority=st.sampled_from(Priority))
    def wait(self, host: int, priority: Priority) -> None:
        waiting = self.budget.wait(self.hosts[host], priority).addCallback(self.turns.append)
        self.waiting.append(waiting.addErrback(lambda _: None))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiting = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiting)
        waiting.cancel()

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), how=st.sampled_from(["ends", "answered", "moved", "refused"]))
    def use(self, data: st.DataObject, how: str) -> None:
        turn = data.draw(st.sampled_from(self.turns))
        self.now += 1.0
        if how == "answered":
            turn.answered(self.now, began=self.now - 1.0)
        elif how == "moved":
            turn.moved(data.draw(st.sampled_from(self.hosts)))
        else:
            if how == "refused":
                turn.refused(self.now, began=self.now - 1.0, definite=True)
            self.turns.remove(turn)
            turn.release()

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "budget"):
            return
        assert self.budget.used == len(self.turns) <= self.budget.most
        for host in self.hosts:
            turns = [turn for turn in self.turns if turn._limit is host]
            assert host.active == len(turns)
            assert 0 <= host.served <= host.active

    def teardown(self) -> None:
        if hasattr(self, "budget"):
            while self.turns:
                self.turns.pop().release()
            assert all(waiting.called for waiting in self.waiting), "somebody waits for ever"


class AnyOrder(SynchronousTestCase):
    def test_any_order_of_taking_and_giving_back(self) -> None:
        run_state_machine_as_test(BudgetMachine)
