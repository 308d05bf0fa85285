"""
The declaration of one setting, and the reading of its value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import evolve, frozen


class SettingError(ValueError):
    """A setting that ends the start; the text is one line for the person who set it."""

    def __init__(self, given: str, value: str, expected: str) -> None:
        # The URL may have a password.
        shown = ascii(re.sub(r"//\S*@", "//***@", value))
        shown = shown if len(shown) <= 120 else f"{shown[:116]}...'"
        super().__init__(f"{given} {shown}: {expected}")


@frozen
class Setting:
    """
    The declaration of one setting; ``name`` is the field of `Settings`.

    ``default`` is written as a user would write it, or is None if it is found out by
    `Settings.read`; then ``default_shown`` says how. ``help`` and ``details`` are
    reStructuredText without references: ``--help`` and README.rst have the first, docs/settings.rst
    both.
    """

    name: str
    group: str
    """The heading in ``--help`` and in docs/settings.rst."""
    parse: Callable[[str], Any]
    default: str | None
    help: str
    details: str = ""
    default_shown: str = ""
    several: bool = False
    """Values are separated by spaces, and the flag may be repeated."""
    switch: bool = False
    """The flag takes no value."""

    @property
    def environment(self) -> str:
        """The environment variable."""
        return self.name.upper()

    @property
    def flag(self) -> str:
        """The flag, without its two dashes."""
        return self.name.replace("_", "-")

    @property
    def shown(self) -> str:
        """The default as people read it."""
        return self.default_shown or self.default or ""

    @property
    def described(self) -> str:
        """The text in ``--help``: the help, the variable and the default."""
        return f"{self.help.replace('``', '')} ({self.environment}) [default: {self.shown}]"


def declare(parse: Callable[[str], Any], default: str | None, help: str, **more: Any) -> Any:
    """Declare a field of a group of settings; the arguments are those of `Setting`."""
    return attrs.field(metadata={Setting: Setting("", "", parse, default, help, **more)})


def declared(group: str, fields: type) -> tuple[Setting, ...]:
    """Return the declarations of a group, in the order of its fields."""
    return tuple(
        evolve(field.metadata[Setting], name=field.name, group=group)
        for field in attrs.fields(fields)
    )


def read_one(row: Setting, flags: Mapping[str, object], environment: Mapping[str, str]) -> Any:
    """Return a setting's parsed value, a tuple if it may have several; `SettingError`."""
    given = list(_given(row, flags, environment))
    parsed = [_parsed(row, *each) for each in given]
    return tuple(parsed) if row.several else parsed[0] if parsed else None


def _given(
    row: Setting, flags: Mapping[str, object], environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield each value as text, with the name that it was given by."""
    flag, variable = flags.get(row.flag), environment.get(row.environment, "")
    if flag is not None and not (row.several and not flag):
        each = flag if isinstance(flag, Sequence) and not isinstance(flag, str) else (str(flag),)
        named = [(f"--{row.flag}", text) for text in each]
    elif variable.strip():
        named = [(row.environment, variable)]
    else:
        named = [] if row.default is None else [(row.environment, row.default)]
    for name, text in named:
        if row.several:
            # Only spaces are one wrong value: the parser says what it expects.
            yield from ((name, part) for part in text.split() or [text])
        else:
            yield name, text.strip()


def _parsed(row: Setting, name: str, text: str) -> Any:
    try:
        return row.parse(text)
    except ValueError as error:
        raise SettingError(name, text, str(error)) from None
