"""Blobs that go straight into the bucket, past a disk that has no room for them."""

from __future__ import annotations

import os
import shutil
from copy import copy
from hashlib import sha256
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed

from tests.running import until
from tests.s3.against import AgainstServer, for_each_server, reactor
from tests.s3.proxy import SLOW_DOWN, Lose, reply
from tests.storage.contract import NAME
from yukari.config.units import FreeSpace
from yukari.errors import blob_unknown
from yukari.names import Digest, Repository
from yukari.s3 import requests as requests_module
from yukari.s3.client import S3Client
from yukari.s3.errors import S3Error
from yukari.sources import sequential as inorder
from yukari.sources.base import Answer, SourceFailed, SourceRefused
from yukari.sources.pace import HostPace
from yukari.spans import Span
from yukari.storage.bucket import direct
from yukari.storage.bucket.direct import IN_MEMORY, BucketUpload
from yukari.storage.bucket.multipart import NOTE, Note, note_path, part_size
from yukari.storage.bucket.store import BucketStore
from yukari.storage.capabilities import Unfinished
from yukari.storage.disk.atomic import remove
from yukari.storage.ports import NoRoom, WrongDigest

MIB = 1024 * 1024
CHUNK = 64 * 1024
BLOB = b"".join(sha256(b"%d" % number).digest() for number in range(44 * MIB // 32 + 9))
"""Six parts, the last of them short."""
DIGEST = Digest.of(BLOB)
PART = part_size(len(BLOB))
UNFINISHED = Unfinished(DIGEST, len(BLOB), NAME)


@define(eq=False)
class Flowing:
    """An upstream that sends as fast as it is read, and breaks off where it is told to."""

    content: bytes
    breaks: list[int] = field(factory=list)
    """After so many bytes in all."""
    ignores_range: bool = False
    refusing: Optional[Exception] = None
    asked: list[Span] = field(factory=list)
    sent: int = 0
    watch: Any = lambda: None
    """Called after each chunk."""
    bodies: list[_Sending] = field(factory=list)
    pace: HostPace = field(factory=HostPace)
    ranges: bool = True

    async def fetch(self, span: Span) -> Answer:
        self.asked.append(span)
        if self.refusing is not None:
            raise self.refusing
        answered = Span(0, len(self.content)) if self.ignores_range else span
        self.bodies.append(_Sending(self, answered))
        return Answer(answered, answered == span, self.pace, self.bodies[-1])

    def add_repository(self, name: Repository) -> None:
        pass

    def retry(self) -> None:
        pass

    def move_on(self, *, soon: bool = False) -> bool:
        return False

    def describe(self) -> str:
        return "a double"

    async def set_aside(self, *, alone: bool) -> bool:
        return False


@define(eq=False)
class Held(Flowing):
    """One whose answers wait until the gate is open."""

    gate: DeferredLock = field(kw_only=True)

    async def fetch(self, span: Span) -> Answer:
        await self.gate.acquire()
        self.gate.release()
        return await super().fetch(span)


@define(eq=False)
class _Sending:
    """A reply's body, and its transport."""

    source: Flowing
    span: Span
    paused: bool = False
    over: bool = False
    _protocol: Any = None
    _at: int = field(init=False)
    _scheduled: bool = False

    def __attrs_post_init__(self) -> None:
        self._at = self.span.start

    def deliverBody(self, protocol: IProtocol) -> None:
        self._protocol = protocol
        protocol.makeConnection(self)  # type: ignore[arg-type]
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        if not self._scheduled:
            self._scheduled = True
            reactor.callLater(0, self._send)

    def stopProducing(self) -> None:
        self.over = True

    def _send(self) -> None:
        self._scheduled = False
        if self.over or self.paused:
            return
        source = self.source
        data = source.content[self._at : min(self._at + CHUNK, self.span.end)]
        self._at += len(data)
        source.sent += len(data)
        self._protocol.dataReceived(data)
        source.watch()
        if source.breaks and source.sent >= source.breaks[0]:
            del source.breaks[0]
            self._end(ResponseFailed([]))
        elif self._at == self.span.end:
            self._end(ResponseDone())
        else:
            self.resumeProducing() if not self.paused else None

    def _end(self, why: Exception) -> None:
        if not self.over:
            self.over = True
            self._protocol.connectionLost(Failure(why))


class DirectUploadTests(AgainstServer):
    """A store whose disk has room for nothing."""

    async def setUp(self) -> None:
        await super().setUp()
        self.patch(inorder, "FIRST_WAIT", 0.01)
        self.patch(direct, "FIRST_WAIT", 0.01)
        self.patch(requests_module, "FIRST_WAIT", 0.01)

    async def started(self, client: Optional[S3Client] = None, **keywords: Any) -> BucketStore:
        keywords = {"spool_dir": self.mktemp(), "min_free": FreeSpace(percent=100.0), **keywords}
        store = BucketStore(
            client=client or self.client, in_thread=self.threads, clock=reactor, **keywords
        )
        await store.start()
        self.addCleanup(store.stop)
        return store

    def way(
        self, store: BucketStore, source: Any, digest: Digest = DIGEST, size: int = len(BLOB)
    ) -> BucketUpload:
        return store.direct_upload(digest, size, NAME, source)

    async def failing(self, way: BucketUpload, error: type[Exception]) -> Any:
        try:
            await way.run()
        except error as failed:
            return failed
        self.fail("it went through")

    async def objects(self) -> dict[str, int]:
        return {row.key: row.size for row in (await self.client.list_objects()).objects}

    async def assert_nothing_left(self, store: BucketStore) -> None:
        """Neither in the bucket, but for objects, nor on the disk."""
        self.assertEqual(await self.client.list_multipart_uploads(), [])
        entries = os.listdir(store.spool_dir)
        self.assertEqual([entry for entry in entries if entry.endswith(NOTE)], [])
        self.assertEqual(store._direct.running, set())

    async def assert_stored(self, store: BucketStore, body: bytes = BLOB) -> None:
        digest = Digest.of(body)
        self.assertEqual(await self.objects(), {f"blobs/{digest}": len(body)})
        got = await self.client.get_whole(f"blobs/{digest}", 1 << 30)
        assert got is not None
        self.assertEqual(Digest.of(got[1]), digest)
        self.assertEqual(await store.blob_size(digest), len(body))
        await self.assert_nothing_left(store)

    async def test_a_blob_is_stored_whole_and_each_byte_is_fetched_once(self) -> None:
        store = await self.started()
        try:
            await store.new_spool(DIGEST, len(BLOB), NAME)
        except NoRoom:
            pass
        else:
            self.fail("there was room")
        source = Flowing(BLOB)
        way = self.way(store, source)
        await way.run()
        self.assertEqual((source.sent, way.came, way.sent), (len(BLOB),) * 3)
        await self.assert_stored(store)

    async def test_a_small_one_and_an_empty_one_go_in_one_piece(self) -> None:
        for body in (b"", b"small"):
            store = await self.started()
            await self.way(store, Flowing(body), Digest.of(body), len(body)).run()
            await self.assert_stored(store, body)
            await self.client.delete_object(f"blobs/{Digest.of(body)}")

    async def test_what_is_there_already_is_not_fetched(self) -> None:
        await self.client.put_object(f"blobs/{DIGEST}", BLOB, "a/b")
        store, source = await self.started(), Flowing(BLOB)
        await self.way(store, source).run()
        self.assertEqual(source.asked, [])

    async def test_a_slow_s3_slows_upstream_down(self) -> None:
        proxy, client = await self.through_proxy()
        proxy.rate = 30e6
        store, source = await self.started(client), Flowing(BLOB)
        way, ahead = self.way(store, source), []
        source.watch = lambda: ahead.append(source.sent - way.sent)
        await way.run()
        self.assertLessEqual(max(ahead), IN_MEMORY * PART + CHUNK)
        self.assertGreater(max(ahead), PART)
        await self.assert_stored(store)

    async def test_wrong_bytes_never_become_an_object(self) -> None:
        wrong = BLOB[:-1] + b"?"
        store = await self.started()
        for body in (wrong, wrong[-1000:]):
            way = self.way(store, Flowing(body), DIGEST, len(body))
            failed = await self.failing(way, WrongDigest)
            self.assertEqual(failed.found, Digest.of(body))
            self.assertEqual(await self.objects(), {})
            await self.assert_nothing_left(store)

    async def test_an_upstream_that_breaks_off_is_asked_for_the_rest(self) -> None:
        store = await self.started()
        source = Flowing(BLOB, breaks=[3 * MIB, 20 * MIB])
        await self.way(store, source).run()
        self.assertEqual([span.start for span in source.asked], [0, 3 * MIB, 20 * MIB])
        self.assertEqual(source.sent, len(BLOB))
        await self.assert_stored(store)

    async def test_an_upstream_without_ranges_is_skipped_through(self) -> None:
        store = await self.started()
        source = Flowing(BLOB, breaks=[3 * MIB], ignores_range=True)
        await self.way(store, source).run()
        self.assertEqual(source.sent, len(BLOB) + 3 * MIB)
        await self.assert_stored(store)

    async def test_an_upstream_that_refuses_ends_it(self) -> None:
        store = await self.started()
        source = Flowing(BLOB, breaks=[20 * MIB])
        way = self.way(store, source)

        def refuse() -> None:
            if not source.breaks:
                source.refusing = SourceRefused(blob_unknown(DIGEST))

        source.watch = lambda: reactor.callLater(0, refuse)
        await self.failing(way, SourceRefused)
        self.assertEqual(await self.objects(), {})
        await self.assert_nothing_left(store)

    async def test_an_upstream_that_sends_nothing_is_given_up(self) -> None:
        self.patch(inorder, "PATIENCE", 0.05)
        store = await self.started()
        source = Flowing(BLOB, refusing=SourceFailed("busy"))
        await self.failing(self.way(store, source), SourceFailed)
        await self.assert_nothing_left(store)

    async def test_stopped_in_the_middle_nothing_is_left(self) -> None:
        store, source = await self.started(), Flowing(BLOB)
        way = self.way(store, source)
        running = Deferred.fromCoroutine(way.run())
        while not way.sent:
            await deferLater(reactor, 0.01)
        running.cancel()
        try:
            await running
        except CancelledError:
            pass
        else:
            self.fail("it went on")
        self.assertEqual(await self.objects(), {})
        self.assertTrue(all(body.over for body in source.bodies))
        self.assertEqual(await self.client.list_multipart_uploads(), [])
        await store.stop()
        again = await self.started(spool_dir=store.spool_dir)
        await again.spools()
        self.assertEqual(await again.unfinished(), [UNFINISHED])

    async def test_one_in_progress_ends_with_the_store_and_is_unfinished(self) -> None:
        store = await self.started()
        way = self.way(store, Flowing(BLOB))
        running = Deferred.fromCoroutine(way.run())
        while not way.sent:
            await deferLater(reactor, 0.01)
        await store.stop()
        self.failureResultOf(running, S3Error)
        self.assertEqual(await self.client.list_multipart_uploads(), [])
        again = await self.started(spool_dir=store.spool_dir)
        await again.spools()
        self.assertEqual(await again.unfinished(), [UNFINISHED])

    async def test_stopped_for_good_nothing_at_all_is_left(self) -> None:
        store = await self.started()
        way = self.way(store, Flowing(BLOB))
        running = Deferred.fromCoroutine(way.run())
        while not way.sent:
            await deferLater(reactor, 0.01)
        way.give_up()
        running.cancel()
        running.addErrback(lambda failure: failure.trap(CancelledError))
        await running
        self.assertEqual(await self.objects(), {})
        await self.assert_nothing_left(store)

    async def test_one_stopped_at_its_very_end_gives_its_turn_back(self) -> None:
        store = await self.started()
        way = self.way(store, Flowing(BLOB))
        removing: list[Deferred[Any]] = []

        def in_thread(work: Any, *arguments: Any) -> Deferred[Any]:
            if work is not remove:
                return self.threads(work, *arguments)
            removing.append(Deferred())
            return removing[-1]

        way._bucket = copy(way._bucket)
        way._bucket.in_thread = in_thread
        running = Deferred.fromCoroutine(way.run())
        while not removing:
            await deferLater(reactor, 0.01)
        running.cancel()
        running.addErrback(lambda failure: failure.trap(CancelledError))
        await running
        self.assertEqual(store._direct.running, set())
        self.assertEqual(store._direct.large_slots.tokens, direct.MAX_UPLOADS)

    async def test_what_could_not_be_aborted_is_by_the_next_start(self) -> None:
        self.patch(direct, "LEAVE_WITHIN", 0.1)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        way = self.way(store, Flowing(BLOB))
        running = Deferred.fromCoroutine(way.run())
        while not way.sent:
            await deferLater(reactor, 0.01)
        await proxy.stop()
        running.cancel()
        running.addErrback(lambda failure: failure.trap(CancelledError))
        await running
        self.assertEqual(len(await self.client.list_multipart_uploads()), 1)
        await store.stop()
        again = await self.started(spool_dir=store.spool_dir)
        self.assertEqual(await again.spools(), [])
        self.assertEqual(await again.sweep(), 1)
        self.assertEqual(await self.client.list_multipart_uploads(), [])
        self.assertEqual(await again.unfinished(), [UNFINISHED])
        await proxy.start()

    async def test_what_a_killed_process_began_begins_anew(self) -> None:
        store, source = await self.started(), Flowing(BLOB)
        way = self.way(store, source)
        running = Deferred.fromCoroutine(way.run())
        while not way.sent:
            await deferLater(reactor, 0.01)
        spool_dir = self.mktemp()
        shutil.copytree(store.spool_dir, spool_dir)
        source.refusing = CancelledError()  # It does nothing more: it was killed here.
        way._bucket = copy(way._bucket)
        way._bucket.client = self.client_at("http://127.0.0.1:1")
        running.cancel()
        running.addErrback(lambda failure: failure.trap(CancelledError))
        again = await self.started(spool_dir=spool_dir)
        self.assertEqual(await again.spools(), [])
        self.assertEqual(await again.unfinished(), [UNFINISHED])
        await self.way(again, Flowing(BLOB)).run()
        await self.assert_stored(again)
        await running

    async def test_what_another_daemon_has_stored_meanwhile_is_not_begun_anew(self) -> None:
        store = await self.started()
        running = Deferred.fromCoroutine(self.way(store, Flowing(BLOB)).run())
        running.cancel()
        running.addErrback(lambda failure: failure.trap(CancelledError))
        await running
        await store.stop()
        again = await self.started(spool_dir=store.spool_dir)
        await again.spools()
        self.assertEqual(await again.sweep(), 0)
        self.assertEqual(await again.unfinished(), [UNFINISHED])
        await self.client.put_object(f"blobs/{DIGEST}", BLOB, "a/b")
        self.assertEqual(await again.sweep(), 0)
        self.assertEqual(await again.unfinished(), [])
        await self.assert_stored(again)

    async def test_an_upload_is_kept_where_there_is_room_again(self) -> None:
        store = await self.started()
        begun = await self.client.init_multipart_upload(f"blobs/{DIGEST}", "a/b")
        note = Note("a/b", begun, PART, len(BLOB), str(NAME))
        note.write(note_path(store.spool_dir, DIGEST), store.spool_dir)
        await store.stop()
        again = await self.started(spool_dir=store.spool_dir, min_free=FreeSpace(bytes=0))
        await again.spools()
        spool = await again.new_spool(DIGEST, len(BLOB), NAME)
        self.assertEqual(await again.sweep(), 0)
        await self.threads(spool.write, [(0, [BLOB])])
        await again.publish(spool)
        await self.assert_stored(again)

    async def test_another_daemons_object_ends_it_early(self) -> None:
        self.patch(direct, "RIVAL_EVERY", 0.0)
        store, source = await self.started(), Flowing(BLOB)
        way = self.way(store, source)
        running = Deferred.fromCoroutine(way.run())
        put: Optional[Deferred[Any]] = None

        def watch() -> None:
            nonlocal put
            if put is None and source.sent >= PART // 2:
                source.bodies[-1].paused = True
                putting = self.client.put_object(f"blobs/{DIGEST}", BLOB, "a/b")
                put = Deferred.fromCoroutine(putting)
                put.addCallback(lambda _: source.bodies[-1].resumeProducing())

        source.watch = watch
        await running
        self.assertLess(source.sent, 3 * PART)
        await self.assert_stored(store)

    async def test_an_s3_that_is_busy_is_waited_for(self) -> None:
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        proxy.faults.extend([reply(503, SLOW_DOWN)] * 20)
        await self.way(store, Flowing(BLOB)).run()
        await self.assert_stored(store)

    async def test_a_lost_answer_to_complete_is_no_failure(self) -> None:
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        key = b"/blobs/sha256%3A" + DIGEST.hex.encode()
        proxy.only = b"POST /" + self.bucket.encode() + key + b"?uploadId"
        proxy.faults.append(Lose())
        await self.way(store, Flowing(BLOB)).run()
        self.assertEqual(list(proxy.faults), [])
        await self.assert_stored(store)

    async def test_few_go_at_once(self) -> None:
        store = await self.started()
        gate = DeferredLock()
        await gate.acquire()
        running = []
        for number in range(4):
            body = b"%d" % number
            way = self.way(store, Held(body, gate=gate), Digest.of(body), len(body))
            running.append(Deferred.fromCoroutine(way.run()))
        await until(lambda: len(store._direct._small_slots.waiting) == 4 - direct.MAX_UPLOADS)
        await until(lambda: len(gate.waiting) == direct.MAX_UPLOADS)
        gate.release()
        for each in running:
            await each
        self.assertEqual(len(await self.objects()), 4)
        await self.assert_nothing_left(store)

    async def test_parts_too_large_for_memory_go_up_as_they_come(self) -> None:
        self.patch(direct, "LARGEST_IN_MEMORY", MIB)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        proxy.only = b"partNumber=2"
        proxy.faults.append(reply(503, SLOW_DOWN))
        source, kept = Flowing(BLOB, breaks=[3 * MIB]), []
        source.watch = lambda: kept.append(store._memory.used)
        await self.way(store, source).run()
        self.assertEqual((max(kept), list(proxy.faults)), (0, []))
        await self.assert_stored(store)

    async def test_an_upstream_that_refuses_ends_one_with_large_parts(self) -> None:
        """The error is upstream's, not that of the request to S3 which lacks its bytes."""
        self.patch(direct, "LARGEST_IN_MEMORY", MIB)
        store, source = await self.started(), Flowing(BLOB, breaks=[20 * MIB])

        def refuse() -> None:
            if not source.breaks:
                source.refusing = SourceRefused(blob_unknown(DIGEST))

        source.watch = lambda: reactor.callLater(0, refuse)
        await self.failing(self.way(store, source), SourceRefused)
        self.assertEqual(await self.objects(), {})
        await self.assert_nothing_left(store)

    async def test_one_whose_part_waits_for_memory_goes_on_once_there_is_some(self) -> None:
        store, source = await self.started(), Flowing(BLOB)
        memory = store._memory
        memory.take(memory.most)
        running = Deferred.fromCoroutine(self.way(store, source).run())
        await until(lambda: bool(memory._waiting))
        self.assertEqual(source.sent, 0)
        memory.release(memory.most)
        await running
        self.assertEqual(memory.used, 0)
        await self.assert_stored(store)

    async def test_small_ones_do_not_wait_for_large_ones(self) -> None:
        store = await self.started()
        running = []
        for number in range(direct.MAX_UPLOADS):
            source = Flowing(BLOB)
            source.watch = lambda source=source: source.bodies[-1].pauseProducing()
            way = self.way(store, source, Digest.of(b"%d" % number))
            running.append(Deferred.fromCoroutine(way.run()))
            way.give_up()
        while len(await self.client.list_multipart_uploads()) < direct.MAX_UPLOADS:
            pass
        await self.way(store, Flowing(b"small"), Digest.of(b"small"), 5).run()
        for each in running:
            each.cancel()
            each.addErrback(lambda failure: failure.trap(CancelledError))
            await each
        await self.assert_stored(store, b"small")


for_each_server(DirectUploadTests)(globals())
