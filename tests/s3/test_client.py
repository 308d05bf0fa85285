"""The client, against real servers."""

from __future__ import annotations

from hashlib import md5
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import readBody

from tests.running import until
from tests.s3.against import KEYS, AgainstServer, for_each_server, reactor
from tests.s3.proxy import SLOW_DOWN, Cut, Lose, Proxy, Stall, reply
from tests.s3.servers import CEPH
from yukari.s3 import requests as requests_module
from yukari.s3.body import FileBody
from yukari.s3.client import S3Client
from yukari.s3.credentials import AccessKeys
from yukari.s3.errors import S3Error
from yukari.spans import Span

PART = 5 * 1024 * 1024


class ClientTests(AgainstServer):
    async def failing(self, work: Any) -> S3Error:
        try:
            await work
        except S3Error as error:
            self.assertNotIn("\n", str(error))
            return error
        self.fail("it did not fail")

    def part(self, body: bytes) -> Any:
        def make(heard: Any) -> FileBody:
            span = Span(0, len(body))
            return FileBody(lambda at, n: body[at : at + n], span, self.threads, heard)

        return make

    async def test_an_object_is_put_read_and_deleted(self) -> None:
        key = "blobs/sha256:" + "a" * 64
        etag = await self.client.put_object(key, b"0123456789", "a/b", metadata={"checked-at": "1"})
        self.assertEqual(etag, md5(b"0123456789").hexdigest())
        head = await self.client.head_object(key)
        assert head is not None
        self.assertEqual((head.size, head.etag, head.content_type), (10, etag, "a/b"))
        self.assertEqual(dict(head.metadata), {"checked-at": "1"})
        self.assertGreater(head.modified, 1.6e9)
        got = await self.client.get_whole(key)
        assert got is not None
        self.assertEqual(got[1], b"0123456789")
        await self.client.delete_object(key)
        await self.client.delete_object(key)
        self.assertIsNone(await self.client.head_object(key))
        self.assertIsNone(await self.client.get_object(key))

    async def test_only_the_requested_span_is_read(self) -> None:
        await self.client.put_object("k", b"0123456789", "a/b")
        got = await self.client.get_object("k", Span(3, 6))
        assert got is not None
        self.assertEqual((got[0].size, got[0].content_range), (3, "bytes 3-5/10"))
        self.assertEqual(await readBody(got[1]), b"345")
        error = await self.failing(self.client.get_object("k", Span(20, 30)))
        self.assertEqual(error.status, 416)

    async def test_conditional_puts_hold_their_condition(self) -> None:
        first = await self.client.put_object("k", b"1", "a/b", only_new=True)
        assert first is not None
        self.assertIsNone(await self.client.put_object("k", b"2", "a/b", only_new=True))
        second = await self.client.put_object("k", b"3", "a/b", only_over=first)
        assert second is not None
        self.assertIsNone(await self.client.put_object("k", b"4", "a/b", only_over=first))
        self.assertIsNotNone(await self.client.put_object("k", b"5", "a/b", only_over=second))
        self.assertIsNone(await self.client.put_object("absent", b"6", "a/b", only_over=first))

    async def test_a_late_reply_to_a_conditional_put_is_no_refusal(self) -> None:
        assert self.server is not None
        early, late = [
            (key, await self.client.put_object(key, b"1", "a/b")) for key in ("early", "late")
        ]
        client, call = self.client_at(self.server.endpoint()), S3Client._call

        async def held(client: S3Client, *given: Any, **asked: Any) -> Any:
            try:
                return await call(client, *given, **asked)
            finally:
                if asked["Key"] == "late":
                    await until(lambda: first.called)

        self.patch(S3Client, "_call", held)
        first, second = [
            Deferred.fromCoroutine(client.put_object(key, b"2", "a/b", only_over=tag))
            for key, tag in (early, late)
        ]
        self.assertNotIn(None, [await first, await second])

    async def test_a_listing_in_pages(self) -> None:
        keys = [f"v2/a/b{number}/manifests/sha256:x y+é" for number in range(5)]
        for key in keys:
            await self.client.put_object(key, b"", "a/b")
        found, token = [], None
        while True:
            page = await self.client.list_objects("v2/", token=token, most=2)
            self.assertLessEqual(len(page.objects), 2)
            found += [row.key for row in page.objects]
            token = page.token
            if token is None:
                break
        self.assertEqual(found, keys)
        page = await self.client.list_objects("v2/a/", after=keys[2])
        self.assertEqual([row.key for row in page.objects], keys[3:])

    async def test_an_upload_in_parts_in_any_order(self) -> None:
        body, last = bytes(PART), b"the end"
        upload = await self.client.init_multipart_upload("k", "a/b")
        parts = {2: await self.client.upload_part("k", upload, 2, self.part(last))}
        parts[1] = await self.client.upload_part("k", upload, 1, self.part(body))
        self.assertEqual(parts[2], md5(last).hexdigest())
        listed = await self.client.list_parts("k", upload)
        assert listed is not None
        self.assertEqual([(p.number, p.size, p.etag) for p in listed], [
            (1, PART, parts[1]), (2, 7, parts[2])
        ])  # fmt: skip
        self.assertEqual(
            [u.upload_id for u in await self.client.list_multipart_uploads("k")], [upload]
        )
        self.assertIsNone(await self.client.head_object("k"))
        await self.client.complete_multipart_upload("k", upload, parts)
        head = await self.client.head_object("k")
        assert head is not None
        self.assertEqual((head.size, head.content_type), (PART + 7, "a/b"))
        self.assertEqual(await self.client.list_multipart_uploads(), [])

    async def test_an_upload_that_is_aborted_is_gone(self) -> None:
        upload = await self.client.init_multipart_upload("k", "a/b")
        await self.client.upload_part("k", upload, 1, self.part(b"x"))
        await self.client.abort_multipart_upload("k", upload)
        await self.client.abort_multipart_upload("k", upload)
        self.assertIsNone(await self.client.list_parts("k", upload))
        if self.server is CEPH:  # moto says 500
            error = await self.failing(self.client.upload_part("k", upload, 1, self.part(b"x")))
            self.assertEqual(error.code, "NoSuchUpload")

    async def test_a_presigned_url_works_without_keys(self) -> None:
        await self.client.put_object("blobs/sha256:ab", b"0123456789", "a/b")
        url = await self.client.presign_get("blobs/sha256:ab")
        assert url is not None
        self.assertIn("X-Amz-Expires=86400", url)
        response = await self.client._agent.request(b"GET", url.encode())
        self.assertEqual((response.code, await readBody(response)), (200, b"0123456789"))

    async def test_keys_that_expire_within_the_hour_sign_no_url(self) -> None:
        self.client._credentials.given = AccessKeys("a", "b", "c", 0.0)  # type: ignore[attr-defined]
        self.assertIsNone(await self.client.presign_get("k"))

    async def test_a_missing_bucket_is_reported(self) -> None:
        assert self.server is not None
        absent = self.client_at(self.server.endpoint(), bucket="absent")
        error = await self.failing(absent.get_bucket())
        self.assertEqual((error.code, error.wrong_setting), ("NoSuchBucket", True))
        error = await self.failing(absent.put_object("k", b"", "a/b", only_new=True))
        self.assertEqual(error.code, "NoSuchBucket")

    async def test_wrong_keys_are_reported(self) -> None:
        if self.server is not CEPH:
            return  # moto takes any
        for keys, code in (
            (AccessKeys("nobody", "x", None, None), "InvalidAccessKeyId"),
            (AccessKeys(KEYS.access, "wrong", None, None), "SignatureDoesNotMatch"),
        ):
            client = self.client_at(self.server.endpoint(), keys=keys)
            error = await self.failing(client.get_bucket())
            self.assertEqual((error.code, error.wrong_setting), (code, True))

    async def test_many_concurrent_calls_succeed(self) -> None:
        calls = [
            Deferred.fromCoroutine(self.client.put_object(f"k{number}", b"x", "a/b"))
            for number in range(100)
        ]
        await gatherResults(calls)
        self.assertEqual(len((await self.client.list_objects()).objects), 100)


