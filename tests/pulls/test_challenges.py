"""Pulls from registries that challenge, as those of today do, through the whole daemon."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from tests.clients import GENERATIONS as ALL
from tests.clients import Generation
from tests.emulator import Emulator, Fault
from tests.library.test_freshness import ALWAYS_DUE
from tests.pulls.test_manifests import LATEST, ManifestCase
from tests.running import MODEL, SMALL16, Daemon, until, until_sent
from yukari.config.keys import SigningKey
from yukari.sources.ways import USER_AGENT

GENERATIONS = [each.scaled(part_min=50_000, backoff=0.01) for each in ALL.values()]
OTHER = "library/other:latest"


class ChallengeCase(ManifestCase):
    """A registry that challenges all that registries challenge, and a daemon in front of it."""

    async def challenging(self, *models: str, **settings: Any) -> tuple[Emulator, Daemon]:
        given = {"challenge": "ollama", "challenge_blobs": True, **settings}
        flags = given.pop("flags", {})
        upstream = await self.upstream(*models or (f"{MODEL}=400KB,3000",), **given)
        return upstream, await self.daemon(upstream, **flags)

    def key(self, daemon: Daemon) -> str:
        """The public half of the daemon's own key."""
        path = os.path.join(daemon.service._settings.storage, "yukari", "id_ed25519")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        return SigningKey.read(path).public


class SignedTests(ChallengeCase):
    async def assert_all_its_life(self, generation: Generation, challenge: str) -> None:
        """Cold, warm, revalidated and offline; every byte comes from upstream once."""
        upstream, daemon = await self.challenging(challenge=challenge, flags=ALWAYS_DUE)
        model = upstream.models[MODEL]
        self.assert_whole(await self.pull(daemon, MODEL, generation), model)
        await daemon.idle()
        self.assert_sent_once(upstream, model)
        counters = upstream.counters
        self.assertEqual(counters.signatures, {self.key(daemon): 1})
        self.assertLessEqual(counters.requests["manifest GET"], 2)
        self.assertEqual(counters.authorizations, [])
        counters.clear()
        self.assert_whole(await self.pull(daemon, MODEL, generation), model)
        await upstream.seen("manifest HEAD", 3)
        self.assertEqual(counters.challenges, {})
        self.assertEqual(counters.sent, 0)
        await upstream.down()
        self.assert_whole(await self.pull(daemon, MODEL, generation), model)

    async def test_each_generation_pulls_cold_warm_and_offline(self) -> None:
        for generation in GENERATIONS:
            for challenge in ("ollama", "everyone"):
                await self.assert_all_its_life(generation, challenge)

    async def test_a_known_registry_costs_a_token_for_each_model_and_nothing_else(self) -> None:
        upstream, daemon = await self.challenging(f"{MODEL}=3000", f"{OTHER}=3000,10@7")
        await self.pull(daemon)
        await daemon.idle()
        upstream.counters.clear()
        self.assert_whole(await self.pull(daemon, OTHER), upstream.models[OTHER])
        counters = upstream.counters
        self.assertEqual(counters.challenges, {})
        self.assertEqual(counters.requests["token GET"], 1)
        self.assertEqual(counters.requests["manifest GET"], 1)

    async def test_a_registry_that_challenges_all_costs_two_challenges_and_one_token(self) -> None:
        upstream, daemon = await self.challenging(f"{MODEL}=3000x20", challenge="everyone")
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        await daemon.idle()
        counters = upstream.counters
        self.assertEqual(counters.challenges, {"manifest GET": 1, "blob GET": 1})
        self.assertEqual(counters.requests["token GET"], 1)

    async def test_the_key_outlives_the_process(self) -> None:
        upstream, daemon = await self.challenging(f"{MODEL}=3000", f"{OTHER}=3000")
        await self.pull(daemon)
        key = self.key(daemon)
        daemon = await self.restarted(daemon, upstream)
        await self.pull(daemon, OTHER)
        self.assertEqual(upstream.counters.signatures, {key: 2})

    async def test_tokens_that_expire_are_replaced_in_the_middle_of_a_blob(self) -> None:
        upstream, daemon = await self.challenging(
            f"{MODEL}=20MB", redirect=False, challenge="everyone", rate=200_000
        )
        pulling = self.begin(self.pull(daemon))
        await until_sent(upstream, 500_000)
        upstream.challenger._tokens.clear()
        upstream.settings.rate = None
        self.assert_whole(await pulling, upstream.models[MODEL])
        await daemon.idle()
        self.assertGreater(upstream.counters.refused_tokens["unknown"], 0)
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_412_reaches_an_old_client_and_a_new_one_pulls(self) -> None:
        upstream, daemon = await self.challenging()
        upstream.add_model(OTHER, [3000], requires="0.12.0")
        old = SMALL16.scaled(user_agent="ollama/0.5.0 (amd64 linux) Go/go1.22.5")
        self.assertIn("newer version", await self.failing(self.pull(daemon, OTHER, old)))
        self.assert_whole(await self.pull(daemon, OTHER), upstream.models[OTHER])

    async def test_the_store_gets_no_authorization(self) -> None:
        upstream, daemon = await self.challenging(challenge="everyone")
        await self.pull(daemon)
        await daemon.idle()
        given = {r.kind for r in upstream.log if r.header("authorization")}
        self.assertEqual(given, {"token GET", "manifest GET", "blob GET"})


