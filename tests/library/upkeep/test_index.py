"""What a list shows of a store that was changed by hand."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.ending import begin
from tests.library.upkeep.test_collector import World, weights
from tests.storage.contract import NAME, OLD
from tests.storage.disk.test_store import HOST
from tests.storage.strategies import result_of
from tests.strategies import manifest_body
from yukari.descriptors import Descriptor
from yukari.errors import RegistryError
from yukari.leisure import Leisure
from yukari.library.catalog.file import CatalogFile
from yukari.library.upkeep import index as stock
from yukari.library.upkeep.index import (
    BATCH,
    BESIDE_REQUESTS,
    DETAILS_EVERY,
    FIRST_LOOK_WITHIN,
    OLD_AFTER,
    OLD_SHARE,
    QUICK,
    RETRY_FIRST,
    Index,
)
from yukari.manifest import LARGE, Manifest
from yukari.names import Digest, Tag
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

    def test_a_list_waits_for_the_first_look_and_is_refused_if_that_takes_long(self) -> None:
        """A program that asked just after the start was told that there were no models."""
        upkeep = self.world.management.index
        upkeep.looked = False
        asked = begin(self, upkeep.listable())
        self.assertNoResult(asked)
        result_of(upkeep.look())
        self.successResultOf(asked)
        upkeep.looked = False
        asked = begin(self, upkeep.listable())
        self.world.clock.advance(FIRST_LOOK_WITHIN)
        error = self.failureResultOf(asked, RegistryError).value
        self.assertEqual((error.status, error.retry_after), (503, 5))

    def test_what_was_copied_in_is_listed(self) -> None:
        self.world.clock.advance(OLD_AFTER)
        shutil.copytree(self.manifests("a"), self.manifests("c"))
        self.assertEqual(self.listed(), ["library/a", "library/b", "library/c"])

    def test_look_that_meets_a_bug_is_not_the_last(self) -> None:
        """No change that was made by hand was noticed any more until a restart."""
        looks: list[Index] = []

        async def look(index: Index) -> None:
            looks.append(index)
            if len(looks) == 1:
                raise ZeroDivisionError

        self.patch(Index, "look", look)
        self.world.management.index.look_soon()
        self.world.clock.advance(RETRY_FIRST)
        self.assertEqual(len(looks), 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_many_lists_are_one_look(self) -> None:
        looks = self.look_by(lambda: None)
        self.world.clock.advance(OLD_AFTER)
        for _ in range(10):
            self.listed()
        self.assertEqual(len(looks), 1)

    def test_slow_looks_are_rare(self) -> None:
        """A hundred thousand models, or a network disk."""
        slow = QUICK * 2
        looks = self.look_by(lambda: self.world.clock.advance(slow))
        self.world.clock.advance(OLD_AFTER)
        for _ in range(10):
            self.listed()
            self.world.clock.advance(OLD_AFTER)
        self.assertEqual(len(looks), 1)
        self.world.clock.advance(slow * OLD_SHARE)
        self.listed()
        self.assertEqual(len(looks), 2)

    def test_a_list_waits_for_quick_looks_alone(self) -> None:
        index, clock = self.world.management.index, self.world.clock
        held: Deferred[None] = Deferred()
        self.look_by(lambda: held)
        clock.advance(OLD_AFTER)
        listing = begin(self, index.refresh())
        self.assertNoResult(listing)
        clock.advance(QUICK)
        clock.advance(0)
        self.successResultOf(listing)
        clock.advance(QUICK)
        held.callback(None)
        held = Deferred()
        clock.advance(2 * QUICK * OLD_SHARE)
        self.successResultOf(begin(self, index.refresh()))
        held.callback(None)

    def test_a_look_rests_after_each_page_and_among_what_it_reads(self) -> None:
        """Replies had 0.6 of their usual rate while 20,000 models were looked at."""
        said = list[str]()

        class Said(Leisure):
            def begin(self) -> None:
                said.append("begin")

            async def rest(self) -> None:
                said.append("rest")

        world = self.world
        self.patch(stock, "PAGE", 1)
        world.management.index._leisure = Said(world.clock)
        blobs = len(result_of(world.store.blobs()))
        result_of(world.management.index.look())
        self.assertEqual(said, ["begin"] + ["rest"] * (blobs + 2))
        result_of(world.management.catalog.run(CatalogFile.reset))
        said.clear()
        result_of(world.management.index.look())
        self.assertGreater(said.count("rest"), blobs + 2)

    def test_a_look_reads_little_at_a_time_while_clients_ask(self) -> None:
        """A hit waited for several threads of the look to let go of the interpreter's lock."""
        world, requests = self.world, 0
        index = world.management.index
        index._leisure = Leisure(world.clock, lambda: (0.0, 0.0), lambda: requests)
        for number in range(2 * BESIDE_REQUESTS):
            result_of(world.store.put_manifest(NAME, Tag(f"t{number}"), OLD, 1000.0))
        sizes, real = list[int](), Index._read

        async def read(index: Index, keys: Any) -> Any:
            sizes.append(len(keys))
            return await real(index, keys)

        self.patch(Index, "_read", read)
        for most in (BATCH, BESIDE_REQUESTS):
            sizes.clear()
            result_of(world.management.catalog.run(CatalogFile.reset))
            result_of(index.look())
            self.assertEqual(max(sizes), min(most, sum(sizes)))
            requests += 1

    def test_large_manifest_is_not_read_again_for_each_blob_that_is_stored(self) -> None:
        """Of 2,000 layers, each few that had come had all of them parsed and written anew."""
        world, index = self.world, self.world.management.index
        layers = [Descriptor(Digest.of(weights(number)), 5, "a/b") for number in range(10)]
        body = manifest_body(layers, None, None)
        for tag, padding in (("small", b""), ("large", b" " * LARGE)):
            manifest = Manifest.parse(body + padding)
            result_of(world.store.put_manifest(NAME, Tag(tag), manifest, 1000.0))
            index.tag_stored(NAME, Tag(tag))
        result_of(index.settled())
        read, real = Counter[str](), Index._read

        async def noted(index: Index, keys: Any) -> Any:
            read.update(str(tag) for _, tag in keys)
            return await real(index, keys)

        self.patch(Index, "_read", noted)
        for layer in layers:
            index.blob_stored(layer.digest, layer.size)
            result_of(index.settled())
        self.assertEqual(read, {"small": 10})
        for _ in range(2):
            world.clock.advance(DETAILS_EVERY)
            result_of(index.settled())
        self.assertEqual(read, {"small": 10, "large": 1})

    def look_by(self, during: Callable[[], Any]) -> list[Any]:
        """
        Have each later look begin with ``during``, and wait for a Deferred that it returns.
        Returns a list that has an item for each of these looks.
        """
        real, looks = DirectoryStore.blobs, list[Any]()

        async def blobs(store: DirectoryStore, after: Any = None, most: int = 500) -> Any:
            if after is None:
                looks.append(after)
                await (during() or succeed(None))
            return await real(store, after, most)

        self.patch(DirectoryStore, "blobs", blobs)
        return looks
