"""Units: texts that people write, and their values."""

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.setting import InvalidSetting
from yukari.config.units import (
    MAX_CONNECTIONS,
    SLOWEST_RATE,
    ConnectionBounds,
    FreeSpace,
    parse_bytes,
    parse_duration,
    parse_positive_duration,
    parse_rate,
    shown_bytes,
)

NANOSECONDS = {
    "h": 3600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ns": 1,
}


class DurationTests(SynchronousTestCase):
    def test_durations_of_go_are_read(self) -> None:
        for text, seconds in {
            "0": 0.0,
            "+0": 0.0,
            "-0": 0.0,
            "0s": 0.0,
            "30m": 1800.0,
            "240h": 864_000.0,
            "240h0m0s": 864_000.0,
            "1h30m": 5400.0,
            "1m30s": 90.0,
            "1.5h": 5400.0,
            "300ms": 0.3,
            ".5s": 0.5,
            "5.s": 5.0,
            "+5s": 5.0,
            "1\u00b5s": 1e-6,
            "1\u03bcs": 1e-6,
            "1us": 1e-6,
            "1ns": 1e-9,
            "9223372036854775807ns": 9223372036.854775807,
        }.items():
            self.assertEqual(parse_duration(text), seconds, text)

    def test_durations_that_go_refuses_are_refused(self) -> None:
        for text in (
            "", " ", "-", "+", ".", "s", ".s", "3000", "1d", "1h 30m", " 1h", "1h\n", "1H", "--1s",
            "1e3s", "\u0661s", "9223372036854775808ns", "3000000h", "9" * 5000 + "h", "1s-1s",
        ):  # fmt: skip
            self.assertRaises(InvalidSetting, parse_duration, text)

    def test_error_for_a_bare_number_names_the_units(self) -> None:
        error = self.assertRaises(InvalidSetting, parse_duration, "30")
        self.assertIn("with a unit: ns, us, ms, s, m or h", str(error))

    def test_negative_durations_are_read_only_if_allowed(self) -> None:
        self.assertRaises(InvalidSetting, parse_duration, "-5m")
        self.assertEqual(parse_duration("-5m", signed=True), -300.0)

    def test_a_positive_duration_is_not_zero(self) -> None:
        for text in ("0", "0s", "-0"):
            self.assertRaises(InvalidSetting, parse_positive_duration, text)
        self.assertEqual(parse_positive_duration("1s"), 1.0)

    @given(
        st.lists(
            st.tuples(st.integers(0, 10**5), st.integers(0, 999), st.sampled_from([*NANOSECONDS])),
            min_size=1,
            max_size=5,
        )
    )
    def test_the_parts_of_a_duration_add_up(self, parts: list[tuple[int, int, str]]) -> None:
        text = "".join(f"{whole}.{part:03}{unit}" for whole, part, unit in parts)
        exact = sum((w + Fraction(p, 1000)) * NANOSECONDS[u] for w, p, u in parts)
        self.assertEqual(parse_duration(text), float(exact / 10**9))

    @given(st.text() | st.text("0123456789.+-hmsnu\u00b5"), st.booleans())
    def test_any_text_is_a_duration_or_an_invalid_one(self, text: str, signed: bool) -> None:
        try:
            seconds = parse_duration(text, signed)
        except InvalidSetting:
            return
        self.assertLess(abs(seconds), 2**63 / 10**9 + 1)
        self.assertTrue(signed or seconds >= 0)


class BytesTests(SynchronousTestCase):
    def test_sizes_in_thousands_and_in_1024s_are_read(self) -> None:
        for text, count in {
            "0": 0,
            "123": 123,
            "123B": 123,
            "1k": 1000,
            "10GB": 10 * 10**9,
            "10 gb": 10 * 10**9,
            "10G": 10 * 10**9,
            "10GiB": 10 * 2**30,
            "10Gi": 10 * 2**30,
            "512MiB": 512 * 2**20,
            "1TB": 10**12,
            "2PiB": 2 * 2**50,
            "1.5kB": 1500,
            "0.9B": 0,
        }.items():
            self.assertEqual(parse_bytes(text), count, text)

    def test_other_texts_are_no_size(self) -> None:
        for text in ("", "GB", "-1", "1iB", "10XB", "1e9", "10GB ", "5%", "8192PiB", "9" * 5000):
            self.assertRaises(InvalidSetting, parse_bytes, text)

    @given(st.integers(0, 2**63 - 1), st.sampled_from(("", "B", "b")))
    def test_a_plain_count_is_itself(self, count: int, unit: str) -> None:
        self.assertEqual(parse_bytes(f"{count}{unit}"), count)

    @given(st.integers(0, 8000), st.integers(1, 5), st.booleans())
    def test_a_prefix_multiplies(self, number: int, power: int, binary: bool) -> None:
        unit = " kMGTP"[power] + ("iB" if binary else "B")
        self.assertEqual(
            parse_bytes(f"{number}{unit}"), number * (1024 if binary else 1000) ** power
        )

    @given(st.text() | st.text("0123456789.kKmMGTPiB %"))
    def test_any_text_is_a_size_or_an_invalid_one(self, text: str) -> None:
        try:
            self.assertIn(parse_bytes(text), range(2**63))
        except InvalidSetting:
            pass

    def test_sizes_are_shown_for_people(self) -> None:
        counts = 0, 999, 1500, 2_000_000, 7_500_000_000, 10**15
        shown = ["0 B", "999 B", "1.5 kB", "2.0 MB", "7.5 GB", "1000.0 TB"]
        self.assertEqual(list(map(shown_bytes, counts)), shown)


