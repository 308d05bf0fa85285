"""Multipart uploads: the size of parts, the note of an upload beside its spool, and sending."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from hashlib import md5
from typing import Optional

from attrs import asdict, frozen

from yukari.config.files import read_file
from yukari.names import Digest
from yukari.s3.body import FileBody
from yukari.s3.client import S3Client
from yukari.s3.errors import S3Error
from yukari.spans import Span, SpanSet
from yukari.storage.disk.atomic import replace_file
from yukari.storage.disk.files import FileBlob

SMALL = 8 * 1024 * 1024
"""A blob of fewer bytes is uploaded in one piece; no part but the last has fewer."""
MAX_PARTS = 10_000
"""Parts of an upload at most, by S3's rules."""
OCTETS = "application/octet-stream"
NOTE = ".upload"
"""The ending of a note's file name."""
_MD5_LENGTH = 32
_BLOCK = 1024 * 1024


def part_size(size: int) -> int:
    """Return the bytes of all parts but the last: whole MiB, for at most 10,000 parts."""
    mib = 1024 * 1024
    least = -(-size // MAX_PARTS)
    return max(SMALL, -(-least // mib) * mib)


LARGEST_NOTE = 64 * 1024
"""Bytes of a note."""


@frozen
class BlobParts:
    """The parts of a blob of ``size`` bytes, numbered from 0; all but the last are equally long."""

    size: int
    part_size: int

    @classmethod
    def of(cls, size: int) -> BlobParts:
        """Divide a blob of ``size`` bytes."""
        return cls(size, part_size(size))

    @property
    def count(self) -> int:
        """The number of parts."""
        return -(-self.size // self.part_size)

    def span(self, number: int) -> Span:
        """The bytes of a part."""
        start = number * self.part_size
        return Span(start, min(self.size, start + self.part_size))

    def first_ready(self, covered: Iterable[Span], taken: SpanSet) -> Optional[int]:
        """Return the first part whose bytes are all ``covered`` and that is not in ``taken``."""
        for span in covered:
            first = -(-span.start // self.part_size)
            last = self.count if span.end == self.size else span.end // self.part_size
            if first < last and (gap := taken.gap(first, last)) is not None:
                return gap.start
        return None


@frozen
class Note:
    """
    The note beside a spool: its media type, and the upload that was begun for it, if any.

    For a blob that is uploaded without a spool also its size and a repository that has it; else 0
    and "".
    """

    media_type: str = OCTETS
    upload_id: str = ""
    part_size: int = 0
    size: int = 0
    repository: str = ""

    @classmethod
    def read(cls, path: str) -> Note:
        """Read a note; an empty one if there is none that can be read. Blocks."""
        try:
            found = json.loads(read_file(path, LARGEST_NOTE))
            read = cls(
                str(found["media_type"]),
                str(found["upload_id"]),
                int(found["part_size"]),
                max(0, int(found.get("size", 0))),
                str(found.get("repository", "")),
            )
            return read if read.media_type.isascii() and read.media_type.isprintable() else cls()
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return cls()
        except (RecursionError, OverflowError):  # JSON nested too deep, or a number without end
            return cls()

    def write(self, path: str, through: str) -> None:
        """Write it in one step, through a file in the directory ``through``. Blocks; OSError."""
        replace_file(path, json.dumps(asdict(self)).encode(), time.time_ns(), through)


def md5_of(file: FileBlob, span: Span) -> str:
    """Return the MD5 of a span of a file, in hex. Blocks."""
    hashed = md5(usedforsecurity=False)
    for offset in range(span.start, span.end, _BLOCK):
        hashed.update(file.read(offset, min(_BLOCK, span.end - offset)))
    return hashed.hexdigest()


def differs(etag: str, found: str) -> bool:
    """Whether an ETag is the MD5 of other bytes; one that is no MD5 (SSE-KMS) says nothing."""
    return len(etag) == _MD5_LENGTH and "-" not in etag and etag.lower() != found


Made = Callable[[Callable[[], None]], FileBody]
"""Makes a body, once for each attempt; its argument is called for each block written."""


async def send_part(client: S3Client, key: str, upload_id: str, number: int, make: Made) -> str:
    """Send a part, numbered from 1, and return its ETag; `S3Error` if other bytes arrived."""
    bodies: list[FileBody] = []

    def body(heard: Callable[[], None]) -> FileBody:
        bodies.append(make(heard))
        return bodies[-1]

    etag = await client.upload_part(key, upload_id, number, body)
    if differs(etag, bodies[-1].md5):
        raise S3Error("BadDigest", 0, f"part {number} arrived with other bytes")
    return etag


async def put_in_one(client: S3Client, key: str, media_type: str, make: Made) -> None:
    """Store a small object. `S3Error` if other bytes arrived; then it is removed."""
    bodies: list[FileBody] = []

    def body(heard: Callable[[], None]) -> FileBody:
        bodies.append(make(heard))
        return bodies[-1]

    etag = await client.put_file(key, media_type, body)
    if differs(etag, bodies[-1].md5):
        await client.delete_object(key)
        raise S3Error("BadDigest", 0, "it arrived with other bytes")


def note_path(directory: str, digest: Digest) -> str:
    """Return the path of the note of a spool in ``directory``."""
    return os.path.join(directory, digest.file_name + NOTE)
