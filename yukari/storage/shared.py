"""The agreement between daemons that share a store; see `SharedInventory`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, Protocol

from attrs import field, frozen

from yukari.names import Digest, Repository, Tag


@frozen
class Root:
    """
    An object that blobs are kept for; ``version`` changes with its content.

    ``digest`` is that of a manifest that is stored by its digest, None if it is a tag's.
    ``modified`` is when it was put last, in seconds of the epoch.
    """

    key: str
    name: Repository
    version: str
    modified: float
    digest: Optional[Digest] = None


@frozen
class RootNeeds:
    """The blobs that a root stands on, its manifest included, and the version that was read."""

    root: Root
    version: str
    manifest: Digest
    needs: frozenset[Digest] = field(repr=False)
    is_final: bool
    """Whether the same version stands on the same blobs for ever."""


@frozen
class Pulled:
    """When a tag was pulled last, by the clients of any daemon, in seconds of the epoch."""

    name: Repository
    tag: Tag
    at: float


class SharedInventory(Protocol):
    """
    What several daemons have to agree on before one removes blobs of a store that they share.

    First `take`, then for each batch `doom`, then a look at all roots, then the removals that
    `check` allows, at last `release`. OSError if the store cannot be read or written.
    """

    async def take(self) -> bool:
        """Take the right to remove; return False if another daemon has it."""

    async def doom(self, digests: Iterable[Digest]) -> None:
        """
        Let other daemons know that these are about to be removed.

        A daemon that puts a root from now on sees that. OSError if the right is lost.
        """

    def check(self) -> None:
        """OSError if it is too late to remove what was doomed."""

    async def release(self) -> None:
        """Let others remove."""

    async def roots(self, after: str) -> list[Root]:
        """Return the roots behind the key ``after``, in order; none at the end."""

    async def read(self, root: Root) -> Optional[RootNeeds]:
        """Return what a root stands on now; None if it is gone."""

    async def remove_root(self, root: Root) -> None:
        """Remove a root; harmless if it is gone."""

    async def stored_at(self, digest: Digest) -> Optional[float]:
        """Return when a blob was stored last, in seconds of the epoch; None if it is not stored."""

    async def note_pull(self, name: Repository, tag: Tag) -> float:
        """Let other daemons know that a tag is pulled now; return the time that is noted."""

    async def forget_pulls(self, name: Repository, tag: Tag) -> None:
        """Note that a tag was never pulled."""

    async def pulls(self, after: Optional[Pulled]) -> list[Pulled]:
        """Return some of the tags that were pulled, behind ``after``; none at the end."""

    async def pulled_at(self, name: Repository, tag: Tag) -> float:
        """Return when a tag was pulled last as far as is noted; 0 for never."""
