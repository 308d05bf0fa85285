"""Models with a manifest for each runner, pulled by Ollama 0.40 and by older ones."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet.defer import gatherResults

from tests.clients import LISTS, Pulled, Reply
from tests.emulator import LIST, MANIFEST, Emulator, Fault, ManifestList, Model
from tests.running import MODEL, SMALL16, Daemon, Hurried, RunningCase, until

SMALL_LISTS = LISTS.scaled(part_min=50_000, backoff=0.01)
BOTH = f"{LIST}, {MANIFEST}"
RUNNERS = {"llamacpp": [300_000, 3000], "ggml": [200_000, 10], "mlx": [100_000, 20]}
ALWAYS_DUE = {"manifest_lifetime": "1ms", "invalidator_period": "50ms"}


class ListCase(RunningCase):
    """A registry with a list, and a daemon."""

    async def listed(self, *, inline: bool = False, **flags: Any) -> tuple[Emulator, Daemon]:
        upstream = await self.upstream("library/other:latest=10")
        upstream.add_list(MODEL, RUNNERS, inline=inline)
        return upstream, await self.daemon(upstream, **flags)

    def list_of(self, upstream: Emulator) -> ManifestList:
        return upstream.lists[MODEL]

    async def manifest(
        self, daemon: Daemon, accept: str, reference: str = "latest", method: str = "GET"
    ) -> tuple[Reply, bytes]:
        url = f"{daemon.url}/v2/library/m/manifests/{reference}"
        return await self.ask(url, {"Accept": accept}, method)

    async def blob(self, daemon: Daemon, digest: str, method: str = "GET") -> tuple[Reply, bytes]:
        return await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}", {}, method)

    async def pull_list(self, daemon: Daemon, runner: str = "llamacpp") -> Pulled:
        return await self.pull(daemon, generation=SMALL_LISTS.scaled(runner=runner))

    def assert_list_pulled(self, pulled: Pulled, listed: ManifestList, runner: str) -> None:
        child = listed.children[runner]
        self.assertEqual(pulled.manifest, listed.manifest_bytes)
        self.assertEqual(pulled.child, child.manifest_bytes)
        self.assertLessEqual(
            dict(child.blobs).items(),
            {digest: blob.size for digest, blob in pulled.blobs.items()}.items(),
        )
        self.assertTrue(all(blob.ok is not False for blob in pulled.blobs.values()))

    def assert_sent(self, upstream: Emulator, *children: Model) -> None:
        """Upstream has sent these children's manifests and blobs once, and nothing of others."""
        expected = {child.digest: len(child.manifest_bytes) for child in children}
        blobs = dict(blob for child in children for blob in child.blobs)
        sent = dict(upstream.counters.sent_by_digest)
        self.assertEqual({d: n for d, n in sent.items() if d not in expected}, blobs)
        for digest, size in expected.items():
            self.assertLessEqual(sent.get(digest, size), size)


