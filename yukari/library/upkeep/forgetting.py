"""Forgetting what a look through the store no longer finds."""

from __future__ import annotations

from twisted.logger import Logger

from yukari.library.catalog.catalog import Catalog
from yukari.library.catalog.file import CatalogFile
from yukari.library.upkeep.unread import Gaps
from yukari.storage.ports import Store

log = Logger()


async def forget_unseen(store: Store, catalog: Catalog, gaps: Gaps, place: str, now: float) -> None:
    """
    Forget the tags and blobs that the look did not find.

    If the directories have changed, perhaps because something was mounted over them, the missing
    tags' versions count as superseded instead: their blobs are kept for a while.
    """
    is_same = await catalog.run(CatalogFile.is_place, place)
    hidden = 0
    tags, blobs = await catalog.run(CatalogFile.unseen)
    for name, tag in tags:
        # It may have been stored after the look had passed its place.
        (there,) = await store.read_anew([(name, tag)])
        if there or not gaps.is_all_read():
            continue
        if is_same:
            await catalog.run(CatalogFile.remove, name, tag)
        else:
            hidden += 1
            await catalog.run(CatalogFile.supersede, name, tag, now)
    if hidden:
        log.warn(
            "{count} models are gone, and so is the directory of manifests that they were in:"
            " their blobs are kept for SUPERSEDED_LIFETIME, unless room is needed",
            count=hidden,
        )
    if gaps.is_all_read():
        await catalog.run(CatalogFile.set_place, place)
    for digest in blobs:
        if await store.blob_size(digest) is None:
            await catalog.run(CatalogFile.blob_removed, digest)
