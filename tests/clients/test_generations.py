"""Every generation of emulated clients against a registry that challenges, and 0.40's lists."""

from __future__ import annotations

from typing import Any

from tests.clients import CLASSIC3, CURRENT, LISTS, Generation, Key, pull
from tests.emulator import Emulator, Fault
from tests.emulator.cases import (
    MODEL,
    SMALL16,
    SMALL64,
    SMALL_TRANSFER,
    EmulatorCase,
    reactor,
)

SMALL3, SMALL_CURRENT, SMALL_LISTS = (
    made.scaled(part_min=50_000, backoff=0.001) for made in (CLASSIC3, CURRENT, LISTS)
)
ALL = (SMALL64, SMALL3, SMALL16, SMALL_TRANSFER, SMALL_CURRENT, SMALL_LISTS)


class SigningTests(EmulatorCase):
    """Pulls from a registry that challenges."""

    async def challenging(self, **settings: Any) -> Emulator:
        return await self.started(**{"challenge": "ollama", **settings})

    async def test_every_generation_signs_once(self) -> None:
        for blobs in (False, True):
            emulator = await self.challenging(challenge_blobs=blobs)
            for generation in ALL:
                key = Key()
                emulator.counters.clear()
                pulled = await pull(reactor, emulator.url, MODEL, generation, key=key)
                self.assert_whole(pulled, emulator.models[MODEL])
                counters = emulator.counters
                self.assertEqual(counters.signatures, {key.public: 1}, generation.name)
                self.assertEqual(counters.challenges, {"manifest GET": 1})
                self.assertEqual(counters.authorizations, [])

    async def test_nothing_is_signed_where_nothing_is_asked(self) -> None:
        emulator = await self.challenging(challenge="off")
        for generation in ALL:
            await pull(reactor, emulator.url, MODEL, generation)
        self.assertEqual(emulator.counters.requests["token GET"], 0)

    async def test_a_token_that_expires_in_the_middle_is_renewed(self) -> None:
        emulator = await self.challenging()
        emulator.faults.add(Fault("blob HEAD", "error", status=401, times=1))
        pulled = await pull(reactor, emulator.url, MODEL, SMALL_CURRENT)
        self.assert_whole(pulled, emulator.models[MODEL])
        self.assertEqual(emulator.counters.requests["token GET"], 2)

    async def test_a_realm_on_another_host_is_for_older_clients(self) -> None:
        emulator = await self.challenging(realm="{other}/token")
        pulled = await pull(reactor, emulator.url, MODEL, SMALL16)
        self.assert_whole(pulled, emulator.models[MODEL])
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL_CURRENT))
        self.assertIn("does not match original host", str(failed))

    async def test_what_the_realm_refuses_is_shown(self) -> None:
        emulator = await self.challenging(signature_seconds=-1)
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertIn("401: ", str(failed))
        self.assertIn("ts is not the present", str(failed))

    async def test_a_key_of_its_own_opens_a_private_model(self) -> None:
        key = Key()
        emulator = await self.challenging(private={"library/m": [key.public]})
        pulled = await pull(reactor, emulator.url, MODEL, SMALL_CURRENT, key=key)
        self.assert_whole(pulled, emulator.models[MODEL])
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL_CURRENT))
        self.assertEqual(str(failed), "unauthorized: access denied")

    async def test_redirects_to_another_host_are_for_insecure_clients(self) -> None:
        emulator = await self.started(challenge="off", moved=True)
        secure = SMALL_CURRENT.scaled(insecure=False)
        pulled = await pull(reactor, emulator.url, MODEL, SMALL_CURRENT)
        self.assert_whole(pulled, emulator.models[MODEL])
        failed = await self.failing(pull(reactor, emulator.url, MODEL, secure))
        self.assertIn("blocked redirect to a different host", str(failed))

    async def test_a_secure_transfer_client_goes_to_no_private_store(self) -> None:
        emulator = await self.started()
        secure = SMALL_TRANSFER.scaled(insecure=False)
        failed = await self.failing(pull(reactor, emulator.url, MODEL, secure))
        self.assertIn("redirect target not allowed", str(failed))
        self.assertEqual(emulator.counters.requests["store GET"], 0)


