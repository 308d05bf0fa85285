"""The base of tests of the emulated registry and the emulated clients against each other."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.clients import CLASSIC16, CLASSIC64, TRANSFER, Http, Pulled, PullFailed, Reply
from tests.emulator import Emulator, Model

reactor: Any = _reactor

MODEL = "library/m:latest"
SMALL16 = CLASSIC16.scaled(part_min=50_000, backoff=0.001)
SMALL64 = CLASSIC64.scaled(part_min=50_000, backoff=0.001)
SMALL_TRANSFER = TRANSFER.scaled(backoff=0.001)


class EmulatorCase(TestCase):
    """An emulator with one model of a blob in several parts and two small ones."""

    async def started(self, *models: str, **settings: Any) -> Emulator:
        """An emulator with these models; it challenges nobody unless ``settings`` say so."""
        settings.setdefault("challenge", "off")
        made = await Emulator.start(
            reactor, models or [f"{MODEL}=400KB,3000,10"], directory=os.getcwd(), **settings
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    def http(self) -> Http:
        http = Http(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(http.close()))
        return http

    async def ask(
        self, url: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[Reply, bytes]:
        """One request on a connection of its own: the reply and its whole body."""
        http = Http(reactor)
        try:
            reply = await http.open(method, url, headers or {})
            return reply, await reply.body()
        finally:
            await http.close()

    async def failing(self, pulling: Coroutine[Any, Any, Pulled]) -> PullFailed:
        """The failure that a pull ends with."""
        try:
            await pulling
        except PullFailed as failed:
            return failed
        self.fail("the pull went through")

    def assert_whole(self, pulled: Pulled, model: Model) -> None:
        self.assertEqual(pulled.manifest, model.manifest_bytes)
        self.assertEqual({d: b.size for d, b in pulled.blobs.items()}, dict(model.blobs))
        self.assertTrue(all(blob.ok for blob in pulled.blobs.values()))
