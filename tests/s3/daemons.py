"""Daemons whose store is a bucket of the test's own."""

from __future__ import annotations

import os
from typing import Any, Optional

from tests.emulator import Emulator, Model
from tests.processes import ProcessCase, YukariProcess, reactor
from tests.running import Daemon
from tests.s3.against import KEYS, AgainstServer
from tests.s3.proxy import Proxy
from tests.s3.servers import CEPH
from yukari.config.settings import Settings
from yukari.names import Digest
from yukari.storage.bucket.store import BucketStore


def store_of(daemon: Daemon) -> BucketStore:
    """The daemon's store."""
    store = daemon.service.parts.store
    assert isinstance(store, BucketStore)
    return store


class BucketCase(AgainstServer, ProcessCase):
    """
    Tests of whole daemons over Ceph. Their S3 is at 127.0.0.2, they themselves at 127.0.0.1.
    """

    server = CEPH

    async def setUp(self) -> None:
        await super().setUp()
        self.s3_at(self.server.endpoint("127.0.0.2"))

    def s3_at(self, endpoint: str) -> None:
        """The S3 of the daemons that are started from now on."""
        aws = {
            "AWS_ACCESS_KEY_ID": KEYS.access,
            "AWS_SECRET_ACCESS_KEY": KEYS.secret,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "TIGRIS_BUCKET": self.bucket,
        }
        self.patch(os, "environ", {**os.environ, **aws})

    async def proxied(self) -> Proxy:
        """The proxy to S3 of the daemons that are started from now on."""
        proxy = Proxy(reactor, self.server.port)
        self.s3_at(await proxy.start())
        self.addCleanup(proxy.stop)
        return proxy

    def settings(self, upstream: Emulator, **flags: Any) -> Settings:
        """A daemon as in every test, with the bucket, and a disk of its own unless one is given."""
        flags.setdefault("spool_dir", os.path.abspath(self.mktemp()))
        flags.setdefault("redirect", "off")
        bucket = {"storage": "tigris", "tigris_bucket": self.bucket}
        return super().settings(upstream, **bucket, **flags)

    async def process(
        self, upstream: str, *arguments: str, disk: Optional[str] = None, **bind: str
    ) -> YukariProcess:
        """The daemon as a process, with an empty disk unless one is given."""
        bucket = f"--tigris-bucket={self.bucket}", f"--spool-dir={disk or self.directory()}"
        return await self.yukari(upstream, *bucket, *arguments, storage="tigris", **bind)

    async def assert_in_bucket(self, *models: Model) -> None:
        """The bucket holds these models' blobs, whole, and no unfinished upload."""
        for digest, size in (blob for model in models for blob in model.blobs):
            got = await self.client.get_whole(f"blobs/{digest}", 1 << 30)
            assert got is not None, digest
            self.assertEqual((len(got[1]), str(Digest.of(got[1]))), (size, digest))
        self.assertEqual(await self.client.list_multipart_uploads(), [])
