"""
The table of settings for people, made from their declarations.

``python -m yukari.config.reference README.rst`` puts it into that file, between its two marks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap

from yukari.config.setting import Setting
from yukari.config.settings import SETTINGS

BEGIN = ".. Made by python -m yukari.config.reference, from yukari/config/settings.py."
END = ".. The end of what is made."
_MARKED = re.compile(f"(?<={re.escape(BEGIN)}\n\n).*?(?={re.escape(END)}\n)", re.DOTALL)
_WIDTH = 100


def table(settings: Sequence[Setting] = SETTINGS) -> str:
    """reStructuredText: a list-table for each group, a row for each setting."""
    return "".join(f"{line}\n" for line in _lines(settings))


def _lines(settings: Sequence[Setting]) -> Iterator[str]:
    for group, rows in groupby(settings, lambda row: row.group):
        yield f".. list-table:: {group}"
        yield "   :header-rows: 1"
        yield "   :widths: 18 18 22 42"
        yield ""
        yield from _row("Variable", "Flag", "Default", "What it is")
        for row in rows:
            text = f"{row.help} {row.details}".rstrip()
            yield from _row(f"``{row.environment}``", f"``--{row.flag}``", _default(row), text)
        yield ""


def _default(row: Setting) -> str:
    return row.default_shown or f"``{row.default}``"


def _row(*cells: str) -> Iterator[str]:
    for number, cell in enumerate(cells):
        first = "   * - " if number == 0 else "     - "
        yield from wrap(
            cell,
            _WIDTH,
            initial_indent=first,
            subsequent_indent=" " * 7,
            break_long_words=False,
            break_on_hyphens=False,
        )


def main(path: str) -> None:
    """Put the table into a file, in place of the one that is there."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    made, count = _MARKED.subn(lambda _: table(), text)
    if count != 1:
        raise SystemExit(f"{path}: expected the two marks, {BEGIN!r} and {END!r}, once")
    with open(path, "w", encoding="utf-8") as file:
        file.write(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
