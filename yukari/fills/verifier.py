"""The sha256 of a spool, along the prefix that is there, in a disk thread."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Protocol

from attrs import define, field

from yukari.names import Digest

_BLOCK = 1024 * 1024


class Bytes(Protocol):
    """The file that is read: a spool's or a blob's."""

    def read(self, offset: int, count: int) -> bytes: ...

    def close(self) -> None: ...


@define(eq=False)
class Verifier:
    """Reads each byte of the spool once, in order; ``position`` is the first not yet hashed."""

    _file: Bytes
    position: int = 0
    hash: Any = field(factory=sha256, init=False)

    def advance(self, end: int) -> None:
        """
        Hash up to ``end``, all of which is covered. Blocks: for a disk thread, one call at a time.
        """
        while self.position < end:
            block = self._file.read(self.position, min(_BLOCK, end - self.position))
            if not block:
                raise OSError(f"the spool ends at byte {self.position}")
            self.hash.update(block)
            self.position += len(block)

    def digest(self) -> Digest:
        """The digest of what has been hashed."""
        return Digest(self.hash.hexdigest())

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
