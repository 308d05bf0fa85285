"""A manifest that cannot be read, for whatever reason, never costs a blob."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.library.upkeep.test_collector import HOUR, LATEST, SIZE, World, name_of, weights
from tests.storage.disk.test_store import HOST, MODULES
from tests.storage.dying import RefusingOs
from tests.storage.strategies import list_of, manifest_of, result_of
from yukari.library.catalog.catalog import CatalogUnusable
from yukari.library.upkeep import unread
from yukari.library.upkeep.index import RETRY_FIRST
from yukari.library.upkeep.unread import Unread
from yukari.manifest import Variant
from yukari.names import Digest
from yukari.storage.disk import inventory

FAILURES = (errno.EACCES, errno.EINVAL, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO)
"""Some errors of each kind; only "no such file" means that nothing is stored."""
CHILD = manifest_of(weights("c"), b"licence")
CASES = [
    *(("open", "/library/a/latest", each) for each in FAILURES if each != errno.ENOTDIR),
    *(("open", CHILD.digest.file_name, each) for each in FAILURES if each != errno.ENOTDIR),
    *(("listdir", "/library/a", each) for each in FAILURES),
    *(("listdir", "/library", each) for each in FAILURES),
    *(("stat", "/library/a/latest", each) for each in FAILURES if each != errno.ENOTDIR),
]


class UnreadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(os.path.abspath(self.mktemp()))
        self.world.start()
        self.addCleanup(lambda: self.world.stop())
        for model in "ab":
            self.world.publish(model, weights(model), b"licence")
            self.assertTrue(self.world.pull(model))
        self.store_as_old_ollama()
        self.store_list()
        result_of(self.world.management.index.look())
        self.world.clock.advance(2 * HOUR)

    def store_as_old_ollama(self) -> None:
        """Leave of a model's manifest nothing but the tag's plain file."""
        manifest = self.world.stored("a")
        assert manifest is not None
        os.unlink(os.path.join(self.world.path, "blobs", manifest.digest.file_name))
        linked = os.path.join("manifests-v2", HOST.replace(":", "%3A"), "library", "a")
        shutil.rmtree(os.path.join(self.world.path, linked))

    def store_list(self) -> None:
        """Store a list whose child is in a blob alone."""
        name, store = name_of("c"), self.world.store
        self.world.bodies[Digest.of(weights("c"))] = weights("c")
        self.world.fill(name, Digest.of(weights("c")))
        result_of(store.put_manifest(name, CHILD.digest, CHILD, 1.0))
        listed = list_of(CHILD.digest)
        result_of(store.put_manifest(name, LATEST, listed, 1.0, Variant.LIST))
        os.unlink(os.path.join(self.world.path, "manifests", HOST, "library", "c", "latest"))
        self.assertTrue(self.world.is_whole("c"))

    def refuse(self, call: str, end: str, number: int) -> None:
        """From now on ``call`` fails for paths that end so."""

        def refuse(name: str, *args: Any) -> None:
            path = args[0] if args and isinstance(args[0], str) else ""
            if name == call and path.endswith(end):
                raise OSError(number, os.strerror(number), path)

        for module in (*MODULES, inventory):
            self.patch(module, "os", RefusingOs(refuse))

    def allow(self) -> None:
        for module in (*MODULES, inventory):
            self.patch(module, "os", os)

    def restart(self, *, forgetful: bool) -> None:
        """Start again, and look; if ``forgetful``, without the catalog."""
        self.world.stop()
        if forgetful:
            for name in os.listdir(os.path.join(self.world.path, "yukari")):
                if name.startswith("catalog"):
                    os.unlink(os.path.join(self.world.path, "yukari", name))
        with contextlib.suppress(OSError):
            self.world.start()

    def remove_all_that_may_go(self) -> None:
        """Sweep, evict and remove by name, each as far as it can be done."""
        with contextlib.suppress(OSError, CatalogUnusable):
            self.world.collect()
        with contextlib.suppress(OSError, CatalogUnusable):
            result_of(self.world.management.collector._evict(10_000_000, "for a test"))
        with contextlib.suppress(OSError, CatalogUnusable):
            result_of(self.world.management.collector.remove(name_of("b"), LATEST))

    def test_no_failure_costs_a_blob_though_the_catalog_is_lost(self) -> None:
        self.world.upstream.down = True  # Nothing is evicted that is known.
        for call, end, number in CASES:
            where = f"{call} {end} {errno.errorcode[number]}"
            self.refuse(call, end, number)
            self.restart(forgetful=True)
            self.remove_all_that_may_go()
            self.allow()
            # It can be read again, and has not been looked at yet.
            self.remove_all_that_may_go()
            self.assertTrue(self.world.is_whole("a") and self.world.is_whole("c"), where)
            result_of(self.world.management.index.look())
            self.remove_all_that_may_go()
            self.assertTrue(self.world.is_whole("a") and self.world.is_whole("c"), where)
            self.world.upstream.down = False
            self.assertTrue(self.world.pull("b"))
            self.world.upstream.down = True
            self.world.clock.advance(2 * HOUR)

    def test_it_is_told_once_and_looked_for_again_before_long(self) -> None:
        told: list[str] = []
        self.patch(unread.log, "warn", lambda text, **said: told.append(text.format(**said)))
        self.refuse("open", "/library/a/latest", errno.EACCES)
        self.restart(forgetful=True)
        self.world.management.index.look_soon()
        self.world.clock.advance(RETRY_FIRST)
        self.assertEqual(len(told), 1)
        self.assertIn(f"Permission denied: '{self.world.path}/manifests/", told[0])
        self.assertRaises(Unread, result_of, self.world.management.index.check())
        self.allow()
        self.world.clock.advance(2 * RETRY_FIRST)
        result_of(self.world.management.index.check())

    def test_no_tag_goes_for_blobs_that_must_stay(self) -> None:
        """Each search for room took one, and freed nothing."""
        foreign = os.path.join(self.world.path, "manifests", "quay.io", "user", "repo", "latest")
        os.makedirs(os.path.dirname(foreign))
        with open(foreign, "wb") as file:
            file.write(b"no manifest")
        for model in ("d", "e"):
            self.world.publish(model, weights(model))
            self.world.pull(model)
        for model in "ab":
            self.assertIsNotNone(self.world.stored(model))

    def test_models_whose_directory_is_not_mounted_keep_their_blobs(self) -> None:
        """After a start without the mount all blobs went with the first sweep."""
        manifests = os.path.join(self.world.path, "manifests")
        for is_running in (True, False):
            for each in (manifests, f"{manifests}-v2"):
                os.rename(each, f"{each}.away")
                os.mkdir(each)
            self.remove_all_that_may_go()
            if is_running:
                result_of(self.world.management.index.look())
            else:
                self.restart(forgetful=False)
            self.assertEqual(result_of(self.world.management.totals()).tags, 0)
            self.world.collect()
            for each in (manifests, f"{manifests}-v2"):
                shutil.rmtree(each)
                os.rename(f"{each}.away", each)
            self.remove_all_that_may_go()
            self.assertTrue(self.world.is_whole("a") and self.world.is_whole("c"), is_running)
            result_of(self.world.management.index.look())
            self.world.collect()
            self.assertTrue(self.world.is_whole("a") and self.world.is_whole("c"))

    def test_a_model_that_was_removed_by_hand_takes_its_blobs_along(self) -> None:
        os.unlink(os.path.join(self.world.path, "manifests", HOST, "library", "a", "latest"))
        before = self.world.taken()
        result_of(self.world.management.index.look())
        self.world.collect()
        self.assertEqual(self.world.taken(), before - SIZE)
