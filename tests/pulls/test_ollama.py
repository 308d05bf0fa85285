"""
Stock Ollama pulls through the daemon: ``ollama serve`` and ``ollama pull`` as they are released.

``YUKARI_TEST_OLLAMA`` is the program's path, else the one on PATH is taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from hashlib import sha256

from attrs import define
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest

from tests import tinyproxy
from tests.authority import Authority, tls_front
from tests.emulator import Fault, Model
from tests.processes import Process, ProcessCase, YukariProcess, reactor
from tests.s3.servers import free_port

OLLAMA = os.environ.get("YUKARI_TEST_OLLAMA") or shutil.which("ollama") or ""
MODEL = "library/m:latest"
NOWHERE = "http://127.0.0.1:9/"


@define(eq=False)
class Ollama(Process):
    """``ollama serve`` with an empty home."""

    home: str
    trusted: str = "/dev/null"
    """The file with the certificates that it trusts."""

    @property
    def address(self) -> str:
        """Where it listens, "" as long as it does not."""
        found = re.search(rb"Listening on ([0-9.:]+)", self.err)
        return found[1].decode() if found else ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": self.home,
            "OLLAMA_HOST": self.address or "127.0.0.1:0",
            "PATH": os.environ["PATH"],
            "SSL_CERT_FILE": self.trusted,
        }

    def manifest(self, host: str, model: str) -> bytes:
        """The manifest's file of ``NAMESPACE/MODEL:TAG`` that came from ``host``."""
        path = os.path.join(self.models, "manifests", host, *re.split("[/:]", model))
        with open(path, "rb") as file:
            return file.read()

    def blob(self, digest: str) -> str:
        """The path of a blob's file."""
        return os.path.join(self.models, "blobs", digest.replace(":", "-"))

    def forget(self) -> None:
        """Throw away all it pulled."""
        shutil.rmtree(self.models)
        os.makedirs(os.path.join(self.models, "blobs"))

    @property
    def models(self) -> str:
        """Where it stores."""
        return os.path.join(self.home, ".ollama", "models")


