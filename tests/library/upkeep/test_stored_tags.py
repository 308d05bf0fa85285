"""How many manifests are in memory together while the catalog is made of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.library.test_children import listed
from tests.library.upkeep.test_collector import World
from tests.storage.contract import NAME
from tests.storage.strategies import result_of
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Indexed
from yukari.library.upkeep.index import READ_TOGETHER
from yukari.manifest import LARGE, AnyManifest, Manifest, Variant, parse_manifest
from yukari.names import Digest, Tag


def plain(at: int, *, large: bool) -> Manifest:
    layer = f'{{"digest": "sha256:{at:064x}", "size": 5}}'
    padding = " " * (LARGE if large else 0)
    found = parse_manifest(f'{{"schemaVersion": 2, "layers": [{layer}]{padding}}}'.encode())
    assert isinstance(found, Manifest)
    return found


class StoredTagsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(os.path.abspath(self.mktemp()))
        self.world.start()
        self.addCleanup(self.world.stop)

    def put(self, tag: str, found: AnyManifest, variant: Variant = Variant.PLAIN) -> None:
        result_of(self.world.store.put_manifest(NAME, Tag(tag), found, 1000.0, variant))

    def put_list(self, at: int, *, large: bool) -> set[Digest]:
        """Store a list of two children; returns the digests of all three."""
        children = [plain(2 * at + each, large=large) for each in range(2)]
        for child in children:
            result_of(self.world.store.put_manifest(NAME, child.digest, child, 1000.0))
        runners = zip(("ggml", "mlx"), children)
        found = listed(*({"runner": name, "digest": str(each.digest)} for name, each in runners))
        self.put(f"l{at}", found, Variant.LIST)
        return {found.digest, *(child.digest for child in children)}

    def found(self, *tags: str) -> list[list[str]]:
        """Return which of these tags are read together."""
        keys: Any = [(NAME, Tag(tag)) for tag in tags]
        together = []
        while keys:
            found, keys = result_of(self.world.management.index._stored.find(keys))
            together.append([str(tag.key[1]) for tag in found])
        return together

    def test_large_ones_are_read_one_at_a_time_and_small_ones_together(self) -> None:
        """Thirty of 12,000 blobs were held at once, 80 MB, and as many as a hundred could be."""
        for tag in ("a", "b", "c", "d", "e"):
            self.put(tag, plain(ord(tag), large=tag in "bc"))
        together = self.found("a", "b", "c", "d", "absent", "e")
        self.assertEqual(together, [["a"], ["b"], ["c"], ["d", "e"]])

    def test_lists_of_large_children_are_read_one_at_a_time(self) -> None:
        for at in range(4):
            self.put_list(at, large=at < 2)
        together = self.found("l2", "l0", "l1", "l2", "l3")
        self.assertEqual(together, [["l2"], ["l0"], ["l1"], ["l2", "l3"]])

    def test_the_catalog_has_all_of_them(self) -> None:
        wanted, put = {}, CatalogFile.put
        for at in range(READ_TOGETHER + 3):
            self.put(f"t{at}", plain(at, large=at % 3 == 0))
        for at in range(1000, 1004):
            wanted[f"l{at}"] = self.put_list(at, large=at % 2 == 0)
        indexed = dict[str, set[Digest]]()

        def noted(file: CatalogFile, found: Iterable[Indexed], now: float) -> None:
            each = list(found)
            indexed.update((str(one.version.tag), set(one.manifests)) for one in each)
            put(file, each, now)

        self.patch(CatalogFile, "put", noted)
        result_of(self.world.management.index.look())
        self.assertEqual(len(indexed), READ_TOGETHER + 7)
        self.assertEqual({tag: indexed[tag] for tag in wanted}, wanted)
        rows = result_of(self.world.management.catalog.run(CatalogFile.page))
        self.assertEqual({row.tag for row in rows}, set(indexed))
