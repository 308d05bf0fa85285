"""The text beside a spool that tells which bytes are there; see `yukari.storage.disk.spool`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from yukari.names import Digest, InvalidName, Repository
from yukari.spans import SpanSet

_VERSION = 1
_COVERED = re.compile(rb"\+ ([0-9]{1,19}) ([0-9]{1,19})")
_REPOSITORY = re.compile(rb"r ([!-~]{1,500})")


MAX_BYTES = 16 * 1024 * 1024
"""No sidecar is larger: it is rewritten long before."""
MAX_CRUMBS = 1000
CRUMB = 4096
"""
Of more spans than `MAX_CRUMBS`, those shorter than so many bytes count as missing: to fetch them
again is cheaper than a request for each gap between them.
"""


class Damaged(Exception):
    """A sidecar that tells nothing; the text says why."""


def encode(digest: Digest, size: int, repositories: Iterable[Repository], cover: SpanSet) -> bytes:
    """Return the shortest text that tells this."""
    header = {
        "version": _VERSION,
        "digest": str(digest),
        "size": size,
        "repositories": [str(name) for name in repositories],
    }
    lines = [json.dumps(header), *(f"+ {span.start} {span.end}" for span in cover), ""]
    return "\n".join(lines).encode("ascii")


def decode(text: bytes, digest: Digest) -> tuple[int, list[Repository], SpanSet]:
    """Size, repositories and coverage of a sidecar; a bad or torn line ends the reading."""
    first, *lines = text.split(b"\n")[:-1] or [b""]
    try:
        header = json.loads(first)
        if header["version"] != _VERSION:
            raise Damaged(f"version {header['version']!r}")
        if Digest.parse(header["digest"]) != digest:
            raise Damaged("another blob's digest")
        size = header["size"]
        if type(size) is not int or not 0 <= size < 2**63:
            raise Damaged(f"size {str(size)[:40]}")
        repositories = [Repository.parse(name) for name in header["repositories"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"first line: {error}") from None
    cover = SpanSet()
    for line in lines:
        if found := _COVERED.fullmatch(line):
            start, end = int(found[1]), int(found[2])
            if start >= end:
                break
            cover.add(start, min(end, size))
        elif found := _REPOSITORY.fullmatch(line):
            try:
                name = Repository.parse(found[1].decode("ascii"))
            except InvalidName:
                break
            if name not in repositories:
                repositories.append(name)
        else:
            break
    if len(spans := list(cover)) > MAX_CRUMBS:
        cover = SpanSet()
        for span in spans:
            if len(span) >= CRUMB:
                cover.add(span.start, span.end)
    return size, repositories, cover
