"""The bytes of large manifests, in files: their own, or ones that have no name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from tempfile import TemporaryFile

from attrs import define, frozen

from yukari.manifest import Body
from yukari.spans import Span
from yukari.storage.disk.atomic import pieces_of, write_all
from yukari.storage.disk.files import FileBlob, Share


@define(eq=False)
class KeptBody:
    """`KeptBytes` in a file, which is closed with the last manifest that has it."""

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


@frozen
class KeptFiles:
    """Files in ``directory`` that have no name, and vanish when they are closed."""

    directory: str

    def keep(self, bodies: Sequence[Body]) -> list[Body]:
        """
        Write all of these into one file, and return them as they are there.

        As they were if that fails: a disk that is full, or read-only, stops no pull.
        """
        try:
            return self._written(bodies)
        except OSError:
            return list(bodies)

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
