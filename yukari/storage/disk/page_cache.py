"""The system's cache of files, which tells what has to be read from the disk."""

from __future__ import annotations

import os

LOOK_EVERY = 512 * 1024
"""Bytes between two probes whether a file's bytes are in memory."""
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
