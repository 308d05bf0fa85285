"""A bucket whose bytes are wrong is mended, and nobody gets a whole wrong blob from it."""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs, formatEvent

from tests.clients import ClientError
from tests.emulator import Emulator, Model
from tests.running import MODEL, Daemon
from tests.s3.daemons import BucketCase, store_of
from tests.s3.servers import MOTO
from yukari.names import Digest

SIZES = "9MB,300KB,11"


class WrongBytesInTheBucketTests(BucketCase):
    server = MOTO

    async def setUp(self) -> None:
        await super().setUp()
        self.s3_at(self.server.endpoint("127.0.0.1"))

    async def wrong(self, **flags: Any) -> tuple[Emulator, Model, Daemon]:
        """
        A bucket whose copy of the largest blob has a wrong byte, and a daemon with an empty disk.
        """
        upstream = await self.upstream(f"{MODEL}={SIZES}")
        model = upstream.models[MODEL]
        first = await self.daemon(upstream)
        await self.pull(first)
        await first.idle()
        await first.stop()
        key = f"blobs/{model.layers[0][0]}"
        got = await self.client.get_whole(key, 1 << 30)
        assert got is not None
        body = bytearray(got[1])
        body[1_234_567] ^= 1
        await self.client.put_object(key, bytes(body), "application/octet-stream")
        upstream.counters.clear()
        return upstream, model, await self.daemon(upstream, **flags)

    async def got(self, daemon: Daemon, digest: str, **headers: str) -> bytes:
        """What a client reads of a blob; `ClientError` if the reply is cut."""
        url = f"{daemon.url}/v2/library/m/blobs/{digest}"
        reply = await self.http().open("GET", url, headers)
        return await reply.body()

    async def test_copy_is_fetched_from_upstream_at_once_and_the_bucket_mended(self) -> None:
        upstream, model, daemon = await self.wrong()
        digest, size = model.layers[0]
        with capturedLogs() as logs, self.assertRaises(ClientError):
            await self.got(daemon, digest)
        self.assertEqual(Digest.of(await self.got(daemon, digest)), Digest.parse(digest))
        await daemon.idle()
        await self.assert_in_bucket(model)
        # Not from the bucket once more: upstream is asked for all of it, once.
        self.assertEqual(upstream.counters.sent_by_digest[digest], size)
        said = [str(formatEvent(each)) for each in logs if each["log_level"].name == "error"]
        self.assertTrue(any(f"bucket {self.bucket} sent sha256:" in each for each in said), said)

    async def test_range_is_right_once_the_wrong_byte_was_noticed(self) -> None:
        _, model, daemon = await self.wrong()
        digest, _ = model.layers[0]
        with self.assertRaises(ClientError):
            await self.got(daemon, digest)
        part = await self.got(daemon, digest, Range="bytes=1234000-1235000")
        whole = await self.got(daemon, digest)
        self.assertEqual(Digest.of(whole), Digest.parse(digest))
        self.assertEqual(part, whole[1234000:1235001])
        await daemon.idle()

    async def test_copy_is_served_no_more_if_upstream_is_gone(self) -> None:
        upstream, model, daemon = await self.wrong()
        digest, _ = model.layers[0]
        await upstream.down()
        with self.assertRaises(ClientError):
            await self.got(daemon, digest)
        reply, _ = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}")
        self.assertGreaterEqual(reply.status, 400)
        self.assertIsNone(await self.client.head_object(f"blobs/{digest}"))
        other = await self.daemon(upstream, offline=True)
        self.assertIsNone(await store_of(other).blob_size(Digest.parse(digest)))

    async def test_copy_that_another_daemon_has_mended_meanwhile_stays(self) -> None:
        _, model, daemon = await self.wrong()
        digest, size = Digest.parse(model.layers[0][0]), model.layers[0][1]
        source = store_of(daemon).source(digest, size)
        head = await self.client.head_object(f"blobs/{digest}")
        assert head is not None
        source._etags.add(head.etag)  # type: ignore[attr-defined]
        await self.client.put_object(f"blobs/{digest}", b"mended", "application/octet-stream")
        self.assertTrue(await source.set_aside(alone=True))
        self.assertIsNotNone(await self.client.head_object(f"blobs/{digest}"))

    async def test_copy_is_removed_if_the_disk_has_no_room_for_it(self) -> None:
        """Then the bytes pass through the memory, and no spool is hashed."""
        _, model, daemon = await self.wrong(spool_max="1MB")
        digest, _ = model.layers[0]
        with self.assertRaises(ClientError):
            await self.got(daemon, digest)
        self.assertEqual(Digest.of(await self.got(daemon, digest)), Digest.parse(digest))
        await daemon.idle()
        await self.assert_in_bucket(model)
