"""The bytes that a reply to a Range holds, by its Content-Range or its length."""

from __future__ import annotations

import re
from typing import Optional

from attrs import frozen

from yukari.net.bodies import is_encoded
from yukari.sources.base import SourceFailed
from yukari.spans import Span

_CONTENT_RANGE = re.compile(
    r"\s*bytes\s*[\s=:]\s*(\d{1,19})\s*-\s*(\d{1,19})\s*(?:/\s*(\d{1,19}|\*)\s*)?",
    re.ASCII | re.IGNORECASE,
)
"""As it should be, and as some servers and proxies write it."""
WHOLE = frozenset(range(200, 300)) - {204, 205, 206}
"""The statuses of a reply that holds all of a thing; 203 is a proxy's, most of the others odd."""


class WrongSize(Exception):
    """The source's blob has another size than expected; ``found`` is that size as a text."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found} bytes")
        self.found = found


@frozen
class ContentRange:
    """A Content-Range header: the bytes sent, and of how many (None where it is not known)."""

    span: Span
    total: Optional[int]

    @classmethod
    def parse(cls, text: str) -> Optional[ContentRange]:
        """None for anything but one span of bytes."""
        found = _CONTENT_RANGE.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            return None
        total = None if found[3] in (None, "*") else int(found[3])
        return cls(Span(int(found[1]), int(found[2]) + 1), total)


def span_of_whole(length: Optional[int], size: int) -> Span:
    """Return the span of a 200 of ``length`` bytes, None if that is not known; `WrongSize`."""
    if length is not None and length != size:
        raise WrongSize(str(length))
    return Span(0, size)


def total_of(content_range: str) -> Optional[int]:
    """Return of how many bytes a part is one, None if its Content-Range does not say."""
    found = ContentRange.parse(content_range)
    return None if found is None else found.total


def check_encoding(
    label: str, length: Optional[int], expected: int, is_total_right: bool = False
) -> None:
    """
    Raise `SourceFailed` if a body of ``length`` bytes (None for not known) is compressed, by its
    Content-Encoding ``label``, and so not the ``expected`` bytes themselves.

    If the length is right, or the total that a part of unknown length names, the label is ignored,
    for the digest decides.
    """
    if length is None and is_total_right:
        return
    if is_encoded(label) and length != expected:
        raise SourceFailed("upstream sent the blob compressed")


def is_part(content_range: str, asked: Span, size: int, length: Optional[int]) -> bool:
    """
    Whether a reply that holds all by its status has only the part that was asked for: clients that
    look at the length alone get that, too.
    """
    if length == size or len(asked) == size:
        return False
    found = ContentRange.parse(content_range)
    if found is None:
        return length == len(asked)
    return found.span.start == asked.start and found.span != Span(0, size)


def span_of_part(content_range: str, asked: Span, size: int, length: Optional[int] = None) -> Span:
    """
    Return what a 206 of ``length`` bytes holds: a beginning of what was asked for, or the whole;
    `SourceFailed`, `WrongSize`.

    A body that is as long as was asked for is just that if the header does not say, or is off by
    one: some count from 1, or write the number of the byte behind the last.
    """
    found = ContentRange.parse(content_range)
    is_as_long = length == len(asked)
    if found is None:
        if is_as_long:
            return asked
        if length == size and not content_range:
            return Span(0, size)  # The whole, under a part's status.
        raise SourceFailed("a part came without saying which")
    if found.total is not None and found.total != size:
        raise WrongSize(str(found.total))
    if is_as_long and abs(found.span.start - asked.start) <= 1:
        return asked
    if found.span.start != asked.start:
        raise SourceFailed("another part came than was asked for")
    return Span(found.span.start, min(found.span.end, asked.end))


def span_around(
    content_range: str, asked: Span, size: int, length: Optional[int]
) -> Optional[Span]:
    """
    Return what a 206 of ``length`` bytes holds if that is all that was asked for and more before or
    behind it, as of a cache that sends whole blocks of its own; None if it does not say so.

    One byte before it, in a reply without a length, is the mistake of those who count from 1.
    """
    found = ContentRange.parse(content_range)
    if found is None or found.total not in (None, size):
        return None
    before, behind = asked.start - found.span.start, found.span.end - asked.end
    if before < 0 or behind < 0 or found.span.end > size or not before + behind:
        return None
    says_so = before != 1 if length is None else length == len(found.span)
    return found.span if says_so else None
