"""
A blob as a request reads it, wherever its bytes are.

`Readable` is what the registry's senders know of a blob: from which file its
bytes can be sent, how far, and when there will be more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Optional, Protocol, TypeVar, Union

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from yukari.names import Digest
from yukari.storage.ports import BlobFile

T = TypeVar("T")


def work_on_each(
    open_blob: Callable[[Digest], Optional[BlobFile]],
    digests: Sequence[Digest],
    work: Callable[[BlobFile], T],
) -> list[Optional[T]]:
    """As `BlobStore.each_blob`, for a disk thread: the blobs are opened one after the other."""
    found: list[Optional[T]] = []
    for digest in digests:
        file = open_blob(digest)
        if file is None:
            found.append(None)
            continue
        with closing(file):
            found.append(work(file))
    return found


class Closable(Protocol):
    """An object that is closed when nobody wants it any more."""

    def close(self) -> None: ...


def close_found(found: Optional[Closable]) -> None:
    """Close what a disk thread has opened for somebody who waits no more."""
    if found is not None:
        found.close()


@define(eq=False, repr=False)
class MemoryBlob:
    """`BlobFile` over bytes."""

    size: int
    _body: Union[bytes, bytearray]
    _closed: bool = field(default=False, init=False)

    def fileno(self) -> Optional[int]:
        return None

    def read(self, offset: int, count: int) -> bytes:
        if self._closed:
            raise ValueError("this file is closed")
        return bytes(self._body[offset : offset + count])

    def share(self) -> MemoryBlob:
        if self._closed:
            raise ValueError("this file is closed")
        return MemoryBlob(self.size, self._body)

    def close(self) -> None:
        self._closed = True


class SpoolLost(Exception):
    """The bytes can no longer be kept on this disk; they are still to be had upstream."""


class FoundWrong(Exception):
    """Stored bytes turned out to be wrong while they were sent."""


class Readable(Protocol):
    """An open blob; close it when done."""

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""

    @property
    def result(self) -> str:
        """``hit`` or ``fill``, for the log."""

    async def ready(self, position: int) -> None:
        """Return once a reply can begin; `RegistryError` or `SpoolLost` if none will."""

    def available(self, position: int) -> int:
        """The bytes from ``position`` up to, not including, the one returned can be read now."""

    def wait(self, position: int) -> Deferred[None]:
        """
        Fires when `available` has grown beyond ``position``.

        Fails with `RegistryError` or `SpoolLost` when it never will. Cancelling stops waiting.
        """

    def fileno(self) -> Optional[int]: ...

    def read(self, offset: int, count: int) -> bytes:
        """Blocks: for a disk thread."""

    def close(self) -> None: ...


@define(eq=False, repr=False)
class StoredBlob:
    """A blob that is stored whole; ``closed`` is called with it when it is closed."""

    _file: BlobFile
    _closed: Callable[[StoredBlob], None] = lambda _: None
    size: int = field(init=False)
    is_wrong: bool = field(default=False, init=False)
    """Whether its bytes turned out to be wrong: no more of them are sent."""
    result: str = field(default="hit", init=False)

    def __attrs_post_init__(self) -> None:
        self.size = self._file.size

    async def ready(self, position: int) -> None:
        pass

    def available(self, position: int) -> int:
        return position if self.is_wrong else self.size

    def wait(self, position: int) -> Deferred[None]:
        return fail(FoundWrong("the stored bytes are wrong")) if self.is_wrong else succeed(None)

    def fileno(self) -> Optional[int]:
        return self._file.fileno()

    def read(self, offset: int, count: int) -> bytes:
        return self._file.read(offset, count)

    def close(self) -> None:
        self._file.close()
        self._closed(self)
