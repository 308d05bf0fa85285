"""
The store that the settings name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Optional

from twisted.internet.defer import Deferred

from yukari.config.proxies import Proxies
from yukari.config.registry_names import RegistryNames
from yukari.config.settings import TIGRIS, Settings
from yukari.large import LargeManifests
from yukari.memory import Memory
from yukari.metrics import Metrics
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.ports import Store

if TYPE_CHECKING:
    from yukari.storage.bucket.upkeep import BucketKeeper

Opened = tuple[Store, Optional["BucketKeeper"]]
"""A store, and what takes care of its bucket if it has one."""


def open_store(
    reactor: Any,
    settings: Settings,
    environment: Mapping[str, str],
    in_thread: Callable[..., Deferred[Any]],
    metrics: Metrics,
    proxies: Proxies,
    large: LargeManifests,
    memory: Memory,
) -> Opened:
    """
    Make the store, not yet started; `ValueError` in one line if its settings are wrong.

    ``memory`` is for blobs that go past the disk.
    """
    if settings.storage == TIGRIS:
        # botocore takes 0.25 s to import: imported lazily, so that directory stores start fast.
        from yukari.storage.bucket.upkeep import open_bucket_store

        keeper = open_bucket_store(
            reactor, settings, environment, in_thread, metrics, proxies, large, memory
        )
        return keeper.store, keeper
    store = DirectoryStore(
        path=settings.storage,
        upstream_host=settings.registries[0].host,
        other_registries=RegistryNames.of(settings.registries).others,
        in_thread=in_thread,
        clock=reactor,
        spool_dir=settings.spool_dir,
        min_free=settings.min_free,
        offline=settings.offline,
        large=large,
    )
    return store, None
