"""``/readyz`` says why the daemon cannot serve."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.running import RunningCase
from tests.storage.memory import MemoryStore
from yukari.s3.errors import S3Error
from yukari.web.drain import Drain
from yukari.web.readiness import STORE_WITHIN, Readiness


class Bucket(MemoryStore):
    """A store whose check ends as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Deferred[None] = Deferred()

    async def check(self) -> None:
        await self.answer


class ReasonsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = Bucket()
        readiness = Readiness(self.store, Drain(self.clock), self.clock)
        self.reasons: Deferred[dict[str, str]] = Deferred.fromCoroutine(readiness.reasons())

    def test_a_working_store_makes_the_daemon_ready(self) -> None:
        self.store.answer.callback(None)
        self.assertEqual(self.successResultOf(self.reasons), {})

    def test_an_unreachable_bucket_is_named_with_s3s_error(self) -> None:
        self.store.answer.errback(S3Error("Unreachable", 0, "http://s3:9000: connection refused"))
        self.assertIn("connection refused", self.successResultOf(self.reasons)["store"])

    def test_a_silent_store_is_reported(self) -> None:
        self.clock.advance(STORE_WITHIN)
        self.assertEqual(self.successResultOf(self.reasons), {"store": "memory does not answer"})


class DirectoryTests(RunningCase):
    async def test_a_missing_directory_is_named(self) -> None:
        daemon = await self.daemon(await self.upstream())
        reply, body = await self.ask(f"{daemon.url}/readyz")
        self.assertEqual((reply.status, json.loads(body)), (200, {"ready": True, "reasons": {}}))
        blobs = os.path.join(daemon.service._settings.storage, "blobs")
        shutil.rmtree(blobs)
        reply, body = await self.ask(f"{daemon.url}/readyz")
        told: dict[str, Any] = json.loads(body)
        self.assertEqual((reply.status, told["ready"]), (503, False))
        self.assertEqual(told["reasons"], {"store": f"{blobs}: No such file or directory"})
        os.mkdir(blobs)
        reply, _ = await self.ask(f"{daemon.url}/readyz")
        self.assertEqual(reply.status, 200)
