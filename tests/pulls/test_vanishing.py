"""An operator removes a store's directories while the daemon runs."""

from __future__ import annotations

import os
import shutil

from tests.running import MODEL, RunningCase


class VanishingTests(RunningCase):
    async def test_what_was_removed_is_fetched_once_when_it_is_asked_for(self) -> None:
        """It was fetched again and again with nobody asking, and never stored."""
        upstream = await self.upstream(f"{MODEL}=300KB,3000", challenge=False)
        model = upstream.models[MODEL]
        daemon = await self.daemon(upstream)
        storage = daemon.service._settings.storage
        await self.pull(daemon)
        await daemon.idle()
        for names in (("blobs", "manifests", "manifests-v2"), tuple(os.listdir(storage))):
            for name in names:
                shutil.rmtree(os.path.join(storage, name))
            daemon.library.blobs.invalidate()
            upstream.counters.clear()
            await self.pull(daemon)
            await daemon.idle()
            self.assertLessEqual(upstream.counters.sent, 1.1 * model.size + 4096)
            for digest, size in model.blobs:
                path = os.path.join(storage, "blobs", digest.replace(":", "-"))
                self.assertEqual(os.stat(path).st_size, size)
            upstream.counters.clear()
            await self.pull(daemon)
            self.assertEqual(upstream.counters.sent, 0)
