"""
The stand-in for upstream when the cache must not open connections.
"""

from __future__ import annotations

from typing import NoReturn, Optional

from attrs import define, field

from yukari.errors import RegistryError
from yukari.manifest import AnyManifest, Manifest, Variant
from yukari.names import Digest, Reference, Repository, Tag
from yukari.sources.base import Answer, SourceRefused
from yukari.sources.circuit import Reachability
from yukari.sources.host_facts import HostFacts
from yukari.sources.pace import HostPace
from yukari.sources.ways import Access
from yukari.spans import Span


class IsOffline(RegistryError):
    """The error for whatever would be asked of upstream."""


def _missing(what: object) -> IsOffline:
    return IsOffline("UNAVAILABLE", f"this cache is offline and does not hold {what}", 503)


@define(eq=False, repr=False)
class Offline:
    """Takes the place of an `Upstream`; each method raises that the cache is offline."""

    def state_of(self, _: str) -> Reachability:
        return Reachability()

    def access_of(self, _: str) -> tuple[Access, ...]:
        return ()

    def hosts_of(self, _: str) -> tuple[HostFacts, ...]:
        return ()

    def is_down(self, _: Repository) -> bool:
        return False

    async def manifest(
        self,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
    ) -> AnyManifest:
        raise _missing(f"{name}:{reference}")

    async def manifest_digest(
        self, name: Repository, tag: Tag, user_agent: str, variant: Variant = Variant.PLAIN
    ) -> Optional[Digest]:
        raise _missing(f"{name}:{tag}")

    async def child(self, name: Repository, digest: Digest) -> Manifest:
        raise _missing(f"manifest {digest}")

    async def blob_size(self, name: Repository, digest: Digest) -> int:
        raise _missing(f"blob {digest}")

    def blob(self, digest: Digest, size: int, *repositories: Repository) -> OfflineBlob:
        return OfflineBlob(digest)


@define(eq=False, repr=False)
class OfflineBlob:
    """A `BlobSource` that has nothing."""

    _digest: Digest
    pace: HostPace = field(factory=HostPace)
    ranges: bool = False

    async def fetch(self, span: Span) -> Answer:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise SourceRefused(_missing(f"blob {self._digest}"))

    def add_repository(self, name: Repository) -> None:
        pass

    def describe(self) -> str:
        return "upstream"

    async def set_aside(self, *, alone: bool) -> bool:
        return False

    def retry(self) -> None:
        pass

    def move_on(self, *, soon: bool = False) -> bool:
        return False
