"""
One cache mirrors several registries that have other models under the same names.

Each way of naming a registry must give that registry's bytes, whichever were pulled before, where
they are stored, and whether the registry can be reached.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, Optional

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import formatEvent, globalLogPublisher

from tests.emulator import Emulator, Fault, Model
from tests.pulls.test_managed import VerbsCase
from tests.running import (
    SMALL16,
    SMALL64,
    Daemon,
    RunningCase,
    reactor,
    stored_at,
    until,
)
from tests.s3.daemons import BucketCase, store_of
from yukari.config.listen import Bind
from yukari.config.registries import RegistrySettings
from yukari.config.settings import Settings
from yukari.config.urls import RegistryUrl
from yukari.daemon.service import YukariService

NAME = "her/m"
MODELS = f"{NAME}:latest", "library/m:latest"
OLLAMA = {"User-Agent": "ollama/0.34.4 (amd64 linux) Go/go1.26.0"}


@frozen
class Way:
    """How a client names a registry: where it connects, what it asks for, by which Host header."""

    registry: str
    how: str
    url: str
    path: str
    headers: dict[str, str] = {}


@frozen(eq=False)
class Registries:
    """The default registry, hf and lab; all have `MODELS`, each of bytes of its own."""

    default: Emulator
    hf: Emulator
    lab: Emulator

    def each(self) -> Iterator[tuple[str, Emulator]]:
        yield from (("default", self.default), ("hf", self.hf), ("lab", self.lab))

    def model(self, registry: str, name: str = MODELS[0]) -> Model:
        found: Model = getattr(self, registry).models[name]
        return found


class RegistriesCase(RunningCase):
    """Daemons of three registries."""

    async def registries(self, **of_hf: Any) -> Registries:
        """Start the registries."""
        made = []
        for number, more in enumerate(({}, {"challenge": "off", **of_hf}, {"challenge": "off"})):
            sizes = f"{300_000 + number},{3000 + number},10"
            made.append(
                await self.upstream(*(f"{name}={sizes}@{number}" for name in MODELS), **more)
            )
        return Registries(*made)

    def settings(self, upstream: Any, **flags: Any) -> Settings:
        """As in other tests, and lab has a port and a host of its own."""
        if not isinstance(upstream, Registries):
            return super().settings(upstream, **flags)
        alone = flags.pop("alone", False)
        found = super().settings(upstream.default, **flags)
        hf, lab = (
            RegistrySettings.named(name, RegistryUrl.parse(getattr(upstream, name).url))
            for name in ("hf", "lab")
        )
        port = (Bind.parse("127.0.0.1:0"),)
        lab = evolve(lab, bind=port, hosts=(*lab.hosts, "lab.cache.lan"))
        default = found.registries[0]
        return evolve(found, registries=(default,) if alone else (default, hf, lab))

    def ways(self, daemon: Daemon) -> Iterator[Way]:
        """Every way to name each registry."""
        ports = [port.getHost() for port in daemon.service.ports]
        main, lab = (f"http://{port.host}:{port.port}" for port in ports)  # type: ignore[attr-defined]
        yield Way("default", "nothing said", main, NAME)
        yield Way("hf", "prefix", main, f"hf--{NAME}")
        yield Way("lab", "prefix", main, f"lab--{NAME}")
        yield Way("hf", "host", main, NAME, {"Host": "hf.co"})
        yield Way("lab", "host", main, NAME, {"Host": "lab.cache.lan"})
        yield Way("lab", "port", lab, NAME)
        for registry, url in (("default", main), ("lab", lab)) * 2:
            yield Way(registry, "port alone, byte for byte one request", url, NAME, {"Host": "c"})
        yield Way("hf", "host on another's port", lab, NAME, {"Host": "huggingface.co"})
        yield Way("hf", "whole name", main, f"hf.co/{NAME}")

    async def assert_right(
        self, registries: Registries, daemon: Daemon, only: Optional[str] = None
    ) -> None:
        """Each way gives the manifest and all blobs of its registry."""
        for way in self.ways(daemon):
            if only not in (None, way.registry):
                continue
            model = registries.model(way.registry)
            at = f"{way.url}/v2/{way.path}"
            headers = {**OLLAMA, **way.headers}
            reply, body = await self.ask(f"{at}/manifests/latest", headers)
            self.assertEqual((reply.status, body), (200, model.manifest_bytes), way)
            for digest, size in model.blobs:
                reply, body = await self.ask(f"{at}/blobs/{digest}", headers)
                self.assertEqual((reply.status, body), (200, model.read(digest)), way)
                reply, _ = await self.ask(f"{at}/blobs/{digest}", headers, "HEAD")
                self.assertEqual(reply.headers.get("content-length"), str(size), way)

    async def assert_kept(self, registries: Registries, daemon: Daemon, **flags: Any) -> None:
        """Cold, warm, with all registries down, restarted, and offline."""
        await self.assert_right(registries, daemon)
        await daemon.idle()
        sent = {name: each.counters.sent for name, each in registries.each()}
        await self.assert_right(registries, daemon)
        self.assertEqual({n: each.counters.sent for n, each in registries.each()}, sent)
        for _, each in registries.each():
            await each.down()
        await self.assert_right(registries, daemon)
        for more in ({}, {"offline": "1"}):
            daemon = await self.again(daemon, registries, **flags, **more)
            await self.assert_right(registries, daemon)

    async def again(self, daemon: Daemon, registries: Any, **flags: Any) -> Daemon:
        return await self.restarted(daemon, registries, **flags)


class DirectoryTests(RegistriesCase):
    async def test_each_name_gives_its_registrys_bytes_cold_warm_down_and_offline(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        await self.assert_kept(registries, daemon)
        manifests = os.path.join(daemon.service._settings.storage, "manifests")
        hosts = registries.default.url[7:], "hf.co", registries.lab.url[7:]
        self.assertEqual(sorted(os.listdir(manifests)), sorted(hosts))
        for host, registry in zip(hosts, ("default", "hf", "lab")):
            with open(os.path.join(manifests, host, NAME, "latest"), "rb") as file:
                self.assertEqual(file.read(), registries.model(registry).manifest_bytes)

    async def test_clients_of_all_ages_pull_by_prefix_at_the_same_time(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        pulls = [
            self.begin(self.pull(daemon, f"{prefix}{NAME}:latest", generation))
            for prefix in ("", "hf--", "lab--")
            for generation in (SMALL16, SMALL64)
        ]
        pulled = await gatherResults(pulls, consumeErrors=True)
        for number, found in enumerate(pulled):
            registry = ("default", "hf", "lab")[number // 2]
            self.assert_whole(found, registries.model(registry))
        for registry, each in registries.each():
            self.assert_sent_once(each, registries.model(registry))

    async def test_a_store_of_the_default_registry_alone_needs_no_change(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(registries, alone=True)  # type: ignore[arg-type]
        await self.pull(daemon, MODELS[0])
        await daemon.idle()
        daemon = await self.restarted(daemon, registries)  # type: ignore[arg-type]
        await self.assert_right(registries, daemon)
        self.assert_sent_once(registries.default, registries.model("default"))

    async def test_a_registry_that_is_no_longer_mirrored_is_refused_and_kept(self) -> None:
        """Its blobs must not be swept with those that nothing stands on."""
        registries = await self.registries()
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        await self.assert_right(registries, daemon)
        await daemon.idle()
        daemon = await self.restarted(
            daemon,
            registries,
            alone=True,
            evict_grace="0",  # type: ignore[arg-type]
        )
        for headers in ({}, {"Host": "hf.co"}):
            reply, body = await self.ask(f"{daemon.url}/v2/hf--{NAME}/manifests/latest", headers)
            self.assertEqual(reply.status, 404, body)
        management = daemon.service.parts.management
        await management.index.look()
        await management.collector.collect()
        self.assertEqual((await management.totals()).unneeded, 0)
        daemon = await self.restarted(daemon, registries, offline="1")  # type: ignore[arg-type]
        await self.assert_right(registries, daemon)

    async def test_a_pull_that_was_cut_short_goes_on_at_the_same_registry(self) -> None:
        """By the name in the spool's sidecar."""
        registries = await self.registries(rate=20_000)
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        pulling = self.begin(self.pull(daemon, f"hf--{NAME}:latest"))
        pulling.addErrback(lambda _: None)
        large, *small = (digest for digest, _ in registries.model("hf").blobs)
        # A blob of which nothing came yet would not be fetched after the restart.
        await until(lambda: all(os.path.exists(stored_at(daemon, each)) for each in small))
        await until(lambda: (fill := daemon.fill(large)) and fill.coverage.plan.covered.total)
        pulling.cancel()
        await daemon.stop()
        registries.hf.settings.rate = None
        daemon = await self.restarted(daemon, registries)  # type: ignore[arg-type]
        await daemon.idle()
        model = registries.model("hf")
        self.assert_stored(daemon, model)
        self.assertEqual(registries.default.counters.sent, 0)
        self.assertLess(registries.hf.counters.sent, 1.5 * model.size)

    async def test_one_blob_that_two_registries_have_is_fetched_once(self) -> None:
        registries = await self.registries()
        for each in (registries.default, registries.hf):
            each.add_model("library/same:latest", (200_000, 10), seed=9)
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        await self.pull(daemon, "library/same:latest")
        await daemon.idle()
        pulled = await self.pull(daemon, "hf--library/same:latest")
        self.assert_whole(pulled, registries.model("hf", "library/same:latest"))
        self.assertEqual(registries.hf.counters.sent, 0)

    async def test_a_blob_is_asked_of_the_other_registry_that_names_it(self) -> None:
        """When the first one has its manifest but not the blob."""
        registries = await self.registries()
        for each in (registries.default, registries.hf):
            each.add_model("library/same:latest", (200_000, 10), seed=9)
        blob = registries.model("hf", "library/same:latest").layers[0][0]
        registries.default.faults.add(Fault("blob", "error", status=404, digest=blob))
        daemon = await self.daemon(registries, prefetch="none")  # type: ignore[arg-type]
        for name in ("library/same", "hf--library/same"):
            reply, _ = await self.ask(f"{daemon.url}/v2/{name}/manifests/latest", OLLAMA)
            self.assertEqual(reply.status, 200)
        pulled = await self.pull(daemon, "hf--library/same:latest")
        self.assert_whole(pulled, registries.model("hf", "library/same:latest"))

    async def test_a_registry_that_is_down_changes_nothing_for_the_others(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        await registries.hf.down()
        for tag in range(4):
            reply, body = await self.ask(f"{daemon.url}/v2/hf--{NAME}/manifests/{tag}", OLLAMA)
            self.assertEqual(reply.status, 502, body)
        for registry in ("default", "lab"):
            await self.assert_right(registries, daemon, registry)
        status = await self.status(daemon)
        self.assertTrue(status["upstream"]["reachable"])
        reachable = {each["registry"]: each["reachable"] for each in status["other_upstreams"]}
        self.assertEqual(reachable, {"hf.co": False, registries.lab.url[7:]: True})
        for each in status["other_upstreams"]:
            self.assertEqual(each.keys(), status["upstream"].keys())

    async def status(self, daemon: Daemon) -> Any:
        reply, body = await self.ask(f"{daemon.url}/status")
        self.assertEqual(reply.status, 200)
        return json.loads(body)

    async def test_a_registry_that_says_429_stops_no_other_and_no_stored_model(self) -> None:
        registries = await self.registries(huggingface=True)
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        await self.assert_right(registries, daemon, "hf")
        await daemon.idle()
        registries.hf.settings.per_ip = 0
        reply, body = await self.ask(f"{daemon.url}/v2/hf--{NAME}/manifests/other", OLLAMA)
        self.assertEqual(reply.status, 429)
        self.assertIn(b"rate limit your IP", body)
        await self.assert_right(registries, daemon)

    async def test_the_catalog_under_each_name_has_that_registrys_models(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        for name in ("library/m", "hf--her/m", "lab--library/m", "lab--her/m"):
            await self.ask(f"{daemon.url}/v2/{name}/manifests/latest", OLLAMA)
        await daemon.idle()
        for host, expected in (
            ("127.0.0.1", ["library/m"]),
            ("hf.co", ["her/m"]),
            ("lab.cache.lan", ["her/m", "library/m"]),
        ):
            found, path = [], "/v2/_catalog?n=1"
            while path:
                reply, body = await self.ask(f"{daemon.url}{path}", {"Host": host})
                found += json.loads(body)["repositories"]
                link = reply.headers.get("link", "")
                path = link.partition("<")[2].partition(">")[0]
            self.assertEqual(found, expected, host)

    async def test_tags_are_listed_under_the_name_that_was_asked_for(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        await self.ask(f"{daemon.url}/v2/hf--{NAME}/manifests/latest", OLLAMA)
        reply, body = await self.ask(f"{daemon.url}/v2/hf--{NAME}/tags/list")
        self.assertEqual(json.loads(body), {"name": f"hf--{NAME}", "tags": ["latest"]})
        reply, _ = await self.ask(f"{daemon.url}/v2/{NAME}/tags/list")
        self.assertEqual(reply.status, 404)

    async def test_names_of_96_characters_are_for_those_who_come_by_hf_cos_name(self) -> None:
        registries = await self.registries()
        long = "n" * 96
        model = registries.hf.add_model(f"her/{long}:latest", (1000,), seed=7)
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        at = f"{daemon.url}/v2/her/{long}/manifests/latest"
        reply, body = await self.ask(at, {**OLLAMA, "Host": "hf.co"})
        self.assertEqual((reply.status, body), (200, model.manifest_bytes))
        reply, body = await self.ask(at, OLLAMA)
        self.assertEqual(reply.status, 400)

    async def test_rules_of_one_registry_bind_no_other(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(
            registries,
            models_allow="hf.co/*/*,*/library/*",  # type: ignore[arg-type]
        )
        for name, status in (
            ("hf--her/m", 200),
            ("her/m", 403),
            ("library/m", 200),
            ("lab--her/m", 403),
        ):
            reply, body = await self.ask(f"{daemon.url}/v2/{name}/manifests/latest", OLLAMA)
            self.assertEqual(reply.status, status, (name, body))


class AgentTests(RegistriesCase):
    """hf.co sends Ollama and llama.cpp other manifests under one name."""

    async def test_each_kind_of_client_gets_the_bytes_meant_for_it(self) -> None:
        registries = await self.registries(bytes_by_agent=True, huggingface=True)
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        ours = registries.model("hf").manifest_bytes
        for again in (False, True):
            for agent, is_llama in (
                ("curl/8", False),
                ("llama-cpp", True),
                ("ollama/0.34.4 (amd64 linux) Go/go1.26.0", False),
                ("llama-cpp/b9000", True),
                ("skopeo/1", False),
            ):
                at = f"{daemon.url}/v2/hf--{NAME}/manifests/latest"
                reply, body = await self.ask(at, {"User-Agent": agent})
                self.assertEqual(reply.status, 200, agent)
                self.assertEqual(body == ours, not is_llama, (agent, again))
                self.assertEqual(b"ggufFile" in body, is_llama, (agent, again))
            # A manifest says so while a blob of its model cannot be had.
            await daemon.idle()
            await registries.hf.down()
            daemon = await self.restarted(daemon, registries)  # type: ignore[arg-type]

    async def test_so_it_is_where_hugging_face_is_the_default_registry(self) -> None:
        registries = await self.registries(bytes_by_agent=True, huggingface=True)
        settings = super().settings(registries.hf)
        default = evolve(settings.registries[0], host="hf.co", hosts=("hf.co",))
        made = Daemon(YukariService(reactor, evolve(settings, registries=(default,))))
        made.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        ours = registries.model("hf").manifest_bytes
        for headers in ({}, {"Host": "hf.co"}):
            for agent, is_llama in (("llama-cpp", True), ("ollama/0.34.4", False), ("curl", False)):
                at = f"{made.url}/v2/{NAME}/manifests/latest"
                reply, body = await self.ask(at, {"User-Agent": agent, **headers})
                self.assertEqual(reply.status, 200, agent)
                self.assertEqual((b"ggufFile" in body, body == ours), (is_llama, not is_llama))

    async def test_a_check_asks_as_the_kind_of_client_that_has_it(self) -> None:
        """Else each check after a restart would find "another version"."""
        registries = await self.registries(bytes_by_agent=True, huggingface=True)
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        at = f"/v2/hf--{NAME}/manifests/latest"
        bodies = {}
        for agent in ("llama-cpp", "ollama/0.34.4"):
            _, bodies[agent] = await self.ask(f"{daemon.url}{at}", {"User-Agent": agent})
        await daemon.idle()
        daemon = await self.restarted(
            daemon,
            registries,
            manifest_lifetime="0",
            revalidate_after="0",  # type: ignore[arg-type]
        )
        revalidator = daemon.library.revalidator
        assert revalidator is not None
        await revalidator.look()
        await daemon.idle()
        for agent, body in bodies.items():
            self.assertEqual(await self.body(f"{daemon.url}{at}", agent), body)

    async def body(self, url: str, agent: str) -> bytes:
        return (await self.ask(url, {"User-Agent": agent}))[1]

    async def test_refusals_are_in_hf_cos_words(self) -> None:
        registries = await self.registries(huggingface=True)
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        for name, status, words in (
            (f"hf--{NAME}/manifests/Q9", 400, "not a valid quantization scheme"),
            ("hf--her/none/manifests/Q4", 403, "Invalid username or password"),
        ):
            reply, body = await self.ask(f"{daemon.url}/v2/{name}", OLLAMA)
            self.assertEqual(reply.status, status, body)
            self.assertIn(words, body.decode())
            self.assertNotIn("UPSTREAM_KEY", body.decode())


class BucketTests(RegistriesCase, BucketCase):
    async def again(self, daemon: Daemon, registries: Any, **flags: Any) -> Daemon:
        disk = daemon.service._settings.spool_dir
        await daemon.stop()
        return await self.daemon(registries, spool_dir=disk, **flags)

    async def test_each_name_gives_its_registrys_bytes_cold_warm_down_and_offline(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        await self.assert_kept(registries, daemon)

    async def test_another_daemon_finds_them_by_their_registries(self) -> None:
        registries = await self.registries()
        daemon = await self.daemon(registries)  # type: ignore[arg-type]
        await self.assert_right(registries, daemon)
        await daemon.idle()
        await until(lambda: not store_of(daemon).facts()["uploads"])
        await daemon.stop()
        lab = registries.lab.url[7:]
        for root, hosts in (("v2", [""]), ("registries", ["hf.co/v2/", f"{lab}/v2/"])):
            page = await self.client.list_objects(f"{root}/")
            found = {row.key for row in page.objects if row.key.endswith("/latest")}
            self.assertEqual(found, {f"{root}/{host}{NAME}/manifests/latest" for host in hosts})
        for _, each in registries.each():
            await each.down()
        other = await self.daemon(registries)  # type: ignore[arg-type]
        await self.assert_right(registries, other)
        for host in ("127.0.0.1", "hf.co", "lab.cache.lan"):
            reply, body = await self.ask(f"{other.url}/v2/_catalog", {"Host": host})
            self.assertEqual(json.loads(body), {"repositories": [NAME]}, host)

    async def test_another_default_registry_over_the_same_bucket_is_said(self) -> None:
        first, second = await self.upstream(), await self.upstream()
        said: list[str] = []

        def observe(event: Any) -> None:
            said.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for upstream, count in ((first, 0), (first, 0), (second, 1)):
            daemon = await self.daemon(upstream)
            keeper: Any = daemon.service.parts.keeper
            await until(lambda keeper=keeper: keeper.compared)
            await daemon.stop()
            lines = [line for line in said if "has the models of" in line]
            self.assertEqual(len(lines), count)
        self.assertIn(first.url[7:], lines[0])
        self.assertIn(second.url[7:], lines[0])
        # Two hosts of one registry.
        daemon = await self.daemon(second)
        keeper = daemon.service.parts.keeper
        await until(lambda: keeper.compared)
        said.clear()
        found = await self.client.get_whole("yukari/registry.json")
        assert found is not None
        document = json.dumps({"registry": "registry.ollama.ai"}).encode()
        await keeper.store.inventory.save("registry.json", document, found[0].etag)
        for host, count in (("ollama.com", 0), ("Registry.ollama.ai", 0), ("hf.co", 1)):
            await evolve(keeper, registry=host)._compare_registry()
            lines = [line for line in said if "has the models of" in line]
            self.assertEqual(len(lines), count, host)


class VerbsTests(VerbsCase):
    """``yukari`` and Ollama's API name other registries' models as Ollama does."""

    async def test_models_of_several_registries_are_managed_by_their_names(self) -> None:
        default, hf = (
            await self.upstream(f"{MODELS[0]}=3000@1"),
            await self.upstream(f"{MODELS[0]}=4000@2", challenge="off"),
        )
        daemon = await self.yukari(default.url, f"--upstreams=hf={hf.url}")
        ours, theirs = MODELS[0], f"hf.co/{MODELS[0]}"
        for name in (ours, theirs):
            await self.run_verb(daemon, "pull", name)
        found = {name: row["digest"] for name, row in (await self.listed(daemon)).items()}
        digests = {ours: default.models[ours].digest[7:], theirs: hf.models[ours].digest[7:]}
        self.assertEqual(found, digests)
        # What ollama.com, huggingface.co and the prefix name are the same models.
        for name in ("huggingface.co/her/m", "hf--her/m", "HF.co/her/m"):
            self.assertIn(theirs, await self.run_verb(daemon, "pin", name))
        self.assertIn("quay.io", await self.run_verb(daemon, "pull", "quay.io/her/m", status=1))
        for beginning in ("hf.co/h", "hf--h", "HF--her/m"):
            self.assertIn(theirs, await self.run_verb(daemon, "ls", beginning))
        self.assertEqual(await self.run_verb(daemon, "outdated"), "")
        shown = json.loads(await self.run_verb(daemon, "show", "--json", theirs))
        self.assertEqual((shown["registry"], shown["pinned"]["by"]), ("hf.co", "admin"))

        archive = os.path.join(self.directory(), "models.tar")
        await self.run_verb(daemon, "export", ours, theirs, "-o", archive)
        other = await self.yukari(default.url, f"--upstreams=hf={hf.url}", "--offline")
        await self.run_verb(other, "import", archive)
        found = {name: row["digest"] for name, row in (await self.listed(other)).items()}
        self.assertEqual(found, digests)
        at = f"{other.url}/v2/hf--her/m/manifests/latest"
        reply, body = await self.ask(at, OLLAMA)
        self.assertEqual((reply.status, body), (200, hf.models[ours].manifest_bytes))
        # It became the default registry's model of the same name.
        alone = await self.yukari(default.url, "--upstreams=none", "--offline")
        self.assertIn("not hf.co", await self.run_verb(alone, "import", archive, status=1))
        self.assertEqual(set(await self.listed(alone)), set())

        await self.run_verb(daemon, "unpin", theirs)
        await self.run_verb(daemon, "rm", theirs)
        self.assertEqual(set(await self.listed(daemon)), {ours})
        self.assertNotIn("her/m", await self.run_verb(daemon, "ls", "hf.co"))
