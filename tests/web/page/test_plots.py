"""Bars, and amounts as people read them."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.library.catalog.rows import Totals
from yukari.library.models.details import licence_title
from yukari.library.status import StoreStatus
from yukari.library.traffic import Period
from yukari.library.upkeep.room import RoomUsage
from yukari.storage.inventory import FrontDisk
from yukari.web.page.plots import HEIGHT, WIDTH, disk_bar, front_bar, plot
from yukari.web.page.render import ago, duration, size

AMOUNTS = st.integers(0, 2**60)


class PlotTests(SynchronousTestCase):
    @given(st.lists(st.tuples(AMOUNTS, AMOUNTS), max_size=40))
    def test_every_bar_is_on_the_ground_and_the_highest_fills_it(
        self, moved: list[tuple[int, int]]
    ) -> None:
        drawn = plot([Period(at, *each) for at, each in enumerate(moved)])
        for bar in drawn.bars:
            self.assertGreaterEqual(bar.y, 0)
            self.assertLessEqual(bar.x + bar.width, WIDTH + 0.2)
            self.assertLess(abs(bar.y + bar.height - HEIGHT), 0.2)
        if drawn.bars:
            self.assertEqual(max(bar.height for bar in drawn.bars), HEIGHT)
        self.assertEqual(drawn.total.sent, sum(sent for sent, _ in moved))

    @given(st.lists(AMOUNTS, min_size=8, max_size=8))
    def test_the_parts_of_a_disk_are_as_wide_as_the_bar(self, amounts: list[int]) -> None:
        totals = Totals(1, 1, 1, *amounts[:4])
        room = RoomUsage(amounts[4], None, amounts[5])
        store = StoreStatus("", True, totals, room, FrontDisk("", amounts[6], None, amounts[7]))
        for bars in (disk_bar(evolve(store, front=None)), disk_bar(store), front_bar(store)):
            if any(bar.amount for bar in bars):
                self.assertLess(abs(sum(bar.width for bar in bars) - WIDTH), 1)
            self.assertTrue(all(bar.width >= 0 for bar in bars))

    def test_what_is_free_ends_at_the_bound(self) -> None:
        totals = Totals(1, 1, 1, 600, 0, 0, 0)
        for bound, free, shown in ((1000, 5000, 300), (1000, 200, 200), (500, 5000, 0)):
            store = StoreStatus("", True, totals, RoomUsage(100, bound, free), None)
            (bar,) = [each for each in disk_bar(store) if each.kind == "free"]
            self.assertEqual(bar.amount, shown)

    def test_amounts_are_read_easily(self) -> None:
        for count, text in (
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KB"),
            (4_100_000_000, "4.1 GB"),
            (99_960_000, "100 MB"),
            (999_600_000, "1.0 GB"),
            (2e18, "2000 PB"),
            (None, "\N{EM DASH}"),
        ):
            self.assertEqual(size(count), text)
        for seconds, text in (
            (0, "0 s"),
            (119, "119 s"),
            (180, "3 min"),
            (9000, "2 h"),
            (-1, "0 s"),
        ):
            self.assertEqual(duration(seconds), text)
        said = ago(1000.0)
        self.assertEqual(
            [said(None), said(0.0), said(970.0), said(820.0)],
            ["never", "never", "just now", "3 min ago"],
        )


class LicenceTests(SynchronousTestCase):
    def test_a_licence_is_known_by_its_title(self) -> None:
        for text, title in (
            ("MIT License\n\nCopyright", "MIT License"),
            ("\n\n   Apache License\n   Version 2.0, January 2004\n", "Apache License 2.0"),
            ("**Llama 3.2** Community\nVersion", "Llama 3.2** Community"),
            ("=====\n# Gemma  Terms\n", "Gemma Terms"),
            ("x" * 1000, "x" * 60),
            ("", ""),
            ("\0\n", "\0"),
        ):
            self.assertEqual(licence_title(text), title)
