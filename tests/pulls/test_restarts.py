"""The daemon stops, or is killed, in the middle of a pull, and goes on where it stood."""

from __future__ import annotations

import os
import re
from pathlib import Path

from twisted.internet.defer import CancelledError

from tests.clients import pull
from tests.emulator import Emulator
from tests.processes import ProcessCase
from tests.running import MODEL, SMALL16, SMALL64, Daemon, RunningCase, reactor, until, until_sent
from tests.s3.servers import free_port
from yukari.spans import Span, SpanSet

FAST, SLOW = 6_000_000, 500_000
"""Bytes per second of the upstream's line."""


def kept(storage: str) -> int:
    """How many bytes of blobs a daemon that starts now on this store has not to ask for."""
    total = 0
    for path in Path(storage).glob("blobs/*"):
        total += path.stat().st_size
    for path in Path(storage).glob("yukari/spool/*.cover"):
        try:
            found = re.findall(r"^\+ ([0-9]+) ([0-9]+)$", path.read_text(), re.MULTILINE)
        except FileNotFoundError:  # It has just been published.
            continue
        total += SpanSet.of(Span(int(start), int(end)) for start, end in found).total
    return total


def storage_of(daemon: Daemon) -> str:
    return daemon.service._settings.storage


async def sent(upstream: Emulator, part: float, storage: str, lost: int = 0) -> None:
    """
    Returns when so much of the model was sent, and little of it is still in sockets; ``lost``
    bytes of it never came.
    """
    size = upstream.models[MODEL].size
    upstream.settings.line = FAST
    await until_sent(upstream, (part - 0.03) * size)
    upstream.settings.line = SLOW
    await until_sent(upstream, part * size)
    await until(lambda: upstream.counters.sent - lost - kept(storage) <= 0.02 * size)


class StopTests(RunningCase):
    """SIGTERM: what came is kept."""

    async def half_pulled(self, upstream: Emulator, daemon: Daemon) -> None:
        """A client's pull that has come to the middle when the client leaves."""
        pulling = self.begin(self.pull(daemon))
        await sent(upstream, 0.5, storage_of(daemon))
        pulling.cancel()
        with self.assertRaises(CancelledError):
            await pulling

    async def test_a_fill_goes_on_at_the_next_start_without_being_asked(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB,3000", line=FAST)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        await self.half_pulled(upstream, daemon)
        again = await self.restarted(daemon, upstream)
        upstream.settings.line = FAST
        await again.idle()
        self.assert_stored(again, model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)

    async def test_a_pull_after_a_restart_gets_the_rest(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB,3000", line=FAST)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        await self.half_pulled(upstream, daemon)
        again = await self.restarted(daemon, upstream)
        upstream.settings.line = FAST
        self.assert_whole(await self.pull(again, MODEL, SMALL64), model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)

    async def test_many_restarts_lose_little(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3MB", line=FAST)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        await self.half_pulled(upstream, daemon)
        for part in (0.7, 0.9):
            daemon = await self.restarted(daemon, upstream)
            storage = storage_of(daemon)
            await sent(upstream, part, storage, upstream.counters.sent - kept(storage))
        daemon = await self.restarted(daemon, upstream)
        upstream.settings.line = FAST
        self.assert_whole(await self.pull(daemon), model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)

    async def test_a_client_that_is_cut_off_by_the_stop_succeeds_after_the_start(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB", line=FAST)
        bind = f"127.0.0.1:{free_port()}"
        daemon = await self.daemon(upstream, bind=bind)
        model = upstream.models[MODEL]
        patient = SMALL16.scaled(backoff=0.05)
        pulling = self.begin(self.pull(daemon, MODEL, patient))
        await sent(upstream, 0.5, storage_of(daemon))
        await self.restarted(daemon, upstream, bind=bind)
        upstream.settings.line = FAST
        self.assert_whole(await pulling, model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)


class KillTests(ProcessCase):
    """A daemon that is a process of its own."""

    async def test_a_daemon_killed_in_the_middle_goes_on_where_it_stood(self) -> None:
        upstream = await self.upstream(f"{MODEL}=4MB,3000", line=FAST)
        model = upstream.models[MODEL]
        storage = self.directory()
        daemon = await self.yukari(upstream.url, storage=storage)
        pulling = self.begin(pull(reactor, daemon.url, MODEL, SMALL16.scaled(tries=1)))
        await sent(upstream, 0.5, storage)
        daemon.signal("KILL")
        await daemon.ended
        await self.failing(pulling)
        blobs = os.listdir(os.path.join(storage, "blobs"))
        self.assertNotIn(model.layers[0][0].replace(":", "-"), blobs)

        upstream.settings.line = None
        daemon = await self.yukari(upstream.url, storage=storage)
        self.assert_whole(await pull(reactor, daemon.url, MODEL, SMALL16), model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)

    async def test_a_daemon_killed_again_and_again_loses_little(self) -> None:
        upstream = await self.upstream(f"{MODEL}=4MB", line=FAST)
        model = upstream.models[MODEL]
        storage = self.directory()
        for part in (0.3, 0.6):
            daemon = await self.yukari(upstream.url, storage=storage)
            if part < 0.5:
                await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
            await sent(upstream, part, storage)
            daemon.signal("KILL")
            await daemon.ended
        upstream.settings.line = None
        daemon = await self.yukari(upstream.url, storage=storage)
        self.assert_whole(await pull(reactor, daemon.url, MODEL, SMALL16), model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)

    async def test_a_daemon_that_is_asked_to_end_logs_no_error(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB,3000", line=FAST)
        model = upstream.models[MODEL]
        storage = self.directory()
        daemon = await self.yukari(upstream.url, storage=storage)
        pulling = self.begin(pull(reactor, daemon.url, MODEL, SMALL16.scaled(tries=1)))
        await sent(upstream, 0.5, storage)
        upstream.settings.line = FAST
        self.assertEqual(await daemon.stop(), 0)
        await self.failing(pulling)
        self.assertEqual([line for line in daemon.lines if line != daemon.banner], [])
        daemon = await self.yukari(upstream.url, storage=storage)
        self.assert_whole(await pull(reactor, daemon.url, MODEL, SMALL16), model)
        self.assertLessEqual(upstream.counters.sent, 1.1 * model.size)
