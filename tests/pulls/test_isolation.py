"""What the manifest of one model says wrongly harms no other model."""

from __future__ import annotations

import json

from tests.emulator import Emulator
from tests.running import SMALL16, Daemon, RunningCase, until

A, B = "library/a:latest", "library/b:latest"


class IsolationTests(RunningCase):
    async def lying(self, size: int) -> tuple[Emulator, str]:
        """A registry where model A names B's layer with this size."""
        upstream = await self.upstream(f"{A}=300", f"{B}=300KB,3000@7")
        digest, _ = upstream.models[B].layers[0]
        manifest = json.loads(upstream.models[A].manifest_bytes)
        manifest["layers"].append({**manifest["layers"][0], "digest": digest, "size": size})
        upstream.set_manifest(A, json.dumps(manifest).encode())
        return upstream, digest

    async def ask_for_a(self, daemon: Daemon) -> None:
        """A client begins to pull A."""
        await self.ask(f"{daemon.url}/v2/library/a/manifests/latest")

    async def test_another_size_of_an_absent_blob(self) -> None:
        for size in (7, 300_001, 10**12):
            upstream, digest = await self.lying(size)
            daemon = await self.daemon(upstream)
            await self.ask_for_a(daemon)
            self.assert_whole(await self.pull(daemon, B), upstream.models[B])
            reply, _ = await self.ask(f"{daemon.url}/v2/library/b/blobs/{digest}", {}, "HEAD")
            self.assertEqual(reply.length, 300_000)

    async def test_another_size_of_a_stored_blob(self) -> None:
        upstream, digest = await self.lying(7)
        daemon = await self.daemon(upstream)
        await self.pull(daemon, B)
        await daemon.idle()
        await self.ask_for_a(daemon)
        asked = upstream.counters.sent
        for name in ("b", "a"):
            reply, _ = await self.ask(f"{daemon.url}/v2/library/{name}/blobs/{digest}", {}, "HEAD")
            self.assertEqual(reply.length, 300_000)
        self.assert_whole(await self.pull(daemon, B), upstream.models[B])
        self.assertLess(upstream.counters.sent - asked, 10_000)

    async def test_an_old_client_of_one_model_freezes_no_other(self) -> None:
        due = {"manifest_lifetime": "1ms", "invalidator_period": "50ms"}
        upstream = await self.upstream(f"{A}=300", f"{B}=300")
        daemon = await self.daemon(upstream, revalidate_after="0s", **due)
        old = upstream.add_model(A, [300], requires="0.5.0")
        await self.pull(daemon, A)
        old_client = SMALL16.scaled(user_agent="ollama/0.1.0 (amd64 linux) Go/go1.21.0")
        await self.pull(daemon, B, old_client)
        new = upstream.add_model(A, [400], seed=3, requires="0.5.0")
        self.assertNotEqual(old.digest, new.digest)
        while True:
            _, body = await self.ask(f"{daemon.url}/v2/library/a/manifests/latest")
            if body == new.manifest_bytes:
                break
            await until(lambda: True)
