"""Stock Ollama pulls through the daemon: ``ollama serve`` and ``ollama pull`` as released."""

from __future__ import annotations

import os
import shutil

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SkipTest

from tests import tinyproxy
from tests.authority import Authority, tls_front
from tests.emulator import Fault
from tests.ollama import MODEL, OllamaCase
from tests.pulls.test_restarts import kept
from tests.running import until, until_sent
from tests.s3.servers import free_port
from yukari.config.keys import SigningKey

NOWHERE = "http://127.0.0.1:9/"


class OllamaTests(OllamaCase):
    """A user's pull."""

    async def test_cold_then_warm_then_without_upstream(self) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB,300KB,11")
        model = upstream.models[MODEL]
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        await self.pull_by(ollama, daemon.host)
        self.assert_pulled(ollama, daemon.host, model)
        self.assert_sent_once(upstream, model)

        ollama.forget()
        await self.pull_by(ollama, daemon.host)
        self.assert_pulled(ollama, daemon.host, model)
        self.assert_sent_once(upstream, model)

        ollama.forget()
        await upstream.down()
        await self.pull_by(ollama, daemon.host)
        self.assert_pulled(ollama, daemon.host, model)

    async def test_a_blob_in_several_parts(self) -> None:
        upstream = await self.upstream(f"{MODEL}=210MB")
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        await self.pull_by(ollama, daemon.host)
        self.assert_pulled(ollama, daemon.host, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_bounded_rates_cost_no_second_try(self) -> None:
        upstream = await self.upstream(f"{MODEL}=120MB,300KB")
        rates = "--upstream-rate=50MB/s", "--client-rate=40MB/s"
        daemon, ollama = await self.yukari(upstream.url, *rates), await self.ollama()
        await self.pull_by(ollama, daemon.host)
        self.assert_pulled(ollama, daemon.host, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])
        for word in ("stalled", "retry"):
            self.assertNotIn(word, ollama.text)

    async def test_two_at_once_cost_upstream_one(self) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB,300KB", line=20e6)
        model = upstream.models[MODEL]
        daemon = await self.yukari(upstream.url)
        both = [await self.ollama() for _ in range(2)]
        await gatherResults(
            [Deferred.fromCoroutine(self.pull_by(each, daemon.host)) for each in both]
        )
        for each in both:
            self.assert_pulled(each, daemon.host, model)
        self.assert_sent_once(upstream, model)

    async def test_the_daemon_is_killed_in_the_middle(self) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB", line=10e6)
        model, storage = upstream.models[MODEL], self.directory()
        bind = f"127.0.0.1:{free_port()}"
        daemon = await self.yukari(upstream.url, bind=bind, storage=storage)
        ollama = await self.ollama()
        pulling = self.begin_pull(ollama, daemon.host, MODEL)
        await until_sent(upstream, 0.4 * model.size)
        upstream.settings.line = 500_000
        # What is still in sockets will be lost: on a busy machine, much.
        await until(lambda: upstream.counters.sent - kept(storage) <= 0.05 * model.size)
        daemon.signal("KILL")
        self.assertEqual(await daemon.ended, -9)

        upstream.settings.line = 10e6
        again = await self.yukari(upstream.url, bind=bind, storage=storage)
        self.assertEqual(await pulling.ended, 0, pulling.text)  # Ollama tries again by itself.
        self.assert_pulled(ollama, again.host, model)
        ollama.forget()
        await self.pull_by(ollama, again.host)
        self.assert_pulled(ollama, again.host, model)
        self.assertLessEqual(upstream.counters.sent / model.size, 1.10)

    async def test_a_model_that_is_nowhere(self) -> None:
        upstream = await self.upstream(MODEL + "=10")
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        said = await self.refused(ollama, daemon.host, "library/nosuch:latest")
        self.assertEqual(said, "Error: pull model manifest: file does not exist")

    async def test_a_registry_that_challenges_everything(self) -> None:
        upstream = await self.upstream(
            f"{MODEL}=20MB,300KB", challenge="everyone", challenge_blobs=True
        )
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        await self.pull_by(ollama, daemon.host)
        self.assert_pulled(ollama, daemon.host, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])
        # The client was not challenged: only the cache has signed.
        self.assertEqual(sum(upstream.counters.signatures.values()), 1)

    async def test_a_private_model_is_refused_or_given_to_everyone(self) -> None:
        key, text = SigningKey.make()
        path = os.path.join(self.directory(), "key")
        with open(path, "wb") as file:
            file.write(text)
        upstream = await self.upstream(f"{MODEL}=300KB", private={"library/m": [key.public]})
        ollama = await self.ollama()
        daemon = await self.yukari(upstream.url)
        said = await self.refused(ollama, daemon.host)
        self.assertIn("does not exist or is private upstream", said)
        self.assertIn("UPSTREAM_KEY", said)
        daemon = await self.yukari(upstream.url, f"--upstream-key={path}")
        self.assertIn("PRIVATE_MODELS=everyone", await self.refused(ollama, daemon.host))
        daemon = await self.yukari(
            upstream.url, f"--upstream-key={path}", "--private-models=everyone"
        )
        await self.pull_by(ollama, daemon.host)
        self.assert_pulled(ollama, daemon.host, upstream.models[MODEL])

    async def test_a_pull_without_insecure_fails_at_once_and_says_why(self) -> None:
        daemon, ollama = await self.yukari(NOWHERE), await self.ollama()
        pulling = self.run_by(ollama, "pull", f"{daemon.host}/{MODEL}")
        self.assertEqual(await pulling.ended, 1)
        self.assertIn("server gave HTTP response to HTTPS client", pulling.text)

    async def test_what_a_person_must_know_is_printed(self) -> None:
        upstream = await self.upstream(MODEL + "=10")
        daemon, ollama = await self.yukari(upstream.url), await self.ollama()
        await upstream.down()
        self.assertIn("connection refused", await self.refused(ollama, daemon.host))
        upstream.up()
        upstream.faults.add(Fault("manifest", "error", status=401))
        self.assertIn("is private upstream", await self.refused(ollama, daemon.host))
        for flag, said in (
            ("--allow=10.0.0.0/8", "127.0.0.1 may not pull here: it is not in ALLOW"),
            ("--models-deny=library/*", "refuses library/m: its MODELS_DENY has library/*"),
        ):
            daemon = await self.yukari(upstream.url, flag)
            self.assertIn(said, await self.refused(ollama, daemon.host))

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
        self.assert_pulled(ollama, daemon.host, upstream.models[MODEL])

    async def test_a_cache_behind_a_proxy(self) -> None:
        if tinyproxy.MISSING:
            raise SkipTest(tinyproxy.MISSING)
        authority = Authority(self.directory())
        upstream = await self.upstream(f"{MODEL}=20MB,300KB")
        pem = authority.certificate("127.0.0.1", "127.0.0.2")
        store = tls_front(self, upstream.store_url, pem, host="127.0.0.2")
        upstream.settings.store_front, upstream.settings.tls = store, True
        proxy = await tinyproxy.start(self, "BasicAuth me secret")
        daemon = await self.yukari(
            tls_front(self, upstream.url, pem),
            f"--upstream-ca={authority.path}",
            HTTPS_PROXY=proxy.url("me:secret@"),
        )
        ollama = await self.ollama()
        await self.pull_by(ollama, daemon.host)
        self.assert_pulled(ollama, daemon.host, upstream.models[MODEL])
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
        await self.pull_by(second, daemon.host)
        self.assert_pulled(second, daemon.host, upstream.models[MODEL])

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
