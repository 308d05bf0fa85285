"""Models in a bucket that several daemons share are removed by an admin, and by nobody else."""

from __future__ import annotations

from tests.running import Daemon, until
from tests.s3.daemons import BucketCase, store_of
from tests.s3.servers import MOTO
from yukari.library.management import Management
from yukari.names import DEFAULT, Repository, Tag

LATEST = Tag("latest")
M, N = Repository(DEFAULT, "library", "m"), Repository(DEFAULT, "library", "n")


class ManagedBucketTests(BucketCase):
    server = MOTO

    async def setUp(self) -> None:
        await super().setUp()
        self.s3_at(self.server.endpoint("127.0.0.1"))

    def management(self, daemon: Daemon) -> Management:
        return daemon.service.parts.management

    async def bucket_has(self, daemon: Daemon, digest: str) -> bool:
        return await store_of(daemon).client.head_object(f"blobs/{digest}") is not None

    async def test_removed_model_goes_and_what_another_daemon_stored_meanwhile_stays(self) -> None:
        upstream = await self.upstream(
            "library/m:latest=400KB,3000", "library/n:latest=300KB,3000@5"
        )
        first = await self.daemon(upstream, evict_grace="0s")
        second = await self.daemon(upstream)
        await until(lambda: self.management(first).index.looked)
        await self.pull(first, "library/m:latest")
        await first.idle()
        # The first one does not know of this.
        await self.pull(second, "library/n:latest")
        await second.idle()
        await self.management(first).collector.remove(M, LATEST)
        self.patch(type(self.management(first).library.in_use), "__contains__", lambda *_: False)
        await self.management(first).collector.collect()
        layer = upstream.models["library/m:latest"].layers[0][0]
        self.assertFalse(await self.bucket_has(second, layer))
        self.assertIsNone(await store_of(second).get_manifest(M, LATEST, anew=True))
        for digest, _ in upstream.models["library/n:latest"].blobs:
            self.assertTrue(await self.bucket_has(second, digest))

    async def test_pin_of_one_daemon_is_known_to_the_other(self) -> None:
        upstream = await self.upstream("library/m:latest=400KB,3000")
        first, second = await self.daemon(upstream), await self.daemon(upstream)
        await self.management(first).marks.set_pin(M, LATEST, "ana")
        await self.management(second).marks.set_pin(N, LATEST, "ben")
        marks = self.management(second).marks
        self.assertEqual(
            [pin and pin.by for pin in (marks.pin(M, LATEST), marks.pin(N, LATEST))], ["ana", "ben"]
        )

    async def test_bucket_has_no_bound(self) -> None:
        upstream = await self.upstream("library/m:latest=400KB,3000")
        for flag in ({"store_max": "1GB"}, {"evict": "lru"}):
            with self.assertRaises(SystemExit):
                await self.daemon(upstream, **flag)
