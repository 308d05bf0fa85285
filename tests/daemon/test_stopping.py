"""SIGTERM: transfers in progress finish, new clients go elsewhere, the status is 0."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.clients import ClientError, Lost, Reply
from tests.emulator import Emulator
from tests.processes import MAIN, ProcessCase, YukariProcess, bare_environment, reactor
from tests.running import MODEL, until, until_sent

STUCK = """
import os, time
import yukari.daemon.service
yukari.daemon.service.ENDS_WITHIN, yukari.daemon.service.HURRIED_WITHIN = {times}
fsync = os.fsync
def stuck(number):
    if os.stat(number).st_size < 500_000:
        return fsync(number)
    os.write(2, b"waits for ever\\n")
    time.sleep(600)
os.fsync = stuck
"""
"""A daemon whose disk never answers again once a blob has arrived."""


class Hash:
    """A sink that keeps only the digest of a body."""

    def __init__(self) -> None:
        self._sha256 = sha256()
        self.size = 0

    def __call__(self, data: bytes) -> None:
        self._sha256.update(data)
        self.size += len(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def read_slowly(host: str, digest: str, begun: Event, on: Event) -> tuple[str, bytes]:
    """
    Return the digest of a blob that a client reads, and what follows its end; for a thread.

    It reads a little, sets ``begun``, and reads the rest once ``on`` is set.
    """
    name, _, port = host.rpartition(":")
    got = Hash()
    with socket.create_connection((name, int(port)), timeout=20) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        wire.sendall(f"GET /v2/library/m/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += wire.recv(1)
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        while got.size < length:
            data = wire.recv(min(length - got.size, 1 << 20))
            if not data:
                return got.digest, b"cut"
            got(data)
            begun.set()
            on.wait()
        return got.digest, wire.recv(10)


class StoppingTests(ProcessCase):
    """Stopping, as seen by an operator and by clients."""

    async def refuses(self, daemon: YukariProcess) -> None:
        """Returns once a new connection is refused."""
        while True:
            try:
                reply, _ = await self.ask(f"{daemon.url}/healthz")
                self.assertEqual(reply.status, 200)
            except Lost:
                return
            await deferLater(reactor, 0.01, lambda: None)

    async def begun(self, daemon: YukariProcess, digest: str) -> Reply:
        """A client that has a blob's head."""
        for path in ("manifests/latest", f"blobs/{digest}"):
            reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/{path}", {})
            self.assertEqual(reply.status, 200)
        return reply

    async def test_a_slow_download_of_a_fill_finishes(self) -> None:
        upstream = await self.upstream(f"{MODEL}=60MB", line=20_000_000)
        digest, size = upstream.models[MODEL].blobs[0]
        storage = self.directory()
        daemon = await self.yukari(upstream.url, storage=storage)
        reply = await self.begun(daemon, digest)
        await until_sent(upstream, size // 4)
        upstream.settings.line = 100_000  # The rest arrives when the port is closed.
        daemon.signal("TERM")
        await self.refuses(daemon)
        self.assertLess(upstream.counters.sent, size // 2)
        upstream.settings.line = None
        got = Hash()
        await reply.copy(got)
        self.assertEqual((got.size, got.digest), (size, digest))
        self.assertEqual(await daemon.ended, 0)
        self.assertNotIn("Traceback", daemon.text)
        self.assertEqual(upstream.counters.sent_by_digest[digest], size)

    async def test_a_slow_reader_of_a_stored_blob_finishes(self) -> None:
        upstream = await self.upstream(f"{MODEL}=60MB")
        model = upstream.models[MODEL]
        digest, _ = model.blobs[0]
        daemon = await self.yukari(upstream.url)
        await (await self.begun(daemon, digest)).copy(Hash())
        begun, on = Event(), Event()
        self.addCleanup(on.set)
        reading = deferToThread(read_slowly, daemon.host, digest, begun, on)
        await until(begun.is_set)
        daemon.signal("TERM")
        await self.refuses(daemon)
        self.assertFalse(reading.called)
        on.set()
        self.assertEqual(await reading, (digest, b""))
        self.assertEqual(await daemon.ended, 0)

    async def test_a_new_connection_may_still_send_its_request(self) -> None:
        daemon = await self.patient()
        await self.ready(daemon)
        host, _, port = daemon.host.rpartition(":")
        number = daemon.transport.pid  # type: ignore[union-attr]
        os.kill(number, signal.SIGSTOP)  # so that all are in the backlog when the stop begins
        wires = [socket.create_connection((host, int(port)), timeout=20) for _ in range(200)]
        os.kill(number, signal.SIGTERM)
        os.kill(number, signal.SIGCONT)
        await self.refuses(daemon)

        def ask() -> set[bytes]:
            for wire in wires:
                wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            got = {wire.recv(12) for wire in wires}
            for wire in wires:
                wire.close()
            return got

        self.assertEqual(await deferToThread(ask), {b"HTTP/1.1 200"})
        self.assertEqual(await daemon.ended, 0)

    async def patient(self) -> YukariProcess:
        """A daemon that a busy machine's clients are not too late for."""
        daemon = YukariProcess()
        self.spawn(
            *(
                sys.executable,
                "-c",
                f"from yukari.web import drain; drain.FIRST_WITHIN = 60\n{MAIN}",
            ),
            *("--bind=127.0.0.1:0", "--log-format=json", f"--storage={self.directory()}"),
            environment=bare_environment(),
            process=daemon,
        )
        await daemon.until(lambda: daemon.banner)
        return daemon

    async def ends_with_a_disk_that_is_stuck(self, times: str, signals: int) -> str:
        upstream = await self.upstream(f"{MODEL}=1MB")
        daemon = YukariProcess()
        self.spawn(
            *(sys.executable, "-c", STUCK.format(times=times) + MAIN, "--log-format=json"),
            *("--bind=127.0.0.1:0", f"--upstream-registry={upstream.url}", "--min-free=0"),
            f"--storage={self.directory()}",
            environment=bare_environment(),
            process=daemon,
        )
        await daemon.until(lambda: daemon.banner)
        reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/manifests/latest", {})
        self.assertEqual(reply.status, 200)
        await daemon.until(lambda: b"waits for ever" in daemon.err)
        for _ in range(signals):
            daemon.signal("TERM")
            await self.refuses(daemon)
        self.assertEqual(await daemon.ended, 1, daemon.text)
        self.assertNotIn("Traceback", daemon.text)
        return daemon.text

    async def test_a_stuck_disk_does_not_prevent_the_exit(self) -> None:
        said = await self.ends_with_a_disk_that_is_stuck("0.5, 600", 1)
        self.assertIn("0.5 s", said)

    async def test_a_stuck_disk_does_not_prevent_a_hurried_exit(self) -> None:
        await self.ends_with_a_disk_that_is_stuck("600, 0.5", 2)

    async def test_idle_connections_do_not_delay_the_exit(self) -> None:
        upstream = await self.upstream(f"{MODEL}=5MB", line=100_000)
        daemon = await self.yukari(upstream.url, "--grace=1h")
        reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/manifests/latest", {})
        await reply.body()
        daemon.signal("TERM")
        self.assertEqual(await daemon.ended, 0)

    async def ends_with_a_reader(self, *flags: str, signals: int = 1) -> float:
        """Return how long the stop takes with a reader that is cut because it cannot finish."""
        upstream = await self.upstream(f"{MODEL}=30MB", line=5_000_000)
        digest, size = upstream.models[MODEL].blobs[0]
        storage = self.directory()
        daemon = await self.yukari(upstream.url, *flags, storage=storage)
        reply = await self.begun(daemon, digest)
        reading = Deferred.fromCoroutine(reply.copy(Hash()))
        await until_sent(upstream, 2_000_000)
        upstream.settings.line = 1
        await self.taken_in(daemon, upstream, digest)
        began = reactor.seconds()
        for _ in range(signals):
            daemon.signal("TERM")
            await self.refuses(daemon)
        with self.assertRaises(ClientError):
            await reading
        self.assertEqual(await daemon.ended, 0)
        self.assertNotIn("Traceback", daemon.text)
        took = reactor.seconds() - began
        sent = upstream.counters.sent
        upstream.settings.line = None
        again = await self.yukari(upstream.url, storage=storage)
        got = Hash()
        await (await self.begun(again, digest)).copy(got)
        self.assertEqual(got.digest, digest)
        self.assertLess(upstream.counters.sent - size, 0.1 * sent + 300_000)
        return took

    async def taken_in(self, daemon: YukariProcess, upstream: Emulator, digest: str) -> None:
        """Returns when the daemon has all that upstream has sent of the blob."""
        while True:
            _, body = await self.ask(f"{daemon.url}/fills")
            (fill,) = [each for each in json.loads(body)["fills"] if each["digest"] == digest]
            if fill["upstream_bytes"] == upstream.counters.sent_by_digest[digest]:
                return
            await deferLater(reactor, 0.01, lambda: None)

    async def test_grace_bounds_the_wait_and_received_bytes_are_kept(self) -> None:
        self.assertGreaterEqual(await self.ends_with_a_reader("--grace=1s"), 1)

    async def test_a_second_sigterm_ends_it_at_once(self) -> None:
        await self.ends_with_a_reader("--grace=1h", signals=2)

    async def test_a_second_ctrl_c_ends_it_at_once(self) -> None:
        upstream = await self.upstream(f"{MODEL}=30MB", line=1_000_000)
        daemon = await self.yukari(upstream.url)
        await self.begun(daemon, upstream.models[MODEL].blobs[0][0])
        daemon.signal("INT")
        await self.refuses(daemon)
        daemon.signal("INT")
        self.assertEqual(await daemon.ended, -2)
        self.assertNotIn("Traceback", daemon.text)

    async def ready(self, daemon: YukariProcess) -> tuple[int, dict[str, Any]]:
        reply, body = await self.ask(f"{daemon.url}/readyz")
        return reply.status, json.loads(body)["reasons"]

    async def test_readiness_fails_before_the_port_closes(self) -> None:
        upstream = await self.upstream()
        daemon = await self.yukari(upstream.url, "--shutdown-delay=60s")
        self.assertEqual(await self.ready(daemon), (200, {}))
        daemon.signal("TERM")
        while (await self.ready(daemon))[0] == 200:
            pass
        self.assertEqual(
            await self.ready(daemon), (503, {"stopping": "the daemon was told to stop"})
        )
        reply, _ = await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        self.assertEqual((reply.status, reply.headers["connection"]), (200, "close"))
        self.assertIsNone(daemon.status)
        daemon.signal("TERM")
        self.assertEqual(await daemon.ended, 0)

    async def test_an_unusable_store_makes_the_daemon_unready(self) -> None:
        """A file is in a directory's place: one that is merely missing is made again."""
        storage = self.directory()
        daemon = await self.yukari("http://127.0.0.1:9/", storage=storage)
        blobs, file = Path(storage, "blobs"), Path(storage, "file")
        blobs.rename(Path(storage, "elsewhere"))
        file.touch()
        while file.exists():
            try:
                file.rename(blobs)
            except IsADirectoryError:  # It was made again in the moment before.
                blobs.rmdir()
        status, reasons = await self.ready(daemon)
        self.assertEqual(status, 503)
        self.assertIn("blobs: Not a directory", reasons["store"])
        there = bare_environment(YUKARI_CACHE=daemon.url)
        verb = self.spawn(sys.executable, "-c", MAIN, "status", environment=there)
        self.assertEqual(await verb.ended, 1)
        self.assertIn(f"not ready: {reasons['store']}", verb.text)
        blobs.unlink()
        Path(storage, "elsewhere").rename(blobs)
        self.assertEqual(await self.ready(daemon), (200, {}))
