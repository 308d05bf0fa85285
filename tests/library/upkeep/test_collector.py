"""The collector over a directory: no tag loses its blobs and no bound is broken, come what may."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Optional, TypeVar

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.disk.test_store import HOST, store_in
from tests.storage.dying import DyingOs, Killed
from tests.storage.memory import MemoryStore
from tests.storage.strategies import manifest_of, result_of
from yukari.config.units import FreeSpace
from yukari.errors import denied, manifest_unknown, upstream_unreachable
from yukari.fills.scheduler import FetchScheduler
from yukari.library.catalog.file import CatalogFile
from yukari.library.library import Library
from yukari.library.upkeep import collector as stock
from yukari.library.upkeep.collector import ASKED_WITHIN, Unknown
from yukari.library.upkeep.management import Management
from yukari.library.upkeep.room import SIDECARS, Bounds
from yukari.library.upkeep.shared_sweep import Busy
from yukari.manifest import Manifest, Variant
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.storage.disk import blobs, inventory
from yukari.storage.disk.blobs import BlobFiles
from yukari.storage.disk.inventory import DirectoryInventory
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.ports import Holdings, NoRoom, Store

T = TypeVar("T")

LATEST = Tag("latest")
HOUR = 3600.0
SIZE = 50_000
BOUND = 3 * SIZE + SIDECARS + 10_000
"""Room for three models."""


def name_of(model: str) -> Repository:
    """A model of the default registry, or ``HOST/MODEL``."""
    registry, _, model = model.rpartition("/")
    return Repository(registry, "library", model)


def weights(seed: object) -> bytes:
    return f"{seed}".encode().ljust(SIZE, b".")


@define(eq=False)
class Upstream:
    """
    A registry of what a test says; ``down`` is whether it answers, ``silent`` which do not.

    It never answers questions about ``hanging`` models, and refuses the ``refused`` ones.
    """

    tags: dict[Repository, Manifest] = field(factory=dict)
    down: bool = False
    silent: tuple[str, ...] = ()
    hanging: tuple[Repository, ...] = ()
    refused: tuple[Repository, ...] = ()

    def is_down(self, _: Repository) -> bool:
        return False

    async def manifest(
        self, name: Repository, reference: Any, user_agent: str, _: Variant = Variant.PLAIN
    ) -> Manifest:
        if name in self.hanging:
            await Deferred()
        if name in self.refused:
            raise denied(name)
        if self.down or name.registry in self.silent:
            raise upstream_unreachable("down")
        if name not in self.tags:
            raise manifest_unknown(name, reference)
        return self.tags[name]

    async def manifest_digest(
        self, name: Repository, tag: Tag, user_agent: str, _: Variant = Variant.PLAIN
    ) -> Digest:
        return (await self.manifest(name, tag, user_agent)).digest


@define(eq=False)
class World:
    """A store with its management, and pulls as clients and fills bring them about."""

    path: str
    upstream: Upstream = field(factory=Upstream)
    clock: Clock = field(factory=Clock)
    bodies: dict[Digest, bytes] = field(factory=dict)
    bounds: Bounds = Bounds(FreeSpace(bytes=BOUND), True, grace=HOUR)
    store: Any = field(init=False)
    management: Management = field(init=False)

    def now(self) -> float:
        return time.time() + self.clock.seconds()

    def open_store(self) -> Store:
        """What a new process finds."""
        return store_in(self.path)

    def start(self) -> None:
        """A new process on what the last one left."""
        self.store = self.open_store()
        result_of(self.store.start())
        self.management = Management(
            store=self.store,
            catalog_path=os.path.join(self.path, "yukari", "catalog.sqlite3"),
            catalog_thread=maybeDeferred,
            in_thread=maybeDeferred,
            clock=self.clock,
            bounds=self.bounds,
            registry=HOST,
            now=self.now,
        )
        library = Library(
            store=self.store,
            upstream=self.upstream,  # type: ignore[arg-type]
            scheduler=FetchScheduler(self.clock, 4, 8),
            in_thread=maybeDeferred,
            clock=self.clock,
            now=self.now,
        )
        self.management.manage(library, library.is_upstream)
        result_of(self.management.index.look())

    def stop(self) -> None:
        result_of(self.management.stop())
        result_of(self.store.stop())

    def kill(self) -> None:
        """The process ends where it is."""
        file = self.management.catalog._file
        if file is not None:
            file.close()
        if not isinstance(self.store, MemoryStore):
            self.store._owned.release()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine comes to."""
        return result_of(coroutine)

    # pulls

    def publish(self, model: str, *bodies: bytes) -> Manifest:
        """Upstream has a model of these blobs from now on."""
        manifest = manifest_of(*bodies)
        self.upstream.tags[name_of(model)] = manifest
        self.bodies.update((Digest.of(body), body) for body in bodies)
        return manifest

    def pull(self, model: str) -> bool:
        """A pull by a client; whether the model is stored by its end."""
        name = name_of(model)
        library = self.management.library
        manifest = result_of(library.manifest(name, LATEST, "", prefetch=False)).manifest
        self.management.catalog.pulled(name, LATEST, "10.0.0.1")
        return self.bring(name, manifest)

    def bring(self, name: Repository, manifest: Manifest) -> bool:
        for blob in manifest.blobs:
            if result_of(self.store.blob_size(blob.digest)) is None:
                try:
                    self.fill(name, blob.digest)
                except NoRoom:
                    return False
        return True

    def fill(self, name: Repository, digest: Digest) -> None:
        body = self.bodies[digest]
        spool = self.run(
            self.management.collector.reserve(
                digest, len(body), lambda: self.store.new_spool(digest, len(body), name)
            )
        )
        spool.write([(0, [body])])
        self.run(self.store.publish(spool))
        spool.close()
        self.management.library.events.blob_stored(digest, len(body))

    def refresh(self, model: str) -> None:
        """What the revalidator does with a stored model."""
        name = name_of(model)
        stored, newest = self.stored(model), self.upstream.tags.get(name)
        events = self.management.library.events
        if stored is None:
            return
        if newest is None:
            events.checked(name, LATEST, self.now(), gone=True)
            return
        if self.store.inventory.shared is not None:
            result_of(self.store.put_manifest(name, newest.digest, newest, self.now()))
        if self.bring(name, newest):
            result_of(self.store.put_manifest(name, LATEST, newest, self.now()))
            events.tag_stored(name, LATEST)

    # looking

    def stored(self, model: str) -> Optional[Manifest]:
        found = result_of(self.store.get_manifest(name_of(model), LATEST))
        return None if found is None else found.manifest  # type: ignore[return-value]

    def is_whole(self, model: str) -> bool:
        manifest = self.stored(model)
        return manifest is not None and all(
            result_of(self.store.blob_size(blob.digest)) == blob.size for blob in manifest.blobs
        )

    def taken(self) -> int:
        return result_of(self.store.count()).bytes

    def collect(self) -> None:
        self.run(self.management.collector.collect())


