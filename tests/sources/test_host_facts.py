"""The bound that is named for a host is the one that holds its rate."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.net.flight import Flight
from yukari.net.tcp import Reading
from yukari.net.throttle import Line
from yukari.net.useful import Useful
from yukari.sources.host_facts import EACH_CONNECTION, THE_HOSTS_LIMIT, THE_LINE, THE_RATE
from yukari.sources.pace import HostPace


@define(eq=False)
class Told:
    """A connection as the system tells of it."""

    received: int = 0
    round_trip: float = 0.02
    is_open: bool = True

    def read(self) -> Optional[Reading]:
        return Reading(self.received, self.round_trip, None, 0.02, 1448)

    def bound(self, window: int) -> None:
        pass


class FactsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pace, self.connection, self.now = HostPace(), Told(), 10.0
        self.pace.line.connected(self.connection)

    def receive(self, times: int = 10, *, held: bool = False) -> None:
        """So many times 100 kB in a tenth of a second."""
        for _ in range(times):
            self.now += 0.1
            self.connection.received += 100_000
            self.pace.received(self.now, 100_000, is_read=True, held=held)

    def bound_by(self) -> Optional[str]:
        return self.pace.facts("host:1", self.now, None).bound_by

    def test_a_host_that_sends_nothing_has_no_rate_and_no_limit(self) -> None:
        self.receive()
        found = self.pace.facts("host:1", self.now + 60.0, None)
        self.assertEqual((found.rate, found.round_trip, found.bound_by), (0.0, None, None))
        self.assertEqual((found.host, found.base_round_trip), ("host:1", 0.02))

    def test_the_rate_is_what_comes_of_late(self) -> None:
        self.receive(50)
        found = self.pace.facts("host:1", self.now, None)
        self.assertAlmostEqual(found.rate / 1e6, 1.0, 1)
        self.assertEqual((found.round_trip, found.bound_by), (0.02, None))

    def test_the_rate_is_named_while_a_bound_of_ours_holds_it(self) -> None:
        """It was 0 then, for nobody looks at the line meanwhile."""
        self.receive(50, held=True)
        self.assertAlmostEqual(self.pace.facts("host:1", self.now, None).rate / 1e6, 1.0, 1)

    def test_what_came_while_we_were_slow_says_nothing_of_more_connections(self) -> None:
        """The bytes of all that time were taken for those of its last second."""
        rates = []

        class Noted(Useful):
            def look(self, now: float, connections: int, received: int, **more: Any) -> None:
                rates.append(received / (now - self._looked_at))
                super().look(now, connections, received, **more)

        self.pace.limit.useful = useful = Noted()
        useful.is_new = False
        self.receive(5)
        self.receive(50, held=True)
        self.receive(20)
        self.assertLess(max(rates), 1.2e6)

    def test_what_came_while_little_was_let_on_its_way_says_nothing_of_connections(self) -> None:
        looks = []
        self.patch(Useful, "look", lambda *_, **__: looks.append(1))
        self.pace.limit.useful.is_new = False
        self.receive()
        self.assertGreater(len(looks), 0)
        looks.clear()
        self.patch(Flight, "is_steady", False)
        self.receive()
        self.assertEqual(looks, [])

    def test_bytes_that_queue_say_that_it_is_the_line(self) -> None:
        self.receive()
        self.connection.round_trip = 0.3
        self.receive()
        self.assertEqual(self.bound_by(), THE_LINE)
        self.assertEqual(self.pace.facts("", self.now, None).round_trip, 0.3)

    def test_what_a_trial_showed_is_named(self) -> None:
        self.receive()
        for more, what in ((True, EACH_CONNECTION), (False, THE_LINE)):
            self.pace.limit.useful.more_bring_more = more
            self.assertEqual(self.bound_by(), what)

    def test_a_host_that_refuses_more_is_the_limit(self) -> None:
        self.receive()
        self.pace.limit.active = 8
        self.pace.limit.refused(self.now, began=self.now - 1, definite=True)
        self.assertEqual(self.bound_by(), THE_HOSTS_LIMIT)

    def test_who_waits_for_a_turn_is_bounded_by_the_rate(self) -> None:
        line = Line(1000.0, Clock())
        line.join(lambda: None, lambda: None).took(10_000)
        self.assertEqual(self.pace.facts("", self.now, line).bound_by, THE_RATE)
        self.assertTrue(line.is_waited_for)
