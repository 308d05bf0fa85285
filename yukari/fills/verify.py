"""The sha256 of a spool, along the prefix that is there, in a disk thread."""

from __future__ import annotations

from hashlib import sha256

from attrs import define, field

from yukari.names import Digest
from yukari.storage.interface import BlobFile

_BLOCK = 1024 * 1024


@define(eq=False)
class Verifier:
    """Reads each byte of the spool once, in order; ``position`` is the first not yet hashed."""

    _file: BlobFile
    position: int = 0
    _hash: object = field(factory=sha256, init=False)

    def advance(self, end: int) -> None:
        """
        Hash up to ``end``, all of which is covered. Blocks: for a disk thread, one call at a time.
        """
        while self.position < end:
            block = self._file.read(self.position, min(_BLOCK, end - self.position))
            if not block:
                raise OSError(f"the spool ends at byte {self.position}")
            self._hash.update(block)  # type: ignore[attr-defined]
            self.position += len(block)

    def digest(self) -> Digest:
        """The digest of what has been hashed."""
        return Digest(self._hash.hexdigest())  # type: ignore[attr-defined]

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
