"""Files that are not in the page cache: a thread waits for the disk."""

from __future__ import annotations

from yukari.sending.stall import READ
from yukari.storage.readable import Readable

LOOK_AHEAD = 8 * 1024 * 1024
"""
Bytes of a file that are looked at ahead. Those that are not in memory are read in a disk thread
first, because ``sendfile`` would make the reactor wait for the disk.
"""


def read_ahead(readable: Readable, start: int, end: int) -> None:
    """Read these bytes into the page cache. Blocks: for a disk thread."""
    while start < end:
        count = len(readable.read(start, min(READ, end - start)))
        if not count:
            return
        start += count
