"""Deadlines of many things, with one timer."""

from __future__ import annotations

from weakref import ref

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.web.deadlines import Deadlines


class Thing:
    """Something that has a deadline."""


class DeadlinesTests(SynchronousTestCase):
    """`Deadlines` of ten seconds."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.late: list[str] = []
        self.deadlines: Deadlines[str] = Deadlines(self.clock, 10.0, self.late.append)

    def test_each_is_late_at_its_own_time(self) -> None:
        """The second one's time was taken from the first one's timer."""
        self.deadlines.begin("a")
        self.clock.advance(4)
        self.deadlines.begin("b")
        self.clock.advance(6)
        self.assertEqual(self.late, ["a"])
        self.clock.advance(3.9)
        self.assertEqual(self.late, ["a"])
        self.clock.advance(0.1)
        self.assertEqual(self.late, ["a", "b"])

    def test_what_has_ended_is_not_late(self) -> None:
        self.deadlines.begin("a")
        self.deadlines.end("a")
        self.clock.advance(20)
        self.assertEqual(self.late, [])

    def test_what_is_begun_anew_has_its_whole_time(self) -> None:
        """A connection in use was closed as a silent one."""
        self.deadlines.begin("a")
        self.clock.advance(9)
        self.deadlines.begin("a")
        self.clock.advance(9)
        self.assertEqual(self.late, [])
        self.clock.advance(1)
        self.assertEqual(self.late, ["a"])

    def test_one_that_cannot_be_ended_saves_no_others(self) -> None:
        """They stayed open until something else began."""

        def late(thing: str) -> None:
            if thing == "a":
                raise LookupError("a bug")
            self.late.append(thing)

        deadlines = Deadlines(self.clock, 10.0, late)
        deadlines.begin("a")
        deadlines.begin("b")
        self.clock.advance(10)
        self.assertEqual(self.late, ["b"])
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    def test_what_is_late_may_begin_anew_and_end_others(self) -> None:
        """Closing one connection may end another: that one's time ran all the same."""

        def late(thing: str) -> None:
            self.late.append(thing)
            deadlines.end("b")
            deadlines.begin("a")

        deadlines: Deadlines[str] = Deadlines(self.clock, 10.0, late)
        deadlines.begin("a")
        deadlines.begin("b")
        self.clock.advance(10)
        self.assertEqual((self.late, len(deadlines)), (["a"], 1))
        self.clock.advance(10)
        self.assertEqual(self.late, ["a", "a"])

    def test_thousands_have_one_timer_and_none_has_none(self) -> None:
        """Each had a timer of 400 bytes, and a stopped daemon had timers left."""
        for each in range(5000):
            self.deadlines.begin(str(each))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for each in range(5000):
            self.deadlines.end(str(each))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_has_ended_is_not_kept(self) -> None:
        """All of a connection stayed in memory until the collector had looked at everything."""
        deadlines: Deadlines[Thing] = Deadlines(self.clock, 10.0, lambda _: None)
        thing = Thing()
        left = ref(thing)
        deadlines.begin(thing)
        deadlines.end(thing)
        del thing
        self.assertIsNone(left())

    @given(st.lists(st.tuples(st.floats(0, 7), st.sampled_from("abcd"), st.booleans())))
    def test_they_are_as_timers_of_their_own(self, steps: list[tuple[float, str, bool]]) -> None:
        """Whatever is begun and ended when, the same is late as with a timer for each."""
        clock = Clock()
        due: dict[str, float] = {}
        late: list[str] = []
        deadlines: Deadlines[str] = Deadlines(clock, 10.0, late.append)
        for wait, thing, begins in steps:
            clock.advance(wait)
            expected = [each for each, at in due.items() if at <= clock.seconds()]
            self.assertEqual(sorted(late), sorted(expected))
            for each in expected:
                del due[each]
            late.clear()
            due.pop(thing, None)
            if begins:
                due[thing] = clock.seconds() + 10.0
                deadlines.begin(thing)
            else:
                deadlines.end(thing)
        clock.advance(11)
        self.assertEqual((sorted(late), clock.getDelayedCalls()), (sorted(due), []))
