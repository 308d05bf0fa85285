"""Warnings that are logged once."""

from __future__ import annotations

from collections.abc import Hashable
from threading import Lock

from attrs import define, field

MAX_REMEMBERED = 1000
"""Warnings that are remembered at most; one more forgets them all, so that they come again."""


@define(eq=False, repr=False)
class Once:
    """Remembers which warnings were logged; any thread may ask it."""

    _logged: set[Hashable] = field(factory=set, init=False)
    _lock: Lock = field(factory=Lock, init=False)

    def is_new(self, warning: Hashable) -> bool:
        """Whether this is the first call with ``warning``, as far as is remembered."""
        with self._lock:
            if warning in self._logged:
                return False
            if len(self._logged) >= MAX_REMEMBERED:
                self._logged.clear()
            self._logged.add(warning)
            return True
