"""Manifest lists over a bucket, to Ollama 0.40 and to older ones, on a disk that was emptied."""

from __future__ import annotations

from tests.pulls.test_lists import SMALL_LISTS, ListCase
from tests.s3.daemons import BucketCase


class ListsInBucketTests(BucketCase, ListCase):
    async def test_another_daemon_serves_both_kinds_from_the_bucket_alone(self) -> None:
        upstream, daemon = await self.listed()
        listed = self.list_of(upstream)
        self.assert_list_pulled(await self.pull_list(daemon, "ggml"), listed, "ggml")
        self.assert_whole(await self.pull(daemon), listed.plain)
        await daemon.idle()
        await daemon.stop()
        await upstream.down()
        for flags in ({"redirect": "off"}, {"redirect": "on"}):
            other = await self.daemon(upstream, **flags)
            self.assert_list_pulled(await self.pull_list(other, "ggml"), listed, "ggml")
            self.assert_whole(await self.pull(other), listed.plain)
            pulled = await self.pull(other, generation=SMALL_LISTS)
            self.assert_list_pulled(pulled, listed, "llamacpp")
            await other.idle()
            await other.stop()

    async def test_of_two_daemons_one_serves_the_list_and_the_other_its_child(self) -> None:
        upstream, one = await self.listed()
        two = await self.daemon(upstream)
        child = self.list_of(upstream).children["mlx"]
        await self.manifest(one, "application/vnd.ollama.manifest.list.v2+json")
        for method in ("HEAD", "GET"):
            reply, body = await self.blob(two, child.digest, method)
            self.assertEqual((reply.status, reply.length), (200, len(child.manifest_bytes)))
        self.assertEqual(body, child.manifest_bytes)
