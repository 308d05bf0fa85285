"""
Range, If-Range and If-None-Match by RFC 9110 (sections 13 and 14), for one representation.

A request for several ranges gets the whole, so that no request gets more bytes than the blob has.
"""

from __future__ import annotations

import re
from typing import Optional

from yukari.names import Digest
from yukari.spans import Span

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d*)[ \t]*-[ \t]*(\d*)[ \t]*", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[^"]*"|\*')
_LONGEST = 19
"""Digits of a position at most; a longer number is beyond any end."""


class NotSatisfiable(Exception):
    """The range lies outside the blob: 416."""


def etag(digest: Digest) -> str:
    """Return the entity tag of the content with this digest."""
    return f'"{digest}"'


def parse_range(text: Optional[str], size: int) -> Optional[Span]:
    """
    Return the part of ``size`` bytes that a Range header asks for; None for the whole.

    None also if the header is malformed, or has other units or several ranges: it then counts as
    absent. Raises `NotSatisfiable`.
    """
    found = _RANGE.fullmatch(text) if text is not None and text.isascii() else None
    if found is None or found[1] == found[2] == "":
        return None
    first, last = _position(found[1]), _position(found[2])
    if first is None:
        assert last is not None
        if last == 0 or size == 0:
            raise NotSatisfiable
        return Span(max(0, size - last), size)
    if last is not None and last < first:
        return None
    if first >= size:
        raise NotSatisfiable
    return Span(first, size if last is None else min(size, last + 1))


def _position(text: str) -> Optional[int]:
    if not text:
        return None
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= _LONGEST else 10**_LONGEST


def names_digest(text: Optional[str], digest: Digest) -> bool:
    """Whether an If-None-Match header names ``digest`` (or ``*``)."""
    if text is None:
        return False
    tag = etag(digest)
    return any(each in ("*", tag, f"W/{tag}") for each in _ETAG.findall(text))


def range_applies(if_range: Optional[str], digest: Digest) -> bool:
    """Whether Range applies beside this If-Range header: only if that names ``digest`` strongly."""
    return if_range is None or if_range.strip() == etag(digest)
