"""The emulated registry answers as Ollama's does, and goes wrong as told."""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.clients import Cut, Stalled, pull
from tests.emulator import Fault, ModelSpec, generated, parse_size
from tests.emulator.cases import MODEL, SMALL16, EmulatorCase, reactor


class ContentTests(SynchronousTestCase):
    """What blobs are made of."""

    def test_bytes_follow_from_the_seed(self) -> None:
        first, again = (b"".join(generated(3_000_000, 7)) for _ in range(2))
        self.assertEqual(first, again)
        self.assertEqual(len(first), 3_000_000)
        self.assertNotEqual(first, b"".join(generated(3_000_000, 8)))

    def test_no_two_blocks_are_alike(self) -> None:
        body = b"".join(generated(3_000_000, 7))
        blocks = [body[at : at + 65536] for at in range(0, len(body), 65536)]
        self.assertEqual(len(set(blocks)), len(blocks))

    def test_a_spec_has_sizes_counts_and_a_seed(self) -> None:
        spec = ModelSpec.parse("library/m:latest=2MB,1KiBx3@9")
        self.assertEqual(spec, ModelSpec(MODEL, (2_000_000, 1024, 1024, 1024), 9))

    def test_a_size_without_digits_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            parse_size("large")

    def test_a_fault_of_another_name_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            Fault("store", "explode")


