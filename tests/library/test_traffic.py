"""Traffic by the hour and the day, and what it is for."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.library.catalog.catalog import Catalog
from yukari.library.catalog.file import CatalogFile
from yukari.library.traffic import (
    DAYS,
    EVERY,
    HOUR,
    HOURS,
    MAX_CLIENTS,
    SHOWN_CLIENTS,
    ClientToday,
    Moved,
    Traffic,
)
from yukari.threads import run_sync

NOON = 20_000 * 24 * HOUR + 12 * HOUR
"""Noon of some day, in seconds of the epoch."""


class TrafficTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOON)
        self.moved = Moved()
        self.catalog = Catalog(":memory:", execute, self.clock, self.clock.seconds)
        self.traffic = self.made()

    def made(self) -> Traffic:
        """A traffic of a process that has just begun."""
        return Traffic(self.catalog, lambda: self.moved, self.clock, self.clock.seconds)

    def report(self) -> Any:
        return run_sync(Deferred.fromCoroutine(self.traffic.report()))

    def test_what_moved_is_in_its_hour_and_in_its_day(self) -> None:
        self.traffic.start()
        self.moved = Moved(100, 10)
        self.clock.advance(EVERY)
        self.clock.pump([EVERY] * int(HOUR / EVERY))
        self.moved = Moved(150, 40)
        report = self.report()
        self.assertEqual(
            [(each.sent, each.received) for each in report.hours[-2:]], [(100, 10), (50, 30)]
        )
        self.assertEqual((report.days[-1].sent, report.days[-1].received), (150, 40))
        self.assertEqual((len(report.hours), len(report.days)), (HOURS, DAYS))
        self.assertEqual(report.hours[-1].at, NOON + HOUR)
        self.assertEqual(report.days[-1].at, NOON - 12 * HOUR)

    def test_the_next_process_adds_to_what_the_last_one_counted(self) -> None:
        self.moved = Moved(100, 10)
        run_sync(Deferred.fromCoroutine(self.traffic.stop()))
        self.moved = Moved(1, 1)
        self.traffic = self.made()
        report = self.report()
        self.assertEqual((report.hours[-1].sent, report.hours[-1].received), (101, 11))

    def test_what_is_too_old_is_forgotten(self) -> None:
        self.moved = Moved(100, 10)
        self.report()
        self.clock.advance((DAYS + 2) * 24 * HOUR)
        self.moved = Moved(101, 10)
        report = self.report()
        self.assertEqual(sum(each.sent for each in report.days), 1)
        rows = run_sync(Deferred.fromCoroutine(self.catalog.run(CatalogFile.traffic, 0)))
        self.assertEqual(len(rows), 1)

    def test_nothing_is_written_while_nothing_moves(self) -> None:
        self.traffic.start()
        self.clock.pump([EVERY] * 20)
        self.assertIsNone(self.catalog._file)

    def test_the_busiest_clients_of_today_come_first_and_are_bounded(self) -> None:
        for at in range(MAX_CLIENTS + 10):
            self.traffic.sent_to(f"10.0.0.{at}", at)
        self.traffic.sent_to("10.0.0.20", 1_000_000)
        self.assertEqual(len(self.traffic._clients), MAX_CLIENTS)
        clients = self.report().clients
        self.assertEqual((clients[0].address, clients[0].sent), ("10.0.0.20", 1_000_020))
        self.assertEqual(len(clients), SHOWN_CLIENTS)
        for at in range(MAX_CLIENTS + 10):
            self.traffic.sent_to(f"10.0.1.{at}", 2_000_000)
        self.report()
        saved = self.catalog.run(CatalogFile.clients_of, self.traffic._day, 2 * MAX_CLIENTS)
        self.assertEqual(len(run_sync(Deferred.fromCoroutine(saved))), MAX_CLIENTS)
        self.clock.advance(12 * HOUR)
        self.assertEqual(self.report().clients, ())

    def test_the_next_process_knows_what_clients_got_today(self) -> None:
        self.traffic.sent_to("10.0.0.1", 5)
        run_sync(Deferred.fromCoroutine(self.traffic.stop()))
        self.traffic = self.made()
        self.traffic.sent_to("10.0.0.1", 6)
        self.assertEqual(self.report().clients, (ClientToday("10.0.0.1", 11),))
