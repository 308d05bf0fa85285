"""
The upload of a blob into S3, from the spool that is being filled.

Parts are uploaded as soon as the spool covers them, in any order. The object appears only when
`BlobUpload.finish` completes it, for a blob whose digest is right. A note beside the spool names
the upload, so that the next process uses a killed one's parts. Readers of the spool never wait for
S3.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.names import Digest
from yukari.s3.body import FileBody
from yukari.s3.errors import S3Error
from yukari.s3.replies import Part
from yukari.spans import Span, SpanSet
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.keys import blob_key
from yukari.storage.bucket.multipart import (
    SMALL,
    BlobParts,
    Note,
    md5_of,
    note_path,
    put_in_one,
    send_part,
)
from yukari.storage.disk.atomic import remove
from yukari.storage.disk.files import FileBlob
from yukari.storage.disk.spool import SpoolFile
from yukari.tasks import Waiters, backoff, jittered

MAX_CONCURRENT_PARTS = 4
"""Parts of one blob that are uploaded at the same time."""
LOOK_EVERY = 0.25
"""Seconds between two looks at what the spool covers."""
FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
"""Seconds that an upload waits after S3 has failed, doubling from the first to the longest."""
RIVAL_EVERY = 5.0
"""Seconds between two looks whether another daemon has completed the object: a HEAD each."""


@define(eq=False, repr=False)
class BlobUpload:
    """The upload of one spool."""

    _bucket: Bucket
    spool: SpoolFile
    note: Note
    _beaten: Callable[[BlobUpload], None]
    """Called when another daemon has stored the object; this upload is then abandoned."""
    _left: Callable[[BlobUpload], None]
    """Called when the upload has ended and no longer touches its note or its parts in S3."""
    resumed: bool = False
    """An earlier process began the spool."""
    key: str = field(init=False)
    _note_path: str = field(init=False)
    _size: int = field(init=False)
    _parts: BlobParts = field(init=False)
    _file: FileBlob = field(init=False)
    _done: dict[int, str] = field(factory=dict, init=False)
    """The ETags of the parts that are up, by number, from 0 here."""
    _going: dict[int, Deferred[None]] = field(factory=dict, init=False)
    _taken: SpanSet = field(factory=SpanSet, init=False)
    """Numbers of parts that are up or on their way."""
    _upload_id: str = field(default="", init=False)
    _beginning: Optional[Deferred[None]] = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _not_before: float = field(default=0.0, init=False)
    _looks_at: float = field(init=False)
    """When it looks for another daemon's object next."""
    _looking: Optional[Deferred[None]] = field(default=None, init=False)
    _finishing: bool = field(default=False, init=False)
    _timer: Optional[IDelayedCall] = field(default=None, init=False)
    _woken: Waiters = field(factory=Waiters, init=False)
    _abandoning: Optional[Deferred[None]] = field(default=None, init=False)
    has_note: bool = field(default=True, init=False)
    """Whether the note is still this upload's, and not already that of a new spool's."""
    ended: bool = field(default=False, init=False)
    """Whether no more is uploaded: the object is there, was abandoned, or the process stops."""
    sent: int = field(default=0, init=False)
    """Bytes of parts that went up."""

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.key = blob_key(self.digest)
        self._note_path = note_path(self._bucket.directory, self.digest)
        self._size = self.spool.size
        self._parts = BlobParts.of(self._size)
        self._file = self.spool.open()
        self._looks_at = self._bucket.clock.seconds() + (0.0 if self.resumed else RIVAL_EVERY)

    @property
    def digest(self) -> Digest:
        return self.spool.digest

    @property
    def upload_id(self) -> str:
        """The ID of the multipart upload, "" if there is none yet."""
        return self._upload_id or self.note.upload_id

    # while the blob comes

    def look(self) -> None:
        """Send the parts that are complete, then look again at intervals until `ended`."""
        if self.ended:
            return
        if self.spool.gone:
            self._in_background(self.abandon())
            return
        if self.spool.closed:
            self.stop()
            self._left(self)
            return
        self._look_again(LOOK_EVERY)
        if self._size < SMALL or self._beginning is not None:
            return
        now = self._bucket.clock.seconds()
        if now < self._not_before:
            return
        if now >= self._looks_at and not self._finishing and self._looking is None:
            self._looks_at = now + RIVAL_EVERY
            looking = self._in_background(self._look_for_rival())
            self._looking = None if looking.called else looking
        while (
            len(self._going) < MAX_CONCURRENT_PARTS
            and (number := self._parts.first_ready(self.spool.covered(), self._taken)) is not None
        ):
            if not self._upload_id:
                beginning = self._in_background(self._begin())
                self._beginning = None if beginning.called else beginning
                return
            self._taken.add(number, number + 1)
            self._going[number] = going = Deferred.fromCoroutine(self._send(number))
            going.addBoth(self._was_sent, number)

    def look_soon(self) -> None:
        """Call `look` in the reactor's next turn."""
        self._look_again(0.0)

    def _look_again(self, seconds: float) -> None:
        if self._timer is None or not self._timer.active():
            self._timer = self._bucket.clock.callLater(seconds, self.look)

    async def _look_for_rival(self) -> None:
        """Stop if another daemon has stored the object already."""
        try:
            there = await self.is_there()
        except OSError:
            return  # The parts will say so.
        finally:
            self._looking = None
        if there and not self.ended and not self._finishing and self._beginning is None:
            self._log.info(
                "{digest}: another daemon has put it into S3, {sent} of {size} bytes went there",
                digest=str(self.digest),
                sent=self.sent,
                size=self._size,
            )
            self._beaten(self)
            await self.abandon()

    async def _begin(self) -> None:
        """Continue the upload that an earlier process began, or begin a new one."""
        try:
            if self.note.upload_id and self.note.part_size == self._parts.part_size:
                await self._adopt(self.note.upload_id)
            if not self._upload_id:
                begun = await self._bucket.client.init_multipart_upload(
                    self.key, self.note.media_type
                )
                self.note = Note(self.note.media_type, begun, self._parts.part_size)
                await self._bucket.in_thread(self.note.write, self._note_path, self._bucket.made_in)
                self._upload_id = begun
        except OSError as error:
            self._failed(error)
        finally:
            self._beginning = None
        self.look()

    async def _adopt(self, upload_id: str) -> None:
        """Use those uploaded parts again whose bytes are the spool's."""
        parts = await self._bucket.client.list_parts(self.key, upload_id)
        if parts is None:
            return
        covered = self.spool.covered()
        for part in parts:
            if await self._is_ours(part, covered):
                self._done[part.number - 1] = part.etag
                self._taken.add(part.number - 1, part.number)
        self._upload_id = upload_id
        self._log.info(
            "{digest}: {count} of {all} parts were in S3 already",
            digest=str(self.digest),
            count=len(self._done),
            all=self._parts.count,
        )

    async def _is_ours(self, part: Part, covered: SpanSet) -> bool:
        number = part.number - 1
        if not 0 <= number < self._parts.count:
            return False
        span = self._parts.span(number)
        if part.size != len(span) or covered.until(span.start) < span.end:
            return False
        return bool(part.etag.lower() == await self._bucket.in_thread(md5_of, self._file, span))

    async def _send(self, number: int) -> None:
        span, upload_id = self._parts.span(number), self._upload_id
        made = partial(FileBody, self._file.read, span, self._bucket.in_thread)
        try:
            etag = await send_part(self._bucket.client, self.key, upload_id, number + 1, made)
        except S3Error as error:
            if error.code == "NoSuchUpload" and upload_id == self._upload_id:
                self._forget_upload()
            raise
        if upload_id != self._upload_id:
            raise S3Error("NoSuchUpload", 404, f"part {number + 1} was of an upload that is gone")
        self._done[number] = etag
        self.sent += len(span)

    def _was_sent(self, result: Any, number: int) -> None:
        self._going.pop(number, None)
        if isinstance(result, Failure):
            self._taken.remove(number, number + 1)
            error = result.value
            if isinstance(error, OSError):
                self._failed(error)
            elif not isinstance(error, CancelledError) and not self.ended:
                self._log.failure("{digest}: a part", result, digest=str(self.digest))
                self._failed(OSError(errno.EIO, "internal error"))
        else:
            self._failures = 0
        self._woken.fire()
        self.look()

    def _failed(self, error: OSError) -> None:
        """Wait before the next attempt, the longer the more failures there were in a row."""
        if self.ended:
            return
        now = self._bucket.clock.seconds()
        if now >= self._not_before:
            self._failures += 1
            wait = jittered(backoff(self._failures, FIRST_WAIT, LONGEST_WAIT))
            if isinstance(error, S3Error) and error.retry_after is not None:
                wait = max(wait, min(LONGEST_WAIT, error.retry_after))
            self._not_before = now + wait
            self._log.warn(
                "{digest}: upload waits {seconds} s: {error}",
                digest=str(self.digest),
                seconds=round(wait, 1),
                error=str(error),
            )
        self._woken.fire()

    def _forget_upload(self) -> None:
        self._upload_id = ""
        self.note = Note(self.note.media_type)
        self._done.clear()
        self._taken = SpanSet()
        for number in self._going:
            self._taken.add(number, number + 1)

    # when it is whole and right

    async def finish(self) -> None:
        """
        Return when S3 has the object with the right size; retry until then.

        OSError if it is stopped.
        """
        self._finishing = True
        while True:
            self._go_on_or_stop()
            try:
                await self._bucket.lease.over(self.digest)
                if await self.is_there():
                    await self.abandon()
                    return
                if self._size < SMALL:
                    await self._put_whole()
                elif len(self._done) < self._parts.count:
                    self.look()
                    await self._sleep(RIVAL_EVERY)
                else:
                    await self._complete()
            except OSError as error:
                self._go_on_or_stop()
                self._failed(error)
            wait = self._not_before - self._bucket.clock.seconds()
            if wait > 0:
                await self._sleep(wait, wakes=False)

    def _go_on_or_stop(self) -> None:
        if self.ended:
            raise OSError(errno.ECANCELED, "stopped before it was in S3", self.key)

    async def is_there(self) -> bool:
        """Whether S3 has the object, whole."""
        if self._bucket.lease.is_doomed(self.digest):
            return False
        found = await self._bucket.client.head_object(self.key)
        return found is not None and found.size == self._size

    async def _put_whole(self) -> None:
        if not self._size:
            await self._bucket.client.put_object(self.key, b"", self.note.media_type)
            return
        made = partial(FileBody, self._file.read, Span(0, self._size), self._bucket.in_thread)
        await put_in_one(self._bucket.client, self.key, self.note.media_type, made)
        self.sent += self._size

    async def _complete(self) -> None:
        parts = {number + 1: etag for number, etag in self._done.items()}
        try:
            await self._bucket.client.complete_multipart_upload(self.key, self._upload_id, parts)
        except S3Error as error:
            if error.code in ("NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall"):
                await self._bucket.client.abort_multipart_upload(self.key, self._upload_id)
                self._forget_upload()
            raise
        if not await self.is_there():
            self._forget_upload()
            raise S3Error("Missing", 0, f"{self.key} is not there once its parts were put together")
        self._upload_id = ""  # nothing is left to abort

    # the end

    async def abandon(self) -> None:
        """
        Abort the upload, so that S3 drops its parts; an object that is there stays.

        Return when that is done, whichever call began it.
        """
        if self._abandoning is None:
            if self.ended:
                return
            self._abandoning = Deferred.fromCoroutine(self._abandon())
        done: Deferred[None] = Deferred()
        self._abandoning.chainDeferred(done)
        await done

    async def _abandon(self) -> None:
        self.stop()
        upload_id = self._upload_id or self.note.upload_id
        if upload_id and len(self._done) < self._parts.count or self._upload_id:
            try:
                await self._bucket.calls.run(
                    self._bucket.client.abort_multipart_upload(self.key, upload_id)
                )
            except S3Error as error:
                self._log.warn("{key}: upload not aborted: {error}", key=self.key, error=str(error))
                self._left(self)
                return  # the note stays: the next start aborts it
        if self.has_note:
            await self._bucket.in_thread(remove, self._note_path)
        self._left(self)

    def stop(self) -> None:
        """Stop, and leave parts and note for the next process; harmless when repeated."""
        self.ended = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for going in list(self._going.values()):
            going.cancel()
        for asking in (self._beginning, self._looking):
            if asking is not None:
                asking.cancel()
        self._file.close()
        self._woken.fire()

    async def _sleep(self, seconds: float, *, wakes: bool = True) -> None:
        """Wait until something has changed, for at most ``seconds``."""
        await self._woken.wait_at_most(seconds, self._bucket.clock)
        if not wakes and not self.ended and self._bucket.clock.seconds() < self._not_before:
            await self._sleep(self._not_before - self._bucket.clock.seconds(), wakes=False)

    def _in_background(self, work: Any) -> Deferred[None]:
        task: Deferred[None] = Deferred.fromCoroutine(work)

        def settle(result: Any) -> None:
            if isinstance(result, Failure) and not result.check(CancelledError):
                self._log.failure("{digest}: uploading", result, digest=str(self.digest))

        return task.addBoth(settle)
