"""Code that blocks the reactor too long is logged."""

from __future__ import annotations

import time
from typing import Any

from attrs import define, field
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from yukari.daemon.stall_watch import TurnWatch


@define(eq=False)
class Poller:
    """An epoll object without events."""

    asked: list[tuple[Any, ...]] = field(factory=list)

    def poll(self, *arguments: Any) -> list[tuple[int, int]]:
        self.asked.append(arguments)
        return [(7, 1)]

    def modify(self, number: int, mask: int) -> tuple[int, int]:
        return number, mask


@define(eq=False)
class Reactor:
    _poller: Any


def dawdle(until: Any) -> None:
    """Block the reactor until the watch has seen where."""
    while not until():
        time.sleep(0.001)


class TurnWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.poller = Poller()
        self.reactor = Reactor(self.poller)
        self.told: list[LogEvent] = []
        globalLogPublisher.addObserver(self.told.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.told.append)

    def watching(self, most: float) -> TurnWatch:
        watch = TurnWatch(self.reactor, most)
        watch.start()
        self.addCleanup(watch.stop)
        return watch

    def test_a_long_turn_is_logged_with_its_place(self) -> None:
        watch = self.watching(0.01)
        self.reactor._poller.poll(1.5, 10)
        dawdle(lambda: watch._where)
        self.assertEqual(self.told, [])
        self.reactor._poller.poll(0, 10)
        (event,) = self.told
        self.assertIn("dawdle", event["where"])
        self.assertGreater(event["held_ms"], 10)
        self.assertLess(event["cpu_ms"], event["held_ms"])

    def test_waiting_and_short_turns_are_not_logged(self) -> None:
        self.watching(3600.0)
        for _ in range(3):
            self.assertEqual(self.reactor._poller.poll(1.5, 10), [(7, 1)])
        self.assertEqual(self.told, [])
        self.assertEqual(self.poller.asked, [(1.5, 10)] * 3)

    def test_other_calls_of_the_poller_pass_through(self) -> None:
        self.watching(3600.0)
        self.assertEqual(self.reactor._poller.modify(3, 4), (3, 4))

    def test_a_stopped_watch_leaves_the_reactor_as_it_was(self) -> None:
        self.watching(3600.0).stop()
        self.assertIs(self.reactor._poller, self.poller)

    def test_another_reactor_is_left_alone(self) -> None:
        watch = TurnWatch(object(), 0.01)
        watch.start()
        (event,) = self.told
        self.assertIn("cannot be watched", event["log_format"])
        watch.stop()
