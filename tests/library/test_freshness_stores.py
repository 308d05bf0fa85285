"""What is stored stays fresh in every store; and several daemons over one bucket share the work."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

from attrs import define, field

from tests.emulator import Fault
from tests.library.test_freshness import FreshnessCase
from tests.running import MODEL, Daemon, RunningCase, is_idle, until
from tests.s3.against import AgainstServer
from tests.s3.servers import CEPH, MOTO
from tests.storage.memory import MemoryStore
from yukari.daemon.service import YukariService
from yukari.manifest import Variant
from yukari.names import DEFAULT, Repository, Tag
from yukari.storage.ports import Store

NAME, LATEST = Repository(DEFAULT, "library", "m"), Tag("latest")
OFTEN = {"manifest_lifetime": "200ms", "invalidator_period": "200ms"}


@define(eq=False)
class ServiceInMemory(YukariService):
    """A daemon that stores in memory."""

    _memory: MemoryStore = field(kw_only=True)

    def _make_store(self) -> Store:
        return self._memory


class FreshnessSuite(FreshnessCase):
    """Behaviours; `where` is the subclass's."""

    def where(self) -> dict[str, Any]:
        raise NotImplementedError

    def checks(self, *daemons: Daemon) -> float:
        """How many checks said that upstream has the same still."""
        each = [d.service.parts.metrics._revalidations.labels("same")._value.get() for d in daemons]
        return float(sum(each))


class Suite(FreshnessSuite):
    """What holds for every store, with a short lifetime and period."""

    async def test_a_tag_that_stands_still_costs_a_head_a_check_and_no_get(self) -> None:
        upstream, daemon = await self.stored(**OFTEN)
        before = self.checks(daemon)
        await until(lambda: self.checks(daemon) >= before + 3)
        heads = upstream.counters.requests["manifest HEAD"]
        # One may have been answered, or begun, when it was not counted yet.
        self.assertLessEqual(abs(heads - (self.checks(daemon) - before)), 1)
        self.assertEqual(set(upstream.counters.requests), {"manifest HEAD"})

    async def test_a_tag_that_moves_is_replaced_once_its_blobs_are_here(self) -> None:
        upstream, daemon = await self.stored(**OFTEN)
        old = upstream.models[MODEL]
        held = upstream.faults.add(Fault("store", "silence"))
        new = upstream.add_model(MODEL, [300_000, 2000], seed=9)
        await upstream.stalled(1)
        for _ in range(3):
            self.assertEqual(await self.manifest(daemon), old.manifest_bytes)
        self.assert_whole(await self.pull(daemon), old)
        upstream.faults.remove(held)
        upstream.release()
        while await self.manifest(daemon) != new.manifest_bytes:
            await until(lambda: True)
        await upstream.down()
        self.assert_whole(await self.pull(daemon), new)
        self.assertEqual(await self.manifest(daemon, old.digest), old.manifest_bytes)
        for digest, _ in old.blobs:
            reply, _ = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}", method="HEAD")
            self.assertEqual(reply.status, 200)

    async def test_a_puller_between_the_two_sees_one_of_them_whole(self) -> None:
        upstream, daemon = await self.stored(**OFTEN)
        old = upstream.models[MODEL]
        new = upstream.add_model(MODEL, [300_000, 2000], seed=9)
        seen = []
        while not seen or seen[-1] != new.manifest_bytes:
            pulled = await self.pull(daemon)
            seen.append(pulled.manifest)
            self.assert_whole(pulled, old if pulled.manifest == old.manifest_bytes else new)
        self.assertLessEqual(len(set(seen)), 2)

    async def test_a_pull_begun_before_the_swap_finds_every_blob_after_it(self) -> None:
        upstream, daemon = await self.stored(**OFTEN)
        old = upstream.models[MODEL]
        new = upstream.add_model(MODEL, [300_000, 2000], seed=9)
        while await self.manifest(daemon) != new.manifest_bytes:
            await until(lambda: True)
        await upstream.down()
        for digest, size in old.blobs:
            reply, body = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}")
            self.assertEqual((reply.status, len(body)), (200, size))

    async def test_a_model_that_vanished_upstream_stays(self) -> None:
        upstream, daemon = await self.stored(**OFTEN)
        model = upstream.models[MODEL]
        upstream.delete_model(MODEL)
        upstream.counters.clear()
        await upstream.seen("manifest HEAD", 1)
        self.assert_whole(await self.pull(daemon), model)

    async def test_a_restart_with_everything_fresh_asks_upstream_nothing(self) -> None:
        upstream, daemon = await self.stored("library/m:latest=1000", "library/n:latest=10")
        await daemon.stop()
        upstream.counters.clear()
        daemon = await self.fresh(upstream, invalidator_period="10ms")
        for _ in range(3):
            looking = daemon.library.revalidator._looking
            await until(lambda now=looking: daemon.library.revalidator._looking is not now)
        self.assertEqual(dict(upstream.counters.requests), {})

    async def test_a_pull_refreshes(self) -> None:
        upstream, daemon = await self.stored(revalidate_after="1ms")
        new = upstream.add_model(MODEL, [100_000], seed=9)
        while await self.manifest(daemon) != new.manifest_bytes:
            await until(lambda: True)


