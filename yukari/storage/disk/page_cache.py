"""
The system's cache of files: what of a file is in it, and what a thread has to read from the disk.
"""

from __future__ import annotations

import os

from yukari.storage.readable import Readable

LOOK_EVERY = 512 * 1024
"""Bytes between two probes whether a file's bytes are in memory."""
LOOK_AHEAD = 8 * 1024 * 1024
"""
Bytes of a file that are looked at ahead. Those that are not in memory are read in a disk thread
first, because ``sendfile`` would make the reactor wait for the disk.
"""
_PIECE = 256 * 1024
"""Bytes that are read at once."""
NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)


def in_memory(descriptor: int, start: int, end: int) -> bool:
    """
    Whether these bytes of a file can be read without waiting for a disk, as far as the system
    tells.
    """
    if not NOWAIT:
        return True
    byte = [bytearray(1)]
    try:
        for at in (*range(start, end, LOOK_EVERY), end - 1):
            os.preadv(descriptor, byte, at, NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system that cannot tell, or an error that sendfile will meet again
        pass
    return True


def read_ahead(readable: Readable, start: int, end: int) -> None:
    """Read these bytes into the page cache. Blocks: for a disk thread."""
    while start < end:
        count = len(readable.read(start, min(_PIECE, end - start)))
        if not count:
            return
        start += count
