"""The bytes of the emulated blobs: pseudo-random, and different at every position."""

from __future__ import annotations

import hashlib
import os
import random
import re
import tempfile
from collections.abc import Iterable, Iterator

MIB = 1 << 20
STAMPED = 1 << 16
"""A blob's bytes differ by position: each block of this size begins with its own stamp."""


def parse_size(text: str) -> int:
    """Bytes, from ``1234``, ``20KB``, ``2GB`` (powers of ten) or ``64MiB`` (powers of two)."""
    match = re.fullmatch(r"([0-9.]+) *(?:([KMGT])(i?))?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"size {text!r}: expected digits and a unit such as MB or MiB")
    number, unit, binary = match.groups()
    power = "KMGT".index(unit.upper()) + 1 if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


class Content:
    """The bytes of all blobs, in one unlinked temporary file."""

    def __init__(self, directory: str | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._end = 0
        self._placed: dict[str, tuple[int, int]] = {}

    def close(self) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def __contains__(self, digest: object) -> bool:
        return digest in self._placed

    def size(self, digest: str) -> int:
        return self._placed[digest][1]

    def offset(self, digest: str) -> int:
        """The offset in the file at which the blob begins."""
        return self._placed[digest][0]

    def read(self, digest: str, start: int = 0, end: int | None = None) -> bytes:
        """The blob's bytes ``start <= byte < end``."""
        offset, size = self._placed[digest]
        stop = size if end is None else min(end, size)
        return os.pread(self.fileno(), stop - start, offset + start)

    def put(self, body: bytes) -> str:
        """Keep a blob of these bytes; return its digest."""
        return self._place([body])

    def generate(self, size: int, seed: int) -> str:
        """Keep a blob of ``size`` bytes that follow from ``seed``; return its digest."""
        return self._place(generated(size, seed))

    def _place(self, pieces: Iterable[bytes]) -> str:
        seen, start = hashlib.sha256(), self._end
        for piece in pieces:
            seen.update(piece)
            self._end += os.pwrite(self.fileno(), piece, self._end)
        digest = f"sha256:{seen.hexdigest()}"
        if digest in self._placed:
            self._end = start
        else:
            self._placed[digest] = (start, self._end - start)
        return digest


def generated(size: int, seed: int) -> Iterator[bytes]:
    """Pseudo-random bytes in pieces of at most a MiB, different at every position of a blob."""
    base = bytearray(random.Random(seed).randbytes(min(size, MIB)))
    stamp = random.Random(~seed).getrandbits(64)
    for start in range(0, size, MIB):
        piece = base if size - start >= MIB else base[: size - start]
        for at in range(0, len(piece) - 7, STAMPED):
            mark = stamp ^ ((start + at) // STAMPED)
            piece[at : at + 8] = mark.to_bytes(8, "big")
        yield bytes(piece)
