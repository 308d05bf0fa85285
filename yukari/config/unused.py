"""
Settings that were given and have no effect, because of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional

from yukari.config.parsers import TIGRIS
from yukari.config.reading import Sources
from yukari.config.setting import Setting

Values = Mapping[str, Any]


def _in_a_directory(values: Values) -> Optional[str]:
    if values["storage"] == TIGRIS:
        return None
    return f"STORAGE is the directory {values['storage']}, not tigris"


def _not_redirected(values: Values) -> Optional[str]:
    is_off = values["storage"] == TIGRIS and values["redirect"] == "off"
    return "REDIRECT is off" if is_off else None


def _never_scrubbed(values: Values) -> Optional[str]:
    return None if values["scrub_period"] else "SCRUB_PERIOD is 0"


def _never_evicted(values: Values) -> Optional[str]:
    if values["evict"] == "never" or (values["evict"] is None and values["storage"] == TIGRIS):
        return "EVICT is never"
    return None


def _without_key(values: Values) -> Optional[str]:
    has_key = any(each.key or each.token for each in values["registries"])
    return None if has_key or values["upstream_key"] else "there is no UPSTREAM_KEY"


_WHY_NOT: tuple[tuple[str, Callable[[Values], Optional[str]]], ...] = (
    ("tigris_bucket", _in_a_directory),
    ("redirect", _in_a_directory),
    ("presign_endpoint", _in_a_directory),
    ("presign_endpoint", _not_redirected),
    ("spool_max", _in_a_directory),
    ("scrub_bucket", _in_a_directory),
    ("scrub_bucket", _never_scrubbed),
    ("keep", _never_evicted),
    ("private_models", _without_key),
)
"""Settings, each with a function that returns why it has no effect; None if it has one."""


def unused(rows: Sequence[Setting], values: Values, sources: Sources) -> Iterator[str]:
    """Yield a line for each setting that was given and has no effect; it names both."""
    by_name = {row.name: row for row in rows}
    for name, why_not in _WHY_NOT:
        row, why = by_name[name], why_not(values)
        said = sources.said(row)
        if why is None or not said:
            continue
        given, text = said[0]
        # Repeating a default asks for nothing, but naming a bucket does, even the default one.
        is_default = text == row.default or (row.switch and not row.parse(text))
        if name == "tigris_bucket" or not is_default:
            yield f"{given} has no effect: {why}"
