"""A store that stays within its bounds, whatever is pulled, and loses nothing it must not."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.emulator import Emulator, Fault
from tests.running import Daemon, RunningCase, until
from yukari.library.catalog.file import CatalogFile
from yukari.library.in_use import InUse
from yukari.names import DEFAULT, Repository, Tag

SIZE = 300_000
THREE = 3 * (SIZE + 70_000)
"""Room for three models, with what each takes beside its blobs while it comes."""


def taken(daemon: Daemon) -> int:
    """Bytes of all blobs that are stored or on their way."""
    storage = daemon.service._settings.storage
    found = 0
    for directory in ("blobs", "yukari/spool"):
        with os.scandir(os.path.join(storage, directory)) as entries:
            for entry in entries:
                try:
                    found += entry.stat().st_size
                except FileNotFoundError:
                    pass
    return found


class BoundCase(RunningCase):
    """Daemons with a bound; nothing counts as in use once its pull has ended."""

    def setUp(self) -> None:
        self.patch(InUse, "__contains__", InUse.is_held)

    async def models(self, count: int, **settings: Any) -> Emulator:
        """An upstream with so many models, of which each two share a small blob."""
        return await self.upstream(
            *(f"library/m{at}:latest={SIZE},3000@{at}" for at in range(count)), **settings
        )

    async def bounded(self, upstream: Emulator, **flags: Any) -> Daemon:
        flags = {"store_max": str(THREE), "evict_grace": "0s", **flags}
        daemon = await self.daemon(upstream, **flags)
        await self.looked(daemon)
        return daemon

    async def looked(self, daemon: Daemon) -> None:
        """Returns once the catalog is complete."""
        await until(lambda: daemon.service.parts.management.index.looked)

    def stored(self, daemon: Daemon) -> set[str]:
        """The models that are stored."""
        host = daemon.service._settings.upstream_registry.host
        path = os.path.join(daemon.service._settings.storage, "manifests", host, "library")
        return set(os.listdir(path))

    async def pull_whole(self, upstream: Emulator, daemon: Daemon, at: int) -> None:
        name = f"library/m{at}:latest"
        pulled = await self.pull(daemon, name)
        self.assert_whole(pulled, upstream.models[name])


class BoundTests(BoundCase):
    async def test_least_recently_pulled_goes_for_what_comes(self) -> None:
        upstream = await self.models(5)
        daemon = await self.bounded(upstream)
        for at in (0, 1, 2, 0, 3):
            await self.pull_whole(upstream, daemon, at)
            await daemon.idle()
            self.assertLessEqual(taken(daemon), THREE)
        self.assertEqual(self.stored(daemon), {"m0", "m2", "m3"})
        # What stays is whole: it is served without upstream.
        await upstream.down()
        for at in (0, 2, 3):
            await self.pull_whole(upstream, daemon, at)

    async def test_pinned_kept_and_gone_models_stay(self) -> None:
        upstream = await self.models(8)
        daemon = await self.bounded(upstream, keep="library/m1", store_max=str(4 * THREE // 3))
        for at in (0, 1, 2):
            await self.pull_whole(upstream, daemon, at)
        await daemon.idle()
        marks = daemon.service.parts.management.marks
        await marks.set_pin(Repository(DEFAULT, "library", "m0"), Tag("latest"), "admin")
        # Nobody has asked upstream since: it is asked before the model would go.
        upstream.delete_model("library/m2:latest")
        for at in (3, 4, 5, 6, 7):
            await self.pull_whole(upstream, daemon, at)
            await daemon.idle()
            self.assertLessEqual(taken(daemon), 4 * THREE // 3)
        self.assertEqual(self.stored(daemon), {"m0", "m1", "m2", "m7"})
        catalog = daemon.service.parts.management.catalog
        (gone,) = await catalog.run(
            CatalogFile.find, Repository(DEFAULT, "library", "m2"), Tag("latest")
        )
        self.assertIsNotNone(gone.gone_since)

    async def test_herd_evicts_none_of_itself_and_is_relayed(self) -> None:
        upstream = await self.models(8)
        daemon = await self.bounded(upstream, evict_grace="1h")
        await gatherResults(
            [Deferred.fromCoroutine(self.pull_whole(upstream, daemon, at)) for at in range(8)]
        )
        self.assertLessEqual(taken(daemon), THREE)
        first = self.stored(daemon)
        for at in range(8):
            await self.pull_whole(upstream, daemon, at)
        self.assertLessEqual(taken(daemon), THREE)
        self.assertEqual(self.stored(daemon), first)

    async def test_nothing_goes_while_upstream_does_not_say_that_it_has_it(self) -> None:
        upstream = await self.models(5)
        daemon = await self.bounded(upstream)
        for at in (0, 1, 2):
            await self.pull_whole(upstream, daemon, at)
        await daemon.idle()
        upstream.faults.add(Fault("manifest HEAD", "error", status=503))
        upstream.faults.add(Fault("manifest GET", "error", status=503, skip=1))
        await self.pull_whole(upstream, daemon, 3)
        self.assertTrue(self.stored(daemon) >= {"m0", "m1", "m2"})
        self.assertLessEqual(taken(daemon), THREE)

    async def test_never_means_never(self) -> None:
        upstream = await self.models(5)
        daemon = await self.bounded(upstream, evict="never")
        for at in range(5):
            await self.pull_whole(upstream, daemon, at)
            self.assertLessEqual(taken(daemon), THREE)
        self.assertTrue(self.stored(daemon) >= {"m0", "m1", "m2"})

    async def test_bound_holds_after_a_restart(self) -> None:
        upstream = await self.models(6)
        daemon = await self.bounded(upstream)
        for at in (0, 1, 2):
            await self.pull_whole(upstream, daemon, at)
        await daemon.idle()
        daemon = await self.restarted(daemon, upstream, store_max=str(THREE), evict_grace="0s")
        await self.looked(daemon)
        for at in (1, 3):
            await self.pull_whole(upstream, daemon, at)
            await daemon.idle()
            self.assertLessEqual(taken(daemon), THREE)
        self.assertEqual(self.stored(daemon), {"m1", "m2", "m3"})
