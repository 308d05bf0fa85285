"""
The records that go into the catalog and come out of it.

Sizes are in bytes, times in seconds of the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Optional

from attrs import define, field, frozen

from yukari.names import Digest, Repository, Tag

MAX_TOLD = 2**44
"""
Bytes of a blob that a manifest is believed, 17 TB: the sums of what 20,000 layers tell stay numbers
that every client can read.
"""
MAX_CLIENTS = 1000
"""Clients of a tag that are counted, at most."""
SAME_TIME = 0.001
"""Seconds; times of a check that are nearer than that are the same."""


def _believed(size: int) -> int:
    return min(size, MAX_TOLD)


@frozen
class Need:
    """A blob that a version stands on; ``size`` in bytes."""

    digest: Digest
    size: int = field(converter=_believed)


@frozen
class Version:
    """A version that a tag names or named: the digest of its manifest or list, and its blobs."""

    name: Repository
    tag: Tag
    digest: Digest
    needs: tuple[Need, ...] = field(repr=False)
    """Each once, the manifests' own bytes among them."""

    @property
    def size(self) -> int:
        """Bytes of all its blobs, also of those that are not stored."""
        return sum(need.size for need in self.needs)


class Entry(NamedTuple):
    """All that the catalog has of a version; sizes in bytes, times in seconds of the epoch."""

    repository: str
    tag: str
    digest: str
    """The digest of its manifest or list: 64 hex digits."""
    size: int
    missing: int
    """The number of its blobs that are not stored."""
    stored_at: float
    superseded_at: Optional[float]
    checked_at: float
    """When upstream last said that it has the tag."""
    gone_since: Optional[float]
    """When upstream first said that it has the tag no more."""
    first_pull: Optional[float]
    last_pull: Optional[float]
    pulls: int
    clients: int
    """At most `MAX_CLIENTS`."""
    sent: int
    """Bytes of blobs sent to clients."""
    own: int
    """1 if it is a copy made here, which upstream is never asked about."""
    details: str
    """JSON; see `yukari.library.models.details`."""


class Outline(NamedTuple):
    """A version without its blobs, to decide whether these have to be read."""

    name: Repository
    tag: Tag
    superseded_at: Optional[float]
    used_at: float
    """When it was last pulled, or stored if it never was."""
    gone: bool
    own: bool


@frozen
class Candidate:
    """A version that could be evicted, and with it the blobs that nothing else needs."""

    version: Version
    superseded_at: Optional[float]
    used_at: float
    """When it was last pulled, or stored if it never was."""
    gone: bool
    own: bool
    needed: tuple[int, ...]
    """The number of versions that stand on each of its blobs."""
    stored: tuple[bool, ...]
    """Whether each of its blobs is here."""

    @property
    def outline(self) -> Outline:
        """The same without its blobs."""
        name, tag = self.version.name, self.version.tag
        return Outline(name, tag, self.superseded_at, self.used_at, self.gone, self.own)

    def blobs(self) -> Iterator[tuple[Need, int, bool]]:
        """Yield each blob, how many versions stand on it, and whether it is here."""
        return zip(self.version.needs, self.needed, self.stored)


@frozen
class Indexed:
    """A version as it is found in the store; times in seconds of the epoch."""

    version: Version
    stored_at: float
    checked_at: float
    own: bool
    """Whether it is a copy made here, which upstream is never asked about."""
    details: str
    """JSON; see `yukari.library.models.details`."""
    manifests: tuple[Digest, ...] = ()
    """Those of its blobs that are manifests, and so are stored: they were read."""


@define
class Usage:
    """Pulls of a tag that are not written yet."""

    pulls: int = 0
    first: float = 0.0
    last: float = 0.0
    clients: set[str] = field(factory=set)


@frozen
class Totals:
    """Bytes by what they are for."""

    tags: int
    versions: int
    blobs: int
    stored: int
    """Bytes of all blobs that are here."""
    shared: int
    """Bytes of blobs that several versions stand on."""
    superseded: int
    """Bytes that only superseded versions stand on."""
    unneeded: int
    """Bytes that no version stands on."""


@frozen
class Unverified:
    """The stored blob that was verified longest ago."""

    digest: Digest
    at: Optional[float]
    """When, None for never."""
    total: int
    """Bytes of all that are stored in the same place."""