class RegistryTests(EmulatorCase):
    """The registry answers as Ollama's does."""

    async def test_a_manifest_is_chunked_text(self) -> None:
        emulator = await self.started()
        reply = await self.http().open("GET", f"{emulator.url}/v2/library/m/manifests/latest", {})
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.headers["content-type"], "text/plain; charset=utf-8")
        self.assertNotIn("content-length", reply.headers)
        self.assertEqual(await reply.body(), emulator.models[MODEL].manifest_bytes)

    async def test_a_manifests_head_tells_the_bare_digest(self) -> None:
        emulator = await self.started()
        url = f"{emulator.url}/v2/library/m/manifests/latest"
        reply = await self.http().open("HEAD", url, {})
        body = emulator.models[MODEL].manifest_bytes
        self.assertEqual(reply.headers["ollama-content-digest"], sha256(body).hexdigest())
        emulator.settings.head_manifests = False
        self.assertEqual((await self.http().open("HEAD", url, {})).status, 405)

    async def test_what_the_registry_does_not_know(self) -> None:
        emulator = await self.started()
        http = self.http()
        digest = emulator.models[MODEL].digest
        for path, status in (
            ("/v2/", 404),
            ("/v2/_catalog", 404),
            ("/v2/library/m/tags/list", 404),
            ("/v2/library/m/manifests/other", 404),
            (f"/v2/library/m/manifests/{digest}", 500),
            (f"/v2/library/m/blobs/{digest}", 404),
        ):
            reply = await http.open("GET", emulator.url + path, {})
            await reply.body()
            self.assertEqual((path, reply.status), (path, status))

    async def test_a_blob_redirects_to_the_store(self) -> None:
        emulator = await self.started()
        http, model = self.http(), emulator.models[MODEL]
        digest, size = model.layers[0]
        url = f"{emulator.url}/v2/library/m/blobs/{digest}"
        head = await http.open("HEAD", url, {})
        self.assertEqual((head.status, head.length), (200, size))
        reply = await http.open("GET", url, {})
        await reply.body()
        self.assertEqual(reply.status, 307)
        where = reply.headers["location"]
        self.assertTrue(where.startswith(emulator.store_url))
        self.assertIn("127.0.0.2", where)
        for asked, (start, end) in (
            ("bytes=5-9", (5, 10)),
            ("bytes=399990-", (399_990, size)),
            ("bytes=-7", (size - 7, size)),
            ("bytes=399990-999999999", (399_990, size)),
        ):
            part = await http.open("GET", where, {"Range": asked})
            self.assertEqual(part.status, 206)
            self.assertEqual(part.headers["content-range"], f"bytes {start}-{end - 1}/{size}")
            self.assertEqual(await part.body(), model.read(digest, start, end))
        beyond = await http.open("GET", where, {"Range": f"bytes={size}-"})
        self.assertEqual(beyond.status, 416)
        self.assertEqual(beyond.headers["content-range"], f"bytes */{size}")

    async def test_a_signed_url_ends(self) -> None:
        emulator = await self.started(url_uses=1)
        http, (digest, _) = self.http(), emulator.models[MODEL].layers[2]
        used, expired = emulator.signed(digest), emulator.signed(digest)
        self.assertEqual(len(await (await http.open("GET", used, {})).body()), 10)
        emulator.expire_urls()
        emulator.settings.url_seconds = 0
        for url in (used, expired, emulator.signed(digest)):
            reply = await http.open("GET", url, {})
            self.assertIn(b"<Code>AccessDenied</Code>", await reply.body())
            self.assertEqual(reply.status, 403)

    async def test_other_framings_hold_the_same_bytes(self) -> None:
        emulator = await self.started()
        http, model = self.http(), emulator.models[MODEL]
        digest, _ = model.layers[0]
        for framing in ("length", "chunked", "close"):
            emulator.settings.framing = framing
            reply = await http.open("GET", emulator.signed(digest), {})
            self.assertEqual(await reply.body(), model.read(digest))
            self.assertEqual(reply.length is not None, framing == "length")

    async def test_orders_come_by_http_too(self) -> None:
        emulator = await self.started()
        body = json.dumps({"add": [{"on": "manifest", "do": "unhealthy", "times": 1}]})
        http = self.http()
        ordered = await http.open("POST", f"{emulator.url}/_faults", {}, body.encode())
        self.assertEqual(json.loads(await ordered.body())["faults"][0]["do"], "unhealthy")
        url = f"{emulator.url}/v2/library/m/manifests/latest"
        for status in (503, 200):
            reply = await http.open("GET", url, {"User-Agent": "someone"})
            await reply.body()
            self.assertEqual(reply.status, status)
        counted = await (await http.open("GET", f"{emulator.url}/_counters", {})).body()
        self.assertEqual(json.loads(counted)["requests"], {"manifest GET": 2})
        self.assertEqual(json.loads(counted)["user_agents"], {"someone": 2})

    async def test_an_unknown_order_is_refused(self) -> None:
        emulator = await self.started()
        body = b'{"settings": {"speed": 1}}'
        reply = await self.http().open("POST", f"{emulator.url}/_faults", {}, body)
        self.assertEqual(reply.status, 400)
        self.assertIn(b"speed", await reply.body())

    async def test_down_and_up_again_on_the_same_port(self) -> None:
        emulator = await self.started()
        url = emulator.url
        await emulator.down()
        failed = await self.failing(pull(reactor, url, MODEL, SMALL16))
        self.assertIn("dial tcp", str(failed))
        emulator.up()
        self.assertEqual(emulator.url, url)
        self.assert_whole(await pull(reactor, url, MODEL, SMALL16), emulator.models[MODEL])

    async def test_a_model_is_replaced_and_deleted(self) -> None:
        emulator = await self.started()
        old = emulator.models[MODEL]
        new = emulator.set_model(MODEL, [500], seed=5)
        self.assertNotEqual(old.digest, new.digest)
        self.assert_whole(await pull(reactor, emulator.url, MODEL, SMALL16), new)
        emulator.delete_model(MODEL)
        failed = await self.failing(pull(reactor, emulator.url, MODEL, SMALL16))
        self.assertEqual(str(failed), "file does not exist")

    async def test_a_line_is_shared_and_not_exceeded(self) -> None:
        emulator = await self.started(f"{MODEL}=800KB")
        taken = []
        for line in (None, 4_000_000):
            emulator.settings.line = line
            begun = reactor.seconds()
            await pull(reactor, emulator.url, MODEL, SMALL16)
            taken.append(reactor.seconds() - begun)
        self.assertGreater(taken[1], 0.14)
        # A line each would take as long as none; a sixteenth of it each, three seconds.
        self.assertLess(taken[1], 2 + 10 * taken[0])

    async def test_a_rate_holds_for_each_connection(self) -> None:
        emulator = await self.started(f"{MODEL}=800KB", rate=100_000)
        begun = reactor.seconds()
        await pull(reactor, emulator.url, MODEL, SMALL16)
        self.assertGreater(reactor.seconds() - begun, 0.35)
        self.assertEqual(emulator.counters.blob_requests_peak, 16)

    async def test_latency_is_before_each_answer(self) -> None:
        emulator = await self.started(f"{MODEL}=10", latency=0.01)
        begun = reactor.seconds()
        await pull(reactor, emulator.url, MODEL, SMALL16)
        self.assertGreater(reactor.seconds() - begun, 0.07)


