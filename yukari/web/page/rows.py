"""Stored models as the pages show them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from attrs import frozen

from yukari.library.catalog_rows import Entry
from yukari.library.marks import Marks
from yukari.library.shown_names import ShownNames
from yukari.names import Repository, Tag


@frozen
class Row:
    """A tag; sizes in bytes, times in seconds of the epoch."""

    name: str
    """As Ollama shows it."""
    repository: str
    tag: str
    digest: str
    size: int
    details: Mapping[str, Any]
    percent: Optional[float]
    """How much of it is here while it comes; None if it does not come now."""
    missing: int
    last_pull: Optional[float]
    checked_at: float
    pulls: int
    clients: int
    sent: int
    gone_since: Optional[float]
    own: bool
    pinned_by: Optional[str]
    superseded_at: Optional[float]

    @property
    def path(self) -> str:
        """Of its page."""
        return f"/models/{self.repository}/{self.tag}"

    @property
    def kind(self) -> str:
        """Its state in a word: coming, incomplete, gone, own or here."""
        if self.missing:
            return "incomplete" if self.percent is None else "coming"
        if self.own:
            return "own"
        return "here" if self.gone_since is None else "gone"

    def fact(self, key: str) -> str:
        """One of its details, "" if it is not known."""
        found = self.details.get(key)
        return found if isinstance(found, str) and found != "unknown" else ""


@frozen
class Rows:
    """Makes rows of what the catalog has."""

    _names: ShownNames
    _marks: Marks

    def of(self, entry: Entry, percents: Mapping[str, float]) -> Row:
        """Return the row; ``percents`` say how much of each repository on its way is here."""
        pin = self._marks.pin(Repository.parse(entry.repository), Tag(entry.tag))
        details = json.loads(entry.details)
        return Row(
            name=self._names.show(entry.repository, entry.tag),
            repository=entry.repository,
            tag=entry.tag,
            digest=entry.digest,
            size=entry.size,
            details=details if isinstance(details, dict) else {},
            percent=percents.get(entry.repository),
            missing=entry.missing,
            last_pull=entry.last_pull,
            checked_at=entry.checked_at,
            pulls=entry.pulls,
            clients=entry.clients,
            sent=entry.sent,
            gone_since=entry.gone_since,
            own=bool(entry.own),
            pinned_by=None if pin is None else pin.by or "admin",
            superseded_at=entry.superseded_at,
        )


def percents(fills: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return how much of the blobs on their way is here, for each repository."""
    sizes: dict[str, int] = {}
    covered: dict[str, int] = {}
    for fill in fills:
        model = fill["model"]
        sizes[model] = sizes.get(model, 0) + fill["size"]
        covered[model] = covered.get(model, 0) + fill["covered"]
    return {
        model: round(100 * covered[model] / whole, 1) if whole else 0.0
        for model, whole in sizes.items()
    }