class RateTests(SynchronousTestCase):
    def test_rates_in_bytes_and_bits_are_read(self) -> None:
        for text, rate in {
            "200MB/s": 200_000_000,
            "1.5GB/s": 1_500_000_000,
            "64kB/s": 64_000,
            "1MiB/s": 1_048_576,
            "100Mbit/s": 12_500_000,
            "1 Gbit/s": 125_000_000,
            "1Mibit/s": 131_072,
            "2.5gbit/s": 312_500_000,
        }.items():
            self.assertEqual(parse_rate(text), rate, text)

    def test_a_small_b_is_neither_bits_nor_bytes(self) -> None:
        """20Mb/s of a line were taken for 20 MB/s, eight times as much."""
        for text in ("20Mb/s", "20mb/s", "1.5 Gb/s", "1Mib/s"):
            error = self.assertRaises(InvalidSetting, parse_rate, text)
            self.assertIn("B for bytes or bit for bits", str(error))

    def test_other_texts_are_no_rate(self) -> None:
        for text in (
            *("", "0", "0/s", "200MB", "200", "/s", "MB/s", "-1MB/s", "63kB/s", "500kbit/s"),
            *("100Mbps", "1Mbit", "1ibit/s", "200MB/s/s", "200MB/m", "9EB/s", "1" * 200 + "/s"),
        ):
            self.assertRaises(InvalidSetting, parse_rate, text)

    @given(st.text(max_size=20))
    def test_any_text_is_a_rate_or_refused(self, text: str) -> None:
        for each in (text, f"{text}/s", f"{text}bit/s"):
            try:
                self.assertGreaterEqual(parse_rate(each), SLOWEST_RATE)
            except InvalidSetting as error:
                self.assertIn("expected", str(error))


class FreeSpaceTests(SynchronousTestCase):
    def test_a_percentage_is_of_the_whole_disk(self) -> None:
        self.assertEqual(FreeSpace.parse("5%"), FreeSpace(percent=5.0))
        self.assertEqual(FreeSpace.parse("5%").of(1000), 50)
        self.assertEqual(FreeSpace.parse("0.5 %").of(1000), 5)
        self.assertEqual(FreeSpace.parse("100%").of(2**60 + 1), 2**60 + 1)

    def test_bytes_are_the_same_on_every_disk(self) -> None:
        self.assertEqual(FreeSpace.parse("10GiB"), FreeSpace(bytes=10 * 2**30))
        self.assertEqual(FreeSpace.parse("10GiB").of(1000), 10 * 2**30)

    def test_free_space_is_bytes_or_a_percentage(self) -> None:
        for text in ("", "%", "101%", "-1%", "5 percent", "5%%", "1" * 5000 + "%"):
            self.assertRaises(InvalidSetting, FreeSpace.parse, text)

    def test_free_space_cannot_be_both(self) -> None:
        self.assertRaises(ValueError, FreeSpace)
        self.assertRaises(ValueError, FreeSpace, 1, 1.0)

    @given(st.text() | st.text("0123456789.% GiB"), st.integers(0, 2**63))
    def test_any_text_is_free_space_or_an_invalid_size(self, text: str, total: int) -> None:
        try:
            free = FreeSpace.parse(text)
        except InvalidSetting:
            return
        self.assertGreaterEqual(free.of(total), 0)
        if free.percent is not None:
            self.assertLessEqual(free.of(total), total)


class ConnectionsTests(SynchronousTestCase):
    def test_bounds_for_a_blob_and_in_all_are_read(self) -> None:
        self.assertEqual(ConnectionBounds.parse("32/64"), ConnectionBounds(32, 64))

    def test_one_number_is_for_a_blob_and_twice_that_in_all(self) -> None:
        self.assertEqual(ConnectionBounds.parse("4"), ConnectionBounds(4, 8))
        self.assertEqual(ConnectionBounds.parse("1000"), ConnectionBounds(1000, 1000))

    def test_impossible_bounds_are_refused(self) -> None:
        for text in ("", "0", "0/1", "4/2", "1/1001", "-1/2", "1/", "/1", "1/2/3", "1 / 2", "x"):
            self.assertRaises(InvalidSetting, ConnectionBounds.parse, text)

    @given(st.integers(1, MAX_CONNECTIONS), st.integers(1, MAX_CONNECTIONS))
    def test_it_reads_what_it_prints(self, one: int, other: int) -> None:
        bounds = ConnectionBounds(min(one, other), max(one, other))
        self.assertEqual(ConnectionBounds.parse(str(bounds)), bounds)

    @given(st.text() | st.text("0123456789/"))
    @example("9" * 5000)
    def test_any_text_is_bounds_or_an_invalid_unit(self, text: str) -> None:
        try:
            bounds = ConnectionBounds.parse(text)
        except InvalidSetting:
            return
        self.assertTrue(1 <= bounds.per_blob <= bounds.in_all <= MAX_CONNECTIONS)
