"""The settings that are in force, written as a configuration file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from yukari.config.parsers import TIGRIS
from yukari.config.reading import Sources
from yukari.config.registries import KEYS
from yukari.config.registry_tables import TABLES
from yukari.config.setting import Setting
from yukari.config.settings import SETTINGS, Settings, find_sources

_FOUND = ("storage", "spool_dir", "admin_auth_file")
"""Settings whose values are found out, or made absolute, and are text."""


def in_force(flags: Mapping[str, object], environment: Mapping[str, str]) -> Iterator[str]:
    """
    Yield lines of TOML: each setting's value and where it comes from, as a comment. Read as a file
    they give the same settings. `SettingError`.
    """
    settings = Settings.read(flags, environment)
    sources = find_sources(flags, environment)
    for group, rows in groupby(SETTINGS, lambda row: row.group):
        yield f"# {group}"
        for row in rows:
            yield _line(row, settings, sources)
        yield ""
    for name, table in ({} if sources.file is None else sources.file.tables(TABLES)).items():
        yield f"[{TABLES}.{name}]"
        keys = Sources({}, {}, table)
        for row in KEYS:
            said = keys.said(row)
            # The URL is in `upstreams` above, for all registries.
            if said is not None and row.name != "url":
                yield f"{row.name} = {_value(row, [text for _, text in said])}"
        yield ""


def _line(row: Setting, settings: Settings, sources: Sources) -> str:
    texts = [text for _, text in sources.given(row)]
    if row.name == "upstreams":
        texts = _upstreams(settings)
    if row.name in _FOUND and (found := getattr(settings, row.name)) is not None:
        texts = [found]
    is_unused = row.name == "tigris_bucket" and settings.storage != TIGRIS
    if not texts or (is_unused and sources.said(row) is None):
        return f"# {row.name}: {row.default_shown}"
    if not row.in_file:
        return f"# {row.name}: {getattr(settings, row.name)}  # {_origin(row, sources)}"
    return f"{row.name} = {_value(row, texts)}  # {_origin(row, sources)}"


def _value(row: Setting, texts: Sequence[str]) -> str:
    """Return a setting's value as TOML."""
    if row.switch:
        return "true" if row.parse(texts[0]) else "false"
    return f"[{', '.join(map(quoted, texts))}]" if row.several else quoted(texts[0])


def _upstreams(settings: Settings) -> list[str]:
    """Return all registries that have a name, as UPSTREAMS has them."""
    default, *others = settings.registries
    found = [f"{each.name}={each.url}" for each in others]
    if default.prefix is not None:
        found.append(f"{default.prefix.removesuffix('--')}={default.url}")
    return found or ["none"]


def _origin(row: Setting, sources: Sources) -> str:
    """Return where a setting comes from."""
    said = sources.said(row)
    if said is None:
        return "default"
    name = said[0][0]
    return name.partition(": ")[0] if name.endswith(f": {row.name}") else name


def quoted(text: str) -> str:
    """Return a string as TOML writes it: as JSON does, with one more character escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
