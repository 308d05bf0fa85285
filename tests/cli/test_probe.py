"""``yukari probe`` as a process: what it says of registries that are well, and of others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from twisted.internet.ssl import PrivateCertificate
from twisted.protocols.portforward import ProxyFactory
from twisted.trial.unittest import SynchronousTestCase

from tests.authority import Authority
from tests.emulator import HUB, Emulator, Fault
from tests.processes import MAIN, Process, ProcessCase, bare_environment, reactor
from tests.running import MODEL
from yukari.cli.probe import parse_model
from yukari.config.keys import SigningKey
from yukari.config.registry_names import RegistryNames
from yukari.names import InvalidName


class ParseTests(SynchronousTestCase):
    def test_models_are_named_as_ollama_names_them(self) -> None:
        digest = f"sha256:{'0' * 64}"
        names = RegistryNames("registry.test:5000", {}, {"hf--": "hf.co"}, ("hf.co",))
        for text, expected in (
            ("m", "library/m:latest"),
            ("m:7b", "library/m:7b"),
            ("her/m:7b", "her/m:7b"),
            ("registry.test:5000/her/m:Q4_K_M", "her/m:Q4_K_M"),
            ("hf.co/her/m:Q4_K_M", "hf.co/her/m:Q4_K_M"),
            ("hf--her/m", "hf.co/her/m:latest"),
            (f"m@{digest}", f"library/m:{digest}"),
        ):
            name, reference = parse_model(text, names)
            self.assertEqual(f"{name}:{reference}", expected)
        for text in ("", "a/b/c", "m:", "m:a b"):
            if text != "m:":
                self.assertRaises(InvalidName, parse_model, text, names)


class ProbeCase(ProcessCase):
    async def probe(self, registry: str, *arguments: str, **environment: str) -> Process:
        """It has ended; its store does not exist, and nothing else is written anywhere."""
        store = os.path.join(self.directory(), "store")
        process = self.spawn(
            *(sys.executable, "-c", MAIN, "probe", *arguments),
            environment=bare_environment(
                **{"UPSTREAM_REGISTRY": registry, "STORAGE": store, **environment}
            ),
        )
        await process.ended
        self.assertFalse(os.path.exists(store))
        self.assertNotIn("Traceback", process.text)
        return process

    def assert_well(self, process: Process, *lines: str) -> None:
        self.assertEqual(process.status, 0, process.text)
        for line in lines:
            self.assertIn(line, process.text)
        self.assertTrue(process.text.splitlines()[-1].startswith("OK"))

    def assert_wrong(self, process: Process, *words: str) -> None:
        """The last two lines are what is wrong and what to do."""
        self.assertEqual(process.status, 1, process.text)
        wrong, advice = process.text.splitlines()[-2:]
        self.assertIn("WRONG: ", wrong)
        self.assertTrue(advice.startswith("do  "), advice)
        for word in words:
            self.assertIn(word, wrong)


class WellTests(ProbeCase):
    async def test_a_registry_as_ollamas_is(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3MB,3000", challenge_blobs=True)
        host, store = (urlsplit(url).netloc for url in (upstream.url, upstream.store_url))
        self.assert_well(
            await self.probe(upstream.url, "m"),
            "proxy      none",
            f"{host} wants a token of {upstream.url}/token",
            "the realm answered 200 to a request signed",
            "signed by this cache's own key (a new key",
            "manifest   3 blobs of 3.0 MB",
            "list       none",
            upstream.models[MODEL].digest,
            "HEAD tells the same",
            f"at {store}",
            "Range      honoured",
            "MB/s",
        )
        self.assertLess(upstream.counters.asked, 1_100_000)

    async def test_the_token_of_a_registrys_table_opens_its_gated_models(self) -> None:
        """The probe has to ask as the daemon does."""
        there = await self.upstream(
            "her/repo:Q4=3000", **{**HUB, "gated": {"her/repo": ["hf_secret"]}, "moved": False}
        )
        place = Path(self.directory())
        (place / "token").write_text("hf_secret\n")
        config = place / "yukari.toml"
        config.write_text(
            f'upstreams = "hf={there.url}"\n[registries.hf]\ntoken_file = "{place / "token"}"\n'
        )
        given = {"YUKARI_CONFIG": str(config), "UPSTREAMS": "", "PRIVATE_MODELS": "everyone"}
        process = await self.probe("http://127.0.0.1:9/", "hf--her/repo:Q4", **given)
        self.assert_well(process, there.models["her/repo:Q4"].digest)
        self.assertNotIn("hf_secret", process.text)

    async def test_the_daemons_own_key_is_used_where_it_has_one(self) -> None:
        upstream = await self.upstream()
        key, text = SigningKey.make()
        store = self.directory()
        os.makedirs(os.path.join(store, "yukari"))
        with open(os.path.join(store, "yukari", "id_ed25519"), "wb") as file:
            file.write(text)
        process = self.spawn(
            *(sys.executable, "-c", MAIN, "probe", "m", f"--storage={store}"),
            environment=bare_environment(UPSTREAM_REGISTRY=upstream.url),
        )
        await process.ended
        self.assert_well(process, "signed by this cache's own key\n")
        self.assertEqual(upstream.counters.signatures, {key.public: 1})

    async def test_other_ways_to_be_well(self) -> None:
        for settings, lines in (
            ({"challenge": "off"}, ["challenge  none"]),
            (
                {"signatures": "refused"},
                ["answered 401 to a request signed", "unsigned, as yukari"],
            ),
            (
                {"challenge": "everyone", "challenge_blobs": True, "realm": "{other}/token"}
                | {"signatures": "ignored"},
                ["200 to a request unsigned", "with a token that was given without a signature"],
            ),
            ({"redirect": False}, ["at the registry itself"]),
            ({"ignore_range": True}, ["Range      ignored"]),
            ({"head_manifests": False}, ["HEAD tells no digest"]),
        ):
            given: dict[str, Any] = {"models": (f"{MODEL}=3MB,3000",), **settings}
            upstream = await self.upstream(*given.pop("models"), **given)
            self.assert_well(await self.probe(upstream.url, "m"), *lines)

    async def test_a_list_is_shown_with_its_runners(self) -> None:
        for to_everybody in (False, True):
            upstream = await self.upstream(f"{MODEL}=10", list_to_everybody=to_everybody)
            made = upstream.add_list("library/n:latest", {"ggml": [3000], "llamacpp": [4000, 50]})
            process = await self.probe(upstream.url, "n")
            self.assert_well(process, f"a list for ggml, llamacpp: {made.digest}", "3 blobs of")
            self.assertEqual("though none was asked for" in process.text, to_everybody)

    async def test_tls_is_shown_and_the_way_there(self) -> None:
        upstream = await self.upstream(tls=True)
        authority = Authority(self.directory())
        pem = authority.certificate("registry.test")
        address = urlsplit(upstream.url)
        port = reactor.listenSSL(
            0,
            ProxyFactory(address.hostname, address.port),
            PrivateCertificate.loadPEM(pem).options(),
            interface="127.0.0.1",
        )
        self.addCleanup(port.stopListening)
        number = port.getHost().port
        registry = f"https://registry.test:{number}/"
        flags = f"--upstream-address=127.0.0.1:{number}", f"--upstream-ca={authority.path}"
        process = await self.probe(registry, "m", *flags)
        self.assert_well(process, "127.0.0.1, by UPSTREAM_ADDRESS", "TLSv1.3, certificate by")
        self.assert_wrong(await self.probe(registry, "m", flags[0]), "certificate")


class WrongTests(ProbeCase):
    async def said(self, fault: Fault, model: str = "m", **settings: Any) -> Process:
        upstream = await self.upstream(f"{MODEL}=3MB,3000", **settings)
        upstream.faults.add(fault)
        return await self.probe(upstream.url, model)

    async def test_what_is_wrong_comes_last_with_what_to_do(self) -> None:
        for fault, words in (
            (Fault("manifest", "cloudflare"), ["manifest", "502"]),
            (Fault("manifest", "portal"), ["manifest", "no manifest"]),
            (Fault("manifest", "error", status=429), ["manifest", "429"]),
            (Fault("manifest", "error", status=403), ["manifest", "does not exist or is private"]),
            (Fault("manifest GET", "drop"), ["manifest", "cannot be reached"]),
            (Fault("blob", "error", status=404), ["blobs", "answered 404"]),
            (Fault("store", "error", status=403), ["blobs", "answered 403"]),
            (Fault("store", "drop"), ["blobs"]),
            (Fault("store", "cut", after=1000, reset=True), ["blobs", "broke off"]),
            (Fault("store", "content-range", at=2), ["blobs", "another part"]),
            (Fault("store", "portal"), ["blobs", "bytes: the manifest says 3000000"]),
            (
                Fault("manifest GET", "huge", after=20_000_000),
                ["manifest", "more than 8388608 bytes"],
            ),
        ):
            self.assert_wrong(await self.said(fault), *words)

    async def test_a_blob_that_is_read_whole_is_checked(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000")
        upstream.faults.add(Fault("store", "flip", at=5))
        self.assert_wrong(await self.probe(upstream.url, "m"), "blobs", "other bytes")

    async def test_a_model_that_is_not_there(self) -> None:
        upstream = await self.upstream()
        self.assert_wrong(await self.probe(upstream.url, "none"), "404", "library/none:latest")

    async def test_a_registry_that_is_not_there(self) -> None:
        self.assert_wrong(await self.probe("http://registry.invalid/"), "cannot be resolved")
        upstream = await self.upstream()
        await upstream.down()
        self.assert_wrong(await self.probe(upstream.url), "connection refused")

    async def test_what_is_not_understood_is_one_line(self) -> None:
        for arguments, environment, word in (
            (["m"], {"UPSTREAM_REGISTRY": "nonsense"}, "UPSTREAM_REGISTRY 'nonsense'"),
            (["m"], {"UPSTREAM_KEY": "/nowhere/key"}, "UPSTREAM_KEY '/nowhere/key'"),
            (["a/b/c"], {}, "[NAMESPACE/]MODEL"),
        ):
            process = await self.probe("http://127.0.0.1:1/", *arguments, **environment)
            self.assertEqual(process.status, 1)
            self.assertEqual(len(process.text.splitlines()), 1, process.text)
            self.assertIn(word, process.text)

    async def test_nothing_secret_is_shown(self) -> None:
        key, text = SigningKey.make()
        path = os.path.join(self.directory(), "key")
        with open(path, "wb") as file:
            file.write(text)
        upstream = await self.upstream(
            f"{MODEL}=3MB", private={"library/m": [key.public]}, challenge_blobs=True
        )
        proxy = "http://her:proxy-password@127.0.0.1:1"
        shown = [
            (await self.probe(upstream.url, "m", f"--upstream-key={path}")).text,
            (
                await self.probe(
                    upstream.url, "m", f"--upstream-key={path}", PRIVATE_MODELS="everyone"
                )
            ).text,
            (await self.probe(upstream.url, "m", HTTP_PROXY=proxy)).text,
        ]
        self.assertIn("PRIVATE_MODELS", shown[0])
        self.assertIn("signed by UPSTREAM_KEY", shown[1])
        self.assertIn("127.0.0.1:1 (http)", shown[2])
        for secret in ("proxy-password", *secrets_of(upstream)):
            for each in shown:
                self.assertNotIn(secret, each)


def secrets_of(upstream: Emulator) -> list[str]:
    """Tokens, signatures, nonces and signed URLs' signatures."""
    found = [request.header("authorization").rpartition(":")[2] for request in upstream.log]
    for request in upstream.log:
        query = dict(parse_qsl(urlsplit(request.target).query))
        found += [query.get("nonce", ""), query.get("sig", "")]
    return [each.removeprefix("Bearer ") for each in found if each]


class DispatchTests(ProbeCase):
    async def test_a_verb_has_its_own_help_and_without_one_it_is_the_daemon(self) -> None:
        for arguments, words in (
            (["--help"], "Usage: yukari [options]"),
            (["--version"], "yukari "),
            (["nonsense"], "Error: no verb 'nonsense': yukari help lists them\n"),
            (["help"], "outdated"),
            (["probe", "--help"], "Usage: yukari probe"),
        ):
            process = self.spawn(sys.executable, "-c", MAIN, *arguments)
            await process.ended
            self.assertIn(words, process.text)
            self.assertEqual(process.status, 2 if arguments == ["nonsense"] else 0)
