"""Children of lists: those that a list has inline exist nowhere else, and may be large."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.ending import begin
from tests.storage.memory import MemoryStore
from yukari.errors import RegistryError, blob_unknown
from yukari.library import children
from yukari.library.children import MAX_TRIED, Children
from yukari.library.keeping import Keeper
from yukari.manifest import DOCKER_MANIFEST, MANIFEST_LIST, ManifestList, Variant, parse_manifest
from yukari.names import DEFAULT, Digest, Repository, Tag

TAG = Tag("latest")


class Absent:
    """An upstream without any child."""

    def __init__(self) -> None:
        self.asked: list[Digest] = []

    async def child(self, name: Repository, digest: Digest) -> Any:
        self.asked.append(digest)
        raise blob_unknown(digest)


def model(at: int) -> Repository:
    return Repository(DEFAULT, "library", f"m{at}")


def listed(*entries: dict[str, Any]) -> ManifestList:
    children = [{"mediaType": DOCKER_MANIFEST, **entry} for entry in entries]
    content = {"schemaVersion": 2, "mediaType": MANIFEST_LIST, "manifests": children}
    found = parse_manifest(json.dumps(content).encode())
    assert isinstance(found, ManifestList)
    return found


def inline(at: int) -> ManifestList:
    layer = {"digest": f"sha256:{at:064x}", "size": 5}
    return listed({"runner": "ggml", "layers": [layer], "note": "x" * 1000})


class ChildrenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(children, "MAX_INLINE", 20_000)
        self.store, self.upstream = MemoryStore(), Absent()
        upstream: Any = self.upstream
        keeper = Keeper(self.store, Clock().seconds)
        self.children = Children(self.store, upstream, execute, keeper, lambda name: None)

    def store_list(self, at: int) -> ManifestList:
        found = inline(at)
        putting = self.store.put_manifest(model(at), TAG, found, 1.0, Variant.LIST)
        self.successResultOf(begin(self, putting))
        self.children.learn(model(at), found)
        return found

    def test_inline_children_of_many_lists_take_bounded_memory(self) -> None:
        """They were remembered by their count alone, and each may be of eight megabytes."""
        for at in range(50):
            self.store_list(at)
        kept = self.children._inline
        self.assertLessEqual(sum(len(each.body) for each in kept.values()), 20_000)
        self.assertIn((model(49), inline(49).children[0].digest), kept)

    def test_an_inline_child_that_was_forgotten_is_found_in_its_list(self) -> None:
        lists = [self.store_list(at) for at in range(50)]
        for at in (0, 49, 0):
            (child,) = lists[at].children
            found = begin(self, self.children.find(model(at), child.digest))
            self.assertEqual(self.successResultOf(found), child.inline)
        self.assertEqual(self.upstream.asked, [])

    def test_not_every_child_of_a_long_list_is_asked_for(self) -> None:
        """A list of thousands that upstream does not have was as many requests for one client."""
        found = listed(*({"digest": f"sha256:{at:064x}", "runner": "mlx"} for at in range(100)))
        asking = begin(self, self.children.runnable(model(1), found))
        self.failureResultOf(asking, RegistryError)
        self.assertEqual(len(self.upstream.asked), MAX_TRIED)
