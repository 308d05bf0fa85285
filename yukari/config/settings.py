"""
The settings: each is declared once, as a field of its group in `yukari.config.groups`.

From these declarations come the flags, ``--help``, the environment variables, the keys of the
configuration file and the table in the README. A flag wins over the environment, the environment
over the file, the file over the default. A value that cannot be read is a `SettingError`, whose
text is one line: the setting as it was given, the value, and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, frozen

from yukari.config.config_file import ConfigFile
from yukari.config.groups.clients import Clients
from yukari.config.groups.freshness import Freshness
from yukari.config.groups.listening import Listening
from yukari.config.groups.running import Running
from yukari.config.groups.storing import Storage
from yukari.config.groups.upstream import Upstream
from yukari.config.listen import Bind
from yukari.config.parsers import TIGRIS
from yukari.config.paths import absolute, cache_directory, check_system_roots
from yukari.config.reading import Sources
from yukari.config.registries import RegistrySettings
from yukari.config.registry_tables import TABLES, RegistryReader
from yukari.config.setting import Setting, SettingError, SettingErrors, declared
from yukari.config.unused import unused

__all__ = ["SETTINGS", "TIGRIS", "Setting", "SettingError", "Settings", "find_sources"]


@frozen(slots=False)
class Settings(Listening, Upstream, Freshness, Storage, Clients, Running):
    """All settings, parsed; times are in seconds."""

    registries: tuple[RegistrySettings, ...] = field(kw_only=True)
    """The registries that are mirrored, the default one first; made from the other settings."""
    unused: tuple[str, ...] = field(kw_only=True, default=(), eq=False)
    """A line for each setting that was given and has no effect."""

    @classmethod
    def read(cls, flags: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
        """
        Read the settings from `Sources.flags`, `Sources.environment` and the file they name.

        `SettingError`, with a line for each setting that is wrong.
        """
        sources = find_sources(flags, environment)
        errors = [] if sources.file is None else list(sources.file.unknown(_IN_FILE))
        values: dict[str, Any] = {}
        for row in SETTINGS:
            try:
                values[row.name] = sources.read(row)
            except SettingError as error:
                errors.append(error)
        if not errors:
            reader = RegistryReader(sources, _UPSTREAMS)
            try:
                _find_directories(values, sources)
                _check_places(values, sources)
                check_system_roots(environment)
                values["registries"] = reader.read(values)
            except SettingError as error:
                errors.append(error)
            errors += reader.errors
        if errors:
            raise errors[0] if len(errors) == 1 else SettingErrors(errors)
        return cls(**values, unused=tuple(unused(SETTINGS, values, sources)))


SETTINGS: tuple[Setting, ...] = (
    *declared("Listening and access", Listening),
    *declared("Upstream", Upstream),
    *declared("Freshness", Freshness),
    *declared("Storage", Storage),
    *declared("Clients", Clients),
    *declared("Configuration file, logs and stopping", Running),
)
"""The declarations, group by group."""
_IN_FILE = (*(row.name for row in SETTINGS if row.in_file), TABLES)
_UPSTREAMS = next(row for row in SETTINGS if row.name == "upstreams")
_BINDS = [row for row in SETTINGS if row.name in ("bind", "admin_bind")]
_CONFIG = next(row for row in SETTINGS if row.name == "config")
_TIGRIS_BUCKET = next(row for row in SETTINGS if row.name == "tigris_bucket")


def find_sources(flags: Mapping[str, object], environment: Mapping[str, str]) -> Sources:
    """Return the sources of settings, the file among them if one is named; `SettingError`."""
    sources = Sources(flags, environment)
    for name, _ in sources.given(_CONFIG):
        path = absolute(sources.read(_CONFIG), environment)
        return evolve(sources, file=ConfigFile.read(name, path))
    return sources


def _find_directories(values: dict[str, Any], sources: Sources) -> None:
    """Make paths absolute, and find the directories that nobody named; `SettingError`."""
    environment = sources.environment
    if values["storage"] is None:
        bucket = sources.said(_TIGRIS_BUCKET) is not None
        values["storage"] = TIGRIS if bucket else cache_directory("STORAGE", environment)
    elif values["storage"] != TIGRIS:
        values["storage"] = absolute(values["storage"], environment)
    if values["spool_dir"] is None and values["storage"] == TIGRIS:
        values["spool_dir"] = os.path.join(cache_directory("SPOOL_DIR", environment), "spool")
    for name in ("admin_auth_file", "config", "spool_dir"):
        if values[name] is not None:
            values[name] = absolute(values[name], environment)


def _check_places(values: Mapping[str, Any], sources: Sources) -> None:
    """Raise `SettingError` for two places to listen of which only one can be had."""
    taken: list[Bind] = []
    for row in _BINDS:
        for bind, (name, text) in zip(values[row.name], sources.given(row)):
            for other in taken:
                if bind.overlaps(other):
                    expected = f"expected a place of its own: this cache listens on {other.text}"
                    raise SettingError(name, text, expected)
            taken.append(bind)
