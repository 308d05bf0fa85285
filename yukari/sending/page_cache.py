"""Files that are not in the system's memory: the disk is waited for in a thread."""

from __future__ import annotations

import os

from yukari.sending.stall import READ
from yukari.storage.readable import Readable

LOOK_AHEAD = 8 * 1024 * 1024
LOOK_EVERY = 512 * 1024
"""
So many bytes ahead a file is looked at, a byte every so often, whether it is in memory; where it is
not it is read in a disk thread first, for ``sendfile`` would have everybody wait for the disk.
"""
NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)


def in_memory(descriptor: int, start: int, end: int) -> bool:
    """
    Whether those bytes of a file can be had without waiting for a disk, as far as the system tells.
    """
    if not NOWAIT:
        return True
    byte = [bytearray(1)]
    try:
        for at in (*range(start, end, LOOK_EVERY), end - 1):
            os.preadv(descriptor, byte, at, NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system that cannot tell, or an error that sendfile will meet
        pass
    return True


def read_ahead(readable: Readable, start: int, end: int) -> None:
    """Have the system read those bytes into memory. Blocks: for a disk thread."""
    while start < end:
        count = len(readable.read(start, min(READ, end - start)))
        if not count:
            return
        start += count