class FaultTests(EmulatorCase):
    """Single answers that are wrong."""

    async def test_wrong_ranges_lengths_and_bodies(self) -> None:
        emulator = await self.started()
        http, model = self.http(), emulator.models[MODEL]
        digest, size = model.layers[0]
        ranged = {"Range": "bytes=100-199"}

        emulator.faults.add(Fault("store", "content-range", at=1, times=1))
        reply = await http.open("GET", emulator.signed(digest), ranged)
        self.assertEqual(reply.headers["content-range"], f"bytes 101-200/{size}")
        self.assertEqual(await reply.body(), model.read(digest, 100, 200))

        emulator.faults.add(Fault("store", "truncate", after=40, times=1))
        reply = await http.open("GET", emulator.signed(digest), ranged)
        self.assertEqual((reply.status, reply.length), (206, 40))
        self.assertEqual(await reply.body(), model.read(digest, 100, 140))

        emulator.faults.add(Fault("store", "ignore-range", times=1))
        reply = await http.open("GET", emulator.signed(digest), ranged)
        self.assertEqual((reply.status, reply.length), (200, size))
        reply.drop()

    async def test_a_body_is_cut_at_the_byte(self) -> None:
        emulator = await self.started()
        digest, _ = emulator.models[MODEL].layers[0]
        emulator.faults.add(Fault("store", "cut", after=12_345))
        reply = await self.http().open("GET", emulator.signed(digest), {})
        with self.assertRaises(Cut):
            await reply.body()
        self.assertEqual(reply.read, 12_345)
        self.assertEqual(emulator.counters.sent, 12_345)

    async def test_silence_lasts(self) -> None:
        emulator = await self.started()
        emulator.faults.add(Fault("any", "silence"))
        url = f"{emulator.url}/v2/library/m/manifests/latest"
        with self.assertRaises(Stalled):
            await self.http().open("GET", url, {}, seconds=0.05)

    async def test_a_fault_waits_its_turn_and_ends(self) -> None:
        emulator = await self.started(challenge="off")
        emulator.faults.add(Fault("manifest", "unhealthy", skip=1, times=1, agent="ollama"))
        http, url = self.http(), f"{emulator.url}/v2/library/m/manifests/latest"
        seen = []
        for agent in ("ollama/1", "curl", "ollama/1", "ollama/1"):
            reply = await http.open("GET", url, {"User-Agent": agent})
            await reply.body()
            seen.append(reply.status)
        self.assertEqual(seen, [200, 200, 503, 200])

    async def test_chance_follows_from_the_seed(self) -> None:
        async def statuses(seed: int) -> list[int]:
            emulator = await self.started(seed=seed)
            emulator.faults.add(Fault("manifest", "unhealthy", probability=0.5))
            http, url = self.http(), f"{emulator.url}/v2/library/m/manifests/latest"
            seen = []
            for _ in range(20):
                reply = await http.open("GET", url, {})
                await reply.body()
                seen.append(reply.status)
            return seen

        first, again = await statuses(3), await statuses(3)
        self.assertEqual(first, again)
        self.assertEqual(set(first), {200, 503})


class _FirstLine(ProcessProtocol):
    """A process's first line of output, and its end."""

    def __init__(self) -> None:
        self.line: Deferred[bytes] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self._output = b""

    def outReceived(self, data: bytes) -> None:
        self._output += data
        if b"\n" in self._output and not self.line.called:
            self.line.callback(self._output)

    def processEnded(self, reason: Failure) -> None:
        if not self.line.called:
            self.line.errback(reason)
        self.ended.callback(None)


class ProcessTests(EmulatorCase):
    """Both as processes of their own, as benches run them."""

    async def test_a_client_process_pulls_from_an_emulator_process(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        emulator = _FirstLine()
        arguments = ["-m", "tests.emulator", "--models", f"{MODEL}=300KB", "--content-dir", "."]
        arguments += ["--settings", '{"challenge":"ollama"}']
        process = reactor.spawnProcess(
            emulator, sys.executable, [sys.executable, *arguments], environment
        )

        async def end() -> None:
            if not emulator.ended.called:
                process.signalProcess("TERM")
            await emulator.ended

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        ready = json.loads(await emulator.line)
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "tests.clients", "--base", ready["registry"], "--part-min", "50000"],
            environment,
        )
        self.assertEqual((err, code), (b"", 0))
        pulled = json.loads(out)
        self.assertTrue(pulled["ok"])
        self.assertEqual(pulled["manifest_digest"], ready["models"][MODEL]["digest"])
        self.assertEqual(pulled["bytes"], ready["models"][MODEL]["size"])
        _, counted = await self.ask(f"{ready['registry']}/_counters")
        self.assertEqual(json.loads(counted)["requests"]["token GET"], 1)
