"""Several daemons over one bucket: what one removes is never what another is about to use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.library.upkeep.test_collector import (
    BOUND,
    HOUR,
    LATEST,
    CollectorMachine,
    T,
    Upstream,
    World,
    name_of,
    weights,
)
from tests.s3.memory import MemoryBucket, MemoryS3
from tests.storage.dying import Killed
from yukari.config.units import FreeSpace
from yukari.library.catalog.file import CatalogFile
from yukari.library.upkeep.room import Bounds
from yukari.library.upkeep.shared_sweep import Busy
from yukari.manifest import Manifest, parse_manifest, stands_on
from yukari.names import Digest, Repository
from yukari.s3.errors import S3Error
from yukari.storage.bucket.lease import LIFETIME, OWN_LIFETIME, Lease, LeaseLost
from yukari.storage.bucket.store import BucketStore
from yukari.storage.ports import Store

ENDLESS = Bounds(None, True, grace=HOUR)


@define(eq=False)
class BucketWorld(World):
    """One daemon over a bucket that others may share."""

    bucket: MemoryBucket = field(kw_only=True)
    client: MemoryS3 = field(init=False)

    def open_store(self) -> Store:
        self.client = MemoryS3(self.bucket)
        client: Any = self.client
        return BucketStore(
            client=client,
            spool_dir=self.path,
            in_thread=maybeDeferred,
            clock=self.clock,
            min_free=FreeSpace(bytes=0),
        )

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> list[Any]:
        """Begin something; what it comes to will be in the list."""
        results: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(results.append)
        return results

    def end(self, results: list[Any]) -> Any:
        """Let time pass until it has come to something."""
        for _ in range(2 * int(LIFETIME)):
            if results:
                break
            self.clock.advance(1.0)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        found: T = self.end(self.begin(coroutine))
        return found

    def bring(self, name: Repository, manifest: Manifest) -> bool:
        # Who reads a blob that another daemon has removed finds that out, unless the disk in front
        # still has it, which says nothing of the bucket.
        for blob in manifest.blobs:
            self.run(self.store._blobs._see_again(blob.digest))
        return super().bring(name, manifest)

    def collect(self) -> None:
        try:
            super().collect()
        except Busy:
            self.clock.advance(LIFETIME)
            super().collect()

    def tell(self) -> None:
        """Let the others know what was pulled here."""
        assert self.management.shared is not None
        self.run(self.management.shared.pulls.tell())

    async def pull_slowly(self, model: str) -> None:
        """A pull as `pull`, for a caller that does not let time pass."""
        name = name_of(model)
        library = self.management.library
        manifest: Any = (await library.manifest(name, LATEST, "", prefetch=False)).manifest
        self.management.catalog.pulled(name, LATEST, "10.0.0.2")
        for blob in manifest.blobs:
            if await self.store._blobs.look_for(blob.digest) is None:
                spool = await self.store.new_spool(blob.digest, blob.size, name)
                spool.write([(0, [self.bodies[blob.digest]])])
                await self.store.publish(spool)
                spool.close()

    # what is in the bucket, whatever anybody believes

    def broken(self) -> dict[str, set[Digest]]:
        """The tags that lack blobs, and which."""
        objects = self.bucket.objects
        lacking = {}
        for key in objects:
            if key.startswith("v2/") and "sha256:" not in key:
                needs = stands_on(parse_manifest(objects[key].body))
                lost = {each for each in needs if f"blobs/{each}" not in objects}
                if lost:
                    lacking[key] = lost
        return lacking

    def garbage(self) -> set[str]:
        """The blobs that were stored before the grace and that nothing stands on."""
        objects, needed = self.bucket.objects, set[Digest]()
        for key, found in objects.items():
            by_digest = "sha256:" in key
            lifetime = self.bounds.superseded_lifetime
            if key.startswith("v2/") and not (
                by_digest and found.modified <= self.now() - lifetime
            ):
                needed |= stands_on(parse_manifest(found.body))
        before = self.now() - self.bounds.grace
        return {
            key
            for key, found in objects.items()
            if key.startswith("blobs/")
            and found.modified < before
            and Digest.parse(key.removeprefix("blobs/")) not in needed
        }


def at_request(client: MemoryS3, number: int, work: Callable[[], object]) -> Callable[[], bool]:
    """Have work done before a client's request of that number; returns what tells if it was."""
    asked, done = count(), list[object]()

    def before() -> None:
        if next(asked) == number:
            done.append(work())

    client.before = before
    return lambda: bool(done)


