"""
How much more may be stored on a file system.

``statvfs`` tells what is free now; a spool that is open will take more, so
what it has not written yet is reserved. ``statvfs`` counts what is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock

from attrs import define, field

from yukari.config.units import FreeSpace, shown_bytes
from yukari.storage.disk.tolerance import without
from yukari.storage.ports import NoRoom

Statvfs = Callable[[str], os.statvfs_result]

_LOST = "MIN_FREE does not hold, and a full disk is found by writing to it"
_UNKNOWN = os.statvfs_result((4096, 4096, 2**38, 2**38, 2**38, 0, 0, 0, 0, 255))
"""A petabyte, if a file system does not tell its size."""
_INODES_KEPT = 16
"""Fewer free than this count as none: a spool and a manifest take up to six."""
_MAX_INODES = 2**32 - 1
"""A file system that says it has so many, or more, makes them as it needs them."""


@define(eq=False, repr=False)
class Reservation:
    """The room of one blob's bytes that are not yet written; for any thread."""

    _room: Room
    left: int

    def keep(self, left: int) -> None:
        """Reserve ``left`` bytes from now on; an increase is never refused."""
        with self._room._lock:
            self._room.reserved += left - self.left
            self.left = left

    def release(self) -> None:
        """Give the room back; harmless when repeated."""
        self.keep(0)


@define(eq=False, repr=False)
class Room:
    """Free space of the file system that ``path`` is on; blocks like ``statvfs``, any thread."""

    path: str
    min_free: FreeSpace
    _statvfs: Statvfs = os.statvfs
    reserved: int = field(default=0, init=False)
    """Bytes that are reserved and not yet written."""
    _lock: Lock = field(factory=Lock, init=False)

    def _look(self) -> os.statvfs_result:
        """Return what the file system says of its space now. OSError."""
        path = self.path
        while True:
            try:
                found = self._statvfs(path)
                break
            except FileNotFoundError:
                # A directory that an operator removed is made again when something is stored.
                path, below = os.path.dirname(path), path
                if path in ("", below):
                    raise
            except OSError as error:
                without("statvfs", _LOST, self.path, error)
                return _UNKNOWN
        # Some that lie behind FUSE or a network answer with zeros, or with more free than there is,
        # or less than nothing: unknown is not full.
        tells = found.f_frsize > 0 and 0 < found.f_blocks >= found.f_bavail >= 0
        return found if tells else _UNKNOWN

    def reserve(self, size: int) -> Reservation:
        """Reserve ``size`` bytes; `NoRoom` if less than the minimum would stay free."""
        found = self._look()
        with self._lock:
            self._refuse(found, size, self.reserved)
            self.reserved += size
        return Reservation(self, size)

    def hold(self, size: int) -> Reservation:
        """Reserve ``size`` bytes that were promised before: never refused."""
        with self._lock:
            self.reserved += size
        return Reservation(self, size)

    def free(self) -> int:
        """Return how many more bytes can be reserved; below 0 if too many are taken already."""
        found = self._look()
        kept = self.min_free.of(found.f_blocks * found.f_frsize)
        with self._lock:
            return found.f_bavail * found.f_frsize - kept - self.reserved

    def size(self) -> int:
        """Return how many bytes the file system has, free or not."""
        found = self._look()
        return found.f_blocks * found.f_frsize

    def short_of(self, size: int) -> int:
        """Return how many bytes are lacking for a reservation of ``size``; 0 if there is room."""
        return max(0, size - self.free())

    def check(self, size: int) -> None:
        """`NoRoom` if ``size`` bytes cannot be written now; reservations do not count."""
        self._refuse(self._look(), size, 0)

    def _refuse(self, found: os.statvfs_result, size: int, reserved: int) -> None:
        if 0 < found.f_files < _MAX_INODES and found.f_favail < _INODES_KEPT:
            raise NoRoom(f"{self.path}: no inodes left ({found.f_favail} of {found.f_files} free)")
        free = found.f_bavail * found.f_frsize
        kept = self.min_free.of(found.f_blocks * found.f_frsize)
        if free - reserved - size < kept:
            raise NoRoom(
                f"{self.path}: no room for {shown_bytes(size)}: {shown_bytes(free)} free,"
                f" {shown_bytes(reserved)} of it reserved for blobs on their way,"
                f" {shown_bytes(kept)} to stay free"
            )
