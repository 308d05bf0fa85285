"""The store is managed by stock Ollama, by PyPI's ``ollama``, and by ``yukari`` itself."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Optional

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from tests.library.models.test_gguf import LLAMA, gguf
from tests.ollama import OLLAMA, OllamaCase
from tests.processes import Process, ProcessCase, YukariProcess, bare_environment
from tests.running import until_sent

M, N = "library/m:latest", "user/n:7b"
CLI = "from yukari.cli.main import main; main()"


class VerbsCase(ProcessCase):
    """Runs ``yukari VERB`` against a daemon."""

    def verb(
        self, daemon: YukariProcess, *arguments: str, environment: Optional[dict[str, str]] = None
    ) -> Process:
        """A verb, under way."""
        given = environment or bare_environment(YUKARI_CACHE=daemon.url)
        return self.spawn(sys.executable, "-c", CLI, *arguments, environment=given)

    async def run_verb(self, daemon: YukariProcess, *arguments: str, status: int = 0) -> str:
        """What a verb prints, which ends with this status and without a traceback."""
        ran = self.verb(daemon, *arguments)
        self.assertEqual(await ran.ended, status, ran.text)
        self.assertNotIn("Traceback", ran.text)
        return ran.text

    async def listed(self, daemon: YukariProcess) -> dict[str, dict[str, Any]]:
        lines = (await self.run_verb(daemon, "ls", "--json")).splitlines()
        return {row["name"]: row for row in map(json.loads, lines)}

    async def models(self, daemon: YukariProcess) -> int:
        """How many /status counts."""
        _, body = await self.ask(f"{daemon.url}/status")
        return int(json.loads(body)["store"]["models"])


class StockOllamaTests(OllamaCase):
    async def stock(self, daemon: YukariProcess, *arguments: str, status: int = 0) -> str:
        """What a command of stock Ollama prints that talks to the cache as to its server."""
        environment = {
            "OLLAMA_HOST": daemon.host,
            "HOME": self.directory(),
            "PATH": os.environ["PATH"],
        }
        ran = self.spawn(OLLAMA, *arguments, environment=environment)
        self.assertEqual(await ran.ended, status, ran.text)
        return ran.text

    async def test_stock_ollama_pulls_lists_shows_copies_and_removes(self) -> None:
        upstream = await self.upstream(f"{M}=3MB,300KB,11", f"{N}=2MB")
        daemon = await self.yukari(upstream.url)
        self.assertIn("success", await self.stock(daemon, "pull", "m"))
        self.assertIn("success", await self.stock(daemon, "pull", "user/n:7b"))
        self.assert_sent_once(upstream, upstream.models[M], upstream.models[N])
        listed = await self.stock(daemon, "ls")
        self.assertIn("m:latest", listed)
        self.assertIn(upstream.models[N].digest.removeprefix("sha256:")[:12], listed)
        self.assertIn("quantization", await self.stock(daemon, "show", "M"))
        self.assertIn("copied", await self.stock(daemon, "cp", "m", "m:prod"))
        self.assertIn("deleted", await self.stock(daemon, "rm", "user/n:7b"))
        listed = await self.stock(daemon, "ls")
        self.assertIn("m:prod", listed)
        self.assertNotIn("user/n", listed)
        self.assertIn("NAME", await self.stock(daemon, "ps"))
        self.assertIn("not found", await self.stock(daemon, "rm", "nope", status=1))
        # What was copied is pulled like any other, without upstream.
        await upstream.down()
        ollama = await self.ollama()
        await self.pull_by(ollama, daemon.host, "library/m:prod")

    async def test_models_cross_an_air_gap(self) -> None:
        upstream = await self.upstream(f"{M}=3MB,300KB,11", f"{N}=2MB")
        near = await self.yukari(upstream.url)
        archive = os.path.join(self.directory(), "models.tar")
        environment = bare_environment(YUKARI_CACHE=near.url)
        for arguments in (("pull", "m", "user/n:7b"), ("export", "m", "user/n:7b", "-o", archive)):
            ran = self.spawn(sys.executable, "-c", CLI, *arguments, environment=environment)
            self.assertEqual(await ran.ended, 0, ran.text)
        await upstream.down()
        far = await self.yukari(upstream.url, "--offline")
        environment = bare_environment(YUKARI_CACHE=far.url)
        for said in ("5.3 MB stored", "0 B stored"):
            ran = self.spawn(sys.executable, "-c", CLI, "import", archive, environment=environment)
            self.assertEqual(await ran.ended, 0, ran.text)
            self.assertIn(said, ran.text)
        ollama = await self.ollama()
        for name in (M, N):
            await self.pull_by(ollama, far.host, name)
            self.assert_pulled(ollama, far.host, upstream.models[name])


class PythonClientTests(ProcessCase):
    async def test_client_library_manages_the_cache(self) -> None:
        try:
            import ollama
        except ImportError:
            raise SkipTest("PyPI's ollama is not installed") from None
        upstream = await self.upstream(f"{M}=3MB,300KB,11")
        weights = gguf(LLAMA, [("token_embd", (100, 4))])
        upstream.add_model_of("library/g:latest", [weights], b'{"model_format":"gguf"}')
        daemon = await self.yukari(upstream.url)

        def use() -> None:
            client = ollama.Client(daemon.url, trust_env=False)
            progress = list(client.pull("m", stream=True))
            self.assertEqual(progress[0].status, "pulling manifest")
            self.assertEqual(progress[-1].status, "success")
            (model,) = client.list().models
            self.assertEqual(model.model, "m:latest")
            self.assertEqual(model.digest, upstream.models[M].digest.removeprefix("sha256:"))
            self.assertEqual(client.show("m").details.format, "gguf")
            client.pull("g")
            shown = client.show("g")
            info = shown.modelinfo or {}
            self.assertEqual(info["general.architecture"], "llama")
            self.assertEqual(info["llama.context_length"], 131072)
            self.assertEqual(info["general.parameter_count"], 400)
            assert shown.details is not None
            self.assertEqual(shown.details.quantization_level, "Q4_K_M")
            client.delete("g")
            client.copy("m", "mine")
            client.delete("m:latest")
            self.assertEqual([each.model for each in client.list().models], ["mine:latest"])
            self.assertEqual(client.ps().models, [])
            for refused in (
                lambda: client.pull("nope"),
                lambda: client.generate("m", "hello"),
                lambda: client.show("m"),
                lambda: client.pull("a/b/c/d"),
            ):
                self.assertRaises(ollama.ResponseError, refused)

        await deferToThread(use)


class VerbsTests(VerbsCase):
    async def test_verbs_show_and_change_what_is_stored(self) -> None:
        upstream = await self.upstream(f"{M}=3MB,300KB,11", f"{N}=2MB")
        daemon = await self.yukari(upstream.url)
        await self.run_verb(daemon, "pull", "m", "user/n:7b")
        self.assertIn("3.3 MB", await self.run_verb(daemon, "ls"))
        await self.run_verb(daemon, "pin", "m", "--by", "ana")
        rows = await self.listed(daemon)
        self.assertEqual(rows["m:latest"]["pinned"], "ana")
        self.assertIsNone(rows["user/n:7b"]["pinned"])
        self.assertIn("by ana", await self.run_verb(daemon, "show", "Library/M:LATEST"))
        await self.run_verb(daemon, "unpin", "M")
        self.assertIn("a tag", await self.run_verb(daemon, "pin", f"m@sha256:{'0' * 64}", status=1))
        self.assertIn("not found", await self.run_verb(daemon, "unpin", "nope", status=1))
        self.assertIn("5.3 MB", await self.run_verb(daemon, "du"))
        self.assertIn("stays", await self.run_verb(daemon, "evict", "--dry-run"))
        self.assertIn("0 blobs", await self.run_verb(daemon, "gc"))
        self.assertEqual(json.loads(await self.run_verb(daemon, "gc", "--json"))["blobs"], 0)
        plan = json.loads(await self.run_verb(daemon, "evict", "--dry-run", "--json"))
        self.assertEqual({each["name"] for each in plan["stays"]}, {"m:latest", "user/n:7b"})
        self.assertIn("ready", await self.run_verb(daemon, "status"))
        self.assertEqual(await self.models(daemon), 2)
        await self.run_verb(daemon, "rm", "user/n:7b")
        self.assertEqual(await self.models(daemon), 1)
        self.assertEqual(set(await self.listed(daemon)), {"m:latest"})
        self.assertIn("3.3 MB", await self.run_verb(daemon, "du"))

    async def test_newer_versions_are_listed_and_fetched(self) -> None:
        upstream = await self.upstream(f"{M}=3MB,300KB", f"{N}=2MB", "library/o:latest=5000")
        daemon = await self.yukari(upstream.url)
        await self.run_verb(daemon, "pull", "m", "user/n:7b", "o")
        self.assertEqual(await self.run_verb(daemon, "outdated"), "")
        upstream.add_model(M, (3_100_000, 300_000), seed=7)
        upstream.delete_model(N)
        said = await self.run_verb(daemon, "outdated", status=1)
        self.assertIn("m:latest: newer upstream", said)
        self.assertIn("user/n:7b: gone upstream", said)
        self.assertNotIn("o:latest", said)
        self.assertIn("+ ", await self.run_verb(daemon, "diff", "m", status=1))
        self.assertIn("up to date", await self.run_verb(daemon, "update", "o"))
        await self.run_verb(daemon, "update", "m")
        self.assertEqual(await self.run_verb(daemon, "diff", "m"), "")
        self.assertIn("superseded", await self.run_verb(daemon, "show", "m"))
        self.assertIn("keeps what it has", await self.run_verb(daemon, "pull", "user/n:7b"))
        await upstream.down()
        self.assertIn("not checked", await self.run_verb(daemon, "outdated", status=2))

    async def test_file_of_models_warms_the_cache(self) -> None:
        upstream = await self.upstream(f"{M}=3MB,300KB,11", f"{N}=2MB")
        daemon = await self.yukari(upstream.url)
        path = os.path.join(self.directory(), "models.txt")
        # As Windows begins a file, and with a byte that is no character.
        with open(path, "wb") as file:
            file.write(b"\xef\xbb\xbfm   # ours\r\n\n# theirs:\nuser/n:7b\nnope\xff\nm\n")
        said = await self.run_verb(daemon, "warm", path, status=1)
        self.assertIn("1 of 3 models could not be had", said)
        self.assertEqual(set(await self.listed(daemon)), {"m:latest", "user/n:7b"})

    async def test_interrupted_pull_goes_on_in_the_cache(self) -> None:
        upstream = await self.upstream(f"{M}=3MB", line=100_000)
        daemon = await self.yukari(upstream.url)
        pulling = self.verb(daemon, "pull", "m")
        await until_sent(upstream, 10_000)
        pulling.signal("INT")
        self.assertEqual(await pulling.ended, 130, pulling.text)
        upstream.settings.line = None
        self.assertNotIn("Traceback", pulling.text)
        await upstream.until(lambda: upstream.counters.sent == upstream.models[M].size)

    async def test_wrong_use_ends_with_one_line(self) -> None:
        upstream = await self.upstream(f"{M}=3MB")
        daemon = await self.yukari(upstream.url)
        nowhere = bare_environment(YUKARI_CACHE="http://127.0.0.1:9")
        for arguments, status, environment in (
            (("ls",), 1, nowhere),
            (("ls", "--cache", "gopher://x"), 1, None),
            (("outdated",), 2, nowhere),
            (("rm", "nope"), 1, None),
            (("rm", "a/b/c/d"), 1, None),
            (("pull", "nope"), 1, None),
            (("evict",), 2, None),
            (("evict", "--dry-run", "much"), 2, None),
            (("import", "/nonexistent"), 1, None),
            (("import", os.devnull), 1, None),
            (("export", "nope", "-o", os.devnull), 1, None),
        ):
            ran = self.verb(daemon, *arguments, environment=environment)
            self.assertEqual(await ran.ended, status, (arguments, ran.text))
            self.assertEqual(len(ran.text.splitlines()), 1, ran.text)

    async def test_models_are_imported_without_a_daemon_and_linked_where_they_can_be(self) -> None:
        upstream = await self.upstream(f"{M}=3MB,300KB,11", f"{N}=2MB")
        storage, target = self.directory(), self.directory()
        near = await self.yukari(upstream.url, storage=storage)
        await self.run_verb(near, "pull", "m", "user/n:7b")
        archive = os.path.join(self.directory(), "models.tar")
        await self.run_verb(near, "export", "user/n:7b", "-o", archive)
        into = "--storage", target
        environment = bare_environment(UPSTREAM_REGISTRY=upstream.url, MIN_FREE="0")
        for source, said in (
            (archive, "2.0 MB stored"),
            (storage, "3.3 MB stored"),
            (storage, "0 B"),
        ):
            ran = self.verb(near, "import", source, *into, environment=environment)
            self.assertEqual(await ran.ended, 0, ran.text)
            self.assertIn(said, ran.text)
        layer = upstream.models[M].layers[0][0].replace(":", "-")
        self.assertTrue(
            os.path.samefile(*(os.path.join(each, "blobs", layer) for each in (storage, target)))
        )
        far = await self.yukari(upstream.url, "--offline", storage=target)
        for name in (M, N):
            pulled = await self.pull(far, name)  # type: ignore[arg-type]
            self.assert_whole(pulled, upstream.models[name])
        # What a daemon has open is its own.
        ran = self.verb(near, "import", archive, *into, environment=environment)
        self.assertEqual(await ran.ended, 1, ran.text)
        self.assertEqual(len(ran.text.splitlines()), 1, ran.text)

    async def test_ollamas_directory_is_imported_and_skipped_where_it_is_stored(self) -> None:
        upstream = await self.upstream(f"{M}=3MB,300KB,11", f"{N}=2MB")
        storage = self.directory()
        near = await self.yukari(upstream.url, storage=storage)
        await self.run_verb(near, "pull", "m", "user/n:7b")
        far = await self.yukari(upstream.url, "--offline")
        self.assertIn("5.3 MB stored", await self.run_verb(far, "import", storage))
        self.assertIn("0 B stored", await self.run_verb(far, "import", storage))
        # It was said that the models are not there.
        self.assertEqual(
            (await self.run_verb(far, "outdated", status=2)).splitlines(),
            [f"{name}: not checked: this cache is offline" for name in ("m:latest", "user/n:7b")],
        )
        for name in (M, N):
            pulled = await self.pull(far, name)  # type: ignore[arg-type]
            self.assert_whole(pulled, upstream.models[name])
