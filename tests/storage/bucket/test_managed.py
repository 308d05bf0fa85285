"""Models in a bucket that several daemons share: removed by an admin, or if eviction is on."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.running import Daemon, until
from tests.s3.daemons import BucketCase, store_of
from tests.s3.servers import CEPH, MOTO, Server
from yukari.library.catalog.file import CatalogFile
from yukari.library.upkeep.management import Management
from yukari.names import DEFAULT, Repository, Tag
from yukari.storage.bucket.store import BucketStore

LATEST = Tag("latest")
BOUND = 1_150_000
"""Room for three models of 300 kB that are being fetched."""
M, N = Repository(DEFAULT, "library", "m"), Repository(DEFAULT, "library", "n")


class ManagedBucketTests(BucketCase):
    server: Server = MOTO

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
        self.assertEqual(await store_of(second).read_anew([(M, LATEST)]), [{}])
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

    async def test_model_of_one_daemon_is_soon_listed_by_the_other_and_read_once(self) -> None:
        upstream = await self.upstream("library/m:latest=400KB,3000")
        first, second = await self.daemon(upstream), await self.daemon(upstream)
        index = self.management(second).index
        await until(lambda: index.looked)
        await self.pull(first, "library/m:latest")
        await first.idle()
        reads: list[object] = []
        store = store_of(second)
        read = type(store).read_anew

        async def counted(of: BucketStore, keys: Any) -> object:
            if of is store:
                reads.extend(keys)
            return await read(of, keys)

        self.patch(type(store), "read_anew", counted)
        await index.look()
        (row,) = await self.management(second).catalog.run(CatalogFile.find, M, LATEST)
        self.assertEqual((row.tag, row.missing, len(reads)), ("latest", 0, 1))
        await index.look()
        self.assertEqual(len(reads), 1)

    async def test_bound_of_a_bucket_is_a_number_of_bytes(self) -> None:
        upstream = await self.upstream("library/m:latest=400KB,3000")
        with self.assertRaises(SystemExit):
            await self.daemon(upstream, store_max="80%")

    async def stored(self) -> int:
        """The bytes of all blobs in the bucket."""
        page = await self.client.list_objects("blobs/")
        return sum(row.size for row in page.objects)

    async def test_nothing_goes_by_itself_unless_that_is_asked_for(self) -> None:
        names = [f"library/m{at}:latest" for at in range(4)]
        upstream = await self.upstream(
            *(f"{name}=300KB,3000@{at}" for at, name in enumerate(names))
        )
        bound = {"store_max": str(BOUND), "evict_grace": "0s"}
        daemon = await self.daemon(upstream, **bound)
        await until(lambda: self.management(daemon).index.looked)
        for name in names:
            self.assert_whole(await self.pull(daemon, name), upstream.models[name])
            if name != names[3]:
                await daemon.idle()  # The last one is relayed, and tried again later.
        tags = [await store_of(daemon).tags(name_of(name)) for name in names[:3]]
        self.assertEqual(tags, [[LATEST]] * 3)
        self.assertLessEqual(await self.stored(), BOUND)
        # Another daemon, over the same bucket, that may remove; it knows what was pulled here.
        shared = self.management(daemon).shared
        assert shared is not None
        await shared.pulls.tell()
        second = await self.daemon(upstream, evict="lru", **bound)
        await until(lambda: self.management(second).index.looked)
        self.assert_whole(await self.pull(second, names[3]), upstream.models[names[3]])
        await second.idle()
        self.assertLessEqual(await self.stored(), BOUND)
        await self.assert_in_bucket(upstream.models[names[3]])
        self.assertEqual(await store_of(second).read_anew([(name_of(names[0]), LATEST)]), [{}])
        for name in names[1:3]:
            await self.assert_in_bucket(upstream.models[name])

    async def test_collection_on_one_daemon_leaves_what_another_pulls_meanwhile(self) -> None:
        upstream = await self.upstream("library/m:latest=400KB,3000", "library/n:latest=9MB,3000")
        first = await self.daemon(upstream, evict_grace="0s")
        second = await self.daemon(upstream, evict_grace="0s")
        for each in (first, second):
            await until(lambda each=each: self.management(each).index.looked)  # type: ignore[misc]
        for name in ("library/m:latest", "library/n:latest"):
            for _ in range(3):
                await self.pull(first, name)
                await self.pull(second, name)
                await first.idle()
                await store_of(first).inventory.remove_tag(name_of(name), LATEST)
                pulled, _swept = await gatherResults(
                    [
                        Deferred.fromCoroutine(self.pull(second, name)),
                        Deferred.fromCoroutine(self.management(first).collector.collect()),
                    ]
                )
                self.assert_whole(pulled, upstream.models[name])
                await second.idle()


class CephManagedBucketTests(ManagedBucketTests):
    server = CEPH


def name_of(model: str) -> Repository:
    return Repository.parse(model.partition(":")[0])
