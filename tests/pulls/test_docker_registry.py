"""
Other people's programs on both sides: Debian's ``docker-registry`` upstream, ``skopeo`` and
``crane`` below (``YUKARI_TEST_CRANE`` is its path, else the one on PATH is taken).

``docker-registry`` sends blobs itself where Ollama's registry redirects to a store.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from hashlib import sha256
from typing import Any

from attrs import define
from twisted.internet import reactor as _reactor
from twisted.internet.defer import maybeDeferred
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.web.server import Site

from tests.clients import pull as pull_model
from tests.emulator import MANIFEST, Model, generated
from tests.processes import Process, ProcessCase
from tests.pulls.token_realm import SERVICE, TokenRealm
from tests.running import MODEL, SMALL16

reactor: Any = _reactor

REGISTRY = shutil.which("docker-registry") or ""
SKOPEO = shutil.which("skopeo") or ""
CRANE = os.environ.get("YUKARI_TEST_CRANE") or shutil.which("crane") or ""

CONFIGURATION = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {directory}/stored}}}}
http: {{addr: "127.0.0.1:0"}}
"""

TOKENS = """
auth:
  token:
    realm: http://127.0.0.1:{port}/token
    service: {name}
    issuer: {name}
    rootcertbundle: {directory}/root.pem
"""


@define(eq=False)
class DockerRegistry(Process):
    """``docker-registry serve``."""

    @property
    def port(self) -> int:
        """The port that it listens on, 0 while it does not."""
        found = re.search(rb"listening on 127\.0\.0\.1:([0-9]+)", self.out + self.err)
        return int(found[1]) if found else 0


class CountingClient(ProxyClient):
    """Counts what comes from the registry."""

    def dataReceived(self, data: bytes) -> None:
        self.peer.factory.received += len(data)
        super().dataReceived(data)


class CountingClientFactory(ProxyClientFactory):
    noisy = False
    protocol = CountingClient


class CountingServer(ProxyServer):
    clientProtocolFactory = CountingClientFactory


class CountingProxy(ProxyFactory):
    """Passes everything on; ``received`` is in bytes, heads of replies among them."""

    noisy = False
    protocol = CountingServer
    received = 0


class DockerRegistryCase(ProcessCase):
    """Tests with an upstream that redirects nothing."""

    if not REGISTRY:
        skip = "no docker-registry on PATH"

    async def registry(self, directory: str = "", more: str = "") -> DockerRegistry:
        """One with what is stored in a directory, or a new one; ``more`` of configuration."""
        directory = directory or self.directory()
        with open(f"{directory}/config.yml", "w") as file:
            file.write(CONFIGURATION.format(directory=directory) + more)
        made = DockerRegistry()
        self.spawn(REGISTRY, "serve", f"{directory}/config.yml", process=made)
        await made.until(lambda: made.port)
        return made

    def counting(self, registry: DockerRegistry) -> tuple[CountingProxy, str]:
        """A way to it that counts, and its URL."""
        proxy = CountingProxy("127.0.0.1", registry.port)
        port = reactor.listenTCP(0, proxy, interface="127.0.0.1")
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        return proxy, f"http://127.0.0.1:{port.getHost().port}"

    async def push(self, registry: DockerRegistry, *bodies: bytes) -> bytes:
        """Make `MODEL` of these layers; its manifest."""
        base = f"http://127.0.0.1:{registry.port}/v2/library/m"
        described = []
        for body in (*bodies, b"{}"):
            digest = f"sha256:{sha256(body).hexdigest()}"
            begun, _ = await self.ask(f"{base}/blobs/uploads/", method="POST")
            place = f"{begun.headers['location']}&digest={digest}"
            await self.put(place, "application/octet-stream", body)
            described.append({"mediaType": "a/b", "digest": digest, "size": len(body)})
        *layers, config = described
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers},
            indent=3,
        ).encode()
        await self.put(f"{base}/manifests/latest", MANIFEST, manifest)
        return manifest

    async def put(self, url: str, media_type: str, body: bytes) -> None:
        reply = await self.http().open("PUT", url, {"Content-Type": media_type}, body)
        self.assertEqual(reply.status, 201, await reply.body())


