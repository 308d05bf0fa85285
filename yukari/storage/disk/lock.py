"""One daemon owns a directory: an advisory lock that dies with its process."""

from __future__ import annotations

import fcntl
import os
from typing import Optional

from attrs import define, field

from yukari.storage.ports import StoreUnusable


@define(eq=False)
class DirectoryLock:
    """A lock file, held from `take` to `release` or the process's end; the file stays."""

    path: str
    _descriptor: Optional[int] = field(default=None, init=False)

    def take(self) -> None:
        """`StoreUnusable` where another has it, with that process's number where it is known."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreUnusable(
                f"{os.path.dirname(self.path)} is in use by another yukari"
                f"{f' (process {holder})' if holder.isdigit() else ''}: "
                "stop that one or choose another directory"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let another have it; harmless when repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
