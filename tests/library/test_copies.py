"""A copy that an admin made stays as it is, whatever upstream has under its name."""

from __future__ import annotations

import json
from typing import Any

from tests.running import Daemon, RunningCase
from yukari.manifest import Variant
from yukari.names import DEFAULT, Repository, Tag

M = Repository(DEFAULT, "library", "m")
PROD = Tag("prod")


class CopyTests(RunningCase):
    async def copied(self, daemon: Daemon) -> None:
        http = self.http()
        body = json.dumps({"source": "m", "destination": "m:prod"}).encode()
        reply = await http.open("POST", f"{daemon.url}/api/copy", {}, body)
        self.assertEqual((reply.status, await reply.body()), (200, b""))

    async def test_upstreams_tag_of_the_same_name_takes_no_copys_place(self) -> None:
        upstream = await self.upstream("library/m:latest=40KB", "library/m:prod=30KB@7")
        # Every pull is a reason to ask upstream, about each variant.
        daemon = await self.daemon(upstream, revalidate_after="1ns")
        await self.pull(daemon, "library/m:latest")
        await daemon.idle()
        await self.copied(daemon)
        copied: Any = upstream.models["library/m:latest"]
        for variant in Variant:
            for _ in range(2):
                found = await daemon.library.manifest(M, PROD, "", variant, prefetch=True)
                self.assertEqual(str(found.manifest.digest), copied.digest)
                await daemon.idle()
        stored = await daemon.library.store.get_manifest(M, PROD)
        assert stored is not None
        self.assertEqual(str(stored.manifest.digest), copied.digest)
        # Nor is it a pull's to change.
        pull = daemon.service.parts.pulls.start(M, PROD, "")
        await pull.ended.wait()
        self.assertIsNone(pull.error)
        stored = await daemon.library.store.get_manifest(M, PROD)
        assert stored is not None
        self.assertEqual(str(stored.manifest.digest), copied.digest)
