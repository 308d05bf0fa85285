"""How much is measured: the whole, or as little as shows that everything still works."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from attrs import frozen

MB = 1_000_000
GB = 1_000_000_000
SHM = Path("/dev/shm")

T = TypeVar("T")


@frozen
class Scale:
    """
    ``quick`` is a smoke run; ``full`` adds what takes many minutes or many gigabytes. ``cells`` are
    shell patterns of the only cells that are wanted, where a bench names its cells.
    """

    quick: bool = False
    full: bool = False
    cells: tuple[str, ...] = ()

    def wants(self, cell: str) -> bool:
        """Whether a cell is to be measured."""
        return not self.cells or any(fnmatchcase(cell, each) for each in self.cells)

    def of(self, normal: T, quick: T, full: T | None = None) -> T:
        """What to take in this run."""
        if self.quick:
            return quick
        return full if self.full and full is not None else normal


@contextmanager
def workplace(room: int = GB) -> Iterator[Path]:
    """A directory that goes when the bench ends: in memory where ``room`` bytes fit twice over."""
    roomy = SHM.is_dir() and shutil.disk_usage(SHM).free > 2 * room
    if roomy:
        free = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        roomy = int(free["MemAvailable"].split()[0]) * 1024 > 2 * room
    made = Path(tempfile.mkdtemp(prefix="yukari-bench-", dir=SHM if roomy else None))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


class Ballast:
    """
    Memory that is held until it is needed.

    What a virtual machine has not had in use its host must find first, at half
    a gigabyte a second here: that, and not who writes it, would be measured.
    """

    def __init__(self, place: Path, count: int) -> None:
        self._path = place / "ballast"
        self._left = count if place.is_relative_to(SHM) else 0
        block = memoryview(bytes(MB))
        with self._path.open("wb") as opened:
            for start in range(0, self._left, MB):
                opened.write(block[: self._left - start])

    def release(self, count: int) -> None:
        """So many bytes are about to be written."""
        self._left = max(0, self._left - count)
        os.truncate(self._path, self._left)