class ListTests(EmulatorCase):
    """0.40 and lists."""

    async def listed(self, **options: Any) -> Emulator:
        emulator = await self.started(challenge="off")
        sizes = {"ggml": [120_000, 30], "llamacpp": [110_000, 20], "mlx": [5000]}
        emulator.add_list(MODEL, sizes, **options)
        return emulator

    async def pulled(self, emulator: Emulator, generation: Generation = SMALL_LISTS) -> list[str]:
        """Pull the list; return the requests' kinds with the blob asked for, in order."""
        made = emulator.lists[MODEL]
        child = made.children[generation.runner or "llamacpp"]
        names: dict[str, str] = {child.digest: "child", child.config[0]: "config"}
        pulled = await pull(reactor, emulator.url, MODEL, generation)
        self.assertEqual(pulled.manifest, made.manifest_bytes)
        self.assertEqual(pulled.child, child.manifest_bytes)
        self.assertTrue(all(blob.ok for blob in pulled.blobs.values()))
        expected = dict(child.blobs)
        if child.digest in emulator.children:
            expected[child.digest] = len(child.manifest_bytes)
        self.assertEqual({d: b.size for d, b in pulled.blobs.items()}, expected)
        asked = ((request.kind, request.digest) for request in emulator.log)
        return [
            f"{kind} {names.get(digest, 'layer') if digest else 'list'}" for kind, digest in asked
        ]

    async def test_the_child_comes_by_head_and_transfer_then_the_config_then_layers(self) -> None:
        emulator = await self.listed()
        order = await self.pulled(emulator)
        self.assertEqual(
            order[:6],
            [
                "manifest GET list",
                "blob HEAD child",
                "blob GET child",
                "store GET child",
                "blob GET config",
                "store GET config",
            ],
        )
        self.assertEqual(order[6:8], ["blob HEAD layer", "blob GET layer"])
        self.assertEqual({each.split()[-1] for each in order[6:]}, {"layer"})
        asked = list(emulator.log)[:6]
        agents = [request.header("user-agent").partition(" ")[0] for request in asked]
        transfer = "ollama-transfer/1.0"
        self.assertEqual(agents, ["ollama/0.40.0"] * 2 + [transfer] * 4)

    async def test_the_users_runner_is_pulled(self) -> None:
        emulator = await self.listed()
        await self.pulled(emulator, SMALL_LISTS.scaled(runner="mlx"))

    async def test_an_inline_child_is_not_asked_for(self) -> None:
        emulator = await self.listed(inline=True)
        order = await self.pulled(emulator)
        self.assertEqual(order[1], "blob GET config")

    async def test_older_clients_get_the_plain_child(self) -> None:
        emulator = await self.listed()
        for generation in (SMALL16, SMALL_CURRENT, SMALL_TRANSFER):
            pulled = await pull(reactor, emulator.url, MODEL, generation)
            self.assert_whole(pulled, emulator.lists[MODEL].children["llamacpp"])

    async def test_an_older_client_succeeds_on_a_list_with_nothing(self) -> None:
        emulator = await self.listed()
        emulator.settings.list_to_everybody = True
        pulled = await pull(reactor, emulator.url, MODEL, SMALL_CURRENT)
        self.assertEqual(pulled.manifest, emulator.lists[MODEL].manifest_bytes)
        self.assertEqual(pulled.blobs, {})

    async def test_stubs_are_pulled_by_all(self) -> None:
        emulator = await self.started()
        for null in (False, True):
            made = emulator.add_stub("library/m:cloud", null=null)
            for generation in ALL:
                pulled = await pull(reactor, emulator.url, "library/m:cloud", generation)
                self.assert_whole(pulled, made)

    async def test_a_plain_manifest_is_pulled_without_a_child(self) -> None:
        emulator = await self.started()
        pulled = await pull(reactor, emulator.url, MODEL, SMALL_LISTS)
        self.assert_whole(pulled, emulator.models[MODEL])
        self.assertEqual(emulator.counters.requests["blob HEAD"], 4)
        self.assertEqual(pulled.child, b"")

    async def test_a_wrong_child_is_found(self) -> None:
        emulator = await self.listed()
        child = emulator.lists[MODEL].children["llamacpp"].digest
        flip = emulator.faults.add(Fault("store", "flip", digest=child, at=50))
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL_LISTS))
        self.assertIn(f"digest mismatch, file must be downloaded again: {child}", str(failed))
        self.assertEqual(flip.happened, 1)

    async def test_a_child_without_a_length_fails(self) -> None:
        emulator = await self.listed()
        child = emulator.lists[MODEL].children["llamacpp"].digest
        emulator.faults.add(Fault("blob HEAD", "no-length", digest=child))
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL_LISTS))
        self.assertIn("without Content-Length", str(failed))

    async def test_a_config_that_wants_a_newer_ollama_ends_the_pull(self) -> None:
        emulator = await self.listed(requires="0.41.0")
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL_LISTS))
        self.assertEqual(str(failed), "this model needs Ollama 0.41.0 or newer")
        self.assertEqual(emulator.counters.requests["blob HEAD"], 1)
