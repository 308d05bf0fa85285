"""Operating systems that end the process, or refuse, at a step that a test chooses."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

STEPS = frozenset(
    ("open", "write", "pwrite", "pwritev", "ftruncate", "fsync", "fchmod", "utime")
    + ("rename", "unlink", "mkdir", "chmod", "symlink")
)
"""Calls that change what is on disk (a plain opening for reading is none)."""


class Killed(BaseException):
    """The process ended here; nothing that it would have done after is done."""


class DyingOs:
    """
    ``os`` for a process that is killed in its ``steps``-th change to the disk.

    A write is cut in half at that step. `bury` closes what it had open.
    """

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.dead = False
        self._open: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return partial(self._step, name, real) if name in STEPS else real

    def close(self, number: int) -> None:
        if number in self._open:
            self._open.remove(number)
            os.close(number)

    def _step(self, name: str, real: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        if name == "open" and not args[1] & os.O_CREAT:
            return self._opened(real(*args, **keywords))
        if self.dead:
            raise Killed(name)
        if self.left == 0:
            self.dead = True
            if name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            elif name == "pwritev":
                real(args[0], args[1][: len(args[1]) // 2], args[2])
            raise Killed(name)
        self.left -= 1
        result = real(*args, **keywords)
        return self._opened(result) if name == "open" else result

    def _opened(self, number: int) -> int:
        self._open.add(number)
        return number

    def bury(self) -> None:
        """Close every descriptor that the dead process had."""
        self.dead = True
        for number in list(self._open):
            self.close(number)


class RefusingOs:
    """``os`` in which ``refuse``, given a call's name and arguments, may raise in its place."""

    def __init__(self, refuse: Callable[..., None]) -> None:
        self._refuse = refuse
        self.called: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return partial(self._call, name, real) if callable(real) else real

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        self.called.append((name, args))
        self._refuse(name, *args)
        return real(*args, **keywords)
