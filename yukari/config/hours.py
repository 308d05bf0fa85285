"""
Hours of the day, and rates that differ by them, as settings have them.

All times are this machine's local time. Whether it is within the hours is looked up anew each time,
so a day with 23 or 25 hours needs no rule of its own: what counts is what the clock on the wall
shows.
"""

from __future__ import annotations

import re
from datetime import datetime
from math import inf
from typing import Optional

from attrs import field, frozen

from yukari.config.setting import InvalidSetting
from yukari.config.units import parse_rate

DAY = 24 * 60
"""Minutes."""
MAX_HOURS = 100
"""Pairs of times in one setting."""
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")
_EXPECTED = "expected hours such as 08:00-18:00 or 22:00-06:00"
OFF = "off"


def minute_of(local: datetime) -> int:
    """Return the minute of the day that a clock shows."""
    return local.hour * 60 + local.minute


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@frozen
class Hours:
    """
    The minutes of a day from ``start`` up to, not including, ``end``; past midnight if ``end`` is
    less.
    """

    start: int = field()
    end: int = field()

    def __attrs_post_init__(self) -> None:
        if not (0 <= self.start < DAY and 0 < self.end <= DAY) or self.start == self.end:
            raise InvalidSetting(_EXPECTED)

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Parse ``08:00-18:00``; ``24:00`` and ``00:00`` are both midnight. `InvalidSetting`."""
        found = _HOURS.fullmatch(text.strip()) if len(text) <= 100 else None
        if found is None:
            raise InvalidSetting(_EXPECTED)
        start_hour, start, end_hour, end = map(int, found.groups())
        if start > 59 or end > 59:
            raise InvalidSetting(_EXPECTED)
        return cls(start_hour * 60 + start, end_hour * 60 + end or DAY)

    def minutes(self) -> set[int]:
        """The minutes of a day in them."""
        if self.start < self.end:
            return set(range(self.start, self.end))
        return set(range(self.start, DAY)) | set(range(self.end))

    def has(self, minute: int) -> bool:
        """Whether a minute of the day is in them."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        return f"{_clock(self.start)}-{_clock(self.end)}"


@frozen
class DailyHours:
    """Some hours of each day."""

    hours: tuple[Hours, ...]

    @classmethod
    def parse(cls, text: str) -> DailyHours:
        """Parse hours separated by commas, as in ``22:00-06:00, 12:00-13:00``; `InvalidSetting`."""
        pieces = text.split(",")
        if len(pieces) > MAX_HOURS:
            raise InvalidSetting(_EXPECTED)
        return cls(tuple(map(Hours.parse, pieces)))

    def has(self, local: datetime) -> bool:
        """Whether a clock that shows this is within them."""
        return any(hours.has(minute_of(local)) for hours in self.hours)

    def now(self) -> bool:
        """Whether this machine's clock is within them."""
        return self.has(datetime.now())

    def __str__(self) -> str:
        return ", ".join(map(str, self.hours))


@frozen
class DailyRate:
    """A rate in bytes a second, and others at some hours; None for no bound."""

    otherwise: Optional[int]
    by_hours: tuple[tuple[Hours, Optional[int]], ...] = ()

    def __attrs_post_init__(self) -> None:
        taken: set[int] = set()
        for hours, _ in self.by_hours:
            if taken & (minutes := hours.minutes()):
                raise InvalidSetting(f"expected hours that do not overlap, unlike {hours}")
            taken |= minutes

    @classmethod
    def parse(cls, text: str) -> DailyRate:
        """
        Parse a rate or ``off``, and rates at some hours: ``off, 08:00-18:00 20Mbit/s``.

        Without a rate for the other hours there is no bound then. `InvalidSetting`.
        """
        pieces = [piece.strip() for piece in text.split(",")]
        if len(pieces) > MAX_HOURS:
            raise InvalidSetting(_EXPECTED)
        otherwise = None
        if _HOURS.match(pieces[0]) is None:
            otherwise = _rate(pieces.pop(0))
        by_hours = []
        for piece in pieces:
            found = _HOURS.match(piece)
            if found is None:
                raise InvalidSetting(f"{_EXPECTED} and a rate, separated by commas")
            by_hours.append((Hours.parse(found[0]), _rate(piece[found.end() :].strip())))
        return cls(otherwise, tuple(by_hours))

    def at(self, local: datetime) -> Optional[int]:
        """Return the rate when a clock shows this."""
        minute = minute_of(local)
        for hours, rate in self.by_hours:
            if hours.has(minute):
                return rate
        return self.otherwise

    def now(self) -> float:
        """Return the rate by this machine's clock, infinite for no bound."""
        rate = self.at(datetime.now())
        return inf if rate is None else rate

    @property
    def lowest(self) -> float:
        """The lowest rate of the day, infinite if there is no bound at any hour."""
        rates = [self.otherwise, *(rate for _, rate in self.by_hours)]
        return min((rate for rate in rates if rate is not None), default=inf)


def _rate(text: str) -> Optional[int]:
    if text.lower() == OFF:
        return None
    try:
        return parse_rate(text)
    except InvalidSetting as error:
        raise InvalidSetting(f"{error}, or off") from None
