"""
What is known of a blob's size.

A size belongs to a model: a manifest that is wrong about a blob must not spoil it for the models
whose manifests are right, and nor must what upstream says of it in the wrong one's repository.
"""

from __future__ import annotations

from typing import Optional

from attrs import define, field

from yukari.names import Digest, Repository

MAX_CLAIMS = 16
"""Models that are remembered for one blob."""


@define(eq=False, repr=False)
class BlobFacts:
    """The facts known about one digest; sizes are in bytes."""

    digest: Digest
    claims: dict[Repository, int] = field(factory=dict)
    """The size, by the model whose manifest says so."""
    told: dict[Repository, int] = field(factory=dict)
    """The size that upstream told, by the model that it was asked about."""
    size: Optional[int] = None
    """The size of the stored bytes, once upstream or their digest has confirmed it."""
    is_config: bool = False
    unreadable_until: float = 0.0
    """Until when, by the clock, stored bytes count as absent because the disk cannot read them."""

    def learn(self, name: Repository, size: int) -> None:
        """Note what a manifest of ``name`` says."""
        _note(self.claims, name, size)

    def tell(self, name: Repository, size: int) -> None:
        """Note what upstream says, asked about ``name``."""
        _note(self.told, name, size)

    def is_of(self, name: Repository) -> bool:
        """Whether a manifest of ``name``, or upstream, says that it has the blob."""
        return name in self.claims or name in self.told

    def agreed(self, name: Repository) -> Optional[int]:
        """Return the size if it is beyond doubt: confirmed, told, or the same for all models."""
        if self.size is not None:
            return self.size
        size = self.told.get(name)
        if size is None:
            size = self.claims.get(name)
            if not {*self.claims.values(), *self.told.values()} <= {size}:
                return None
        return size


def _note(sizes: dict[Repository, int], name: Repository, size: int) -> None:
    sizes.pop(name, None)
    sizes[name] = size
    if len(sizes) > MAX_CLAIMS:
        del sizes[next(iter(sizes))]
