"""Hours of the day, and rates by the hour: as written, and as the clock on the wall goes."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from math import inf
from typing import Optional
from zoneinfo import ZoneInfo

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.hours import DAY, DailyHours, DailyRate, Hours
from yukari.config.setting import InvalidSetting

MINUTES = st.integers(0, DAY - 1)
HOURS = st.builds(
    lambda start, length: Hours(start, (start + length - 1) % DAY + 1),
    MINUTES,
    st.integers(1, DAY - 1),
)
RATES = st.none() | st.integers(8, 100_000).map(lambda kilobytes: kilobytes * 8000)


def written(rate: Optional[int]) -> str:
    return "off" if rate is None else f"{rate // 1000}kB/s"


def at(minute: int) -> datetime:
    return datetime(2026, 3, 1, minute // 60, minute % 60)


class HoursTests(SynchronousTestCase):
    @given(HOURS)
    def test_what_is_written_is_read_again(self, hours: Hours) -> None:
        self.assertEqual(Hours.parse(str(hours)), hours)

    @given(HOURS, MINUTES)
    def test_a_minute_is_in_them_or_in_the_rest_of_the_day(self, hours: Hours, minute: int) -> None:
        rest = Hours(hours.end % DAY, hours.start or DAY)
        self.assertNotEqual(hours.has(minute), rest.has(minute))
        self.assertEqual(hours.has(minute), minute in hours.minutes())

    def test_hours_over_midnight_have_both_its_sides(self) -> None:
        hours = Hours.parse(" 22:00 - 6:00 ")
        found = [hours.has(each * 60) for each in (21, 22, 23, 0, 5, 6)]
        self.assertEqual(found, [False, True, True, True, True, False])

    def test_the_whole_day_is_written_up_to_24(self) -> None:
        self.assertEqual(len(Hours.parse("00:00-24:00").minutes()), DAY)
        self.assertEqual(Hours.parse("12:00-0:00"), Hours.parse("12:00-24:00"))

    @given(st.text(max_size=20))
    @example("8-18")
    @example("08:00-08:00")
    @example("24:00-08:00")
    @example("08:60-09:00")
    @example("08:00-24:01")
    @example("08:00-25:00")
    @example("08:00\u201318:00")
    @example("\u0660\u0668:00-09:00")
    def test_anything_else_is_refused_as_that(self, text: str) -> None:
        try:
            Hours.parse(text)
        except InvalidSetting as error:
            self.assertIn("08:00-18:00", str(error))
        else:
            self.assertRegex(text.strip(), r"^\d{1,2}:\d{2}\s*-\s*\d{1,2}:\d{2}$")

    def test_several_are_separated_by_commas(self) -> None:
        hours = DailyHours.parse("22:00-06:00, 12:00-13:00")
        self.assertEqual(
            [hours.has(at(each * 60)) for each in (5, 6, 12, 13, 22)],
            [True, False, True, False, True],
        )
        for text in ("", "22:00-06:00,", ",", "22:00-06:00; 12:00-13:00"):
            self.assertRaises(InvalidSetting, DailyHours.parse, text)


class RateTests(SynchronousTestCase):
    def test_the_example_of_the_documentation(self) -> None:
        rate = DailyRate.parse("off, 08:00-18:00 20Mbit/s")
        found = [rate.at(at(each)) for each in (0, 479, 480, 1079, 1080)]
        self.assertEqual(found, [None, None, 2_500_000, 2_500_000, None])
        self.assertEqual((rate.lowest, DailyRate(None).lowest), (2_500_000, inf))

    def test_without_hours_it_holds_all_day(self) -> None:
        for text, found in {"1.5GB/s": 1_500_000_000, "off": None, "OFF": None}.items():
            self.assertEqual(DailyRate.parse(text), DailyRate(found))

    @given(RATES, st.lists(st.tuples(st.integers(0, 23), RATES), unique_by=lambda each: each[0]))
    def test_each_hour_has_the_rate_that_was_written(
        self, otherwise: Optional[int], by_hour: list[tuple[int, Optional[int]]]
    ) -> None:
        pieces = [f"{hour:02}:00-{hour + 1}:00 {written(rate)}" for hour, rate in by_hour]
        found = DailyRate.parse(", ".join([written(otherwise), *pieces]))
        expected = dict(by_hour)
        for hour in range(24):
            for minute in (0, 59):
                self.assertEqual(
                    found.at(at(hour * 60 + minute)), expected.get(hour, otherwise), hour
                )

    @given(HOURS, HOURS)
    def test_hours_that_overlap_are_refused(self, one: Hours, other: Hours) -> None:
        text = f"{one} 1MB/s, {other} 2MB/s"
        if one.minutes() & other.minutes():
            self.assertRaises(InvalidSetting, DailyRate.parse, text)
        else:
            self.assertEqual(len(DailyRate.parse(text).by_hours), 2)

    @given(st.text(max_size=40))
    @example("")
    @example("off off")
    @example("08:00-18:00")
    @example("off, 20Mbit/s")
    @example("1MB/s, 08:00-18:00")
    @example("1B/s, 08:00-18:00 off")
    def test_nothing_but_an_error_of_units_is_raised(self, text: str) -> None:
        try:
            DailyRate.parse(text)
        except InvalidSetting as error:
            self.assertIn("expected", str(error))

    def test_the_clock_on_the_wall_counts_when_it_is_changed(self) -> None:
        # 2026-03-29 has no hour from 2 to 3 in Berlin, 2026-10-25 has it twice.
        berlin = ZoneInfo("Europe/Berlin")
        rate = DailyRate.parse("off, 02:00-03:00 1MB/s")
        for day, hours in ((datetime(2026, 3, 28, 23), 0), (datetime(2026, 10, 24, 22), 2)):
            began = day.replace(tzinfo=timezone.utc)
            shown = [(began + timedelta(hours=at)).astimezone(berlin) for at in range(6)]
            self.assertEqual(sum(rate.at(each) is not None for each in shown), hours, shown)
