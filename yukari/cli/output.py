"""The output of the verbs: sizes, times, tables and progress."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, Optional

import click
from attrs import define, field

from yukari.config.units import shown_bytes

_EMPTY_LINE = "\r\033[K"
"""Moves to the beginning of a terminal's line and clears it."""


def size(count: Optional[int]) -> str:
    """Return bytes as people read them: ``1.5 GB``."""
    return "-" if count is None else shown_bytes(count)


def ago(at: Optional[float], now: float) -> str:
    """Return how long ago a time of the epoch was: ``3 days ago``; ``never`` for None."""
    if not at:
        return "never"
    seconds = max(0.0, now - at)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count = int(seconds // length)
        if count:
            return f"{counted(count, unit)} ago"
    return "just now"


def counted(count: int, what: str) -> str:
    """Return a number with its noun: ``1 blob``, ``2 blobs``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def table(rows: Sequence[Sequence[str]], *heads: str) -> None:
    """Print columns, each as wide as it has to be."""
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    form = "   ".join(f"%-{width}s" for width in widths)
    lines = [(form % tuple(line)).rstrip() for line in (heads, *rows)]
    click.echo("\n".join(lines))


@define(eq=False, repr=False)
class Progress:
    """One line that says how far something is, if stderr is a terminal."""

    what: str
    _began: float = field(factory=time.monotonic, init=False)
    _shown: float = field(default=0.0, init=False)
    _first: Optional[int] = field(default=None, init=False)
    _is_terminal: bool = field(factory=lambda: sys.stderr.isatty(), init=False)

    def show(self, completed: int, total: int) -> None:
        """Show the line, at most ten times a second."""
        if self._first is None:
            self._first = completed
        now = time.monotonic()
        if not self._is_terminal or (now - self._shown < 0.1 and completed < total):
            return
        self._shown = now
        rate = (completed - self._first) / max(now - self._began, 0.001)
        part = completed / total if total else 1.0
        bar = ("#" * round(part * 20)).ljust(20, "-")
        shown = (
            f"{self.what}  {part:4.0%} [{bar}] {size(completed)}/{size(total)}  {size(int(rate))}/s"
        )
        width = shutil.get_terminal_size().columns
        click.echo(f"{_EMPTY_LINE}{shown[: width - 1]}", nl=False, err=True)

    def end(self, said: str) -> None:
        """Replace the line by ``said``, which stays."""
        if self._is_terminal:
            click.echo(_EMPTY_LINE, nl=False, err=True)
        click.echo(said)


def complain(message: str) -> None:
    """Print an error, over the line of progress if there is one."""
    begin = _EMPTY_LINE if sys.stderr.isatty() else ""
    click.echo(f"{begin}yukari: {message}", err=True)


def total_of(progress: dict[str, Any]) -> tuple[int, int]:
    """Sum up Ollama's lines of progress by digest: completed and total bytes."""
    completed = sum(each[0] for each in progress.values())
    return completed, sum(each[1] for each in progress.values())
