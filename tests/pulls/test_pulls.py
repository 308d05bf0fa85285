"""Pulls through the whole daemon: what clients get, and what it costs upstream."""

from __future__ import annotations

from typing import Any, Optional

from twisted.internet.defer import CancelledError, Deferred, gatherResults

from tests.clients import Generation
from tests.running import (
    GENERATIONS,
    MODEL,
    SMALL16,
    SMALL64,
    SMALL_TRANSFER,
    RunningCase,
    until,
    until_sent,
)
from yukari.names import Digest
from yukari.storage.disk.store import DirectoryStore

A, B = "library/a:latest", "library/b:latest"
SHARING = (f"{A}=400KB,3000", f"{B}=400KB,5000")
"""Two models whose first layer is the same blob."""


class GenerationContract:
    """What a client of any generation gets; see the cases below."""

    generation: Generation

    async def test_a_cold_pull_costs_upstream_every_byte_once(self: Any) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream)
        pulled = await self.pull(daemon, MODEL, self.generation)
        self.assert_whole(pulled, upstream.models[MODEL])
        self.assertEqual(pulled.retries, [])
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_a_warm_pull_costs_upstream_nothing(self: Any) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream)
        await self.pull(daemon, MODEL, self.generation)
        await daemon.idle()
        upstream.counters.clear()
        pulled = await self.pull(daemon, MODEL, self.generation)
        self.assert_whole(pulled, upstream.models[MODEL])
        self.assertEqual(upstream.counters.requests, {})

    async def test_a_model_that_is_here_is_pulled_with_upstream_gone(self: Any) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream)
        await self.pull(daemon, MODEL, self.generation)
        await daemon.idle()
        self.assert_stored(daemon, upstream.models[MODEL])
        await upstream.down()
        self.assert_whole(await self.pull(daemon, MODEL, self.generation), upstream.models[MODEL])
        again = await self.restarted(daemon, upstream)
        self.assert_whole(await self.pull(again, MODEL, self.generation), upstream.models[MODEL])

    async def test_a_blob_of_many_parts_comes_whole(self: Any) -> None:
        upstream = await self.upstream(f"{MODEL}=3MB")
        daemon = await self.daemon(upstream)
        pulled = await self.pull(daemon, MODEL, self.generation)
        self.assert_whole(pulled, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_an_empty_layer_is_pulled_too(self: Any) -> None:
        upstream = await self.upstream(f"{MODEL}=0,10")
        daemon = await self.daemon(upstream)
        for _ in range(2):
            pulled = await self.pull(daemon, MODEL, self.generation)
            self.assert_whole(pulled, upstream.models[MODEL])
            await daemon.idle()
            await upstream.down()


class Classic16Tests(GenerationContract, RunningCase):
    """Ollama 0.12 and later."""

    generation = SMALL16


class Classic64Tests(GenerationContract, RunningCase):
    """Ollama 0.1 and 0.2."""

    generation = SMALL64


class TransferTests(GenerationContract, RunningCase):
    """Ollama's client for tensor models."""

    generation = SMALL_TRANSFER

    async def test_many_small_layers_come_whole(self) -> None:
        upstream = await self.upstream(f"{MODEL}=200x460")
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        self.assertGreater(len(model.manifest_bytes), 64 * 1024)
        self.assert_whole(await self.pull(daemon, MODEL, SMALL_TRANSFER), model)
        self.assert_sent_once(upstream, model)


class ManyClientsTests(RunningCase):
    """Clients that come at once, and that leave."""

    async def test_a_herd_of_all_generations_costs_upstream_one_pull(self) -> None:
        upstream = await self.upstream(f"{MODEL}=1500KB,200KB,3000,10")
        daemon = await self.daemon(upstream)
        herd = [
            self.begin(self.pull(daemon, MODEL, GENERATIONS[number % len(GENERATIONS)]))
            for number in range(24)
        ]
        for pulled in await gatherResults(herd):
            self.assert_whole(pulled, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])
        agents = {generation.user_agent for generation in GENERATIONS}
        self.assertEqual(upstream.counters.answers["manifest GET 200"], len(agents))

    async def test_a_fill_goes_on_when_its_client_leaves(self) -> None:
        upstream = await self.upstream(f"{MODEL}=1500KB,3000", line=3_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        pulling = self.begin(self.pull(daemon))
        await until_sent(upstream, model.size // 10)
        pulling.cancel()
        with self.assertRaises(CancelledError):
            await pulling
        self.assertLess(upstream.counters.sent, model.size)
        await daemon.idle()
        self.assert_stored(daemon, model)
        self.assert_sent_once(upstream, model)

    async def test_one_client_leaves_and_another_goes_on_where_it_stood(self) -> None:
        upstream = await self.upstream(f"{MODEL}=1500KB,3000", line=3_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        pulling = self.begin(self.pull(daemon))
        await until_sent(upstream, model.size // 10)
        pulling.cancel()
        with self.assertRaises(CancelledError):
            await pulling
        self.assert_whole(await self.pull(daemon, MODEL, SMALL64), model)
        self.assert_sent_once(upstream, model)

    async def test_an_unranged_get_dropped_at_once_costs_and_cancels_nothing(self) -> None:
        upstream = await self.upstream(f"{MODEL}=1500KB", line=3_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        digest, _ = model.layers[0]
        pulling = self.begin(self.pull(daemon))
        await until(lambda: daemon.fill(digest) is not None)
        http = self.http()
        for _ in range(5):
            reply = await http.open("GET", f"{daemon.url}/v2/library/m/blobs/{digest}", {})
            self.assertEqual(reply.status, 200)
            reply.drop()
        self.assert_whole(await pulling, model)
        self.assert_sent_once(upstream, model)

    async def test_a_blob_without_a_manifest_is_filled_though_its_asker_drops_at_once(self) -> None:
        upstream = await self.upstream(f"{MODEL}=400KB")
        daemon = await self.daemon(upstream)
        digest, size = upstream.models[MODEL].layers[0]
        reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/blobs/{digest}", {})
        reply.drop()
        await until(lambda: upstream.counters.sent == size)
        await daemon.idle()
        _, body = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}")
        self.assertEqual(body, upstream.models[MODEL].read(digest))
        self.assertEqual(upstream.counters.sent, size)


class SlowLookTests(RunningCase):
    """A look at the disk that takes long, while others ask for the same blob."""

    async def held_look(self) -> tuple[Deferred[str], Deferred[None]]:
        """
        The first look that does not find a blob ends when the second Deferred fires; the first
        fires with the digest when it has begun.
        """
        held: Deferred[str] = Deferred()
        release: Deferred[None] = Deferred()
        look = DirectoryStore.blob_size

        async def slow(store: DirectoryStore, digest: Digest) -> Optional[int]:
            found = await look(store, digest)
            if found is None and not held.called:
                held.callback(str(digest))
                await release
            return found

        self.patch(DirectoryStore, "blob_size", slow)
        return held, release

    async def test_of_a_prefetch_fetches_nothing_twice(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000")
        daemon = await self.daemon(upstream)
        held, release = await self.held_look()
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        await held
        pulling = self.begin(self.pull(daemon))
        await until(lambda: True)
        release.callback(None)
        self.assert_whole(await pulling, upstream.models[MODEL])
        await daemon.idle()
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_of_a_request_fetches_nothing_twice(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000")
        daemon = await self.daemon(upstream)
        digest, size = upstream.models[MODEL].layers[0]
        url = f"{daemon.url}/v2/library/m/blobs/{digest}"
        held, release = await self.held_look()
        both = [self.begin(self.ask(url))]
        await held
        both.append(self.begin(self.ask(url)))
        await until(lambda: True)
        release.callback(None)
        for _, body in await gatherResults(both):
            self.assertEqual(len(body), size)
        await daemon.idle()
        self.assertEqual(upstream.counters.sent, size)


class SharingTests(RunningCase):
    """Models that have a layer in common."""

    async def test_a_shared_layer_is_fetched_once(self) -> None:
        upstream = await self.upstream(*SHARING)
        daemon = await self.daemon(upstream)
        for name in (A, B):
            self.assert_whole(await self.pull(daemon, name), upstream.models[name])
        self.assert_sent_once(upstream, upstream.models[A], upstream.models[B])

    async def test_a_layer_shared_by_two_pulls_at_once_is_fetched_once(self) -> None:
        upstream = await self.upstream(*SHARING)
        daemon = await self.daemon(upstream)
        both = [self.begin(self.pull(daemon, name)) for name in (A, B)]
        for name, pulled in zip((A, B), await gatherResults(both)):
            self.assert_whole(pulled, upstream.models[name])
        self.assert_sent_once(upstream, upstream.models[A], upstream.models[B])


class FairnessTests(RunningCase):
    """Two models on their way at once."""

    async def test_small_blobs_do_not_wait_behind_a_large_one(self) -> None:
        upstream = await self.upstream(f"{A}=40MB@1", f"{B}=3000x20@2", line=2_000_000)
        daemon = await self.daemon(upstream)
        large = self.begin(self.pull(daemon, A))
        await until_sent(upstream, 200_000)
        self.assert_whole(await self.pull(daemon, B), upstream.models[B])
        self.assertFalse(large.called)
        upstream.settings.line = None
        self.assert_whole(await large, upstream.models[A])
        self.assert_sent_once(upstream, upstream.models[A], upstream.models[B])

    async def test_no_more_connections_are_opened_than_were_allowed(self) -> None:
        upstream = await self.upstream(f"{A}=1MB@1", f"{B}=1MB,3000x5@2", line=6_000_000)
        daemon = await self.daemon(upstream, upstream_connections="2/3")
        both = [self.begin(self.pull(daemon, name)) for name in (A, B)]
        for name, pulled in zip((A, B), await gatherResults(both)):
            self.assert_whole(pulled, upstream.models[name])
        self.assertLessEqual(upstream.counters.blob_requests_peak, 3)
        self.assert_sent_once(upstream, upstream.models[A], upstream.models[B])
