"""Manifests through the whole daemon: the very bytes, or what upstream says instead."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from twisted.internet.defer import gatherResults

from tests.clients import ACCEPT, Reply
from tests.emulator import MANIFEST, Emulator, Fault
from tests.running import MODEL, SMALL16, Daemon, Hurried, RunningCase
from yukari.sources import bodies as yukari_bodies

JSON = "application/json; charset=utf-8"
LATEST = "library/m/manifests/latest"


class ManifestCase(RunningCase):
    """A daemon and one manifest to ask for."""

    async def both(self, *faults: Fault, **settings: Any) -> tuple[Emulator, Daemon]:
        upstream = await self.upstream(f"{MODEL}=3000", **settings)
        for fault in faults:
            upstream.faults.add(fault)
        return upstream, await self.daemon(upstream, clock=Hurried(10))

    async def asked(
        self, daemon: Daemon, path: str = LATEST, method: str = "GET", **headers: str
    ) -> tuple[Reply, bytes]:
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        return await self.ask(f"{daemon.url}/v2/{path}", given, method)

    def assert_refused(self, answer: tuple[Reply, bytes], status: int, code: str) -> str:
        """A refusal in OCI's form, short and without HTML; its message."""
        reply, body = answer
        self.assertEqual((reply.status, reply.headers["content-type"]), (status, JSON), body)
        (error,) = json.loads(body)["errors"]
        self.assertEqual(error["code"], code)
        self.assertLess(len(body), 1000)
        self.assertNotIn("<", error["message"])
        self.assertNotIn("www-authenticate", reply.headers)
        return str(error["message"])

    async def assert_pulled_after(self, upstream: Emulator, daemon: Daemon) -> None:
        """Nothing of what was wrong is remembered once upstream is well and a moment has passed."""
        upstream.faults.clear()
        while (await self.asked(daemon))[0].status != 200:
            pass
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])


