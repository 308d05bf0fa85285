"""The record of a managed store that everything which removes from it shares."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from yukari.library.blobs import Blobs
from yukari.library.catalog.catalog import Catalog
from yukari.library.in_use import InUse
from yukari.library.upkeep.index import Index
from yukari.library.upkeep.marks import Marks
from yukari.library.upkeep.room import Bounds
from yukari.storage.ports import Store


@frozen(eq=False, repr=False)
class Managed:
    """A store, its bounds, and what is known of it; ``now`` returns seconds of the epoch."""

    store: Store
    bounds: Bounds
    catalog: Catalog
    marks: Marks
    index: Index
    blobs: Blobs
    in_use: InUse
    clock: IReactorTime
    now: Callable[[], float]
