"""
The configuration file: TOML, with a key for each setting.

A value is written as in the environment, or as TOML has it: a number, ``true``, or an array where
several values are taken.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from yukari.config.files import expecting, read_file
from yukari.config.setting import Setting, SettingError

LARGEST = 1024 * 1024
"""Bytes of a file at most; one with every setting has some ten thousand."""


@frozen
class ConfigFile:
    """The texts in a configuration file, or in one table of it, by the names of settings."""

    path: str
    _values: Mapping[str, Any] = field(factory=dict)
    _table: str = ""
    """The text that errors put before a key: the table's name and a dot."""

    @classmethod
    def read(cls, given: str, path: str) -> ConfigFile:
        """Read the file; ``given`` is the name of the setting that names it. `SettingError`."""
        # Imported lazily (3 ms): most daemons have no such file.
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            with expecting("a configuration file"):
                content = read_file(path, LARGEST)
        except ValueError as error:
            raise SettingError(given, path, str(error)) from None
        try:
            return cls(path, tomllib.loads(content.decode("utf-8-sig")))
        except UnicodeDecodeError:
            raise SettingError(_shown_path(path), None, "expected text in UTF-8") from None
        except RecursionError:
            raise SettingError(_shown_path(path), None, "expected less nesting") from None
        except ValueError as error:
            raise _syntax_error(path, error) from None

    @property
    def path_of_table(self) -> str:
        """The name by which errors call a table as a whole."""
        return f"{_shown_path(self.path)}: {self._table.removesuffix('.')}"

    def tables(self, key: str) -> dict[str, ConfigFile]:
        """Return the tables ``[KEY.NAME]`` by name; `SettingError` for what is not a table."""
        found = self._values.get(key, {})
        if not isinstance(found, dict):
            expected = f"expected tables such as [{key}.lab]"
            raise SettingError(self.where(key), _as_text(found), expected)
        for name, value in found.items():
            if not isinstance(value, dict):
                expected = f"expected a table, such as [{key}.lab]"
                raise SettingError(
                    f"{self.where(key)}.{_shown_key(name)}", _as_text(value), expected
                )
        return {
            name: evolve(self, values=value, table=f"{key}.{_shown_key(name)}.")
            for name, value in found.items()
        }

    def where(self, key: str) -> str:
        """Return the name by which errors call a key: the file, the table and the key."""
        return f"{_shown_path(self.path)}: {self._table}{_shown_key(key)}"

    def unknown(
        self, known: Sequence[str], what: str = "the name of a setting"
    ) -> Iterator[SettingError]:
        """Yield an error for each key that is not ``known``, with the nearest that is."""
        from difflib import get_close_matches  # Imported lazily: most files are right.

        for key, value in self._values.items():
            if key not in known:
                usual = re.sub("[- ]", "_", key.strip().lower())
                near = get_close_matches(usual, known, 1)
                hint = f"did you mean {near[0]}?" if near else "docs/settings.rst has all of them"
                expected = f"expected {what}: {hint}"
                yield SettingError(self.where(key), _as_text(value), expected)

    def given(self, row: Setting) -> list[tuple[str, str]] | None:
        """
        Return a setting's values as text, each with the name that errors call it by; None if the
        file does not have it. `SettingError` for what cannot be text.
        """
        if row.name not in self._values or not row.in_file:
            return None
        value, name = self._values[row.name], self.where(row.name)
        if not isinstance(value, list):
            return [(name, text) for text in row.split(_text(name, value))]
        if not (row.several or row.commas):
            raise SettingError(name, _as_text(value), "expected one value, not an array")
        texts = [_text(name, each) for each in value]
        if row.several:
            return [(name, text) for text in texts or [""]]
        return [(name, ",".join(texts))]


def _text(name: str, value: object) -> str:
    """Return one value as it would stand in the environment."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise SettingError(name, _as_text(value), "expected a string, a number, true or false")


def _as_text(value: object) -> str:
    """Return any value of a file as an error shows it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_text, value[:20]))}]"
    return value if isinstance(value, str) else str(value)


def _syntax_error(path: str, error: ValueError) -> SettingError:
    """Return the error of a file that is not TOML, with the line if it is known."""
    text = " ".join(ascii(str(error))[1:-1].split())
    found = re.fullmatch(r"(.*?) \(at (.*)\)", text)
    reason, place = found.groups() if found else (text, "")
    reason = reason[:1].lower() + reason[1:160]
    named = f"{_shown_path(path)}: {place}" if place else _shown_path(path)
    return SettingError(named, None, f"expected TOML: {reason}")


def _shown_path(path: str) -> str:
    return repr(path)[1:-1]


def _shown_key(key: str) -> str:
    """Return a key on one line, in quotes if TOML needs them."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else ascii(key)[:60]
