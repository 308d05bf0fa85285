"""
Which tagged manifests a bucket holds, in the order of their names, page by page.

S3 sorts keys, where ``-`` comes before ``/``: its pages are in another order,
so all of them are read before the first can be given out. A row is a tuple of
strings and a number, which the garbage collector does not track: there may be
100,000.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from itertools import groupby
from typing import Optional

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from yukari.names import DEFAULT, InvalidName, Repository, Tag, parse_reference
from yukari.s3.client import S3Client
from yukari.s3.pages import each_page
from yukari.storage.bucket.keys import REGISTRIES, model_root, root_of
from yukari.storage.ports import ManifestEntry

KEYS_A_PAGE = 300
"""Keys a page, which is read in one turn of the reactor: some 15 ms; S3's own 1000 take 50."""
LISTED_FOR = 30.0
"""Seconds for which the pages of a listing come from the same one."""

_TAGS = ("manifests", "lists")
"""The part of a key before the tag, for either variant."""

Listed = tuple[str, str, str, str, float]
"""Registry, namespace, model, tag, and seconds of the epoch."""


def listed(key: str, modified: float) -> Optional[Listed]:
    """Return the tagged manifest whose object has this key, None if it is another object."""
    registry, parts = DEFAULT, key.split("/")
    if parts[0] == REGISTRIES and len(parts) == 7:
        registry, parts = parts[1], parts[2:]
    if len(parts) != 5 or parts[0] != "v2" or parts[3] not in _TAGS:
        return None
    try:
        reference = parse_reference(parts[4])
        name = Repository(registry, parts[1], parts[2])
    except InvalidName:
        return None
    if not isinstance(reference, Tag):
        return None
    return name.registry, name.namespace, name.model, reference.name, modified


@define(eq=False, repr=False)
class BucketListing:
    """Its methods raise `S3Error`."""

    _client: S3Client
    _clock: IReactorTime
    _rows: Optional[tuple[float, list[Listed]]] = field(default=None, init=False)
    """The last listing of all, and when it was asked for."""
    _changes: int = field(default=0, init=False)

    def changed(self) -> None:
        """Forget the listing, because something was put."""
        self._changes += 1
        self._rows = None

    async def tags(self, name: Repository) -> list[Tag]:
        return [Tag(row[3]) for row in await self._read(model_root(name))]

    async def count(self) -> int:
        """Return how many there are."""
        return len(await self._read_all())

    async def page(self, after: Optional[tuple[Repository, Tag]], most: int) -> list[ManifestEntry]:
        """Return up to ``most`` entries after ``after``; if that is None, from a new listing."""
        now = self._clock.seconds()
        if after is None or self._rows is None or now - self._rows[0] > LISTED_FOR:
            changes = self._changes
            rows = await self._read_all()
            if changes == self._changes:
                self._rows = now, rows
        else:
            rows = self._rows[1]
        start = 0
        if after is not None:
            name, tag = after
            behind = name.registry, name.namespace, name.model, tag.name
            start = bisect_right(rows, behind, key=lambda row: row[:4])
        return [
            ManifestEntry(Repository(*row[:3]), Tag(row[3]), row[4])
            for row in rows[start : start + most]
        ]

    async def _read_all(self) -> list[Listed]:
        """Those of all registries, also of such as are not mirrored any more."""
        return await self._read(root_of(DEFAULT)) + await self._read(f"{REGISTRIES}/")

    async def _read(self, prefix: str) -> list[Listed]:
        rows: list[Listed] = []
        async for page in each_page(self._client, prefix, KEYS_A_PAGE):
            for each in page.objects:
                row = listed(each.key, each.modified)
                if row is None:
                    continue
                # Nearly all come in order; to sort 100,000 at once would take a second.
                if not rows or rows[-1] < row:
                    rows.append(row)
                else:
                    insort(rows, row)
        return [next(rows_of_tag) for _, rows_of_tag in groupby(rows, lambda row: row[:4])]
