"""
The tables of settings for people, and the example of a configuration file, made from the
declarations.

``python -m yukari.config.reference``, run at the top of a checkout, writes the tables into the
pages of `TABLES`, between two marks, and the example into `EXAMPLE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap

from yukari.config.in_force import quoted
from yukari.config.registries import GROUP, KEYS
from yukari.config.setting import Setting
from yukari.config.settings import SETTINGS

BEGIN = ".. Made by python -m yukari.config.reference, from yukari/config/groups/."
END = ".. The end of what is made."
COMMON = (
    *("bind", "storage", "tigris_bucket", "min_free", "upstream_registry"),
    *("upstream_rate", "offline", "allow", "admin_bind", "slog_level"),
)
"""The settings that most people need, by name; README.rst has these alone."""
_MARKED = re.compile(f"(?<={re.escape(BEGIN)}\n\n).*?(?={re.escape(END)}\n)", re.DOTALL)
_WIDTH = 100


def full_table(settings: Sequence[Setting] = SETTINGS) -> str:
    """Return reStructuredText: a list-table for each group, a row for each setting."""
    lines: list[str] = []
    for group, rows in groupby(settings, lambda row: row.group):
        lines += [f".. list-table:: {group}", "   :header-rows: 1", "   :widths: 18 18 22 42", ""]
        lines += _row("Variable", "Flag", "Default", "What it is")
        for row in rows:
            text = f"{row.help} {row.details}".rstrip()
            lines += _row(f"``{row.environment}``", f"``--{row.flag}``", _default(row), text)
        lines.append("")
    lines += [f".. list-table:: {GROUP}", "   :header-rows: 1", "   :widths: 18 32 50", ""]
    lines += _row("Key in ``[registries.NAME]``", "Default", "What it is")
    for row in KEYS:
        lines += _row(f"``{row.name}``", row.default_shown, row.help)
    lines.append("")
    return "".join(f"{line}\n" for line in lines)


def short_table(settings: Sequence[Setting] = SETTINGS) -> str:
    """Return reStructuredText: one list-table of the settings in `COMMON`, without details."""
    named = {row.name: row for row in settings}
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 20 25 55", ""]
    lines += _row("Variable", "Default", "What it is")
    for row in map(named.__getitem__, COMMON):
        lines += _row(f"``{row.environment}``", _default(row), row.help)
    return "".join(f"{line}\n" for line in [*lines, ""])


def example_file(settings: Sequence[Setting] = SETTINGS) -> str:
    """Return a configuration file with every setting, each commented out."""
    lines = [
        "# An example of a configuration file: yukari --config /etc/yukari.toml.",
        "# Flags win over variables, variables over this file. yukari check-config says what is in",
        "# force. Made by python -m yukari.config.reference.",
    ]
    for group, rows in groupby(settings, lambda row: row.group):
        lines += ["", "", f"# {group}", f"# {'=' * len(group)}"]
        for row in rows:
            if row.in_file:
                lines += ["", *_comment(f"{row.help} {row.details}".rstrip())]
                if row.default is None:
                    lines += _comment(f"Default: {row.default_shown}.")
                lines.append(f"#{row.name} = {_value(row, row.example or row.default or '')}")
    lines += ["", "", f"# {GROUP}", f"# {'=' * len(GROUP)}", "", "#[registries.lab]"]
    for row in KEYS:
        lines += ["", *_comment(row.help), *_comment(f"Default: {row.default_shown}.")]
        lines.append(f"#{row.name} = {_value(row, row.example)}")
    return "".join(f"{line}\n" for line in lines)


EXAMPLE = "deploy/yukari.toml"
"""The path of the example inside the checkout."""
TABLES = {"README.rst": short_table, "docs/settings.rst": full_table}
"""The page that each table stands in, as a path inside the checkout."""


def _comment(text: str) -> list[str]:
    plain = text.replace("``", "")
    return wrap(plain, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _value(row: Setting, text: str) -> str:
    """Return a value as TOML, an array if the setting takes a list."""
    if row.switch:
        return "true" if row.parse(text) else "false"
    if row.commas or row.several:
        parts = text.split("," if row.commas else None)
        return f"[{', '.join(quoted(part.strip()) for part in parts)}]"
    return quoted(text)


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


def main() -> None:
    """Write the tables and the example into the checkout that is the current directory."""
    for path, table in TABLES.items():
        with open(path, encoding="utf-8") as file:
            text = file.read()
        made, count = _MARKED.subn(lambda _, table=table: table(), text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{path}: expected the two marks, {BEGIN!r} and {END!r}, once")
        with open(path, "w", encoding="utf-8") as file:
            file.write(made)
    with open(EXAMPLE, "w", encoding="utf-8") as file:
        file.write(example_file())


if __name__ == "__main__":
    main()