class PullTests(ListCase):
    """Whole pulls by both kinds of client."""

    async def test_a_list_client_pulls_cold_and_warm(self) -> None:
        upstream, daemon = await self.listed()
        listed = self.list_of(upstream)
        for _ in range(2):
            self.assert_list_pulled(await self.pull_list(daemon), listed, "llamacpp")
            await daemon.idle()
        self.assertEqual(upstream.counters.answers["manifest GET 200"], 1)
        self.assert_sent(upstream, listed.children["llamacpp"])

    async def test_no_other_runners_layers_are_fetched(self) -> None:
        upstream, daemon = await self.listed()
        await self.pull_list(daemon, "mlx")
        await daemon.idle()
        self.assert_sent(upstream, self.list_of(upstream).children["mlx"])

    async def test_plain_and_list_clients_pull_one_tag_in_either_order(self) -> None:
        for first, second in ((SMALL16, SMALL_LISTS), (SMALL_LISTS, SMALL16)):
            upstream, daemon = await self.listed()
            listed = self.list_of(upstream)
            for generation in (first, second, first, second):
                pulled = await self.pull(daemon, generation=generation)
                if generation is SMALL16:
                    self.assert_whole(pulled, listed.plain)
                else:
                    self.assert_list_pulled(pulled, listed, "llamacpp")
                await daemon.idle()
            self.assertLessEqual(upstream.counters.answers["manifest GET 200"], 2)
            self.assert_sent(upstream, listed.plain)

    async def test_both_kinds_pull_offline_what_either_has_pulled(self) -> None:
        for first in (SMALL16, SMALL_LISTS):
            upstream, daemon = await self.listed()
            listed = self.list_of(upstream)
            await self.pull(daemon, generation=first)
            await daemon.idle()
            for gone in ({"offline": True}, {}):
                await upstream.down()
                daemon = await self.restarted(daemon, upstream, **gone)
                self.assert_whole(await self.pull(daemon), listed.plain)
                pulled = await self.pull(daemon, generation=SMALL_LISTS)
                if first is SMALL16:
                    self.assert_whole(pulled, listed.plain)
                else:
                    self.assert_list_pulled(pulled, listed, "llamacpp")
                upstream.up()

    async def test_many_list_clients_at_once_cost_what_one_does(self) -> None:
        upstream, daemon = await self.listed()
        listed = self.list_of(upstream)
        for pulled in await gatherResults([self.begin(self.pull_list(daemon)) for _ in range(8)]):
            self.assert_list_pulled(pulled, listed, "llamacpp")
        await daemon.idle()
        self.assertEqual(upstream.counters.answers["manifest GET 200"], 1)
        self.assert_sent(upstream, listed.children["llamacpp"])

    async def test_inline_children_are_pulled(self) -> None:
        upstream, daemon = await self.listed(inline=True)
        listed = self.list_of(upstream)
        pulled = await self.pull_list(daemon, "ggml")
        self.assertEqual(pulled.manifest, listed.manifest_bytes)
        await daemon.idle()
        self.assert_sent(upstream, listed.children["ggml"])
        await upstream.down()
        daemon = await self.restarted(daemon, upstream)
        self.assertTrue((await self.pull_list(daemon, "ggml")).ok)

    async def test_a_list_for_everybody_reaches_list_clients_only(self) -> None:
        for inline in (False, True):
            upstream, daemon = await self.listed(inline=inline)
            upstream.settings.list_to_everybody = True
            listed = self.list_of(upstream)
            pulled = await self.pull(daemon)
            self.assertNotEqual(pulled.manifest, listed.manifest_bytes)
            self.assertEqual({d: b.size for d, b in pulled.blobs.items()}, dict(listed.plain.blobs))
            _, body = await self.manifest(daemon, BOTH)
            self.assertEqual(body, listed.manifest_bytes)
            self.assertEqual(upstream.counters.answers["manifest GET 200"], 1)
            for _ in range(2):
                reply, body = await self.manifest(daemon, MANIFEST, listed.digest)
                self.assertEqual(reply.status, 404)


class ReplyTests(ListCase):
    """Single requests."""

    async def test_each_variant_has_its_own_type_digest_and_vary(self) -> None:
        upstream, daemon = await self.listed()
        listed = self.list_of(upstream)
        for _ in range(2):
            for accept, body, media_type in (
                (BOTH, listed.manifest_bytes, LIST),
                (MANIFEST, listed.plain.manifest_bytes, MANIFEST),
                ("*/*", listed.plain.manifest_bytes, MANIFEST),
                (f"{LIST};q=0, {MANIFEST}", listed.plain.manifest_bytes, MANIFEST),
            ):
                for method in ("HEAD", "GET"):
                    reply, got = await self.manifest(daemon, accept, method=method)
                    digest = sha256(body).hexdigest()
                    self.assertEqual(reply.headers["content-type"], media_type)
                    self.assertEqual(reply.headers["docker-content-digest"], f"sha256:{digest}")
                    self.assertEqual(reply.headers["ollama-content-digest"], digest)
                    self.assertEqual(reply.headers["vary"], "Accept")
                    self.assertEqual(reply.length, len(body))
                self.assertEqual(got, body)

    async def test_a_list_starts_no_fill_and_a_childs_get_starts_its_layers(self) -> None:
        upstream, daemon = await self.listed()
        child = self.list_of(upstream).children["ggml"]
        await self.manifest(daemon, BOTH)
        reply, _ = await self.blob(daemon, child.digest, "HEAD")
        self.assertEqual((reply.status, reply.length), (200, len(child.manifest_bytes)))
        await daemon.idle()
        self.assertEqual(set(upstream.counters.sent_by_digest) & set(dict(child.blobs)), set())
        reply, body = await self.blob(daemon, child.digest)
        self.assertEqual((reply.status, body), (200, child.manifest_bytes))
        await daemon.idle()
        self.assert_sent(upstream, child)

    async def test_a_child_is_found_as_a_manifest_too(self) -> None:
        upstream, daemon = await self.listed()
        child = self.list_of(upstream).children["mlx"]
        await self.manifest(daemon, BOTH)
        reply, body = await self.manifest(daemon, MANIFEST, child.digest)
        self.assertEqual((reply.status, body), (200, child.manifest_bytes))

    async def test_a_child_is_known_after_a_restart_though_nobody_asks_for_the_list(self) -> None:
        upstream, daemon = await self.listed()
        child = self.list_of(upstream).children["mlx"]
        await self.manifest(daemon, BOTH)
        daemon = await self.restarted(daemon, upstream)
        reply, body = await self.blob(daemon, child.digest)
        self.assertEqual((reply.status, body), (200, child.manifest_bytes))
        await daemon.idle()
        self.assert_sent(upstream, child)

    async def test_a_child_that_comes_wrong_is_not_served_or_stored(self) -> None:
        upstream, daemon = await self.listed()
        child = self.list_of(upstream).children["mlx"]
        await self.manifest(daemon, BOTH)
        flip = upstream.faults.add(Fault("any", "flip", at=10, digest=child.digest))
        reply, body = await self.blob(daemon, child.digest)
        self.assertEqual(reply.status, 502)
        upstream.faults.remove(flip)
        _, body = await self.blob(daemon, child.digest)
        self.assertEqual(body, child.manifest_bytes)

    async def test_an_upstream_without_lists_is_asked_once_for_both_kinds(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream)
        for accept in (BOTH, MANIFEST, BOTH, MANIFEST):
            _, body = await self.manifest(daemon, accept)
            self.assertEqual(body, upstream.models[MODEL].manifest_bytes)
        self.assertEqual(upstream.counters.answers["manifest GET 200"], 1)

    async def test_clients_are_held_up_by_a_silent_upstream_once(self) -> None:
        upstream = await self.upstream()
        upstream.add_list(MODEL, RUNNERS)
        daemon = await self.daemon(upstream, revalidate_after="0s", clock=Hurried(20))
        await self.manifest(daemon, MANIFEST)
        upstream.faults.add(Fault("manifest", "silence"))
        for _ in range(3):
            _, body = await self.manifest(daemon, BOTH)
            self.assertEqual(body, self.list_of(upstream).plain.manifest_bytes)
            await upstream.stalled(1)
        self.assertEqual(len(daemon.library.manifests._unasked), 1)

    async def test_the_list_is_served_once_upstream_is_back(self) -> None:
        upstream, daemon = await self.listed()
        listed = self.list_of(upstream)
        await self.manifest(daemon, MANIFEST)
        await upstream.down()
        _, body = await self.manifest(daemon, BOTH)
        self.assertEqual(body, listed.plain.manifest_bytes)
        upstream.up()
        while body != listed.manifest_bytes:
            _, body = await self.manifest(daemon, BOTH)

    async def test_a_media_type_of_another_kind_is_shown_to_no_browser(self) -> None:
        upstream, daemon = await self.listed()
        html = self.list_of(upstream).plain.manifest_bytes.replace(MANIFEST.encode(), b"text/html")
        upstream.add_model("library/html:latest", [10])
        upstream.set_manifest("library/html:latest", html)
        reply, body = await self.ask(f"{daemon.url}/v2/library/html/manifests/latest")
        self.assertEqual(body, html)
        self.assertEqual(reply.headers["content-type"], "application/octet-stream")


