"""Stock Ollama pulls through daemons that share a bucket of a real S3 gateway: Ceph's."""

from __future__ import annotations

import os

from tests.ollama import MODEL, OllamaCase
from tests.s3.daemons import BucketCase
from yukari.library.blobs import LEAST_REDIRECTED


class BucketOllamaTests(OllamaCase, BucketCase):
    """A user's pull, of a model that is in the bucket and of one that is not."""

    async def cold_then_warm(self, redirect: str, s3_host: str, *, goes_to_s3: bool) -> None:
        """By one daemon cold and warm, and by another with an empty disk, without upstream."""
        self.s3_at(self.server.endpoint(s3_host))
        upstream = await self.upstream(f"{MODEL}=20MB,300KB,11")
        model, flag = upstream.models[MODEL], f"--redirect={redirect}"
        daemon, ollama = await self.process(upstream.url, flag), await self.ollama()
        for _ in range(2):
            await self.pull_by(ollama, daemon.host)
            self.assert_pulled(ollama, daemon.host, model)
            ollama.forget()
        self.assert_sent_once(upstream, model)
        await self.idle(daemon)
        await daemon.stop()
        await self.assert_in_bucket(model)
        await upstream.down()

        disk = self.directory()
        other = await self.process(upstream.url, flag, disk=disk)
        for _ in range(2):
            await self.pull_by(ollama, other.host)
            self.assert_pulled(ollama, other.host, model)
            ollama.forget()
        await self.idle(other)
        on_disk = len(os.listdir(os.path.join(disk, "tier")))
        small = [size for _, size in model.blobs if size < LEAST_REDIRECTED]
        self.assertEqual(on_disk, len(small) if goes_to_s3 else len(model.blobs))

    async def test_sent_to_s3(self) -> None:
        await self.cold_then_warm("on", "127.0.0.2", goes_to_s3=True)

    async def test_not_sent_to_the_name_that_the_daemon_has(self) -> None:
        await self.cold_then_warm("on", "127.0.0.1", goes_to_s3=False)

    async def test_not_sent_anywhere(self) -> None:
        await self.cold_then_warm("off", "127.0.0.2", goes_to_s3=False)
