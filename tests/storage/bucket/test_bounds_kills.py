"""A bounded bucket under a herd, whose daemon is killed in the middle of storing and removing."""

from __future__ import annotations

from tests.emulator import Emulator
from tests.processes import YukariProcess
from tests.pulls.test_bounds_kills import HerdTests
from tests.s3.daemons import BucketCase
from tests.s3.servers import MOTO


class BucketHerdTests(BucketCase, HerdTests):
    """No pull fails, each is right, and the bound holds all the time."""

    server = MOTO
    models = 20

    async def setUp(self) -> None:
        await super().setUp()
        self.s3_at(self.server.endpoint("127.0.0.1"))

    async def start(self, upstream: Emulator) -> YukariProcess:
        return await self.process(upstream.url, *self.flags, bind=self.bind, disk=self.storage)

    async def taken(self) -> int:
        page = await self.client.list_objects("blobs/")
        return sum(row.size for row in page.objects)


del HerdTests
