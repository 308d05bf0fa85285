"""A bounded store under a herd: many models, many clients, a slow upstream, and kill -9."""

from __future__ import annotations

import os
from typing import Any

from attrs import define, field
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from tests.clients import PullFailed
from tests.emulator import Emulator
from tests.processes import ProcessCase, YukariProcess, reactor
from tests.s3.servers import free_port
from yukari.library.collector import SIDECARS

MODELS = 40
CLIENTS = 8
SIZE = 600_000
BOUND = 3 * (SIZE + SIDECARS + 20_000)
"""Room for three models."""
TRIES = 60
KILLED_EVERY = 3.0
"""Seconds."""


@define(eq=False)
class Watch:
    """How many bytes of blobs a store has had at most."""

    storage: str
    most: int = 0
    _stopped: bool = field(default=False, init=False)

    async def run(self) -> None:
        while not self._stopped:
            self.most = max(self.most, self._taken())
            await deferLater(reactor, 0.02)

    def stop(self) -> None:
        self._stopped = True

    def _taken(self) -> int:
        found = 0
        for directory in ("blobs", "yukari/spool"):
            path = os.path.join(self.storage, directory)
            for name in os.listdir(path) if os.path.isdir(path) else ():
                try:
                    found += os.path.getsize(os.path.join(path, name))
                except FileNotFoundError:
                    pass  # It has become a blob, or was removed.
        return found


class HerdTests(ProcessCase):
    """No pull fails, each is right, and the bound holds all the time."""

    async def herd(self, *, killed: bool) -> None:
        names = [f"library/m{at}:latest" for at in range(MODELS)]
        upstream = await self.upstream(
            *(f"{name}={SIZE},3000@{at}" for at, name in enumerate(names)), line=8e6
        )
        self.flags = f"--store-max={BOUND}", "--evict-grace=0s", "--keep=library/m0"
        self.bind, self.storage = f"127.0.0.1:{free_port()}", self.directory()
        self.killing = killed
        daemon = await self.start(upstream)
        kept, gone, *others = names
        for name in (kept, gone):
            await self.pull_whole(upstream, name)
        upstream.delete_model(gone, blobs=False)
        watch = Watch(self.storage)
        watching = self.begin(watch.run())
        killing = self.begin(self.kill_again_and_again(upstream, daemon))
        await gatherResults([self.begin(self.client(upstream, others)) for _ in range(CLIENTS)])
        self.killing = False
        await killing
        await upstream.down()
        for name in (kept, gone):
            pulled = await self.pull(self.where(), name)
            self.assertTrue(all(blob.ok for blob in pulled.blobs.values()))
        watch.stop()
        await watching
        self.assertLessEqual(watch.most, BOUND)

    async def start(self, upstream: Emulator) -> YukariProcess:
        return await self.yukari(upstream.url, *self.flags, bind=self.bind, storage=self.storage)

    def where(self) -> Any:
        """Whichever daemon listens there just now."""
        return _At(f"http://{self.bind}")

    async def kill_again_and_again(self, upstream: Emulator, daemon: YukariProcess) -> None:
        """Kill the daemon and start it, as long as clients pull."""
        while self.killing:
            await deferLater(reactor, KILLED_EVERY)
            daemon.signal("KILL")
            await daemon.ended
            daemon = await self.start(upstream)

    async def client(self, upstream: Emulator, names: list[str]) -> None:
        while names:
            await self.pull_whole(upstream, names.pop())

    async def pull_whole(self, upstream: Emulator, name: str) -> None:
        """A pull that is repeated, as a person would, only if the daemon was killed in it."""
        for _ in range(TRIES):
            try:
                pulled = await self.pull(self.where(), name)
            except PullFailed:
                if not self.killing:
                    raise
                await deferLater(reactor, 0.5)
            else:
                self.assert_whole(pulled, upstream.models[name])
                return
        self.fail(f"{name} did not come in {TRIES} tries")

    async def test_bound_holds_for_a_herd(self) -> None:
        await self.herd(killed=False)

    async def test_bound_holds_for_a_herd_while_the_daemon_is_killed(self) -> None:
        await self.herd(killed=True)


@define
class _At:
    url: str
