"""The daemon stops, or is killed, in the middle of a pull, and goes on where it stood."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.clients import pull
from tests.emulator import Emulator
from tests.running import MODEL, SMALL16, SMALL64, Daemon, RunningCase, reactor, until
from yukari.settings import SETTINGS

CHECKOUT = Path(__file__).resolve().parent.parent
TWISTD = "from twisted.scripts.twistd import run; run()"


class DaemonProcess(ProcessProtocol):
    """A daemon as a shell runs it; ``url`` fires with where it listens, ``ended`` with its log."""

    def __init__(self, upstream: Emulator, storage: str) -> None:
        ours = {row.environment for row in SETTINGS}
        environment = {name: text for name, text in os.environ.items() if name not in ours}
        paths = (str(CHECKOUT), os.environ.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        arguments = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "yukari"]
        arguments += ["--bind=127.0.0.1:0", f"--upstream-registry={upstream.url}"]
        arguments += [f"--storage={storage}", "--min-free=0"]
        self.url: Deferred[str] = Deferred()
        self.ended: Deferred[str] = Deferred()
        self._said = ""
        self._process: Any = reactor.spawnProcess(self, sys.executable, arguments, environment)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._said += data.decode(errors="replace")
        found = re.search(r"listens on (127\.0\.0\.1:[0-9]+)", self._said)
        if found and not self.url.called:
            self.url.callback(f"http://{found[1]}")

    def processEnded(self, reason: Failure) -> None:
        if not self.url.called:
            self.url.errback(RuntimeError(f"it ended: {self._said}"))
        self.ended.callback(self._said)

    async def end(self, number: int = signal.SIGTERM) -> str:
        """Send it a signal; its log when it is gone."""
        if not self.ended.called:
            self._process.signalProcess(number)
        return await self.ended


class StopTests(RunningCase):
    """SIGTERM: what came is kept."""

    async def half_pulled(self, upstream: Emulator, daemon: Daemon) -> None:
        """A client's pull that has come to the middle when the client leaves."""
        model = upstream.models[MODEL]
        pulling = self.begin(self.pull(daemon))
        await until(lambda: upstream.counters.sent >= model.size // 2)
        pulling.cancel()
        with self.assertRaises(CancelledError):
            await pulling

    async def test_a_fill_goes_on_at_the_next_start_without_being_asked(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB,3000", line=4_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        await self.half_pulled(upstream, daemon)
        again = await self.restarted(daemon, upstream)
        await again.idle()
        self.assert_stored(again, model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)

    async def test_a_pull_after_a_restart_gets_the_rest(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB,3000", line=4_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        await self.half_pulled(upstream, daemon)
        again = await self.restarted(daemon, upstream)
        self.assert_whole(await self.pull(again, MODEL, SMALL64), model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)

    async def test_many_restarts_lose_little(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3MB", line=6_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        await self.half_pulled(upstream, daemon)
        for sixth in (4, 5):
            daemon = await self.restarted(daemon, upstream)
            await until(lambda sixth=sixth: upstream.counters.sent >= sixth * model.size // 6)
        daemon = await self.restarted(daemon, upstream)
        self.assert_whole(await self.pull(daemon), model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)

    async def test_a_client_that_is_cut_off_by_the_stop_succeeds_after_the_start(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB", line=4_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        port = daemon.service.ports[0].getHost().port  # type: ignore[attr-defined]
        patient = SMALL16.scaled(backoff=0.05)
        pulling = self.begin(self.pull(daemon, MODEL, patient))
        await until(lambda: upstream.counters.sent >= model.size // 2)
        await self.restarted(daemon, upstream, bind=f"127.0.0.1:{port}")
        self.assert_whole(await pulling, model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)


class KillTests(RunningCase):
    """kill -9 of a daemon that is a process of its own."""

    timeout = 40

    async def process(self, upstream: Emulator, storage: str) -> tuple[DaemonProcess, str]:
        """A daemon process that listens, and where."""
        made = DaemonProcess(upstream, storage)
        self.addCleanup(lambda: Deferred.fromCoroutine(made.end(signal.SIGKILL)))
        return made, await made.url

    async def test_a_killed_daemon_goes_on_where_it_stood(self) -> None:
        upstream = await self.upstream(f"{MODEL}=4MB,3000", line=4_000_000)
        model = upstream.models[MODEL]
        storage = os.path.abspath(self.mktemp())
        daemon, url = await self.process(upstream, storage)
        pulling = self.begin(pull(reactor, url, MODEL, SMALL16.scaled(tries=1)))
        await until(lambda: upstream.counters.sent >= model.size // 2)
        await daemon.end(signal.SIGKILL)
        await self.failing(pulling)
        blobs = os.listdir(os.path.join(storage, "blobs"))
        self.assertNotIn(model.layers[0][0].replace(":", "-"), blobs)

        upstream.settings.line = None
        daemon, url = await self.process(upstream, storage)
        self.assert_whole(await pull(reactor, url, MODEL, SMALL16), model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)
        said = await daemon.end()
        self.assertNotIn("Traceback", said)

    async def test_a_daemon_that_ends_by_sigterm_says_nothing_and_loses_nothing(self) -> None:
        upstream = await self.upstream()
        storage = os.path.abspath(self.mktemp())
        daemon, url = await self.process(upstream, storage)
        self.assert_whole(await pull(reactor, url, MODEL, SMALL16), upstream.models[MODEL])
        said = await daemon.end()
        self.assertNotRegex(said, "Traceback|ERROR")
        await upstream.down()
        daemon, url = await self.process(upstream, storage)
        self.assert_whole(await pull(reactor, url, MODEL, SMALL16), upstream.models[MODEL])
