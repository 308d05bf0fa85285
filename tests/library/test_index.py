"""What a list shows of a store that was changed by hand."""

from __future__ import annotations

import os
import shutil
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.library.test_collector import World, weights
from tests.storage.disk.test_store import HOST
from tests.storage.strategies import result_of
from yukari.library.catalog_file import CatalogFile
from yukari.library.index import OLD_AFTER, QUICK, SHARE
from yukari.storage.disk.store import DirectoryStore


class ByHandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(os.path.abspath(self.mktemp()))
        self.world.start()
        self.addCleanup(self.world.stop)
        for model in ("a", "b"):
            self.world.publish(model, weights(model))
            self.world.pull(model)
        self.assertEqual(self.listed(), ["library/a", "library/b"])

    def listed(self) -> list[str]:
        result_of(self.world.management.index.refresh())
        rows = result_of(self.world.management.catalog.run(CatalogFile.page))
        return [row.repository for row in rows]

    def manifests(self, *names: str) -> str:
        return os.path.join(self.world.path, "manifests", HOST, "library", *names)

    def test_what_was_removed_is_not_listed(self) -> None:
        """It was, until the next hourly look."""
        self.world.clock.advance(OLD_AFTER)
        shutil.rmtree(self.manifests("a"))
        linked = os.path.join(self.world.path, "manifests-v2", HOST.replace(":", "%3A"))
        shutil.rmtree(os.path.join(linked, "library", "a"))
        self.assertEqual(self.listed(), ["library/b"])
        self.world.clock.advance(OLD_AFTER)
        for tree in ("manifests", "manifests-v2", "blobs"):
            shutil.rmtree(os.path.join(self.world.path, tree))
        self.assertEqual(self.listed(), [])

    def test_what_was_copied_in_is_listed(self) -> None:
        self.world.clock.advance(OLD_AFTER)
        shutil.copytree(self.manifests("a"), self.manifests("c"))
        self.assertEqual(self.listed(), ["library/a", "library/b", "library/c"])

    def test_many_lists_are_one_look(self) -> None:
        looks = self.count_looks(0.0)
        self.world.clock.advance(OLD_AFTER)
        for _ in range(10):
            self.listed()
        self.assertEqual(looks, [None])

    def test_a_list_does_not_wait_where_looks_are_slow(self) -> None:
        """A hundred thousand models, or a network disk."""
        looks = self.count_looks(QUICK * 2)
        self.world.clock.advance(OLD_AFTER)
        self.listed()
        self.world.clock.advance(QUICK * SHARE * 2)
        self.listed()
        self.assertEqual(looks, [None])

    def count_looks(self, seconds: float) -> list[Any]:
        """The looks from now on, each of which takes so long."""
        real, looks = DirectoryStore.blobs, []

        async def blobs(store: DirectoryStore, after: Any = None, most: int = 500) -> Any:
            if after is None:
                looks.append(after)
                self.world.clock.advance(seconds)
            return await real(store, after, most)

        self.patch(DirectoryStore, "blobs", blobs)
        return looks
