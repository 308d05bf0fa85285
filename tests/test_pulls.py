"""Pulls through the whole daemon: what clients get, and what it costs upstream."""

from __future__ import annotations

from tests.running import GENERATIONS, MODEL, SMALL16, RunningCase


class GenerationTests(RunningCase):
    """Clients of every generation pull cold, warm and with upstream gone."""

    async def test_a_cold_pull_brings_the_very_bytes_and_costs_upstream_them_once(self) -> None:
        for generation in GENERATIONS:
            upstream = await self.upstream()
            daemon = await self.daemon(upstream)
            pulled = await self.pull(daemon, MODEL, generation)
            self.assert_whole(pulled, upstream.models[MODEL])
            self.assertEqual(pulled.retries, [])
            self.assert_sent_once(upstream, upstream.models[MODEL])
