"""The Accept header of a request for a manifest."""

from __future__ import annotations

from collections.abc import Iterable

from yukari.manifest import MANIFEST_LIST, Variant


def variant_accepted(headers: Iterable[str]) -> Variant:
    """
    Return which variant a client understands, by its Accept headers.

    Lists are for clients that name their media type: a wildcard comes from clients that know
    nothing of them.
    """
    for header in headers:
        if MANIFEST_LIST not in header.lower():
            continue
        for part in header.split(","):
            media_type, *parameters = (each.strip().lower() for each in part.split(";"))
            if media_type == MANIFEST_LIST and not any(map(_refuses, parameters)):
                return Variant.LIST
    return Variant.PLAIN


def _refuses(parameter: str) -> bool:
    """Whether a parameter is a quality of zero."""
    name, _, value = parameter.partition("=")
    try:
        return name.strip() == "q" and float(value) <= 0
    except ValueError:
        return False