class DockerRegistryTests(DockerRegistryCase):
    async def test_one_that_wants_a_token_of_everybody(self) -> None:
        directory, realm = self.directory(), TokenRealm()
        layers = [b"".join(generated(size, seed)) for seed, size in enumerate((600_000, 7000))]
        manifest = await self.push(await self.registry(directory), *layers)
        with open(f"{directory}/root.pem", "wb") as file:
            file.write(realm.certificate)
        port = reactor.listenTCP(0, Site(realm), interface="127.0.0.1")
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        registry = await self.registry(
            directory,
            TOKENS.format(directory=directory, port=port.getHost().port, name=SERVICE),
        )
        daemon = await self.yukari(f"http://127.0.0.1:{registry.port}")
        pulled = await pull_model(reactor, daemon.url, MODEL, SMALL16, directory=os.getcwd())
        self.assertEqual(pulled.manifest, manifest)
        self.assertTrue(pulled.ok)
        self.assertEqual(realm.asked, ["repository:library/m:pull"])

    async def test_cold_then_warm_then_without_it(self) -> None:
        registry = await self.registry()
        layers = [b"".join(generated(size, seed)) for seed, size in enumerate((6_000_000, 70_000))]
        manifest = await self.push(registry, *layers)
        proxy, url = self.counting(registry)
        daemon = await self.yukari(url)
        size = sum(map(len, layers))

        async def pull() -> None:
            pulled = await pull_model(reactor, daemon.url, MODEL, SMALL16, directory=os.getcwd())
            self.assertEqual(pulled.manifest, manifest)
            self.assertEqual(pulled.bytes, size + len(b"{}"))
            self.assertTrue(pulled.ok)

        await pull()
        cold = proxy.received
        self.assertGreater(cold, size)
        self.assertLess(cold, 1.01 * size)
        await pull()
        self.assertEqual(proxy.received, cold)
        await registry.stop()
        await pull()


class SkopeoTests(ProcessCase):
    """A client that knows nothing of Ollama."""

    if not SKOPEO:
        skip = "no skopeo on PATH"

    async def skopeo(self, command: str, *arguments: str) -> bytes:
        """What it writes to stdout."""
        asking = self.spawn(SKOPEO, "--insecure-policy", command, "--tls-verify=false", *arguments)
        self.assertEqual(await asking.ended, 0, asking.text)
        return asking.out

    async def test_it_reads_manifests_and_tags(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000", "library/m:7b-q4_K_M=10")
        daemon = await self.yukari(upstream.url)
        name = f"docker://{daemon.host}/library/m"
        expected = upstream.models[MODEL].manifest_bytes
        self.assertEqual(await self.skopeo("inspect", "--raw", f"{name}:latest"), expected)
        digest = upstream.models[MODEL].digest
        self.assertEqual(await self.skopeo("inspect", "--raw", f"{name}@{digest}"), expected)
        await self.skopeo("inspect", "--raw", f"{name}:7b-q4_K_M")
        listed = json.loads(await self.skopeo("list-tags", name))
        self.assertEqual(listed["Tags"], ["7b-q4_K_M", "latest"])


class CraneTests(ProcessCase):
    """Another one, whose requests are of another kind: blobs, and whole images."""

    if not CRANE:
        skip = "no crane: none on PATH, and YUKARI_TEST_CRANE does not name one"

    async def crane(self, *arguments: str) -> bytes:
        """What it writes to stdout."""
        asking = self.spawn(CRANE, *arguments)
        self.assertEqual(await asking.ended, 0, asking.text)
        return asking.out

    async def stored(self) -> tuple[Model, str]:
        """A stored model, whose upstream is gone, and its name for crane without the tag."""
        upstream = await self.upstream(f"{MODEL}=300KB,3000", "library/m:7b=10", "a/b:c=10")
        daemon = await self.yukari(upstream.url)
        for name in upstream.models:
            await pull_model(reactor, daemon.url, name, SMALL16, directory=os.getcwd())
        await upstream.down()
        return upstream.models[MODEL], f"{daemon.host}/library/m"

    async def test_it_reads_manifests_and_blobs(self) -> None:
        model, name = await self.stored()
        for reference in (f"{name}:latest", f"{name}@{model.digest}"):
            self.assertEqual(await self.crane("manifest", reference), model.manifest_bytes)
            self.assertEqual((await self.crane("digest", reference)).decode().strip(), model.digest)
        for digest, size in model.blobs:
            blob = await self.crane("blob", f"{name}@{digest}")
            self.assertEqual((len(blob), f"sha256:{sha256(blob).hexdigest()}"), (size, digest))

    async def test_it_pulls_images(self) -> None:
        model, name = await self.stored()
        wanted = {digest.partition(":")[2] for digest, _ in model.blobs}
        for number, reference in enumerate((f"{name}:latest", f"{name}@{model.digest}")):
            place = os.path.join(self.directory(), "pulled")
            await self.crane("pull", "--format=oci", reference, place)
            for digest in (*wanted, model.digest.partition(":")[2]):
                with open(f"{place}/blobs/sha256/{digest}", "rb") as file:
                    self.assertEqual(sha256(file.read()).hexdigest(), digest)
            await self.crane("pull", reference, f"{place}.tar")
            with tarfile.open(f"{place}.tar") as tar:
                names = {re.sub(r"^sha256:|\.tar\.gz$", "", each) for each in tar.getnames()}
            self.assertEqual(names, wanted | {"manifest.json"}, number)

    async def test_it_lists_what_is_stored(self) -> None:
        _, name = await self.stored()
        self.assertEqual((await self.crane("ls", name)).split(), [b"7b", b"latest"])
        host = name.partition("/")[0]
        self.assertEqual((await self.crane("catalog", host)).split(), [b"a/b", b"library/m"])