class VersionTests(ListCase):
    """A tag that moves."""

    async def served(self, daemon: Daemon, accept: str, body: bytes) -> None:
        """Returns when clients that accept this get that."""
        while (await self.manifest(daemon, accept))[1] != body:
            await until(lambda: True)

    async def test_both_variants_are_replaced_once_the_blobs_that_were_here_are(self) -> None:
        upstream, daemon = await self.listed(**ALWAYS_DUE)
        await self.pull_list(daemon, "ggml")
        await self.pull(daemon)
        await daemon.idle()
        new = upstream.add_list(MODEL, RUNNERS, seed=9)
        await self.served(daemon, BOTH, new.manifest_bytes)
        await self.served(daemon, MANIFEST, new.plain.manifest_bytes)
        await daemon.idle()
        await upstream.down()
        self.assert_list_pulled(await self.pull_list(daemon, "ggml"), new, "ggml")
        self.assert_whole(await self.pull(daemon), new.plain)
        sent = upstream.counters.sent_by_digest
        self.assertEqual(set(sent) & set(dict(new.children["mlx"].blobs)), set())

    async def test_a_list_that_is_gone_upstream_stays(self) -> None:
        upstream, daemon = await self.listed(**ALWAYS_DUE)
        listed = self.list_of(upstream)
        await self.pull_list(daemon)
        await daemon.idle()
        upstream.delete_model(MODEL)
        seen = upstream.counters.requests["manifest HEAD"]
        await upstream.seen("manifest HEAD", seen + 3)
        self.assert_list_pulled(await self.pull_list(daemon), listed, "llamacpp")
        self.assert_whole(await self.pull(daemon), listed.plain)

    async def test_a_plain_model_that_becomes_a_list_is_replaced(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, **ALWAYS_DUE)
        await self.pull(daemon, generation=SMALL_LISTS)
        await daemon.idle()
        new = upstream.add_list(MODEL, RUNNERS, seed=9)
        await self.served(daemon, BOTH, new.manifest_bytes)
        await self.served(daemon, MANIFEST, new.plain.manifest_bytes)
        await daemon.idle()
        await upstream.down()
        self.assert_list_pulled(await self.pull_list(daemon), new, "llamacpp")