class FreshInMemoryTests(Suite):
    def where(self) -> dict[str, Any]:
        if not hasattr(self, "memory"):
            self.memory = MemoryStore()
        return {"service": partial(ServiceInMemory, memory=self.memory)}


class FreshInDirectoryTests(Suite):
    def where(self) -> dict[str, Any]:
        if not hasattr(self, "directory"):
            self.directory = os.path.abspath(self.mktemp())
        return {"storage": self.directory}


class InBucket(AgainstServer, FreshnessSuite):
    """Daemons with the test's bucket and spools of their own."""

    async def setUp(self) -> None:
        await super().setUp()
        assert self.server is not None
        for name, value in self.server.environment().items():
            self.patch_environment(name, value)

    def patch_environment(self, name: str, value: str) -> None:
        before = os.environ.get(name)
        os.environ[name] = value

        def restore() -> None:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before

        self.addCleanup(restore)

    def where(self) -> dict[str, Any]:
        spool = os.path.abspath(self.mktemp())
        return {
            "storage": "tigris",
            "tigris_bucket": self.bucket,
            "spool_dir": spool,
            "redirect": "off",
        }


class FreshOnCephTests(InBucket, Suite):
    server = CEPH


class Replicas(InBucket):
    """Two daemons over one bucket; `server` is the subclass's."""

    async def test_what_is_due_is_checked_once_and_not_once_a_replica(self) -> None:
        names = [Repository(DEFAULT, "library", f"m{number}") for number in range(8)]
        upstream, one = await self.stored(*(f"{name}:latest=10" for name in names))
        two = await self.fresh(upstream)
        for each in one, two:
            await self.looked(each)
        for days, (first, second) in (30, (one, two)), (60, (two, one)):
            upstream.counters.clear()
            for each in first, second:
                revalidator, before = each.library.revalidator, self.checks(each)
                revalidator._now = lambda later=days * 86400: time.time() + later
                revalidator._versions._now = revalidator._now
                await revalidator.look()
                expected = len(names) if each is first else 0
                self.assertEqual(self.checks(each) - before, expected)
            self.assertEqual(upstream.counters.requests["manifest HEAD"], len(names))

    async def looked(self, daemon: Daemon) -> None:
        """Returns when it has had the look of its start."""
        revalidator = daemon.library.revalidator
        await until(lambda: (looking := revalidator._looking) is not None and looking.called)

    async def test_a_pull_asks_nothing_that_another_replica_has_just_asked(self) -> None:
        upstream, one = await self.stored()
        await one.stop()
        one, two = [await self.fresh(upstream, revalidate_after="1h") for _ in range(2)]
        upstream.counters.clear()
        stored = await one.library.store.get_manifest(NAME, LATEST)
        assert stored is not None
        long_ago = time.time() - 7200
        await one.library.store.touch_manifest(NAME, LATEST, stored.manifest.digest, long_ago)
        for each in one, two:
            found = await each.library.store.get_manifest(NAME, LATEST)
            assert found is not None
            self.assertEqual(found.checked_at, long_ago)
        for each in one, two:
            await self.manifest(each)
            await until(
                lambda each=each: not each.library.revalidator._checking and is_idle(each.library)
            )
        self.assertEqual(upstream.counters.requests["manifest HEAD"], 1)

    async def test_what_one_has_replaced_the_other_serves_when_it_looks(self) -> None:
        upstream, one = await self.stored()
        two = await self.fresh(upstream, revalidate_after="1ms")
        old = upstream.models[MODEL]
        self.assertEqual(await self.manifest(two), old.manifest_bytes)
        new = upstream.add_model(MODEL, [3000], seed=9)
        while await self.manifest(two) != new.manifest_bytes:
            await until(lambda: True)
        (found,) = await one.library.store.read_anew([(NAME, LATEST)])
        self.assertEqual(found[Variant.PLAIN].manifest.body, new.manifest_bytes)
        self.assertEqual(await self.manifest(one), new.manifest_bytes)
        await one.idle()
        await two.idle()


class ReplicasOnMotoTests(Replicas):
    server = MOTO


class ReplicasOnCephTests(Replicas):
    server = CEPH


del Suite, InBucket, Replicas, FreshnessSuite, AgainstServer, RunningCase
