"""Stored models as the pages show them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from attrs import frozen

from yukari.library.catalog.rows import Entry, Need
from yukari.library.models.shown_names import ShownNames
from yukari.library.upkeep.marks import Marks
from yukari.names import Repository, Tag

Newer = Callable[[Repository, Tag, float], Optional[str]]
"""As `yukari.library.revalidator.Revalidator.newer`."""


@frozen
class Coming:
    """The progress of a model while blobs of it are being fetched."""

    here: int
    """Bytes that have arrived, of ``size``."""
    size: int
    rate: float
    """MB/s of the blobs together."""
    missing: tuple[tuple[str, int], ...]
    """The beginnings of the digests of all blobs that are not stored, and their sizes."""

    @property
    def percent(self) -> float:
        """How much of the model has arrived; never 100 while something is missing."""
        return min(99.9, round(100 * self.here / self.size, 1)) if self.size else 0.0

    @property
    def seconds_left(self) -> Optional[float]:
        """At the present rate; None if nothing arrives."""
        return (self.size - self.here) / (1e6 * self.rate) if self.rate > 0 else None


@frozen
class Row:
    """A tag, as the catalog has it and what else is shown of it."""

    entry: Entry
    name: str
    """As Ollama shows it."""
    details: Mapping[str, Any]
    coming: Optional[Coming]
    """None if nothing of it is on its way."""
    newer: Optional[str]
    """Why upstream's newer version is not here, "" while it is fetched; None if there is none."""
    pinned_by: Optional[str]

    @property
    def path(self) -> str:
        """The path of its page."""
        return f"/models/{self.entry.repository}/{self.entry.tag}"

    @property
    def kind(self) -> str:
        """Its state in a word: coming, incomplete, own, gone, newer or here."""
        if self.entry.missing:
            return "incomplete" if self.coming is None else "coming"
        if self.entry.own:
            return "own"
        if self.entry.gone_since is not None:
            return "gone"
        return "here" if self.newer is None else "newer"

    def fact(self, key: str) -> str:
        """One of its details, "" if it is not known."""
        found = self.details.get(key)
        return found if isinstance(found, str) and found != "unknown" else ""


@frozen
class Rows:
    """Makes rows of what the catalog has."""

    _names: ShownNames
    _marks: Marks
    _newer: Newer

    def of(self, entry: Entry, missing: Sequence[Need], fills: Mapping[str, Any]) -> Row:
        """
        Return the row.

        ``missing`` are its blobs that are not stored, ``fills`` those on their way, by their digest
        and as `yukari.fills.progress.facts_of`.
        """
        name, tag = Repository.parse(entry.repository), Tag(entry.tag)
        pin = self._marks.pin(name, tag)
        details = json.loads(entry.details)
        return Row(
            entry,
            name=self._names.show(entry.repository, entry.tag),
            details=details if isinstance(details, dict) else {},
            coming=_coming(entry.size, missing, fills),
            newer=self._newer(name, tag, entry.checked_at),
            pinned_by=None if pin is None else pin.by or "admin",
        )


def _coming(size: int, missing: Sequence[Need], fills: Mapping[str, Any]) -> Optional[Coming]:
    found = [fills[str(need.digest)] for need in missing if str(need.digest) in fills]
    if not found:
        return None
    lacking = sum(need.size for need in missing) - sum(fill["covered"] for fill in found)
    return Coming(
        here=max(0, size - lacking),
        size=size,
        rate=round(sum(fill["rate"] for fill in found), 2),
        missing=tuple((need.digest.hex[:12], need.size) for need in missing),
    )
