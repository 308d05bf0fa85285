"""S3's objects, parts and uploads, read from what botocore has parsed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Optional

from attrs import frozen


@frozen
class Head:
    """The head of an object; ``modified`` in seconds of the epoch."""

    size: int
    etag: str
    """Without its quotes."""
    modified: float
    content_type: str
    metadata: Mapping[str, str]
    content_range: str = ""


@frozen
class ListedObject:
    """An object as a listing has it."""

    key: str
    size: int
    etag: str
    modified: float


@frozen
class ListedPage:
    """A page of a listing; ``token`` asks for the next, None after the last."""

    objects: tuple[ListedObject, ...]
    token: Optional[str]


@frozen
class Part:
    """A part of an upload that S3 has; ``modified`` in seconds of the epoch."""

    number: int
    size: int
    etag: str
    modified: float


@frozen
class UnfinishedUpload:
    """A multipart upload that is neither complete nor aborted."""

    key: str
    upload_id: str
    initiated: float


def head(told: dict[str, Any], size: int) -> Head:
    return Head(
        size,
        bare(told.get("ETag", "")),
        modified(told),
        told.get("ContentType", ""),
        told.get("Metadata", {}),
        told.get("ContentRange", ""),
    )


def bare(etag: str) -> str:
    return str(etag).strip().strip('"')


def modified(told: dict[str, Any]) -> float:
    return seconds(told["LastModified"]) if "LastModified" in told else 0.0


def seconds(when: datetime) -> float:
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
