"""
Pulls from an emulated hf.co beside the default registry, through one daemon.

It redirects every request to another host and blobs to a CDN, refuses in its own words, limits an
address, and gives clients of another kind other manifests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.task import deferLater

from tests.emulator import HUB, Emulator, Model
from tests.ollama import MODEL, OllamaCase
from tests.running import GENERATIONS, LOOK, RunningCase, reactor, until

ON_HUB = "her/repo-GGUF:Q4_K_M"
HERE = f"hf--{ON_HUB}"
"""The same model as clients of the cache name it."""


async def hub(case: RunningCase, *models: str, **settings: Any) -> Emulator:
    """Start an emulated hf.co."""
    return await case.upstream(*(models or (f"{ON_HUB}=400KB,3000,10",)), **{**HUB, **settings})


def named_here(model: Model) -> Model:
    """Return a model of hf.co as clients of the cache name it."""
    return evolve(model, name=f"hf--{model.name}")


class StockOllamaTests(OllamaCase):
    """``ollama pull cache:9200/hf--her/repo-GGUF:Q4_K_M``."""

    async def test_cold_then_warm_then_without_hugging_face(self) -> None:
        default, there = await self.upstream(), await hub(self, f"{ON_HUB}=20MB,300KB,11")
        model = there.models[ON_HUB]
        daemon = await self.yukari(default.url, f"--upstreams=hf={there.url}")
        ollama = await self.ollama()
        for down in (False, False, True):
            if down:
                await there.down()
            await self.pull_by(ollama, daemon.host, HERE)
            self.assert_pulled(ollama, daemon.host, named_here(model))
            self.assert_sent_once(there, model)
            ollama.forget()
        self.assertEqual(default.counters.requests, {})

    async def test_the_same_name_elsewhere_is_another_model(self) -> None:
        default = await self.upstream(f"{ON_HUB}=300KB@7")
        there = await hub(self, f"{ON_HUB}=300KB@8")
        daemon = await self.yukari(default.url, f"--upstreams=hf={there.url}")
        ollama = await self.ollama()
        await self.pull_by(ollama, daemon.host, ON_HUB)
        await self.pull_by(ollama, daemon.host, HERE)
        self.assert_pulled(ollama, daemon.host, default.models[ON_HUB])
        self.assert_pulled(ollama, daemon.host, named_here(there.models[ON_HUB]))

    async def test_what_hugging_face_refuses_is_refused_in_its_words(self) -> None:
        there = await hub(self, sharded=["her/repo-GGUF:BF16"])
        daemon = await self.yukari((await self.upstream()).url, f"--upstreams=hf={there.url}")
        ollama = await self.ollama()
        for model, said in (
            ("hf--her/repo-GGUF:Q9", "not a valid quantization scheme"),
            ("hf--her/repo-GGUF:BF16", "sharded GGUF"),
            ("hf--nobody/none:latest", "hf.co"),
        ):
            self.assertIn(said, await self.refused(ollama, daemon.host, model))

    async def test_a_pull_goes_on_after_429(self) -> None:
        there = await hub(self, per_ip=0, retry_after=1)
        daemon = await self.yukari((await self.upstream()).url, f"--upstreams=hf={there.url}")
        ollama = await self.ollama()
        pulling = self.begin_pull(ollama, daemon.host, HERE)
        await until(lambda: there.counters.answers["manifest GET 429"])
        there.settings.per_ip = None
        self.assertEqual(await pulling.ended, 0, pulling.text)
        self.assert_pulled(ollama, daemon.host, named_here(there.models[ON_HUB]))

    async def test_a_longer_wait_is_told_and_is_not_the_default_registrys(self) -> None:
        default = await self.upstream(f"{MODEL}=300KB")
        there = await hub(self, per_ip=0, retry_after=60)
        daemon = await self.yukari(default.url, f"--upstreams=hf={there.url}")
        ollama = await self.ollama()
        self.assertIn("429", await self.refused(ollama, daemon.host, HERE))
        await self.pull_by(ollama, daemon.host)

    async def test_a_gated_model_is_opened_by_the_token_of_a_file(self) -> None:
        # Nobody else gets the token, so the host that has it must not redirect.
        there = await hub(self, gated={"her/repo-GGUF": ["hf_secret"]}, moved=False)
        place = Path(self.directory())
        (place / "token").write_text("hf_secret\n")
        config = place / "yukari.toml"
        config.write_text(
            f'upstreams = "hf={there.url}"\n[registries.hf]\ntoken_file = "{place / "token"}"\n'
        )
        default, ollama = await self.upstream(), await self.ollama()
        daemon = await self.yukari(default.url, f"--upstreams=hf={there.url}")
        self.assertIn("hf.co", await self.refused(ollama, daemon.host, HERE))
        daemon = await self.yukari(default.url, f"--config={config}", UPSTREAMS="")
        self.assertIn("PRIVATE_MODELS", await self.refused(ollama, daemon.host, HERE))
        daemon = await self.yukari(
            default.url, f"--config={config}", "--private-models=everyone", UPSTREAMS=""
        )
        await self.pull_by(ollama, daemon.host, HERE)
        self.assert_pulled(ollama, daemon.host, named_here(there.models[ON_HUB]))
        self.assertNotIn("hf_secret", daemon.text + ollama.text)


class GenerationTests(RunningCase):
    """Emulated clients of every generation."""

    async def test_every_generation_pulls_cold_warm_and_offline(self) -> None:
        for generation in GENERATIONS:
            there = await hub(self)
            model = there.models[ON_HUB]
            daemon = await self.daemon(await self.upstream(), upstreams=f"hf={there.url}")
            for down in (False, False, True):
                if down:
                    await daemon.idle()
                    await there.down()
                self.assert_whole(await self.pull(daemon, HERE, generation), model)
            self.assert_sent_once(there, model)
            await daemon.stop()

    async def test_clients_of_another_kind_have_a_manifest_of_their_own(self) -> None:
        """Catches a client that gets the bytes that were made for another kind."""
        there = await hub(self)
        daemon = await self.daemon(await self.upstream(), upstreams=f"hf={there.url}")
        url = f"{daemon.url}/v2/hf--her/repo-GGUF/manifests/Q4_K_M"
        agents = ("ollama/0.34.4 (amd64 linux) Go/go1.26.0", "llama-cpp")
        for down in (False, True):
            if down:
                await daemon.idle()
                await there.down()
            for agent in agents:
                reply, body = await self.ask(url, {"User-Agent": agent})
                self.assertEqual(reply.status, 200)
                self.assertEqual("ggufFile" in json.loads(body), agent == "llama-cpp")

    async def test_a_check_fetches_no_manifest_that_has_not_changed(self) -> None:
        """Its HEAD has no digest; each GET would count against the limit of the address."""
        for etags in (True, False):
            there = await hub(self, etags=etags)
            flags = {"manifest_lifetime": "0", "revalidate_after": "0"}
            daemon = await self.daemon(await self.upstream(), upstreams=f"hf={there.url}", **flags)
            await self.pull(daemon, HERE)
            await daemon.idle()
            revalidator = daemon.library.revalidator
            assert revalidator is not None
            fetched = there.counters.answers["manifest GET 200"]
            asked = there.counters.answers["manifest HEAD 200"]
            for _ in range(3):
                await revalidator.look()
            self.assertGreaterEqual(there.counters.answers["manifest HEAD 200"], asked + 3)
            self.assertEqual(there.counters.answers["manifest GET 200"], fetched)
            if etags:
                newer = there.set_model(ON_HUB, [5000, 7], seed=9)
                await revalidator.look()
                # It takes the old one's place once its blobs are here.
                while (await self.pull(daemon, HERE)).manifest != newer.manifest_bytes:
                    await deferLater(reactor, LOOK, lambda: None)
                self.assert_whole(await self.pull(daemon, HERE), newer)
            await daemon.stop()