class Pair:
    """Two daemons over one bucket, with one upstream and one time."""

    def __init__(self, directory: str, bounds: Bounds = ENDLESS) -> None:
        clock, upstream, bodies = Clock(), Upstream(), dict[Digest, bytes]()
        bucket = MemoryBucket(lambda: self.first.now())
        self.first, self.second = (
            BucketWorld(
                os.path.join(directory, name), upstream, clock, bodies, bounds, bucket=bucket
            )
            for name in ("first", "second")
        )
        self.bucket = bucket
        for each in (self.first, self.second):
            each.start()

    def stop(self) -> None:
        for each in (self.first, self.second):
            each.stop()


class SharedStoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pairs: list[Pair] = []

    def tearDown(self) -> None:
        for each in self.pairs:
            each.stop()

    def pair(self, bounds: Bounds = ENDLESS) -> Pair:
        pair = Pair(os.path.abspath(self.mktemp()), bounds)
        self.pairs.append(pair)
        return pair

    def with_garbage(self) -> Pair:
        """Both have pulled a model that was removed, hours ago."""
        pair = self.pair()
        for model in ("a", "x"):
            pair.first.publish(model, weights(model), b"licence")
            self.assertTrue(pair.first.pull(model))
            self.assertTrue(pair.second.pull(model))
        pair.first.clock.advance(2 * HOUR)
        store = pair.first.store
        pair.first.run(store.inventory.remove_tag(name_of("x"), LATEST))
        manifest = pair.first.upstream.tags[name_of("x")]
        del pair.bucket.objects[f"v2/library/x/manifests/{manifest.digest}"]
        pair.first.clock.advance(60.0)
        return pair

    def interleaved(
        self, meanwhile: Callable[[Pair], object], then: Callable[[Pair], object]
    ) -> int:
        """Have something done before each of a sweep's requests, in as many sweeps."""
        for number in count():
            pair = self.with_garbage()
            is_done = at_request(pair.first.client, number, partial(meanwhile, pair))
            try:
                pair.first.collect()
            except (LeaseLost, Busy):
                pass
            if not is_done():
                return number
            then(pair)
            self.assertEqual(pair.first.broken(), {}, number)
        return 0

    def test_blobs_that_another_daemon_adopts_in_the_middle_stay_or_come_again(self) -> None:
        pulls: list[Any] = []
        steps = self.interleaved(
            lambda pair: pulls.append(pair.second.begin(pair.second.pull_slowly("x"))),
            lambda pair: pair.second.end(pulls[-1]),
        )
        self.assertGreater(steps, 10)

    def test_a_daemon_that_slept_in_the_middle_removes_nothing_more(self) -> None:
        # The other daemon waits for the end of the lease, which this one does not see coming.
        steps = self.interleaved(
            lambda pair: pair.second.run(pair.second.pull_slowly("x")), lambda _: None
        )
        self.assertGreater(steps, 10)

    def test_new_version_that_stands_on_garbage_is_whole(self) -> None:
        def move(pair: Pair) -> None:
            pair.second.publish("a", weights("x"), b"licence")
            pair.second.refresh("a")

        self.assertGreater(self.interleaved(move, lambda _: None), 10)

    def test_daemon_that_is_killed_leaves_garbage_for_the_next_and_nothing_else(self) -> None:
        for steps in count():
            pair = self.with_garbage()
            pair.first.client.dies_in = steps
            try:
                pair.first.collect()
            except Killed:
                pass
            else:
                break
            self.assertEqual(pair.first.broken(), {})
            pair.first.kill()
            pair.first.start()
            pair.second.clock.advance(LIFETIME)
            pair.second.collect()
            self.assertEqual(pair.first.garbage(), set())
            self.assertEqual(pair.first.broken(), {})
            self.assertTrue(pair.second.is_whole("a"))
        self.assertGreater(steps, 4)

    def test_sweep_removes_all_garbage_and_nothing_else(self) -> None:
        pair = self.with_garbage()
        self.assertEqual(len(pair.first.garbage()), 2)
        swept = pair.first.run(pair.first.management.collector.unneeded())
        self.assertEqual(swept.blobs, 2)
        pair.first.collect()
        self.assertEqual(pair.first.garbage(), set())
        self.assertTrue(pair.second.is_whole("a"))

    def test_object_that_may_not_be_removed_keeps_no_other_in_the_bucket(self) -> None:
        """One under an object lock ended the sweep each time."""
        pair = self.with_garbage()
        first, second = sorted(pair.first.garbage())
        delete = MemoryS3.delete_object

        async def refused(client: MemoryS3, key: str) -> None:
            if key == first:
                raise S3Error("AccessDenied", 403, "it is locked")
            await delete(client, key)

        self.patch(MemoryS3, "delete_object", refused)
        pair.first.collect()
        self.assertEqual(pair.first.garbage(), {first})

    def test_blobs_stored_within_the_grace_stay(self) -> None:
        pair = self.pair()
        body = weights("lone")
        pair.first.bodies[Digest.of(body)] = body
        pair.first.fill(name_of("lone"), Digest.of(body))
        pair.second.collect()
        self.assertIn(f"blobs/{Digest.of(body)}", pair.bucket.objects)
        pair.first.clock.advance(HOUR + 100)
        pair.second.collect()
        self.assertNotIn(f"blobs/{Digest.of(body)}", pair.bucket.objects)

    def test_model_is_removed_with_its_blobs_by_a_daemon_that_never_saw_it(self) -> None:
        pair = self.pair()
        pair.first.publish("a", weights("a"), b"licence")
        pair.first.publish("b", weights("b"), b"licence")
        for model in "ab":
            pair.first.pull(model)
        pair.first.clock.advance(2 * HOUR)
        pair.second.run(pair.second.management.collector.remove(name_of("a"), LATEST))
        pair.second.clock.advance(1.0)
        self.assertNotIn(f"blobs/{Digest.of(weights('a'))}", pair.bucket.objects)
        self.assertFalse([key for key in pair.bucket.objects if "library/a/" in key])
        self.assertTrue(pair.first.is_whole("b"))

    def test_superseded_version_stays_for_its_lifetime_and_then_goes(self) -> None:
        pair = self.pair()
        old = pair.first.publish("a", weights("a"))
        pair.first.pull("a")
        pair.first.clock.advance(1000 * HOUR)
        pair.first.publish("a", weights("a2"))
        pair.first.refresh("a")
        pair.first.clock.advance(700 * HOUR)
        pair.second.collect()
        self.assertIn(f"blobs/{Digest.of(weights('a'))}", pair.bucket.objects)
        pair.first.clock.advance(30 * HOUR)
        pair.second.collect()
        self.assertNotIn(f"blobs/{Digest.of(weights('a'))}", pair.bucket.objects)
        self.assertFalse([key for key in pair.bucket.objects if str(old.digest) in key])
        self.assertTrue(pair.first.is_whole("a"))

    def test_nothing_goes_while_an_object_is_no_manifest(self) -> None:
        pair = self.with_garbage()
        pair.first.run(pair.first.client.put_object("v2/library/z/manifests/latest", b"{", "x"))
        before = set(pair.bucket.objects)
        self.assertRaises(OSError, pair.first.collect)
        self.assertEqual({key for key in before if key not in pair.bucket.objects}, set())

    def test_no_request_that_fails_in_the_middle_costs_a_blob(self) -> None:
        """Each in turn, from the lease over the listings to the last removal."""
        failed: list[int] = []

        def fail() -> None:
            failed.append(number)
            raise S3Error("AccessDenied", 403, "not now")

        for number in count():
            pair = self.with_garbage()
            at_request(pair.first.client, number, fail)
            try:
                pair.first.collect()
            except OSError:
                pass
            self.assertEqual(pair.first.broken(), {}, number)
            if len(failed) == number:
                break
        self.assertGreater(len(failed), 5)

    # one at a time

    def test_one_daemon_removes_at_a_time(self) -> None:
        pair = self.with_garbage()
        clock, client = pair.first.clock, pair.first.client
        lease: Any = Lease(client, clock)  # type: ignore[arg-type]
        self.assertTrue(pair.first.run(lease.take()))
        self.assertRaises(Busy, pair.second.run, pair.second.management.collector.collect())
        pair.first.run(lease.release())
        pair.second.collect()
        self.assertEqual(pair.first.garbage(), set())

    def test_lease_of_a_daemon_that_is_gone_is_taken_over_and_lost_to_it(self) -> None:
        pair = self.pair()
        leases: list[Any] = [
            Lease(each.client, each.clock)  # type: ignore[arg-type]
            for each in (pair.first, pair.second)
        ]
        for conditional in (True, False):
            pair.bucket.conditional = conditional
            first, second = leases
            self.assertTrue(pair.first.run(first.take()))
            self.assertFalse(pair.first.run(second.take()))
            pair.first.clock.advance(LIFETIME)
            self.assertTrue(pair.first.run(second.take()))
            self.assertRaises(LeaseLost, pair.first.run, first.doom([]))
            self.assertRaises(LeaseLost, first.check)
            pair.first.run(second.release())

    def test_daemon_that_was_killed_soon_removes_again(self) -> None:
        pair = self.pair()
        first: Any = Lease(pair.first.client, pair.first.clock, "it")  # type: ignore[arg-type]
        again: Any = Lease(pair.first.client, pair.first.clock, "it")  # type: ignore[arg-type]
        self.assertTrue(pair.first.run(first.take()))
        self.assertFalse(pair.first.run(again.take()))
        pair.first.clock.advance(OWN_LIFETIME)
        self.assertTrue(pair.first.run(again.take()))
        before = pair.first.store._bucket.lease.holder
        pair.first.stop()
        pair.first.start()
        self.assertEqual(pair.first.store._bucket.lease.holder, before)
        self.assertNotEqual(pair.second.store._bucket.lease.holder, before)

    def test_s3_without_conditional_puts_is_swept_too(self) -> None:
        pair = self.with_garbage()
        pair.bucket.conditional = False
        pair.first.collect()
        self.assertEqual(pair.first.garbage(), set())

    # what they tell one another

    def test_pull_from_one_daemon_counts_for_the_other(self) -> None:
        pair = self.pair()
        pair.first.publish("a", weights("a"))
        pair.first.pull("a")
        pair.second.run(pair.second.management.index.look())
        pair.first.clock.advance(5 * HOUR)
        pair.first.pull("a")
        for each in (pair.first, pair.second):
            shared = each.management.shared
            assert shared is not None
            each.run(shared.pulls.refresh())
        catalog = pair.second.management.catalog
        (row,) = pair.second.run(catalog.run(CatalogFile.find, name_of("a"), LATEST))
        self.assertLess(abs((row.last_pull or 0.0) - pair.second.now()), 60.0)

    def test_model_that_others_pull_is_not_the_one_that_goes(self) -> None:
        pair = self.pair(Bounds(FreeSpace(bytes=BOUND), True, grace=0.0))
        for model in "abc":
            pair.first.publish(model, weights(model))
            self.assertTrue(pair.first.pull(model))
            pair.first.tell()
            pair.first.clock.advance(HOUR)
        pair.second.run(pair.second.management.index.look())
        pair.second.pull("a")
        pair.second.tell()
        pair.first.clock.advance(HOUR)
        pair.first.publish("new", weights("new"))
        self.assertTrue(pair.first.pull("new"))
        self.assertTrue(pair.first.is_whole("a"))
        self.assertIsNone(pair.first.stored("b"))
        self.assertLessEqual(pair.first.taken(), BOUND)