class FaultTests(AgainstServer):
    async def setUp(self) -> None:
        await super().setUp()
        assert self.server is not None
        self.patch(requests_module, "FIRST_WAIT", 0.01)
        self.proxy = Proxy(reactor, self.server.port)
        endpoint = await self.proxy.start()
        self.addCleanup(self.proxy.stop)
        self.direct = self.client
        self.client: S3Client = self.client_at(endpoint)

    async def test_busy_servers_are_asked_again(self) -> None:
        await self.direct.put_object("k", b"x", "a/b")
        faults = (reply(503, SLOW_DOWN), reply(429), reply(500, b"<html>oops</html>"))
        self.proxy.faults.extend(faults)
        head = await self.client.head_object("k")
        assert head is not None
        self.assertEqual(len(self.proxy.requests), 4)

    async def test_a_busy_server_ends_in_a_passing_error(self) -> None:
        self.proxy.faults.extend([reply(503, SLOW_DOWN)] * 4)
        error = None
        try:
            await self.client.get_whole("k")
        except S3Error as found:
            error = found
        assert error is not None
        self.assertEqual((error.code, error.status, error.passing), ("SlowDown", 503, True))
        self.assertIn("reduce your request rate", str(error))

    async def test_a_cut_reply_is_asked_for_again(self) -> None:
        await self.direct.put_object("k", b"x" * 100_000, "a/b")
        self.proxy.faults.extend([Cut(0), Cut(5000)])
        got = await self.client.get_whole("k")
        assert got is not None
        self.assertEqual(len(got[1]), 100_000)

    async def test_a_stalled_reply_is_given_up_and_asked_for_again(self) -> None:
        await self.direct.put_object("k", b"x" * 100_000, "a/b")
        self.patch(requests_module, "SILENT", 0.5)
        self.patch(S3Client._body, "__defaults__", (1 << 24, 0.5))
        self.proxy.faults.extend([Stall(5000)])
        got = await self.client.get_whole("k")
        assert got is not None
        self.assertEqual(len(got[1]), 100_000)

    async def test_a_conditional_put_whose_reply_is_lost_is_not_repeated(self) -> None:
        self.proxy.faults.append(Lose())
        try:
            await self.client.put_object("k", b"x", "a/b", only_new=True)
        except S3Error as error:
            self.assertTrue(error.unanswered and error.passing)
        else:
            self.fail("it did not fail")
        self.assertEqual(len(self.proxy.requests), 1)
        self.assertIsNotNone(await self.direct.head_object("k"))

    async def test_a_part_is_sent_again(self) -> None:
        upload = await self.client.init_multipart_upload("k", "a/b")
        self.proxy.faults.extend([Lose(), reply(503, SLOW_DOWN)])
        sent = []

        def body(heard: Any) -> FileBody:
            sent.append(1)
            span = Span(0, 600_000)
            return FileBody(lambda at, count: bytes(count), span, self.threads, heard)

        etag = await self.client.upload_part("k", upload, 1, body)
        self.assertEqual((len(sent), etag), (3, md5(bytes(600_000)).hexdigest()))
        await self.client.abort_multipart_upload("k", upload)

    async def test_an_error_in_the_body_of_a_200_is_raised(self) -> None:
        upload = await self.client.init_multipart_upload("k", "a/b")
        body = b"<?xml version='1.0'?>\n\n" + SLOW_DOWN.partition(b"?>")[2]
        self.proxy.faults.extend([reply(200, body)] * 9)
        try:
            await self.client.complete_multipart_upload("k", upload, {1: "x"})
        except S3Error as error:
            self.assertEqual((error.code, error.passing), ("SlowDown", True))
        else:
            self.fail("it did not fail")
        await self.direct.abort_multipart_upload("k", upload)

    async def test_an_unreachable_server_is_reported(self) -> None:
        await self.proxy.port.stopListening()
        try:
            await self.client.head_object("k")
        except S3Error as error:
            self.assertTrue(error.unanswered and error.passing)
            self.assertIn("connection refused", str(error))
        else:
            self.fail("it did not fail")
        await self.proxy.start()

    async def test_a_cancelled_call_is_not_repeated(self) -> None:
        self.proxy.faults.extend([Stall(0)] * 5)
        call = Deferred.fromCoroutine(self.client.head_object("k"))
        while not self.proxy.requests:
            await self.pause()
        call.cancel()
        try:
            await call
        except BaseException as error:
            self.assertEqual(type(error).__name__, "CancelledError")
        await self.pause()
        self.assertEqual(len(self.proxy.requests), 1)

    async def pause(self) -> None:
        waited: Deferred[None] = Deferred()
        reactor.callLater(0.02, waited.callback, None)
        await waited


for_each_server(ClientTests, FaultTests)(globals())