class OllamaTests(ProcessCase):
    """A user's pull."""

    if not OLLAMA:
        skip = "no stock Ollama: none on PATH, and YUKARI_TEST_OLLAMA does not name one"

    async def ollama(self, home: str = "", trusted: str = "/dev/null") -> Ollama:
        """A new one, serving."""
        made = Ollama(home or self.directory(), trusted)
        self.spawn(OLLAMA, "serve", environment=made.environment, process=made)
        await made.until(lambda: made.address)
        return made

    def run_by(self, ollama: Ollama, *arguments: str) -> Process:
        """A command of Ollama's, under way."""
        return self.spawn(OLLAMA, *arguments, environment=ollama.environment)

    def begin_pull(self, ollama: Ollama, daemon: YukariProcess, model: str) -> Process:
        """``ollama pull``, under way."""
        return self.run_by(ollama, "pull", "--insecure", f"{daemon.host}/{model}")

    async def pull_by(self, ollama: Ollama, daemon: YukariProcess, model: str = MODEL) -> None:
        """A pull that goes through."""
        pulling = self.begin_pull(ollama, daemon, model)
        self.assertEqual(await pulling.ended, 0, pulling.text)

    async def refused(self, ollama: Ollama, daemon: YukariProcess, model: str = MODEL) -> str:
        """What the user reads of a pull that must fail."""
        pulling = self.begin_pull(ollama, daemon, model)
        self.assertEqual(await pulling.ended, 1, pulling.text)
        return pulling.text.strip().splitlines()[-1]

    def assert_pulled(self, ollama: Ollama, daemon: YukariProcess, model: Model) -> None:
        """Ollama has upstream's very bytes."""
        self.assertEqual(ollama.manifest(daemon.host, model.name), model.manifest_bytes)
        for digest, size in model.blobs:
            self.assertEqual(os.path.getsize(ollama.blob(digest)), size)
            with open(ollama.blob(digest), "rb") as file:
                self.assertEqual(f"sha256:{sha256(file.read()).hexdigest()}", digest)

    async def test_cold_then_warm_then_without_upstream(self) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB,300KB,11")
        model = upstream.models[MODEL]
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        await self.pull_by(ollama, daemon)
        self.assert_pulled(ollama, daemon, model)
        self.assert_sent_once(upstream, model)

        ollama.forget()
        await self.pull_by(ollama, daemon)
        self.assert_pulled(ollama, daemon, model)
        self.assert_sent_once(upstream, model)

        ollama.forget()
        await upstream.down()
        await self.pull_by(ollama, daemon)
        self.assert_pulled(ollama, daemon, model)

    async def test_a_blob_in_several_parts(self) -> None:
        upstream = await self.upstream(f"{MODEL}=210MB")
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        await self.pull_by(ollama, daemon)
        self.assert_pulled(ollama, daemon, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_bounded_rates_cost_no_second_try(self) -> None:
        upstream = await self.upstream(f"{MODEL}=120MB,300KB")
        rates = "--upstream-rate=50MB/s", "--client-rate=40MB/s"
        daemon, ollama = await self.yukari(upstream.url, *rates), await self.ollama()
        await self.pull_by(ollama, daemon)
        self.assert_pulled(ollama, daemon, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])
        for word in ("stalled", "retry"):
            self.assertNotIn(word, ollama.text)

    async def test_two_at_once_cost_upstream_one(self) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB,300KB", line=20e6)
        model = upstream.models[MODEL]
        daemon = await self.yukari(upstream.url)
        both = [await self.ollama() for _ in range(2)]
        await gatherResults([Deferred.fromCoroutine(self.pull_by(each, daemon)) for each in both])
        for each in both:
            self.assert_pulled(each, daemon, model)
        self.assert_sent_once(upstream, model)

    async def test_the_daemon_is_killed_in_the_middle(self) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB", line=10e6)
        model, storage = upstream.models[MODEL], self.directory()
        bind = f"127.0.0.1:{free_port()}"
        daemon = await self.yukari(upstream.url, bind=bind, storage=storage)
        ollama = await self.ollama()
        pulling = self.begin_pull(ollama, daemon, MODEL)
        await upstream.until(lambda: upstream.counters.sent > 0.4 * model.size)
        daemon.signal("KILL")
        self.assertEqual(await daemon.ended, -9)

        again = await self.yukari(upstream.url, bind=bind, storage=storage)
        self.assertEqual(await pulling.ended, 0, pulling.text)  # Ollama tries again by itself.
        self.assert_pulled(ollama, again, model)
        ollama.forget()
        await self.pull_by(ollama, again)
        self.assert_pulled(ollama, again, model)
        self.assertLessEqual(upstream.counters.sent / model.size, 1.10)

    async def test_a_model_that_is_nowhere(self) -> None:
        upstream = await self.upstream(MODEL + "=10")
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        said = await self.refused(ollama, daemon, "library/nosuch:latest")
        self.assertEqual(said, "Error: pull model manifest: file does not exist")

    async def test_who_forgets_insecure_is_told_at_once(self) -> None:
        daemon, ollama = await self.yukari(NOWHERE), await self.ollama()
        pulling = self.run_by(ollama, "pull", f"{daemon.host}/{MODEL}")
        self.assertEqual(await pulling.ended, 1)
        self.assertIn("server gave HTTP response to HTTPS client", pulling.text)

    async def test_what_a_person_must_know_is_printed(self) -> None:
        upstream = await self.upstream(MODEL + "=10")
        upstream.faults.add(Fault("manifest", "error", status=401))
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        self.assertIn("is private upstream", await self.refused(ollama, daemon))
        upstream.faults.clear()
        await upstream.down()
        self.assertIn("connection refused", await self.refused(ollama, daemon))
        for flag, said in (
            ("--allow=10.0.0.0/8", "127.0.0.1 may not pull here: it is not in ALLOW"),
            ("--models-deny=library/*", "refuses library/m: its MODELS_DENY has library/*"),
        ):
            daemon = await self.yukari(upstream.url, flag)
            self.assertIn(said, await self.refused(ollama, daemon))

    async def test_over_tls_nothing_is_insecure(self) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB,300KB")
        authority, pem = Authority(self.directory()), os.path.join(self.directory(), "pem")
        with open(pem, "wb") as file:
            file.write(authority.certificate("127.0.0.1"))
        bind = f"ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}"
        daemon = await self.yukari(upstream.url, bind=bind)
        ollama = await self.ollama(trusted=authority.path)
        pulling = self.run_by(ollama, "pull", f"{daemon.host}/{MODEL}")
        self.assertEqual(await pulling.ended, 0, pulling.text)
        self.assert_pulled(ollama, daemon, upstream.models[MODEL])

    async def test_a_cache_behind_a_proxy(self) -> None:
        if tinyproxy.MISSING:
            raise SkipTest(tinyproxy.MISSING)
        authority = Authority(self.directory())
        upstream = await self.upstream(f"{MODEL}=20MB,300KB")
        pem = authority.certificate("127.0.0.1", "127.0.0.2")
        store = tls_front(self, upstream.store_url, pem, host="127.0.0.2")
        upstream.settings.store_front = store
        proxy = await tinyproxy.start(self, "BasicAuth me secret")
        daemon = await self.yukari(
            tls_front(self, upstream.url, pem),
            f"--upstream-ca={authority.path}",
            HTTPS_PROXY=proxy.url("me:secret@"),
        )
        ollama = await self.ollama()
        await self.pull_by(ollama, daemon)
        self.assert_pulled(ollama, daemon, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])
        self.assertIn(f"CONNECT {store.removeprefix('https://')}", proxy.asked)

    async def test_what_an_ollama_has_fills_a_cache(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3MB,300KB")
        first, host = await self.ollama(), upstream.url.removeprefix("http://")
        pulling = self.run_by(first, "pull", "--insecure", f"{host}/{MODEL}")
        self.assertEqual(await pulling.ended, 0, pulling.text)
        await first.stop()
        await upstream.down()
        daemon, second = await self.yukari(upstream.url, storage=first.models), await self.ollama()
        await self.pull_by(second, daemon)
        self.assert_pulled(second, daemon, upstream.models[MODEL])

    async def test_a_cache_can_be_copied_into_an_ollama(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3MB,300KB")
        storage, home = self.directory(), self.directory()
        daemon = await self.yukari(upstream.url, storage=storage)
        await self.pull(daemon, MODEL)
        await self.idle(daemon)
        copied = os.path.join(home, ".ollama", "models")
        for name in ("blobs", "manifests"):
            shutil.copytree(os.path.join(storage, name), os.path.join(copied, name))
        ollama, host = await self.ollama(home), upstream.url.removeprefix("http://")
        listing = self.run_by(ollama, "list")
        self.assertEqual(await listing.ended, 0)
        self.assertIn(f"{host}/{MODEL}", listing.text)
        model = upstream.models[MODEL]
        self.assertEqual(ollama.manifest(host, MODEL), model.manifest_bytes)
        for digest, size in model.blobs:
            self.assertEqual(os.path.getsize(ollama.blob(digest)), size)

    async def idle(self, daemon: YukariProcess) -> None:
        """Returns when nothing is on its way any more."""
        while json.loads((await self.ask(f"{daemon.url}/fills"))[1])["fills"]:
            await deferLater(reactor, 0.02, lambda: None)