class BucketMachine(CollectorMachine):
    """The same steps over a bucket, with a second daemon that does some of them."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.pair = Pair(self.directory, Bounds(FreeSpace(bytes=BOUND), True, grace=HOUR))
        self.world: BucketWorld = self.pair.first
        self.whole: set[str] = set()
        self.pinned: set[str] = set()
        for model in "abcdef":
            self.world.publish(model, weights(model), b"licence", b"for " + model.encode() * 2)

    @contextmanager
    def dying(self, steps: int) -> Iterator[None]:
        self.world.client.dies_in = steps
        yield
        self.world.client.dies_in = 0

    @rule()
    def other_daemon_does_the_next(self) -> None:
        pair = self.pair
        pair.first, pair.second = pair.second, pair.first
        self.world = pair.first
        # What is decided by facts of minutes ago is not the point here.
        self.world.clock.advance(120.0)

    @rule(model=CollectorMachine.models, number=st.integers(0, 40))
    def pull_in_the_middle(self, model: str, number: int) -> None:
        """The other daemon pulls while this one collects."""
        pulls, second = list[Any](), self.pair.second
        if self.world.upstream.down or name_of(model) not in self.world.upstream.tags:
            return

        at_request(
            self.world.client,
            number,
            lambda: pulls.append(second.begin(second.pull_slowly(model))),
        )
        self.world.collect()
        self.world.client.before = lambda: None
        for each in pulls:
            second.end(each)
            assert f"v2/library/{model}/manifests/latest" not in self.world.broken()
        self.world.run(self.world.management.collector.remove(name_of(model), LATEST))
        self.whole.discard(model)
        self.pinned.discard(model)
        self.world.clock.advance(2 * HOUR)
        self.world.collect()

    def assert_no_garbage(self) -> None:
        assert not self.world.garbage()

    @invariant()
    def no_tag_lacks_blobs_unless_it_never_had_them(self) -> None:
        if hasattr(self, "world"):
            for key in self.world.broken():
                assert key.split("/")[2] not in self.whole, key

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.pair.second.stop()
        super().teardown()


class BucketMachineTests(SynchronousTestCase):
    def test_no_tag_loses_its_blobs_and_no_bound_is_broken(self) -> None:
        run_state_machine_as_test(
            BucketMachine,
            settings=settings(max_examples=20, stateful_step_count=25, deadline=None),
        )
        self.flushLoggedErrors(Killed)
