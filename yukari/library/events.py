"""The events that a library reports."""

from __future__ import annotations

from attrs import define, field

from yukari.names import Digest, Repository, Tag


class Observer:
    """A listener that ignores all events. No method may take long or raise."""

    def tag_stored(self, name: Repository, tag: Tag) -> None:
        """A tag names something new, or has another variant."""

    def child_stored(self, name: Repository) -> None:
        """A manifest is stored that a list of the model's refers to."""

    def blob_stored(self, digest: Digest, size: int) -> None:
        """A blob is stored, and its fill is no more."""

    def checked(self, name: Repository, tag: Tag, at: float, gone: bool) -> None:
        """Upstream was asked about a stored tag, ``at`` in seconds of the epoch."""

    def removed(self) -> None:
        """Models or blobs were removed."""


@define(eq=False, repr=False)
class Events(Observer):
    """Tells all observers."""

    observers: list[Observer] = field(factory=list)

    def tag_stored(self, name: Repository, tag: Tag) -> None:
        for each in self.observers:
            each.tag_stored(name, tag)

    def child_stored(self, name: Repository) -> None:
        for each in self.observers:
            each.child_stored(name)

    def blob_stored(self, digest: Digest, size: int) -> None:
        for each in self.observers:
            each.blob_stored(digest, size)

    def checked(self, name: Repository, tag: Tag, at: float, gone: bool) -> None:
        for each in self.observers:
            each.checked(name, tag, at, gone)

    def removed(self) -> None:
        for each in self.observers:
            each.removed()
