"""Manifests that depend on who asks: lists, stubs, versions, and hf.co's ways."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.clients import Reply
from tests.emulator import LIST, MANIFEST, Emulator, ManifestList
from tests.emulator.cases import MODEL, EmulatorCase
from tests.emulator.models import too_old
from tests.emulator.settings import HUB

BOTH = f"{LIST}, {MANIFEST}"
OLD, NEW = "ollama/0.39.0 (amd64 linux) Go/go1.26.0", "ollama/0.40.0 (amd64 linux) Go/go1.26.0"


class VariantCase(EmulatorCase):
    """Requests for a manifest."""

    async def manifest(
        self, emulator: Emulator, name: str = MODEL, method: str = "GET", **headers: str
    ) -> tuple[Reply, bytes]:
        """Return the manifest of ``NAMESPACE/MODEL:TAG``; ``headers`` are named with _ for -."""
        model, _, tag = name.partition(":")
        given = {header.replace("_", "-"): value for header, value in headers.items()}
        return await self.ask(f"{emulator.url}/v2/{model}/manifests/{tag}", given, method)


class ListTests(VariantCase):
    """A model with a manifest for each runner."""

    async def listed(self, *runners: str, **options: Any) -> tuple[Emulator, ManifestList]:
        emulator = await self.started()
        sizes = {runner: [3000 + at, 20] for at, runner in enumerate(runners)}
        return emulator, emulator.add_list(MODEL, sizes, **options)

    async def test_accept_decides_between_list_and_plain(self) -> None:
        emulator, made = await self.listed("llamacpp", "mlx")
        plain = made.children["llamacpp"]
        for accept, body, digest in (
            (BOTH, made.manifest_bytes, made.digest),
            (LIST, made.manifest_bytes, made.digest),
            (MANIFEST, plain.manifest_bytes, plain.digest),
            ("*/*", plain.manifest_bytes, plain.digest),
        ):
            self.assertEqual((await self.manifest(emulator, Accept=accept))[1], body)
            head, _ = await self.manifest(emulator, method="HEAD", Accept=accept)
            self.assertEqual(f"sha256:{head.headers['ollama-content-digest']}", digest)

    async def test_a_list_has_references_only(self) -> None:
        _, made = await self.listed("llamacpp", "ggml")
        self.assertEqual(len(made.manifest_bytes), 464)  # As registry.ollama.ai's.
        found = json.loads(made.manifest_bytes)
        self.assertEqual(list(found), ["schemaVersion", "mediaType", "manifests"])
        self.assertEqual([entry["runner"] for entry in found["manifests"]], ["llamacpp", "ggml"])
        for entry in found["manifests"]:
            self.assertEqual(list(entry), ["mediaType", "digest", "runner", "format"])

    async def test_plain_is_the_first_child_in_the_clients_order(self) -> None:
        for runners, first in ((("mlx", "ggml"), "ggml"), (("mlx",), "mlx")):
            emulator, made = await self.listed(*runners)
            _, body = await self.manifest(emulator)
            self.assertEqual(body, made.children[first].manifest_bytes)

    async def test_two_children_have_tags_of_their_own(self) -> None:
        emulator, made = await self.listed("llamacpp", "ggml", "mlx")
        for runner in ("llamacpp", "ggml"):
            for accept in (BOTH, MANIFEST):
                _, body = await self.manifest(emulator, f"{MODEL}-{runner}", Accept=accept)
                self.assertEqual(body, made.children[runner].manifest_bytes)
        self.assertEqual((await self.manifest(emulator, f"{MODEL}-mlx"))[0].status, 404)

    async def test_children_are_blobs_and_never_manifests(self) -> None:
        emulator, made = await self.listed("llamacpp", "ggml")
        for child in made.children.values():
            size = len(child.manifest_bytes)
            url = f"{emulator.url}/v2/library/m/blobs/{child.digest}"
            head, _ = await self.ask(url, method="HEAD")
            self.assertEqual((head.status, head.length), (200, size))
            redirected, _ = await self.ask(url)
            self.assertEqual(redirected.status, 307)
            got = (await self.ask(redirected.headers["location"]))[1]
            self.assertEqual(got, child.manifest_bytes)
            reply, _ = await self.manifest(emulator, f"library/m:{child.digest}")
            self.assertEqual(reply.status, 500)
        emulator.settings.redirect_children = False
        self.assertEqual((await self.ask(url))[1], child.manifest_bytes)

    async def test_children_share_no_layer(self) -> None:
        _, made = await self.listed("llamacpp", "ggml", "mlx")
        layers = [digest for child in made.children.values() for digest, _ in child.layers]
        self.assertEqual(len(layers), len(set(layers)))

    async def test_inline_children_are_no_blobs(self) -> None:
        emulator, made = await self.listed("llamacpp", "ggml", inline=True)
        _, body = await self.manifest(emulator, Accept=BOTH)
        entries = json.loads(body)["manifests"]
        for entry, child in zip(entries, made.children.values()):
            self.assertEqual(entry, json.loads(child.manifest_bytes))
            reply, _ = await self.ask(f"{emulator.url}/v2/library/m/blobs/{child.digest}")
            self.assertEqual(reply.status, 404)

    async def test_a_list_may_be_sent_to_everybody(self) -> None:
        emulator, made = await self.listed("llamacpp")
        emulator.settings.list_to_everybody = True
        _, body = await self.manifest(emulator, Accept=MANIFEST)
        self.assertEqual(body, made.manifest_bytes)

    async def test_a_plain_model_takes_a_lists_place(self) -> None:
        emulator, _ = await self.listed("llamacpp")
        plain = emulator.set_model(MODEL, [30], seed=4)
        self.assertEqual((await self.manifest(emulator, Accept=BOTH))[1], plain.manifest_bytes)

    async def test_deleting_a_list_deletes_all_of_it(self) -> None:
        emulator, made = await self.listed("llamacpp", "ggml")
        emulator.delete_model(MODEL)
        for name in (MODEL, f"{MODEL}-ggml"):
            self.assertEqual((await self.manifest(emulator, name, Accept=BOTH))[0].status, 404)
        for child in made.children.values():
            for digest in (child.digest, child.layers[0][0]):
                reply, _ = await self.ask(f"{emulator.url}/v2/library/m/blobs/{digest}")
                self.assertEqual(reply.status, 404)

    async def test_lists_and_stubs_are_ordered_by_http_too(self) -> None:
        emulator = await self.started()
        orders = {
            "set_list": {"name": "library/l:latest", "runners": {"ggml": [10]}},
            "set_stub": {"name": "library/s:cloud", "null": True},
        }
        body = json.dumps(orders).encode()
        await (await self.http().open("POST", f"{emulator.url}/_faults", {}, body)).body()
        _, listed = await self.manifest(emulator, "library/l:latest", Accept=BOTH)
        self.assertEqual(json.loads(listed)["mediaType"], LIST)
        _, stub = await self.manifest(emulator, "library/s:cloud")
        self.assertIsNone(json.loads(stub)["layers"])


class StubTests(VariantCase):
    """Cloud models: a config, and nothing else."""

    async def test_a_stub_has_no_layers_and_a_config_that_names_a_host(self) -> None:
        emulator = await self.started()
        for null, layers in ((False, []), (True, None)):
            made = emulator.add_stub("library/s:cloud", null=null)
            _, body = await self.manifest(emulator, "library/s:cloud")
            found = json.loads(body)
            self.assertEqual((body, found["layers"]), (made.manifest_bytes, layers))
            self.assertEqual(made.blobs, (made.config,))
            self.assertIn("remote_host", json.loads(made.read(made.config[0])))


class VersionTests(VariantCase):
    """412 for an Ollama that is too old."""

    async def test_only_older_ollamas_get_412(self) -> None:
        emulator = await self.started(challenge="off")
        made = emulator.add_model("library/n:latest", [10], requires="0.40.0")
        for agent, status in ((OLD, 412), (NEW, 200), ("curl/8", 200), ("yukari/0.1.0", 200)):
            for method in ("GET", "HEAD"):
                reply, body = await self.manifest(
                    emulator, "library/n:latest", method, User_Agent=agent
                )
                self.assertEqual((agent, reply.status), (agent, status))
        self.assertEqual(json.loads(made.read(made.config[0]))["requires"], "0.40.0")
        _, body = await self.manifest(emulator, "library/n:latest", User_Agent=OLD)
        self.assertIn(b"requires a newer version of Ollama", body)
        self.assertEqual((await self.manifest(emulator, User_Agent=OLD))[0].status, 200)

    async def test_lists_are_for_everyone(self) -> None:
        emulator = await self.started(challenge="off")
        emulator.add_list(MODEL, {"ggml": [10]}, requires="0.50.0")
        for accept, status in ((BOTH, 200), (MANIFEST, 412)):
            reply, _ = await self.manifest(emulator, Accept=accept, User_Agent=NEW)
            self.assertEqual(reply.status, status)


class ComparisonTests(SynchronousTestCase):
    """Versions are numbers, not text."""

    def test_versions_compare_by_number(self) -> None:
        for version, requires, old in (
            ("0.9.6", "0.10.0", True),
            ("0.10.0", "0.9.6", False),
            ("0.10.0", "0.10.0", False),
            ("0.10.0", "0.10.1", True),
            ("0.0.0", "9.0.0", False),
            ("0.1.0", "", False),
        ):
            self.assertEqual(too_old(f"ollama/{version} (amd64 linux)", requires), old, version)


class HuggingFaceTests(VariantCase):
    """What hf.co does otherwise."""

    async def test_its_refusals(self) -> None:
        emulator = await self.started(challenge="off", huggingface=True, sharded=["library/m:Q8_0"])
        for name, status, text in (
            ("library/m:Q9", 400, "not a valid quantization scheme"),
            ("library/m:Q8_0", 400, "sharded GGUF"),
            ("library/none:latest", 401, "Invalid username or password."),
        ):
            reply, body = await self.manifest(emulator, name)
            self.assertEqual((name, reply.status), (name, status))
            self.assertEqual(list(json.loads(body)), ["error"])
            self.assertIn(text, json.loads(body)["error"])
            self.assertNotIn("www-authenticate", reply.headers)

    async def test_the_registry_has_moved_to_the_other_host(self) -> None:
        emulator = await self.started(moved=True)
        reply, _ = await self.manifest(emulator)
        where = reply.headers["location"]
        self.assertEqual(reply.status, 307)
        self.assertEqual(where, f"{emulator.other_url}/v2/library/m/manifests/latest")
        self.assertEqual((await self.ask(where))[1], emulator.models[MODEL].manifest_bytes)

    async def test_bytes_depend_on_who_asks(self) -> None:
        emulator = await self.started(challenge="off", bytes_by_agent=True)
        seen = {}
        for agent in (OLD, "llama-cpp", "curl/8"):
            _, body = await self.manifest(emulator, User_Agent=agent)
            head, _ = await self.manifest(emulator, method="HEAD", User_Agent=agent)
            self.assertEqual(head.headers["ollama-content-digest"], sha256(body).hexdigest())
            seen[agent] = body
        self.assertEqual(len(set(seen.values())), 3)
        self.assertEqual(seen[OLD], emulator.models[MODEL].manifest_bytes)
        self.assertIn("ggufFile", json.loads(seen["llama-cpp"]))

    async def test_a_gated_model_is_opened_by_a_token(self) -> None:
        emulator = await self.started(**HUB, gated={"her/m": ["secret"]})
        emulator.settings.moved = False
        model = emulator.add_model("her/m:latest", [10])
        for given, status in (({}, 401), ({"Authorization": "Bearer other"}, 401)):
            reply, body = await self.manifest(emulator, "her/m:latest", **given)
            self.assertEqual(reply.status, status)
            self.assertIn("restricted", json.loads(body)["error"])
            self.assertNotIn("www-authenticate", reply.headers)
        self.assertEqual(emulator.counters.authorizations, ["manifest GET: Bearer other"])
        _, body = await self.manifest(
            emulator, "her/m:latest", Authorization="Bearer secret", User_Agent=OLD
        )
        self.assertEqual(body, model.manifest_bytes)
        blob, _ = await self.ask(f"{emulator.url}/v2/her/m/blobs/{model.layers[0][0]}")
        self.assertEqual(blob.status, 401)
        self.assertEqual(emulator.counters.opened_by_token, {"manifest GET": 1})

    async def test_a_manifest_is_not_modified(self) -> None:
        emulator = await self.started(challenge="off", etags=True)
        reply, _ = await self.manifest(emulator)
        tag = reply.headers["etag"]
        again, body = await self.manifest(emulator, If_None_Match=tag)
        self.assertEqual((again.status, body), (304, b""))
        emulator.set_model(MODEL, [11], seed=1)
        changed, _ = await self.manifest(emulator, If_None_Match=tag)
        self.assertEqual(changed.status, 200)
        self.assertNotEqual(changed.headers["etag"], tag)

    async def test_a_head_may_tell_no_digest(self) -> None:
        emulator = await self.started(**{**HUB, "moved": False})
        reply, _ = await self.manifest(emulator, method="HEAD")
        self.assertEqual(reply.status, 200)
        self.assertNotIn("ollama-content-digest", reply.headers)

    async def test_a_blobs_head_leads_to_the_cdn_too(self) -> None:
        emulator = await self.started(**{**HUB, "moved": False})
        digest, size = emulator.models[MODEL].layers[0]
        for method in ("HEAD", "GET"):
            reply, _ = await self.ask(f"{emulator.url}/v2/library/m/blobs/{digest}", method=method)
            self.assertEqual(reply.status, 307)
            there, _ = await self.ask(reply.headers["location"], method=method)
            self.assertEqual((there.status, there.length), (200, size))

    async def test_an_address_is_limited(self) -> None:
        emulator = await self.started(per_ip=2, retry_after=7)
        statuses = [(await self.manifest(emulator))[0].status for _ in range(3)]
        self.assertEqual(statuses, [200, 200, 429])
        reply, body = await self.manifest(emulator)
        self.assertEqual((reply.status, list(json.loads(body))), (429, ["error"]))
        self.assertEqual(reply.headers["retry-after"], "7")
        emulator.settings.per_ip_seconds = 0
        self.assertEqual((await self.manifest(emulator))[0].status, 200)
