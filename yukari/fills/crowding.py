"""Whether a blob's requests fail because its host is busy with other blobs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from yukari.fills.fetcher import RangeFetch
from yukari.fills.retries import RetryState
from yukari.sources.base import BlobSource


class Fetched(Protocol):
    """A blob on its way, as far as this matters."""

    @property
    def source(self) -> BlobSource: ...
    @property
    def tries(self) -> RetryState: ...
    @property
    def fetches(self) -> Iterable[RangeFetch]: ...


def is_crowded_out(blob: Fetched, began: float, blobs: Iterable[Fetched]) -> bool:
    """
    Whether the host of ``blob`` sends another of the ``blobs`` just now, or was asked for it before
    ``began``, when the request began that has failed.
    """
    limit = blob.source.pace.limit
    return any(
        (fetch.received or other.tries.is_waiting(fetch.began_at, began))
        and other.source.pace.limit is limit
        for other in blobs
        if other is not blob
        for fetch in other.fetches
    )