@define(eq=False)
class MemoryWorld(World):
    """The same with a store in memory, which outlives its processes."""

    kept: MemoryStore = field(factory=MemoryStore)

    def open_store(self) -> Store:
        os.makedirs(os.path.join(self.path, "yukari"), exist_ok=True)
        return self.kept


class CollectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(os.path.abspath(self.mktemp()))
        self.world.start()
        self.addCleanup(lambda: self.world.stop())

    def full(self, *models: str) -> World:
        """Three models (a, b and c) that were pulled long ago, in this order; a fourth, new."""
        for model in models or "abc":
            self.world.publish(model, weights(model), b"licence")
            self.assertTrue(self.world.pull(model))
            self.world.clock.advance(HOUR)
        self.world.clock.advance(HOUR)
        self.world.publish("new", weights("new"))
        return self.world

    def restarted(self) -> World:
        self.world.stop()
        self.world.start()
        return self.world

    def test_least_recently_pulled_goes_and_shared_blobs_stay(self) -> None:
        world = self.full()
        self.assertTrue(world.pull("new"))
        self.assertIsNone(world.stored("a"))
        for model in ("b", "c", "new"):
            self.assertTrue(world.is_whole(model))
        self.assertLessEqual(world.taken(), BOUND)

    def test_registry_that_does_not_answer_keeps_its_models_and_others_go(self) -> None:
        world = self.full("hf.co/a", "b", "hf.co/c")
        world.upstream.silent = ("hf.co",)
        self.assertTrue(world.pull("new"))
        self.assertIsNone(world.stored("b"))
        for model in ("hf.co/a", "hf.co/c", "new"):
            self.assertTrue(world.is_whole(model), model)
        world.clock.advance(2 * HOUR)
        world.upstream.silent = ("hf.co", DEFAULT)
        world.publish("10.0.0.5:5000/newer", weights("newer"))
        self.assertFalse(world.pull("10.0.0.5:5000/newer"))
        for model in ("hf.co/a", "hf.co/c", "new"):
            self.assertTrue(world.is_whole(model), model)

    def test_model_of_which_upstream_says_nothing_holds_up_no_pull(self) -> None:
        """One question that hung kept every new blob waiting longer than clients do."""
        world = self.full()
        world.upstream.hanging = (name_of("a"),)
        body, opened = weights("new"), list[Any]()

        async def open_spool() -> Any:
            opened.append(None)

        reserving = self.world.management.collector.reserve(Digest.of(body), SIZE, open_spool)
        reserved = Deferred.fromCoroutine(reserving)
        self.assertEqual(opened, [])
        world.clock.advance(ASKED_WITHIN)
        self.successResultOf(reserved)
        self.assertIsNone(world.stored("b"))
        self.assertTrue(world.is_whole("a"))

    def test_models_that_a_registry_refuses_by_now_stay_and_others_go(self) -> None:
        """Nothing of the registry was ever evicted again, and all new models were relayed."""
        self.patch(stock, "UNANSWERED", 1)
        world = self.full()
        world.upstream.refused = (name_of("a"),)
        self.assertFalse(world.pull("new"))
        self.assertTrue(world.pull("new"))
        self.assertIsNone(world.stored("b"))
        self.assertTrue(world.is_whole("a"))

    def test_what_one_registry_has_no_more_stays_though_another_has_it(self) -> None:
        world = self.full("a", "hf.co/a", "c")
        del world.upstream.tags[name_of("a")]
        self.assertTrue(world.pull("new"))
        self.assertIsNone(world.stored("hf.co/a"))
        self.assertTrue(world.is_whole("a"))

    def test_catalog_that_is_gone_is_made_anew_with_all_that_matters(self) -> None:
        world = self.full()
        result_of(world.management.marks.set_pin(name_of("a"), LATEST, "ana"))
        result_of(world.management.marks.set_copy(name_of("b"), LATEST, "x"))
        world.stop()
        os.unlink(os.path.join(world.path, "yukari", "catalog.sqlite3"))
        world.start()
        catalog = world.management.catalog
        self.assertEqual(
            [row.repository for row in result_of(catalog.run(CatalogFile.page))],
            ["library/a", "library/b", "library/c"],
        )
        self.assertTrue(world.pull("new"))
        self.assertIsNone(world.stored("c"))
        self.assertTrue(world.is_whole("a"))
        self.assertTrue(world.is_whole("b"))

    def test_superseded_version_goes_first_and_after_its_lifetime_anyway(self) -> None:
        world = self.full()
        old = world.stored("a")
        assert old is not None
        world.publish("a", weights("a2"), b"licence")
        world.refresh("a")
        result_of(world.management.index.settled())
        found = result_of(world.store.get_manifest(name_of("a"), old.digest))
        self.assertIsNone(found)  # Room was needed for the new version.
        self.assertTrue(world.is_whole("a"))

    def test_superseded_version_stays_for_its_lifetime(self) -> None:
        world = self.world
        old = world.publish("a", weights("a"))
        world.pull("a")
        world.publish("a", weights("a2"))
        world.clock.advance(2 * HOUR)
        world.refresh("a")
        for _ in range(2):
            world.collect()
            found = result_of(world.store.get_manifest(name_of("a"), old.digest))
            self.assertIsNotNone(found)
            # Nor is it swept if the catalog that knew of it is lost.
            world.stop()
            os.unlink(os.path.join(world.path, "yukari", "catalog.sqlite3"))
            world.start()
            world.clock.advance(2 * HOUR)
        world.collect()
        world.clock.advance(721 * HOUR)
        world.collect()
        self.assertIsNone(result_of(world.store.get_manifest(name_of("a"), old.digest)))
        self.assertIsNone(result_of(world.store.blob_size(Digest.of(weights("a")))))
        self.assertTrue(world.is_whole("a"))

    def test_removed_model_takes_its_own_blobs_along_at_once(self) -> None:
        world = self.full()
        before = world.taken()
        freed = result_of(world.management.collector.remove(name_of("a"), LATEST))
        self.assertEqual(world.taken(), before - freed)
        self.assertGreaterEqual(freed, SIZE)
        self.assertLess(freed, SIZE + 1000)
        self.assertTrue(world.is_whole("b"))

    def test_blobs_that_nothing_stands_on_go_after_the_grace(self) -> None:
        world = self.world
        world.publish("a", weights("a"))
        world.fill(name_of("a"), Digest.of(weights("a")))
        world.collect()
        self.assertEqual(world.taken(), SIZE)
        world.clock.advance(HOUR + 100)
        self.assertEqual(result_of(world.management.collector.unneeded()).blobs, 1)
        world.collect()
        self.assertEqual(world.taken(), 0)

    def test_blob_that_cannot_be_removed_keeps_no_other_here(self) -> None:
        """The sweep ended at it each time: what came behind it was never removed."""
        digests = sorted(Digest.of(body) for body in (weights("x"), weights("y")))
        for body in (weights("x"), weights("y")):
            self.world.bodies[Digest.of(body)] = body
            self.world.fill(name_of("m"), Digest.of(body))
        delete = BlobFiles.delete

        def refused(files: BlobFiles, digest: Digest) -> None:
            if digest == digests[0]:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            delete(files, digest)

        self.patch(BlobFiles, "delete", refused)
        self.world.clock.advance(2 * HOUR)
        self.world.collect()
        sizes = [result_of(self.world.store.blob_size(each)) for each in digests]
        self.assertEqual(sizes, [SIZE, None])

    def test_blobs_of_other_registries_models_are_never_swept(self) -> None:
        world = self.world
        body = weights("other")
        world.bodies[Digest.of(body)] = body
        world.fill(name_of("x"), Digest.of(body))
        path = os.path.join(world.path, "manifests", "quay.io", "user", "repo", "latest")
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(manifest_of(body).body)
        world.clock.advance(2 * HOUR)
        world.collect()
        self.assertEqual(world.taken(), SIZE)

    def test_blob_that_is_asked_for_stays_however_old(self) -> None:
        world = self.world
        world.publish("a", weights("a"))
        world.fill(name_of("a"), Digest.of(weights("a")))
        world.clock.advance(2 * HOUR)
        with world.management.library.in_use.hold([Digest.of(weights("a"))]):
            world.collect()
        self.assertEqual(world.taken(), SIZE)

    def test_pull_in_the_middle_of_an_eviction_wins(self) -> None:
        world = self.full()
        library, remove = world.management.library, DirectoryInventory.remove_tag

        async def and_meanwhile(self: DirectoryInventory, name: Repository, tag: Tag) -> None:
            await remove(self, name, tag)
            if name == name_of("a"):
                # A client has got it from the file that has just gone.
                library.in_use.ask([(name, tag), Digest.of(weights("a"))])

        self.patch(DirectoryInventory, "remove_tag", and_meanwhile)
        self.assertTrue(world.pull("new"))
        self.assertTrue(world.is_whole("a"))
        self.assertIsNone(world.stored("b"))

    def test_pulled_tag_that_no_room_is_left_for_is_evicted_all_the_same(self) -> None:
        """Its tag was gone, and the pull that wanted room was relayed."""
        world = self.full()
        library, remove = world.management.library, DirectoryInventory.remove_tag
        put = DirectoryStore.put_manifest

        async def and_meanwhile(self: DirectoryInventory, name: Repository, tag: Tag) -> None:
            await remove(self, name, tag)
            library.in_use.ask([(name, tag)])

        async def without_room(self: DirectoryStore, name: Repository, *rest: Any) -> None:
            if name == name_of("a"):
                raise NoRoom("no inodes left")
            await put(self, name, *rest)

        self.patch(DirectoryInventory, "remove_tag", and_meanwhile)
        self.patch(DirectoryStore, "put_manifest", without_room)
        self.assertTrue(world.pull("new"))
        self.assertIsNone(world.stored("a"))
        self.assertTrue(world.is_whole("c"))

    def test_shared_blob_that_is_pulled_keeps_no_other_model_here(self) -> None:
        # A licence is in use whenever any of the models that have it is.
        world = self.full()
        world.management.library.in_use.ask([Digest.of(b"licence")])
        self.assertTrue(world.pull("new"))
        self.assertIsNone(world.stored("a"))

    def test_model_that_is_pulled_stays_though_its_turn_has_come(self) -> None:
        world = self.full()
        with world.management.library.in_use.hold([Digest.of(weights("a"))]):
            self.assertTrue(world.pull("new"))
        self.assertTrue(world.is_whole("a"))
        self.assertIsNone(world.stored("b"))

    def test_nothing_goes_while_upstream_is_down(self) -> None:
        world = self.full()
        world.upstream.down = True
        world.bodies[Digest.of(weights("x"))] = weights("x")
        self.assertRaises(NoRoom, world.fill, name_of("x"), Digest.of(weights("x")))
        for model in "abc":
            self.assertTrue(world.is_whole(model))

    def test_blob_is_refused_as_without_room_if_the_catalog_cannot_be_written(self) -> None:
        """The error of a check came wrapped, and the fetch failed as by a bug."""
        world = self.full()

        def full_disk(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        self.patch(CatalogFile, "checked", full_disk)
        world.bodies[Digest.of(weights("x"))] = weights("x")
        self.assertRaises(NoRoom, world.fill, name_of("x"), Digest.of(weights("x")))
        for model in "abc":
            self.assertTrue(world.is_whole(model))

    def test_nothing_is_evicted_for_what_would_not_fit_anyway(self) -> None:
        world = self.full()
        huge = bytes(2 * BOUND)
        world.bodies[Digest.of(huge)] = huge
        self.assertRaises(NoRoom, world.fill, name_of("x"), Digest.of(huge))
        for model in "abc":
            self.assertTrue(world.is_whole(model))

    def test_what_is_stored_while_others_have_it_counted_counts(self) -> None:
        """Three blobs of a first pull had the store counted; the last count forgot the first."""
        collector, counts = self.world.management.collector, list[Deferred[Holdings]]()

        def count(_: object) -> Deferred[Holdings]:
            counts.append(Deferred())
            return counts[-1]

        async def opened() -> Any:
            return None

        def reserve(digest: Digest, size: int) -> Deferred[Any]:
            return Deferred.fromCoroutine(collector.reserve(digest, size, opened))

        self.patch(type(self.world.store), "count", count)
        self.world.management.room.used = None
        digests = [Digest.of(bytes([at])) for at in range(3)]
        first, second = reserve(digests[0], SIZE), reserve(digests[1], 1)
        counts[0].callback(Holdings(0, 0, 0))
        self.successResultOf(first)
        collector.blob_stored(digests[0], SIZE)
        for late in counts[1:]:
            late.callback(Holdings(0, 0, 0))
        self.successResultOf(second)
        self.failureResultOf(reserve(digests[2], BOUND - SIDECARS - 1), NoRoom)

    def test_import_and_fill_of_one_blob_find_room_at_the_same_time(self) -> None:
        """A client that asked for a blob while an archive brought it got an internal error."""
        collector, opened = self.world.management.collector, list[Deferred[Any]]()

        async def open_spool() -> Any:
            opened.append(Deferred())
            return await opened[-1]

        both = [
            Deferred.fromCoroutine(collector.reserve(Digest.of(b"x"), 1, open_spool))
            for _ in range(2)
        ]
        for each, reserved in zip(opened, both):
            each.callback(None)
            self.successResultOf(reserved)


class CollectorMachine(RuleBasedStateMachine):
    """Pulls, moves, deletions, pins, evictions, kills and restarts, in any order."""

    models = st.sampled_from("abcdef")
    make: type[World] = World

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.world = self.make(os.path.join(self.directory, "store"))
        self.world.start()
        self.os: Any = inventory.os
        self.whole: set[str] = set()
        """Models that were stored, whole, and that only an eviction may take."""
        self.pinned: set[str] = set()
        for model in "abcdef":
            self.world.publish(model, weights(model), b"licence", b"for " + model.encode() * 2)

    @rule(wanted=st.lists(models, min_size=1, max_size=6, unique=True))
    def pull(self, wanted: list[str]) -> None:
        for model in wanted:
            there = not self.world.upstream.down and name_of(model) in self.world.upstream.tags
            if (there or self.world.stored(model)) and self.world.pull(model):
                self.whole.add(model)
            self.world.clock.advance(1.1 * HOUR)
            self.stored_models_are_whole()
            self.bound_holds()

    @rule(model=models, version=st.integers(0, 3))
    def move(self, model: str, version: int) -> None:
        self.world.publish(model, weights(f"{model}{version}"), b"licence")

    @rule(model=models)
    def refresh(self, model: str) -> None:
        self.world.refresh(model)

    @rule(model=models, then=st.lists(models, max_size=6, unique=True))
    def delete_upstream(self, model: str, then: list[str]) -> None:
        self.pull([model])
        self.world.upstream.tags.pop(name_of(model), None)
        self.pull(then)

    @rule(down=st.sampled_from([False, False, True]))
    def upstream_answers(self, down: bool) -> None:
        self.world.upstream.down = down

    @rule(model=models)
    def pin(self, model: str) -> None:
        if self.world.is_whole(model):
            marks = self.world.management.marks
            result_of(marks.set_pin(name_of(model), LATEST, "me"))
            self.pinned.add(model)

    @rule(model=models)
    def remove(self, model: str) -> None:
        self.world.run(self.world.management.collector.remove(name_of(model), LATEST))
        self.whole.discard(model)
        self.pinned.discard(model)

    @rule(hours=st.sampled_from([0.01, 1.1, 30, 721]))
    def wait(self, hours: float) -> None:
        # In steps: the clock would not call what is due again within one.
        self.world.clock.pump([60.0] * 2 + [hours * HOUR])

    @rule()
    def collect(self) -> None:
        self.world.collect()
        self.assert_no_garbage()

    @rule(steps=st.integers(0, 8), model=models, by_hand=st.booleans())
    def killed(self, steps: int, model: str, by_hand: bool) -> None:
        """The process dies while it removes something."""
        collector = self.world.management.collector
        with self.dying(steps):
            try:
                if by_hand:
                    self.world.run(collector.remove(name_of(model), LATEST))
                else:
                    self.world.run(collector._evict(2 * SIZE, "in a test"))
            except (Killed, Unknown, Busy):
                pass
        self.world.kill()
        self.world.start()
        if by_hand and self.world.stored(model) is None:
            self.whole.discard(model)
            self.pinned.discard(model)

    @contextmanager
    def dying(self, steps: int) -> Iterator[None]:
        """After so many changes of what is stored the process is dead."""
        dying: Any = DyingOs(steps)
        inventory.os = blobs.os = dying
        try:
            yield
        finally:
            inventory.os = blobs.os = self.os
            dying.bury()

    @rule()
    def restart(self) -> None:
        self.world.stop()
        self.world.start()

    @rule()
    def lose_catalog(self) -> None:
        self.world.stop()
        os.unlink(os.path.join(self.world.path, "yukari", "catalog.sqlite3"))
        self.world.start()

    def assert_no_garbage(self) -> None:
        world = self.world
        catalog = world.management.catalog
        unneeded = set(result_of(catalog.run(CatalogFile.unneeded)))
        in_use = world.management.library.in_use
        for entry in result_of(world.store.blobs()):
            old = entry.stored_at < world.now() - HOUR
            assert not (entry.digest in unneeded and old and entry.digest not in in_use)

    @invariant()
    def stored_models_are_whole(self) -> None:
        if not hasattr(self, "world"):
            return
        for model in list(self.whole):
            if self.world.stored(model) is None:
                assert model not in self.pinned, f"{model} was pinned and is gone"
                there = name_of(model) in self.world.upstream.tags
                assert there, f"{model} is gone here and upstream"
                self.whole.discard(model)
            else:
                assert self.world.is_whole(model), f"{model} has lost blobs"

    @invariant()
    def bound_holds(self) -> None:
        if hasattr(self, "world"):
            assert self.world.taken() <= BOUND, self.world.taken()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.stop()
            shutil.rmtree(self.directory)


class MemoryMachine(CollectorMachine):
    make = MemoryWorld


class MachineTests(SynchronousTestCase):
    def test_no_tag_loses_its_blobs_and_no_bound_is_broken(self) -> None:
        for machine in (CollectorMachine, MemoryMachine):
            run_state_machine_as_test(
                machine,
                settings=settings(max_examples=30, stateful_step_count=30, deadline=None),
            )