class ServingTests(ManifestCase):
    """A manifest that is to be had."""

    async def test_it_is_served_byte_for_byte_with_its_digests(self) -> None:
        upstream, daemon = await self.both()
        body = upstream.models[MODEL].manifest_bytes.replace(b",", b" ,\n\t")
        upstream.set_manifest(MODEL, body)
        for _ in range(2):
            reply, got = await self.asked(daemon)
            self.assertEqual((reply.status, got), (200, body))
            digest = sha256(body).hexdigest()
            self.assertEqual(reply.headers["docker-content-digest"], f"sha256:{digest}")
            self.assertEqual(reply.headers["ollama-content-digest"], digest)
            self.assertEqual(reply.headers["content-type"], MANIFEST)
            self.assertEqual(reply.length, len(body))
            await daemon.idle()
            await upstream.down()

    async def test_one_of_three_thousand_layers_is_served_as_it_is(self) -> None:
        upstream = await self.upstream(f"{MODEL}=10x3000")
        daemon = await self.daemon(upstream)
        body = upstream.models[MODEL].manifest_bytes
        self.assertGreater(len(body), 400_000)
        for method in ("HEAD", "GET"):
            reply, got = await self.asked(daemon, method=method)
            self.assertEqual((reply.status, reply.length), (200, len(body)))
        self.assertEqual(got, body)
        self.assertEqual(upstream.counters.requests["manifest GET"], 1)

    async def test_a_head_starts_no_fill_and_a_get_does(self) -> None:
        upstream, daemon = await self.both()
        reply, _ = await self.asked(daemon, method="HEAD")
        self.assertEqual(reply.length, len(upstream.models[MODEL].manifest_bytes))
        self.assertEqual(daemon.library.fills, {})
        await self.asked(daemon)
        await daemon.idle()
        self.assert_stored(daemon, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_it_is_found_by_its_digest_once_it_is_here(self) -> None:
        upstream, daemon = await self.both()
        model = upstream.models[MODEL]
        await self.asked(daemon)
        _, body = await self.asked(daemon, f"library/m/manifests/{model.digest}")
        self.assertEqual(body, model.manifest_bytes)
        self.assertEqual(upstream.counters.requests["manifest GET"], 1)

    async def test_who_has_it_gets_304(self) -> None:
        upstream, daemon = await self.both()
        tag = f'"{upstream.models[MODEL].digest}"'
        for _ in range(2):
            reply, body = await self.asked(daemon, If_None_Match=tag)
            self.assertEqual((reply.status, body, reply.headers["etag"]), (304, b"", tag))

    async def test_many_who_ask_at_once_cost_one_request(self) -> None:
        upstream, daemon = await self.both(latency=0.02)
        asking = [self.begin(self.asked(daemon, User_Agent="ollama/1")) for _ in range(20)]
        for _, body in await gatherResults(asking):
            self.assertEqual(body, upstream.models[MODEL].manifest_bytes)
        self.assertEqual(upstream.counters.answers["manifest GET 200"], 1)
        self.assertEqual(upstream.counters.challenges, {"manifest GET": 1})


class HeaderTests(ManifestCase):
    """What of a client's request goes on to upstream, and what does not."""

    async def test_the_clients_user_agent_goes_with_the_manifest(self) -> None:
        upstream, daemon = await self.both()
        await self.pull(daemon)
        agents = {r.header("user-agent") for r in upstream.log if r.kind == "manifest GET"}
        self.assertEqual(agents, {SMALL16.user_agent})

    async def test_a_manifest_is_asked_for_by_its_media_type(self) -> None:
        upstream, daemon = await self.both()
        await self.asked(daemon)
        (asked,) = [r for r in upstream.log if r.kind == "manifest GET"]
        self.assertTrue(asked.header("accept").startswith(ACCEPT))

    async def test_no_credentials_of_a_client_leave(self) -> None:
        upstream, daemon = await self.both()
        digest, _ = upstream.models[MODEL].layers[0]
        secrets = {"Authorization": "Bearer secret", "Cookie": "secret=1"}
        for method in ("HEAD", "GET"):
            for path in (LATEST, f"library/m/blobs/{digest}"):
                await self.ask(f"{daemon.url}/v2/{path}", secrets, method)
        await daemon.idle()
        self.assertEqual(upstream.counters.authorizations, [])
        for request in upstream.log:
            self.assertNotIn("secret", str(request.headers))


class RefusalTests(ManifestCase):
    """What a client is told where there is no manifest."""

    async def test_404_is_404(self) -> None:
        upstream, daemon = await self.both()
        answer = await self.asked(daemon, "library/none/manifests/latest")
        said = self.assert_refused(answer, 404, "MANIFEST_UNKNOWN")
        self.assertIn("library/none:latest", said)
        self.assertEqual(
            await self.failing(self.pull(daemon, "library/none")), "file does not exist"
        )

    async def test_401_and_403_are_403_without_a_challenge(self) -> None:
        for status in (401, 403):
            upstream, daemon = await self.both(Fault("manifest", "error", status=status))
            said = self.assert_refused(await self.asked(daemon), 403, "DENIED")
            self.assertIn("private upstream", said)
            await self.assert_pulled_after(upstream, daemon)

    async def test_412_passes_with_its_text_and_is_asked_anew_each_time(self) -> None:
        text = "needs Ollama 9, see ollama.com"
        old = Fault("manifest", "error", status=412, text=text, agent="ollama/0.1")
        upstream, daemon = await self.both(old)
        for _ in range(2):
            answer = await self.asked(daemon, User_Agent="ollama/0.1")
            said = self.assert_refused(answer, 412, "UNSUPPORTED")
            self.assertEqual(said, text)
        self.assertEqual(upstream.counters.answers["manifest GET 412"], 2)
        reply, body = await self.asked(daemon, User_Agent="ollama/9")
        self.assertEqual((reply.status, body), (200, upstream.models[MODEL].manifest_bytes))

    async def test_412_in_json_passes_its_message(self) -> None:
        _, daemon = await self.both(Fault("manifest", "error", status=412))
        said = self.assert_refused(await self.asked(daemon), 412, "UNSUPPORTED")
        self.assertEqual(said, "this model requires a newer version of Ollama")

    async def test_429_passes_with_the_time_to_wait(self) -> None:
        busy = Fault("manifest", "error", status=429, retry_after=7)
        upstream, daemon = await self.both(busy)
        answer = await self.asked(daemon)
        self.assert_refused(answer, 429, "TOOMANYREQUESTS")
        self.assertEqual(answer[0].headers["retry-after"], "7")
        await self.assert_pulled_after(upstream, daemon)

    async def test_errors_upstream_are_502_and_say_which(self) -> None:
        for fault, said in (
            (Fault("manifest", "cloudflare", status=504), "answered 504"),
            (Fault("manifest", "unhealthy"), "answered 503"),
            (Fault("manifest", "error", status=500), "answered 500"),
            (Fault("manifest", "drop"), "cannot be reached"),
            (Fault("manifest", "cut", after=50), "broke off"),
        ):
            upstream, daemon = await self.both(fault)
            answer = await self.asked(daemon)
            self.assertIn(said, self.assert_refused(answer, 502, "UNAVAILABLE"))
            await self.assert_pulled_after(upstream, daemon)

    async def test_an_upstream_that_is_gone_is_502(self) -> None:
        upstream, daemon = await self.both()
        await upstream.down()
        said = self.assert_refused(await self.asked(daemon), 502, "UNAVAILABLE")
        self.assertIn("connection refused", said)

    async def test_a_portals_page_is_502_and_is_not_stored(self) -> None:
        upstream, daemon = await self.both(Fault("manifest", "portal"))
        said = self.assert_refused(await self.asked(daemon), 502, "UNAVAILABLE")
        self.assertIn("no manifest", said)
        reply, _ = await self.asked(daemon, "library/m/tags/list")
        self.assertEqual(reply.status, 404)
        await self.assert_pulled_after(upstream, daemon)

    async def test_a_manifest_that_stalls_in_its_middle_is_504(self) -> None:
        self.patch(yukari_bodies, "BODY_WITHIN", 5.0)
        stall = Fault("manifest", "stall", after=50, times=1)
        upstream, daemon = await self.both(stall)
        self.assert_refused(await self.asked(daemon), 504, "UNAVAILABLE")
        await self.assert_pulled_after(upstream, daemon)

    async def test_what_is_no_manifest_is_502_and_is_not_stored(self) -> None:
        for body in (b"", b"{}", b"null", b"[" * 100_000, b'{"schemaVersion":1,"layers":[]}'):
            upstream, daemon = await self.both()
            right = upstream.models[MODEL].manifest_bytes
            upstream.set_manifest(MODEL, body)
            self.assert_refused(await self.asked(daemon), 502, "UNAVAILABLE")
            upstream.set_manifest(MODEL, right)
            await self.assert_pulled_after(upstream, daemon)

    async def test_one_that_is_larger_than_any_is_not_read_to_its_end(self) -> None:
        upstream, daemon = await self.both()
        upstream.set_manifest(MODEL, b" " * (17 * 1024 * 1024))
        self.assert_refused(await self.asked(daemon), 502, "UNAVAILABLE")

    async def test_one_by_a_digest_that_it_does_not_have_is_not_stored(self) -> None:
        upstream, daemon = await self.both(manifests_by_digest=True)
        model = upstream.models[MODEL]
        reply, body = await self.asked(daemon, f"library/m/manifests/{model.digest}")
        self.assertEqual((reply.status, body), (200, model.manifest_bytes))
        upstream.faults.add(Fault("manifest", "portal"))
        wrong = await self.asked(daemon, f"library/m/manifests/sha256:{'0' * 64}")
        self.assert_refused(wrong, 502, "UNAVAILABLE")

    async def test_a_stored_model_is_served_whatever_upstream_says(self) -> None:
        upstream, daemon = await self.both()
        model = upstream.models[MODEL]
        await self.pull(daemon)
        await daemon.idle()
        for fault in (
            Fault("any", "error", status=404),
            Fault("any", "error", status=401),
            Fault("any", "cloudflare"),
            Fault("any", "portal"),
        ):
            upstream.faults.clear()
            upstream.faults.add(fault)
            self.assert_whole(await self.pull(daemon), model)
