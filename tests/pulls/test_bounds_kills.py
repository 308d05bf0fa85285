"""A bounded store under a herd: many models, many clients, a slow upstream, and kill -9."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from tests.clients import PullFailed
from tests.emulator import Emulator
from tests.processes import ProcessCase, YukariProcess, reactor
from tests.s3.servers import free_port
from yukari.library.upkeep.room import SIDECARS

MODELS = 40
CLIENTS = 8
SIZE = 600_000
BOUND = 3 * (SIZE + SIDECARS + 20_000)
"""Room for three models."""
KILLED_AFTER = 4
"""Pulls from the daemon's start to its end."""


@define(eq=False)
class Watch:
    """How many bytes of blobs a store has had at most, by what ``taken`` returns."""

    _taken: Callable[[], Coroutine[Any, Any, int]]
    most: int = 0
    _stopped: bool = field(default=False, init=False)

    async def run(self) -> None:
        while not self._stopped:
            self.most = max(self.most, await self._taken())
            await deferLater(reactor, 0.02)

    def stop(self) -> None:
        self._stopped = True


class HerdTests(ProcessCase):
    """No pull fails, each is right, and the bound holds all the time."""

    timeout = 600.0
    models = MODELS
    pulled = 0
    """How many models were pulled."""

    async def herd(self, *, killed: bool) -> None:
        names = [f"library/m{at}:latest" for at in range(self.models)]
        upstream = await self.upstream(
            *(f"{name}={SIZE},3000@{at}" for at, name in enumerate(names)), line=8e6
        )
        bound = f"--store-max={BOUND}"
        self.flags = bound, "--evict=lru", "--evict-grace=0s", "--keep=library/m0"
        self.bind, self.storage = f"127.0.0.1:{free_port()}", self.directory()
        self.killing = killed
        daemon = await self.start(upstream)
        kept, gone, *others = names
        for name in (kept, gone):
            await self.pull_whole(upstream, name)
        upstream.delete_model(gone, blobs=False)
        watch = Watch(self.taken)
        watching = self.begin(watch.run())
        killing = self.begin(self.kill_again_and_again(upstream, daemon))
        await gatherResults([self.begin(self.pull_all(upstream, others)) for _ in range(CLIENTS)])
        self.killing = False
        await killing
        await upstream.down()
        for name in (kept, gone):
            pulled = await self.pull(self.where(), name)
            self.assertTrue(all(blob.ok for blob in pulled.blobs.values()))
        watch.stop()
        await watching
        self.assertLessEqual(watch.most, BOUND)

    async def taken(self) -> int:
        """
        The bytes of all blobs and spools, at a moment when no spool came or went.

        Else a blob could be counted together with the spool that it was, or was evicted for.
        """
        while True:
            spools, blobs = self.sizes("yukari/spool"), self.sizes("blobs")
            if self.sizes("yukari/spool") == spools:
                return sum({**spools, **blobs}.values())

    def sizes(self, directory: str) -> dict[int, int]:
        """The sizes of a directory's files by their inodes: some have two names for a moment."""
        path = os.path.join(self.storage, directory)
        found = {}
        for name in os.listdir(path) if os.path.isdir(path) else ():
            try:
                status = os.stat(os.path.join(path, name))
            except FileNotFoundError:
                continue  # It has become a blob, or was removed.
            found[status.st_ino] = status.st_size
        return found

    async def start(self, upstream: Emulator) -> YukariProcess:
        return await self.yukari(upstream.url, *self.flags, bind=self.bind, storage=self.storage)

    def where(self) -> Any:
        """Whichever daemon listens there just now."""
        return _At(f"http://{self.bind}")

    async def kill_again_and_again(self, upstream: Emulator, daemon: YukariProcess) -> None:
        """Kill the daemon and start it, as long as clients pull."""
        while await self.has_pulled(KILLED_AFTER):
            daemon.signal("KILL")
            await daemon.ended
            daemon = await self.start(upstream)

    async def has_pulled(self, count: int) -> bool:
        """Whether clients pull so many models more."""
        goal = self.pulled + count
        while self.killing and self.pulled < goal:
            await deferLater(reactor, 0.02)
        return self.killing

    async def pull_all(self, upstream: Emulator, names: list[str]) -> None:
        while names:
            await self.pull_whole(upstream, names.pop())

    async def pull_whole(self, upstream: Emulator, name: str) -> None:
        """A pull that is repeated, as a person would, only if the daemon was killed in it."""
        while True:
            try:
                pulled = await self.pull(self.where(), name)
            except PullFailed:
                if not self.killing:
                    raise
                await deferLater(reactor, 0.2)
            else:
                self.assert_whole(pulled, upstream.models[name])
                self.pulled += 1
                return

    async def test_bound_holds_for_a_herd(self) -> None:
        await self.herd(killed=False)

    async def test_bound_holds_for_a_herd_while_the_daemon_is_killed(self) -> None:
        await self.herd(killed=True)


@define
class _At:
    url: str