class UnsignedTests(ChallengeCase):
    async def test_where_signatures_are_refused_the_client_is_not_named(self) -> None:
        upstream, daemon = await self.challenging(signatures="refused")
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        agents = [r.header("user-agent") for r in upstream.log if r.kind == "manifest GET"]
        self.assertEqual(agents, [SMALL16.user_agent, USER_AGENT])

    async def test_a_clock_that_is_wrong_is_no_hindrance(self) -> None:
        upstream, daemon = await self.challenging(signature_seconds=-1.0)
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        self.assertEqual(upstream.counters.refused_signatures, {"ts is not the present": 1})

    async def test_a_key_that_is_none_is_no_hindrance_and_stays_as_it_is(self) -> None:
        storage = os.path.abspath(self.mktemp())
        path = os.path.join(storage, "yukari", "id_ed25519")
        os.makedirs(os.path.dirname(path))
        with open(path, "w") as file:
            file.write("notes")
        upstream, daemon = await self.challenging(flags={"storage": storage})
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        with open(path) as file:
            self.assertEqual(file.read(), "notes")
        self.flushLoggedErrors()

    async def test_a_realm_that_breaks_is_no_hindrance(self) -> None:
        for do in ("drop", "cloudflare", "portal", "cut", "huge", "redirect"):
            upstream, daemon = await self.challenging(challenge_blobs=False)
            upstream.faults.add(Fault("token", do, text="http://127.0.0.1:1/", after=10**6))
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_a_realm_that_breaks_is_named_where_a_token_is_a_must(self) -> None:
        upstream, daemon = await self.challenging(challenge="everyone")
        upstream.faults.add(Fault("token", "error", status=500))
        said = self.assert_refused(await self.asked(daemon), 502, "UNAVAILABLE")
        self.assertIn("realm", said)
        self.assertIn("500", said)
        upstream.faults.clear()
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])


class OciTests(ChallengeCase):
    async def test_a_realm_that_takes_no_signature(self) -> None:
        for realm in ("{registry}/token", "{other}/token"):
            upstream, daemon = await self.challenging(
                challenge="everyone",
                signatures="refused",
                token_field="access_token",
                tell_expiry=True,
                realm=realm,
            )
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            await daemon.idle()
            self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_a_realm_elsewhere_gets_no_signature(self) -> None:
        upstream, daemon = await self.challenging(realm="{other}/token?account=a")
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        for request in upstream.log:
            if request.kind == "token GET":
                self.assertEqual(request.header("authorization"), "")
                self.assertNotIn("nonce", request.target)


