"""
Range, If-Range and If-None-Match as RFC 9110 has them (sections 13 and 14), for one representation.

A request for several ranges is answered with the whole: nobody gets more
bytes than the blob has for one request.
"""

from __future__ import annotations

import re
from typing import Optional

from yukari.names import Digest
from yukari.spans import Span

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d*)[ \t]*-[ \t]*(\d*)[ \t]*", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[^"]*"|\*')
_LONGEST = 19
"""Digits of a position; a longer number lies behind the end of anything."""


class NotSatisfiable(Exception):
    """The range lies outside the blob: 416."""


def etag(digest: Digest) -> str:
    """The entity tag of what has this digest."""
    return f'"{digest}"'


def parse_range(text: Optional[str], size: int) -> Optional[Span]:
    """
    The part of ``size`` bytes that a Range header asks for; None for the whole.

    None, too, where the header is malformed, speaks of other units or of several ranges:
    it then counts as absent. Raises `NotSatisfiable`.
    """
    found = _RANGE.fullmatch(text) if text is not None and text.isascii() else None
    if found is None or found[1] == found[2] == "":
        return None
    first, last = (_position(each) for each in found.groups())
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
    """
    Whether a Range counts beside this If-Range header: only where that names ``digest`` strongly.
    """
    return if_range is None or if_range.strip() == etag(digest)
