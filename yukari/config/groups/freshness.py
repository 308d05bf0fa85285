"""When stored manifests are checked, and what is fetched ahead."""

from __future__ import annotations

from attrs import frozen

from yukari.config.hours import DailyHours
from yukari.config.parsers import one_of
from yukari.config.setting import declare
from yukari.config.units import parse_duration, parse_positive_duration


@frozen(slots=False)
class Freshness:
    """When stored manifests are checked, and what is fetched ahead."""

    manifest_lifetime: float = declare(
        parse_duration,
        "240h",
        "How old the last check of a stored manifest may get before it is checked again: a duration"
        " such as ``90s``, ``30m`` or ``240h``.",
    )
    invalidator_period: float = declare(
        parse_positive_duration,
        "30m",
        "How often to look for manifests past their lifetime: a duration above 0.",
    )
    revalidate_after: float = declare(
        parse_duration,
        "5m",
        "A manifest that is pulled and was last checked longer ago than this duration is checked"
        " in the background; 0 for never.",
    )
    """0 for never."""
    prefetch: str = declare(
        one_of("all", "asked", "none"),
        "all",
        "Which blobs are fetched before a client asks for them: ``all`` (those of each manifest"
        " that is pulled), ``asked`` (the rest of a manifest once a client asks for one of its"
        " layers) or ``none``.",
    )
    """``all``, ``asked`` or ``none``."""
    prefetch_hours: DailyHours | None = declare(
        DailyHours.parse,
        None,
        "The hours, local time, within which blobs that no client waits for are fetched, such as"
        " ``22:00-06:00, 12:00-13:00``.",
        details="A client that waits is always served. What it leaves unread waits for these hours,"
        " and so do newer versions of stored models; what an admin pulls does not.",
        commas=True,
        default_shown="at all hours",
        example="22:00-06:00",
    )
    """None for all hours."""
