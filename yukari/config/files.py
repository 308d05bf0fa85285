"""
Small files that the daemon is told of: certificates, passwords.

Reading what is no file may wait for ever, as a FIFO has it, or have no end.
"""

from __future__ import annotations

import os
import stat

LARGEST = 16 * 1024 * 1024
"""Bytes; the system's roots, all in one file, have 0.2 MB."""

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_file(path: str, largest: int = LARGEST) -> None:
    """`ValueError` where it is no file, or too large a one; `OSError` where nothing is there."""
    found = os.stat(path)
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise ValueError(f"expected a file, this is {kind}")
    if found.st_size > largest:
        raise ValueError(f"expected a file of at most {largest} bytes")


def read_file(path: str, largest: int = LARGEST) -> bytes:
    """All of a file that is no larger; `OSError` or `ValueError` else."""
    check_file(path, largest)
    with open(path, "rb") as file:
        text = file.read(largest + 1)
    if len(text) > largest:
        raise ValueError(f"expected a file of at most {largest} bytes")
    return text
