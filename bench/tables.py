"""What a bench brings: rows of numbers, as text for people and as JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Optional, TypeVar, Union

from attrs import asdict, define, field

Cell = Union[str, int, float, None]
K = TypeVar("K")


@define
class Table:
    """A bench's result; cells are as measured and rounded when they are shown."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(factory=list)
    notes: list[str] = field(factory=list)

    def add(self, *cells: Cell) -> None:
        self.rows.append(list(cells))

    def note(self, text: str) -> None:
        """A line below the table, such as a peer that is not installed."""
        if text not in self.notes:
            self.notes.append(text)

    def text(self) -> str:
        """As reStructuredText has its simple tables."""
        shown = [list(self.columns), *([_shown(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[at]) for line in shown) for at in range(len(self.columns))]
        rule = "  ".join("=" * width for width in widths)
        lines = ["  ".join(map(_padded, line, widths, range(99))).rstrip() for line in shown]
        notes = [f"({note})" for note in self.notes]
        return "\n".join([self.title, "", rule, lines[0], rule, *lines[1:], rule, *notes])

    def as_json(self) -> Mapping[str, Any]:
        return asdict(self)


def _shown(cell: Cell) -> str:
    if cell is None:
        return "--"
    if isinstance(cell, float):
        return (
            f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.3g}" if cell < 100 else f"{cell:.0f}"
        )
    return f"{cell:,}" if isinstance(cell, int) else cell


def _padded(text: str, width: int, at: int) -> str:
    return text.rjust(width) if at and not text[:1].isalpha() else text.ljust(width)


def median(numbers: Iterable[float]) -> float:
    return statistics.median(numbers)


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of what was measured side by side, pair by pair."""
    return statistics.median(a / b for a, b in zip(over, under))


def quantile(numbers: Sequence[float], part: float) -> float:
    """The number that ``part`` of them are not above."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def in_turns(
    measures: Mapping[K, Callable[[], float]],
    rounds: int,
    settle: Optional[Callable[[], None]] = None,
) -> dict[K, list[float]]:
    """Each measure once a round, so that whatever else the machine does meets all alike."""
    found: dict[K, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
            if settle is not None:
                settle()
    return found
