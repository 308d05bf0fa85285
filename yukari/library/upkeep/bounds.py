"""Bounds of a store: its size, and how long things stay in it."""

from __future__ import annotations

from typing import Optional

from attrs import frozen

from yukari.config.patterns import Patterns
from yukari.config.units import FreeSpace


@frozen
class Bounds:
    """The store's bounds; times in seconds."""

    store_max: Optional[FreeSpace] = None
    """Bytes, or a share of the disk; None for what MIN_FREE leaves."""
    evict: bool = True
    keep: Patterns = Patterns()
    superseded_lifetime: float = 720 * 3600.0
    grace: float = 3600.0
