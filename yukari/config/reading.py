"""
The reading of settings.

A flag wins over the environment, the environment over the file, the file over the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from yukari.config.config_file import ConfigFile
from yukari.config.setting import Setting, SettingError


@frozen
class Sources:
    """The sources of settings: flags, variables, a file."""

    flags: Mapping[str, object]
    """By `Setting.flag`: text, a sequence of it (`Setting.several`), a bool; None is not given."""
    environment: Mapping[str, str]
    """An empty variable counts as unset."""
    file: ConfigFile | None = None

    def said(self, row: Setting) -> list[tuple[str, str]] | None:
        """
        Return each value that was given as text, with the name that it was given by; None if only
        the default is left. `SettingError` for what cannot be text.
        """
        flag, variable = self.flags.get(row.flag), self.environment.get(row.environment, "")
        if flag is not None and not (row.several and not flag):
            each = flag if isinstance(flag, Sequence) and not isinstance(flag, str) else [str(flag)]
            return _split(row, [(f"--{row.flag}", text) for text in each])
        if variable.strip():
            return _split(row, [(row.environment, variable)])
        return None if self.file is None else self.file.given(row)

    def given(self, row: Setting) -> list[tuple[str, str]]:
        """Return what `said` does, or the default if there is one."""
        said = self.said(row)
        if said is None and row.default is not None:
            return _split(row, [(row.environment, row.default)])
        return said or []

    def read(self, row: Setting) -> Any:
        """Return a setting's parsed value, a tuple if it may have several; `SettingError`."""
        parsed = [_parsed(row, *each) for each in self.given(row)]
        return tuple(parsed) if row.several else parsed[0] if parsed else None


def _split(row: Setting, given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Split the values of a setting that may have several."""
    return [(name, part) for name, text in given for part in row.split(text)]


def _parsed(row: Setting, name: str, text: str) -> Any:
    try:
        return row.parse(text)
    except ValueError as error:
        raise SettingError(name, text, str(error)) from None
