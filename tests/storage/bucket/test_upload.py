"""A spool's way into S3, where S3 forgets what was begun."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import NAME, ScriptedDisk
from yukari.names import Digest
from yukari.s3.errors import S3Error
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.multipart import SMALL, Note
from yukari.storage.bucket.spools import BucketSpools
from yukari.storage.bucket.upload import LONGEST_WAIT, BlobUpload
from yukari.storage.disk.spool import SpoolFile

PARTS = 6
BODY = bytes(PARTS * SMALL)
DIGEST = Digest.of(BODY)


@define(eq=False)
class ScriptedClient:
    """An S3 whose parts arrive when the test says so."""

    begun: int = 0
    parts: list[tuple[str, int, Deferred[str]]] = field(factory=list)
    aborted: list[str] = field(factory=list)
    abort: Deferred[None] = field(factory=lambda: succeed(None))

    async def head_object(self, key: str) -> None:
        return None

    async def init_multipart_upload(self, key: str, media_type: str) -> str:
        self.begun += 1
        return f"upload-{self.begun}"

    async def upload_part(self, key: str, upload_id: str, number: int, body: Any) -> str:
        body(lambda: None)
        arrived: Deferred[str] = Deferred()
        self.parts.append((upload_id, number, arrived))
        return await arrived

    async def abort_multipart_upload(self, key: str, upload_id: str) -> None:
        self.aborted.append(upload_id)
        await self.abort


class UploadTests(SynchronousTestCase):
    def upload(self, client: ScriptedClient, clock: Clock) -> BlobUpload:
        """The upload of a spool that has all of its blob."""
        directory = self.mktemp()
        bucket = Bucket(client, directory, ScriptedDisk(), clock)  # type: ignore[arg-type]
        os.makedirs(bucket.made_in)
        spool = SpoolFile.create(directory, DIGEST, len(BODY), NAME)
        spool.write([(0, [BODY])])
        self.addCleanup(spool.close)
        upload = BlobUpload(bucket, spool, Note(), lambda _: None, self.ended.append)
        self.addCleanup(upload.stop)
        return upload

    def setUp(self) -> None:
        self.ended: list[BlobUpload] = []

    def test_whoever_throws_it_away_waits_until_nothing_of_it_is_left(self) -> None:
        """Else it would take the note of the upload that follows it."""
        clock, client = Clock(), ScriptedClient(abort=Deferred())
        upload = self.upload(client, clock)
        upload.look()
        first, second = (Deferred.fromCoroutine(upload.abandon()) for _ in range(2))
        self.assertEqual((client.aborted, self.ended), (["upload-1"], []))
        self.assertNoResult(second)
        client.abort.callback(None)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual((client.aborted, self.ended), (["upload-1"], [upload]))
        self.assertFalse(os.path.exists(upload._note_path))

    def test_new_spool_waits_for_no_abort_and_keeps_its_note(self) -> None:
        """An abort takes minutes while S3 is down."""
        clock, client = Clock(), ScriptedClient(abort=Deferred())
        upload = self.upload(client, clock)
        upload.look()
        upload.spool.discard()
        upload.look()
        self.assertEqual(client.aborted, ["upload-1"])
        directory = upload._bucket.directory

        def new(digest: Digest, size: int, *_: object) -> SpoolFile:
            return SpoolFile.create(directory, digest, size, NAME)

        def in_thread(work: Any, *arguments: Any, undo: object = None) -> Deferred[Any]:
            return succeed(work(*arguments))

        has: Any = SimpleNamespace
        spools = BucketSpools(
            evolve(upload._bucket, in_thread=in_thread),
            blobs=has(media_type=lambda _: "", sizes={}),
            manifests=has(),
            direct=has(left={}),
            tier=has(make_way=lambda *_: None, budget=None),
            files=has(path=directory, room=None, new=new),
            owned=has(restore=lambda: None),
        )
        spools.uploads[DIGEST] = upload
        spool = self.successResultOf(Deferred.fromCoroutine(spools.new(DIGEST, len(BODY), NAME)))
        self.addCleanup(spool.close)
        self.addCleanup(spools.uploads[DIGEST].stop)
        client.abort.callback(None)
        self.assertEqual(self.ended, [upload])
        self.assertTrue(os.path.exists(upload._note_path))

    def test_a_part_of_an_upload_that_is_no_more_ends_no_other(self) -> None:
        """As a bucket's rule aborts old ones: their parts under way fail one after the other."""
        clock, client = Clock(), ScriptedClient()
        upload = self.upload(client, clock)
        upload.look()
        late = [arrived for _, _, arrived in client.parts]
        gone = S3Error("NoSuchUpload", 404, "")
        late.pop(0).errback(gone)
        clock.advance(LONGEST_WAIT)
        self.assertEqual((client.begun, client.parts[-1][0]), (2, "upload-2"))
        late.pop(0).errback(gone)
        late.pop(0).callback("etag")
        for _ in range(4 * PARTS):
            clock.advance(LONGEST_WAIT)
            for upload_id, _, arrived in client.parts:
                if upload_id != "upload-1" and not arrived.called:
                    arrived.callback(f"etag of {upload_id}")
        late.pop(0).errback(gone)
        clock.advance(LONGEST_WAIT)
        for upload_id, _, arrived in client.parts:
            if not arrived.called:
                arrived.callback(f"etag of {upload_id}")
        self.assertEqual(client.begun, 2)
        self.assertEqual(upload._done, dict.fromkeys(range(PARTS), "etag of upload-2"))
