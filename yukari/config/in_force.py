"""The settings that are in force, written as a configuration file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby

from yukari.config.reading import Sources
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


def _line(row: Setting, settings: Settings, sources: Sources) -> str:
    given = sources.given(row)
    texts = [text for _, text in given]
    if row.name in _FOUND and (found := getattr(settings, row.name)) is not None:
        texts = [found]
    if not texts:
        return f"# {row.name}: {row.default_shown}"
    if not row.in_file:
        return f"# {row.name}: {getattr(settings, row.name)}  # {_origin(row, sources)}"
    if row.switch:
        value = "true" if getattr(settings, row.name) else "false"
    elif row.several:
        value = f"[{', '.join(map(quoted, texts))}]"
    else:
        value = quoted(texts[0])
    return f"{row.name} = {value}  # {_origin(row, sources)}"


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
