"""The blobs that a manifest names: as records or, if there are many, packed."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from typing import Union, overload

from attrs import field, frozen

from yukari.names import Digest

PACKED_FROM = 64
"""How many blobs of a manifest are packed; fewer take up to 18 KB as they are."""
_RAW = 32
"""Bytes of a digest."""


@frozen
class Descriptor:
    """One blob as a manifest names it; ``size`` in bytes, or `SIZE_UNKNOWN`."""

    digest: Digest
    size: int
    media_type: str


@frozen
class PackedBlobs(Sequence[Descriptor]):
    """Blobs in their order, in a sixth of their memory; each is made when it is looked at."""

    _digests: bytes = field(repr=False)
    _sizes: bytes = field(repr=False)
    """As machine integers of 64 bits."""
    _kinds: bytes = field(repr=False)
    """The number of the media type of each, as integers of 16 bits."""
    _types: tuple[str, ...]

    @classmethod
    def of(cls, blobs: Collection[Descriptor]) -> PackedBlobs:
        """Pack these."""
        types: dict[str, int] = {}
        kinds = [types.setdefault(blob.media_type, len(types)) for blob in blobs]
        return cls(
            b"".join(blob.digest.raw for blob in blobs),
            array("q", [blob.size for blob in blobs]).tobytes(),
            array("H", kinds).tobytes(),
            tuple(types),
        )

    def __len__(self) -> int:
        return len(self._digests) // _RAW

    def __iter__(self) -> Iterator[Descriptor]:
        return self._some(range(len(self)))

    @overload
    def __getitem__(self, at: int) -> Descriptor: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Descriptor]: ...

    def __getitem__(self, at: Union[int, slice]) -> Union[Descriptor, Sequence[Descriptor]]:
        places = range(len(self))[at]
        return next(self._some([places])) if isinstance(places, int) else [*self._some(places)]

    def _some(self, places: Collection[int]) -> Iterator[Descriptor]:
        digests, types = self._digests, self._types
        sizes, kinds = memoryview(self._sizes).cast("q"), memoryview(self._kinds).cast("H")
        for at in places:
            digest = Digest(digests[at * _RAW : (at + 1) * _RAW].hex())
            yield Descriptor(digest, sizes[at], types[kinds[at]])

    def raw_digests(self) -> list[bytes]:
        """As `raw_digests`."""
        own = self._digests
        return [own[at : at + _RAW] for at in range(0, len(own), _RAW)]

    def of_types(self, media_types: Collection[str]) -> Iterator[Descriptor]:
        """As `of_types`."""
        wanted = {at for at, each in enumerate(self._types) if each in media_types}
        kinds = memoryview(self._kinds).cast("H") if wanted else ()
        return self._some([at for at, kind in enumerate(kinds) if kind in wanted])

    def typed(self) -> Iterator[tuple[bytes, str]]:
        """As `typed`."""
        types = self._types
        for raw, kind in zip(self.raw_digests(), memoryview(self._kinds).cast("H")):
            yield raw, types[kind]

    def among(self, *known: Collection[Digest]) -> list[Descriptor]:
        """As `among`."""
        wanted = {digest.raw for digests in known for digest in digests}
        return [*self._some([at for at, raw in enumerate(self.raw_digests()) if raw in wanted])]


def packed(blobs: Collection[Descriptor]) -> Sequence[Descriptor]:
    """Return blobs as a tuple, or packed if they are many: they take less memory and more time."""
    return tuple(blobs) if len(blobs) < PACKED_FROM else PackedBlobs.of(blobs)


def raw_digests(blobs: Sequence[Descriptor]) -> list[bytes]:
    """Return the bytes of their digests."""
    if isinstance(blobs, PackedBlobs):
        return blobs.raw_digests()
    return [blob.digest.raw for blob in blobs]


def of_types(blobs: Sequence[Descriptor], media_types: Collection[str]) -> Iterator[Descriptor]:
    """Return those of the blobs that are of one of these types, in their order."""
    if isinstance(blobs, PackedBlobs):
        return blobs.of_types(media_types)
    return (blob for blob in blobs if blob.media_type in media_types)


def typed(blobs: Sequence[Descriptor]) -> Iterator[tuple[bytes, str]]:
    """Return the bytes of the digest, and the media type, of each."""
    if isinstance(blobs, PackedBlobs):
        return blobs.typed()
    return ((blob.digest.raw, blob.media_type) for blob in blobs)


def among(blobs: Sequence[Descriptor], *known: Collection[Digest]) -> list[Descriptor]:
    """Return those of the blobs whose digests one of these collections has."""
    if isinstance(blobs, PackedBlobs):
        return blobs.among(*known)
    return [blob for blob in blobs if any(blob.digest in digests for digests in known)]
