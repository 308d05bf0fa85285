"""
The declaration of one setting, and the error of a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from attrs import evolve, frozen


class InvalidSetting(ValueError):
    """A value that a setting does not take; the text says what was expected."""


class SettingError(ValueError):
    """A setting that ends the start; the text is one line for the person who set it."""

    def __init__(self, given: str, value: str | None, expected: str) -> None:
        """``given`` is the name that it was given by, ``value`` None if there is none to show."""
        what = given if value is None else f"{given} {shown(value)}"
        # The reason may repeat a part of the value.
        super().__init__(f"{what}: {without_secrets(expected)}")


class SettingErrors(SettingError):
    """Several settings that end the start; the text has a line for each."""

    def __init__(self, each: Sequence[SettingError]) -> None:
        ValueError.__init__(self, "\n".join(map(str, each)))


def shown(value: str) -> str:
    """Return a value as an error shows it: on one line, not too long, without secrets."""
    text = ascii(without_secrets(value))
    return text if len(text) <= 120 else f"{text[:116]}...'"


def without_secrets(text: str) -> str:
    """Return a text without the passwords in URLs, and without tokens of Hugging Face."""
    return re.sub(r"\bhf_[A-Za-z0-9]{20,}", "hf_***", re.sub(r"//\S*@", "//***@", text))


@frozen
class Setting:
    """
    The declaration of one setting; ``name`` is its key in a file, and the field of `Settings`
    unless ``field`` is another.

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
    commas: bool = False
    """The parser takes a list, separated by commas; in a file it may be an array."""
    switch: bool = False
    """The flag takes no value."""
    example: str = ""
    """A value for the example of a configuration file, if there is no default."""
    variable: str = ""
    """The environment variable, if it has another name than the setting."""
    in_file: bool = True
    """Whether a configuration file may have it."""
    field: str = ""
    """The field that holds it."""

    @property
    def environment(self) -> str:
        """The name of the environment variable that sets it."""
        return self.variable or self.name.upper()

    @property
    def flag(self) -> str:
        """The flag, without its two dashes."""
        return self.name.replace("_", "-")

    @property
    def shown(self) -> str:
        """The default as people read it."""
        return self.default_shown or self.default or ""

    def split(self, text: str) -> list[str]:
        """Return the values in a text; more than one only if the setting takes several."""
        # Only spaces are one wrong value: the parser says what it expects.
        return text.split() or [text] if self.several else [text.strip()]

    @property
    def described(self) -> str:
        """The text in ``--help``: the help, the variable and the default."""
        return f"{self.help.replace('``', '')} ({self.environment}) [default: {self.shown}]"


def declare(parse: Callable[[str], Any], default: str | None, help: str, **more: Any) -> Any:
    """Declare a field of a group of settings; the arguments are those of `Setting`."""
    return attrs.field(metadata={Setting: Setting("", "", parse, default, help, **more)})


def declared(group: str, fields: type) -> tuple[Setting, ...]:
    """Return the declarations of a group, in the order of its fields."""
    found = []
    for each in attrs.fields(fields):
        row: Setting | None = each.metadata.get(Setting)
        if row is not None:
            found.append(evolve(row, name=row.name or each.name, field=each.name, group=group))
    return tuple(found)
