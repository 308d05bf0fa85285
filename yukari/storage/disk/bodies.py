"""The bytes of large manifests, in files: their own, or ones that have no name."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from tempfile import TemporaryFile
from weakref import WeakSet

from attrs import define, field

from yukari.manifest import Body
from yukari.spans import Span
from yukari.storage.disk.atomic import pieces_of, write_all
from yukari.storage.disk.files import FileBlob, Share
from yukari.storage.readable import MemoryBlob

MOST_IN_MEMORY = 16 * 1024 * 1024
"""Bytes of all manifests that no file takes: two of the largest."""


@define(eq=False, repr=False)
class KeptBody:
    """`KeptBytes` in a file, which is closed with the last manifest that has it."""

    in_memory = 0
    _file: FileBlob
    span: Span

    def read(self, offset: int, count: int) -> bytes:
        return self._file.read(offset, count)

    def share(self) -> FileBlob:
        return self._file.share()

    def __len__(self) -> int:
        return len(self.span)

    def __bytes__(self) -> bytes:
        return b"".join(pieces_of(self))

    def __del__(self) -> None:
        self._file.close()


@define(eq=False, repr=False)
class MemoryBody:
    """`KeptBytes` that no file takes."""

    _data: bytes
    span: Span = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.span = Span(0, len(self._data))

    @property
    def in_memory(self) -> int:
        return len(self._data)

    def read(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]

    def share(self) -> MemoryBlob:
        return MemoryBlob(len(self._data), self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __bytes__(self) -> bytes:
        return self._data


@define(eq=False, repr=False)
class KeptFiles:
    """
    Files in ``directory`` that have no name, and vanish when they are closed.

    What no file takes stays in memory, up to `MOST_IN_MEMORY`.
    """

    directory: str
    _in_memory: WeakSet[MemoryBody] = field(factory=WeakSet, init=False)

    def keep(self, bodies: Sequence[Body]) -> list[Body]:
        """
        Write all of these into one file, and return them as they are there.

        A disk that is full, or read-only, stops no pull: then they stay in memory. OSError if that
        has as many as it may; one thread at a time.
        """
        try:
            return self._written(bodies)
        except OSError:
            return self._left(bodies)

    def _left(self, bodies: Sequence[Body]) -> list[Body]:
        taken = sum(map(len, self._in_memory))
        if taken + sum(len(body) for body in bodies if isinstance(body, bytes)) > MOST_IN_MEMORY:
            raise OSError(
                errno.ENOMEM, "no disk takes large manifests, and memory has as many as it may"
            )
        left: list[Body] = [
            MemoryBody(body) if isinstance(body, bytes) else body for body in bodies
        ]
        self._in_memory.update(body for body in left if isinstance(body, MemoryBody))
        return left

    def _written(self, bodies: Sequence[Body]) -> list[Body]:
        os.makedirs(self.directory, exist_ok=True)
        with TemporaryFile(dir=self.directory, buffering=0) as made:
            spans, end = [], 0
            for body in bodies:
                for piece in pieces_of(body):
                    write_all(made.fileno(), piece)
                spans.append(Span(end, end + len(body)))
                end += len(body)
            file = FileBlob(end, Share.of(os.dup(made.fileno())))
        try:
            return [KeptBody(file.share(), span) for span in spans]
        finally:
            file.close()
