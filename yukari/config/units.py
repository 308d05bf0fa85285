"""
Parsers for how people write times, sizes, shares and bounds.

Every parser raises `InvalidSetting` and nothing else. Its text says what was expected, not what was
given, because the caller adds that.
"""

from __future__ import annotations

import re
from fractions import Fraction

from attrs import field, frozen

from yukari.config.setting import InvalidSetting

_LONGEST = 100
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # the micro sign
    "\u03bcs": 1_000,  # the Greek letter mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
}
_TERM = re.compile(rf"({_NUMBER})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_TERM.pattern})+")
_SIZE = re.compile(rf"({_NUMBER}) ?(?:([kmgtp]?)(i?)(b?))", re.IGNORECASE)
_BITS = re.compile(rf"({_NUMBER}) ?([kmgt]?)(i?)bit/s", re.IGNORECASE)
_PERCENTAGE = re.compile(rf"({_NUMBER}) ?%")
_CONNECTIONS = re.compile(r"([0-9]{1,4})(?:/([0-9]{1,4}))?")

SLOWEST_RATE = 64 * 1000
"""Bytes a second; at a lower rate no client would wait for any blob."""
MAX_CONNECTIONS = 1000
"""Connections at most; more to one registry would be a mistake, or an attack."""


def parse_duration(text: str, signed: bool = False) -> float:
    """
    Parse what Go's ``time.ParseDuration`` takes (``1h30m``, ``1.5h``, ``300ms``, ``0``) into
    seconds.

    A negative duration is refused unless ``signed``, one beyond Go's range (64 bits of nanoseconds,
    some 292 years) always.
    """
    expected = "expected a duration such as 30m, 1h30m or 240h"
    if len(text) > _LONGEST:
        raise InvalidSetting(expected)
    negative, unsigned = text.startswith("-"), text[1:] if text[:1] in ("-", "+") else text
    if unsigned == "0":
        return 0.0
    if not _DURATION.fullmatch(unsigned):
        if re.fullmatch(_NUMBER, unsigned):
            raise InvalidSetting(f"{expected}, with a unit: ns, us, ms, s, m or h")
        raise InvalidSetting(expected)
    total = sum(Fraction(_exact(n)) * _NANOSECONDS[u] for n, u in _TERM.findall(unsigned))
    if total >= 2**63:
        raise InvalidSetting("expected at most 2562047h, some 292 years")
    if negative and total and not signed:
        raise InvalidSetting(f"{expected}, not below 0")
    seconds = float(Fraction(total, 1_000_000_000))
    return -seconds if negative and total else seconds


def parse_positive_duration(text: str) -> float:
    """Parse as `parse_duration` does, and refuse 0."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise InvalidSetting("expected a duration above 0, such as 30m")
    return seconds


def shown_bytes(count: float) -> str:
    """Return bytes as people read them: ``1.5 GB``, of 10**9."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def parse_bytes(text: str) -> int:
    """
    Parse a count of bytes: ``123``, ``10GB`` (thousands), ``10GiB`` (1024s).

    k, M, G, T, P in any case; the B may be left off, as in Kubernetes. A fraction of a byte is
    dropped.
    """
    expected = "expected bytes, such as 500MB, 10GiB or 123"
    found = _SIZE.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise InvalidSetting(expected)
    number, prefix, binary, _ = found.groups()
    if binary and not prefix:
        raise InvalidSetting(expected)
    power = " kmgtp".index(prefix.lower()) if prefix else 0
    count = int(Fraction(_exact(number)) * (1024 if binary else 1000) ** power)
    if count >= 2**63:
        raise InvalidSetting(f"{expected}, below 8EiB")
    return count


def parse_rate(text: str) -> int:
    """
    Parse bytes a second: a size as `parse_bytes` takes it and ``/s``, or bits: ``100Mbit/s``.

    At least `SLOWEST_RATE`. ``Mb/s`` is refused: some mean bits by it, an eighth of the bytes.
    """
    expected = "expected bytes or bits a second, such as 200MB/s, 1.5GB/s or 100Mbit/s"
    if text.endswith("b/s"):
        raise InvalidSetting("expected B for bytes or bit for bits, such as 20MB/s or 20Mbit/s")
    bits = _BITS.fullmatch(text) if len(text) <= _LONGEST else None
    try:
        if bits is not None:
            rate = parse_bytes(f"{bits[1]}{bits[2]}{bits[3]}b") // 8
        elif text.endswith("/s"):
            rate = parse_bytes(text.removesuffix("/s"))
        else:
            raise InvalidSetting(expected)
    except InvalidSetting:
        raise InvalidSetting(expected) from None
    if rate < SLOWEST_RATE:
        raise InvalidSetting(f"{expected}, at least 64kB/s")
    return rate


@frozen
class FreeSpace:
    """Space to keep free on a disk: ``bytes``, or ``percent`` of its size; the other is None."""

    bytes: int | None = None
    percent: float | None = None

    def __attrs_post_init__(self) -> None:
        if (self.bytes is None) == (self.percent is None):
            raise ValueError("free space is either bytes or a percentage")

    @classmethod
    def parse(cls, text: str) -> FreeSpace:
        """Parse ``5%``, or bytes as `parse_bytes` takes them."""
        found = _PERCENTAGE.fullmatch(text) if len(text) <= _LONGEST else None
        if found is None:
            try:
                return cls(bytes=parse_bytes(text))
            except InvalidSetting as error:
                raise InvalidSetting(f"{error}, or a percentage such as 5%") from None
        percent = Fraction(_exact(found[1]))
        if percent > 100:
            raise InvalidSetting("expected at most 100%")
        return cls(percent=float(percent))

    def of(self, total_bytes: int) -> int:
        """Return the bytes to keep free on a disk of ``total_bytes``."""
        if self.bytes is not None:
            return self.bytes
        assert self.percent is not None
        return int(total_bytes * Fraction(self.percent) / 100)

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent is not None else f"{self.bytes} bytes"


@frozen
class ConnectionBounds:
    """Connections to upstream that may be open: for one blob, and for all together."""

    per_blob: int = field()
    in_all: int = field()

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.per_blob <= self.in_all <= MAX_CONNECTIONS:
            raise InvalidSetting(
                "expected BLOB/ALL, such as 32/64, BLOB at least 1,"
                f" ALL at least BLOB and at most {MAX_CONNECTIONS}"
            )

    @classmethod
    def parse(cls, text: str) -> ConnectionBounds:
        """Parse ``32/64``; ``N`` alone is N for a blob and twice that in all."""
        found = _CONNECTIONS.fullmatch(text)
        if found is None:
            raise InvalidSetting("expected BLOB/ALL, such as 32/64, or BLOB alone")
        per_blob = int(found[1])
        return cls(per_blob, int(found[2] or max(per_blob, min(2 * per_blob, MAX_CONNECTIONS))))

    def __str__(self) -> str:
        return f"{self.per_blob}/{self.in_all}"


def _exact(number: str) -> str:
    """Read Go's ``1.`` and ``.5``, which Fraction does not read on every Python."""
    whole, _, part = number.partition(".")
    return f"{whole or '0'}.{part or '0'}"
