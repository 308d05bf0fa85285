"""A daemon that is killed while a manifest is replaced: the next one has the old or the new."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

from twisted.internet.task import deferLater

from tests.clients import pull
from tests.emulator import Emulator, Model
from tests.processes import ProcessCase, YukariProcess
from tests.running import MODEL, SMALL16, reactor, until
from tests.s3.against import AgainstServer
from tests.s3.servers import CEPH, MOTO

ALWAYS_DUE = ("--manifest-lifetime=1ms", "--invalidator-period=20ms", "--revalidate-after=0s")
KILLS = 5
SIZE = 300_000


class Suite(ProcessCase):
    """Behaviours; `again` is the subclass's."""

    timeout = 600.0
    """Seconds; eleven daemons start in one test."""

    async def again(self, upstream: Emulator, *arguments: str) -> YukariProcess:
        """A daemon on what the last one left."""
        raise NotImplementedError

    async def whole(self, daemon: YukariProcess, *models: Model) -> Model:
        """Which of these a client gets, every byte of it right."""
        pulled = await pull(reactor, daemon.url, MODEL, SMALL16, directory=os.getcwd())
        found = [model for model in models if model.manifest_bytes == pulled.manifest]
        self.assertEqual(len(found), 1)
        self.assert_whole(pulled, found[0])
        return found[0]

    def points(self, upstream: Emulator) -> list[Callable[[], object]]:
        """What has happened upstream by the time of a kill: from the first question to the last."""
        sent, asked = upstream.counters, upstream.counters.requests
        return [
            lambda: asked["manifest HEAD"],
            lambda: asked["manifest GET"],
            lambda: sent.sent > 0,
            lambda: sent.sent > SIZE / 2,
            lambda: sent.sent >= SIZE,
        ]

    async def test_it_has_the_old_or_the_new(self) -> None:
        upstream = await self.upstream(f"{MODEL}={SIZE},10", rate=3_000_000)
        daemon = await self.again(upstream)
        model = await self.whole(daemon, upstream.models[MODEL])
        random, found = Random(1), []
        for number in range(KILLS):
            before = model
            new = upstream.add_model(MODEL, [SIZE, 10 + number], seed=100 + number)
            upstream.counters.clear()
            points = self.points(upstream)
            await until(points[number % len(points)])
            # Where all bytes are sent it is about publishing and putting the manifest.
            await deferLater(reactor, random.random() * 0.03 * (number % len(points) > 2))
            daemon.signal("KILL")
            await daemon.ended
            daemon = await self.again(upstream, "--offline")
            model = await self.whole(daemon, before, new)
            found.append(model is new)
            reply, body = await self.ask(f"{daemon.url}/v2/library/m/manifests/{before.digest}")
            self.assertEqual((reply.status, body), (200, before.manifest_bytes))
            await daemon.stop()
            daemon = await self.again(upstream)
            while model is not new:
                model = await self.whole(daemon, before, new)
        self.assertIn(False, found)


class KilledOnDirectoryTests(Suite):
    async def again(self, upstream: Emulator, *arguments: str) -> YukariProcess:
        if not hasattr(self, "place"):
            self.place = self.directory()
        return await self.yukari(upstream.url, *ALWAYS_DUE, *arguments, storage=self.place)


class KilledOnBucketTests(AgainstServer, Suite):
    server = MOTO if CEPH.missing() else CEPH

    async def again(self, upstream: Emulator, *arguments: str) -> YukariProcess:
        if not hasattr(self, "place"):
            self.place = self.directory()
        return await self.yukari(
            *(upstream.url, *ALWAYS_DUE, *arguments, f"--tigris-bucket={self.bucket}"),
            *(f"--spool-dir={self.place}", "--redirect=off"),
            storage="tigris",
            **self.server.environment(),
        )


del Suite, AgainstServer, ProcessCase