class PrivateTests(ChallengeCase):
    def operators(self) -> tuple[str, str]:
        """The path of a key's file, and its public half."""
        key, text = SigningKey.make()
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(text)
        return path, key.public

    async def test_without_a_key_it_says_what_to_do(self) -> None:
        upstream, daemon = await self.challenging(private={"library/m": ["nobody's"]})
        said = self.assert_refused(await self.asked(daemon), 403, "DENIED")
        self.assertIn("does not exist or is private", said)
        self.assertIn("UPSTREAM_KEY", said)
        self.assertIn("403", await self.failing(self.pull(daemon)))

    async def test_what_only_the_operators_key_opens_is_kept_from_clients(self) -> None:
        path, public = self.operators()
        for status in (401, 404):
            upstream, daemon = await self.challenging(
                private={"library/m": [public]},
                private_unsigned=status,
                flags={"upstream_key": path},
            )
            upstream.add_model(OTHER, [3000])
            await self.pull(daemon, OTHER)
            said = self.assert_refused(
                await self.asked(daemon, User_Agent=SMALL16.user_agent), 403, "DENIED"
            )
            self.assertIn("PRIVATE_MODELS", said)
            layer = upstream.models[MODEL].layers[0][0]
            reply, _ = await self.asked(daemon, f"library/m/blobs/{layer}")
            self.assertGreaterEqual(reply.status, 400)
            await daemon.idle()
            store = os.path.join(daemon.service._settings.storage, "blobs")
            self.assertNotIn(layer.replace(":", "-"), os.listdir(store))
            reply, _ = await self.asked(daemon, "library/m/tags/list")
            self.assertEqual(reply.status, 404)

    async def test_everyone_gets_it_where_that_is_set(self) -> None:
        path, public = self.operators()
        upstream, daemon = await self.challenging(
            private={"library/m": [public]},
            flags={"upstream_key": path, "private_models": "everyone", **ALWAYS_DUE},
        )
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        await daemon.idle()
        self.assert_sent_once(upstream, upstream.models[MODEL])
        upstream.counters.clear()
        await upstream.seen("manifest HEAD", 3)
        self.assertEqual(upstream.counters.challenges, {})

    async def test_a_public_model_is_not_asked_for_by_the_operators_key(self) -> None:
        path, public = self.operators()
        upstream, daemon = await self.challenging(flags={"upstream_key": path})
        await self.pull(daemon)
        self.assertNotIn(public, upstream.counters.signatures)


class WordsTests(ChallengeCase):
    async def test_400_keeps_its_status_and_its_text(self) -> None:
        upstream, daemon = await self.challenging(
            f"{MODEL}=3000", huggingface=True, sharded=["library/m:sharded"]
        )
        for tag in ("sharded", "q9"):
            answer = await self.asked(
                daemon, f"library/m/manifests/{tag}", User_Agent=SMALL16.user_agent
            )
            direct, body = await self.ask(f"{upstream.url}/v2/library/m/manifests/{tag}")
            said = self.assert_refused(answer, 400, "UNSUPPORTED")
            self.assertEqual(direct.status, 400)
            self.assertEqual(said, json.loads(body)["error"])

    async def test_hugging_faces_401_says_both_that_it_may_mean(self) -> None:
        upstream, daemon = await self.challenging(f"{MODEL}=3000", huggingface=True)
        answer = await self.asked(daemon, "her/none/manifests/latest", User_Agent="ollama/0.34")
        said = self.assert_refused(answer, 403, "DENIED")
        self.assertIn("does not exist or is private", said)

    async def test_a_401_without_a_challenge_as_well(self) -> None:
        upstream, daemon = await self.challenging(challenge="everyone", challenge_header="")
        said = self.assert_refused(await self.asked(daemon), 403, "DENIED")
        self.assertIn("does not exist or is private", said)
        await until(lambda: upstream.counters.requests["manifest GET"] == 1)
        self.assertIn(LATEST, upstream.log[-1].target)
