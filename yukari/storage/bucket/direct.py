"""
A blob's way into S3 past a disk that has no room for it.

Upstream's bytes come in order, a part at a time into memory; each part is
hashed and goes up while the next one comes. Upstream is read no further than
`IN_MEMORY` parts beyond what S3 has taken. Parts that are too large for that are
sent as they come, and fetched again if S3 fails. The object appears once the
sha256 of the stream is right; otherwise all of it is thrown away.

What an earlier process has sent is not gone on with: its hash died with it, and
the parts of an upload cannot be read back. A note on the disk, written before
anything is sent, has the next process abort it and begin the blob anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any, Optional

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.memory import Memory
from yukari.names import Digest
from yukari.net.http import why
from yukari.s3.body import FileBody, StreamBody
from yukari.s3.errors import S3Error
from yukari.sources.base import BlobSource, SourceFailed, SourceRefused
from yukari.sources.sequential import SequentialReader
from yukari.spans import Span
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.keys import blob_key
from yukari.storage.bucket.multipart import (
    SMALL,
    Made,
    Note,
    note_path,
    part_size,
    put_in_one,
    send_part,
)
from yukari.storage.bucket.upload import FIRST_WAIT, LONGEST_WAIT, RIVAL_EVERY
from yukari.storage.disk.atomic import remove
from yukari.storage.ports import WrongDigest
from yukari.tasks import jittered

MAX_UPLOADS = 2
"""Large blobs that are uploaded this way at the same time, and as many small ones."""
IN_MEMORY = 2
"""Parts of one blob that may be in memory at the same time."""
LARGEST_IN_MEMORY = SMALL
"""Bytes of a part that is in memory: those of blobs of more than 80 GB are larger."""
PATIENCE = 900.0
"""Seconds for which one request to S3 is repeated before the blob is given up for now."""
LEAVE_WITHIN = 5.0
"""Seconds that the aborting of an upload may take when the process stops."""


@define(eq=False, repr=False)
class BucketUpload:
    """One blob from ``source`` into the bucket (a `DirectUpload`)."""

    _bucket: Bucket
    digest: Digest
    size: int
    _source: BlobSource
    _note: Note
    _slots: DeferredSemaphore
    """The turns of blobs like this one."""
    _memory: Memory
    _under_way: set[BucketUpload]
    """All that run or wait for their turn; this upload adds and removes itself."""
    key: str = field(init=False)
    _note_path: str = field(init=False)
    sent: int = field(default=0, init=False)
    upload_id: str = field(init=False)
    """The ID of the multipart upload, "" if there is none; at first of an earlier process's."""
    _is_wanted: bool = field(default=True, init=False)
    _part: int = field(init=False)
    _count: int = field(init=False)
    _stream: SequentialReader = field(init=False)
    _hash: Any = field(factory=sha256, init=False)
    _buffers: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(IN_MEMORY), init=False)
    _done: dict[int, str] = field(factory=dict, init=False)
    """The ETags of the parts that are up, by number, from 1."""
    _going: set[Deferred[None]] = field(factory=set, init=False)
    _failure: Optional[Failure] = field(default=None, init=False)
    """The error of a part that could not be sent, if any."""
    _looked_at: float = field(default=0.0, init=False)
    _is_complete: bool = field(default=False, init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.key = blob_key(self.digest)
        self._note_path = note_path(self._bucket.directory, self.digest)
        self.upload_id = self._note.upload_id
        self._part = part_size(self.size)
        self._count = -(-self.size // self._part)
        self._stream = SequentialReader(self._source, self.size, self._bucket.clock)

    @property
    def came(self) -> int:
        return self._stream.came

    def give_up(self) -> None:
        self._is_wanted = False

    async def run(self) -> None:
        await self._bucket.calls.run(self._run())

    async def _run(self) -> None:
        self._under_way.add(self)
        turn: Optional[DeferredSemaphore] = None
        patience, again = PATIENCE, False
        try:
            await self._write_note(again=True)
            turn = await self._slots.acquire()
            await self._bring()
        except CancelledError:
            patience, again = LEAVE_WITHIN, self._is_wanted
            raise
        finally:
            self._stream.close()
            for going in list(self._going):
                going.cancel()
            try:
                await DeferredList(list(self._going))
                await self._leave(patience, again=again)
            finally:
                self._under_way.discard(self)
                if turn is not None:
                    turn.release()

    async def _bring(self) -> None:
        await self._patiently(self._bucket.lease.over, self.digest)
        if await self._is_there():
            return
        if self.upload_id:
            await self._patiently(self._abort)
        if self.size < SMALL:
            await self._bring_in_one()
            return
        await self._patiently(self._begin)
        self._looked_at = self._bucket.clock.seconds()
        for number in range(1, self._count + 1):
            await self._buffers.acquire()
            self._check()
            if await self._rival_was_first():
                return
            if self._part > LARGEST_IN_MEMORY:
                await self._pass_on(number)
                self._buffers.release()
                continue
            data = await self._gather()
            going = Deferred.fromCoroutine(self._send(number, data))
            self._going.add(going)
            going.addBoth(self._was_sent, going, len(data))
        self._check_digest()
        await DeferredList(list(self._going))
        self._check()
        await self._patiently(self._complete)

    async def _bring_in_one(self) -> None:
        data = await self._gather()
        try:
            self._check_digest()
            await self._patiently(self._put, data)
        finally:
            self._memory.give_back(len(data))

    async def _gather(self) -> bytearray:
        """Read the next part's bytes from upstream into memory, and hash them."""
        count = min(self._part, self.size - self._stream.position)
        await self._memory.lend(count)
        try:
            data = bytearray(count)
            await self._stream.read_into(data)
            await self._bucket.in_thread(self._hash.update, data)
        except BaseException:
            self._memory.give_back(count)
            raise
        return data

    async def _pass_on(self, number: int) -> None:
        """Send the next part as its bytes come from upstream."""
        start, hashed = self._stream.position, self._hash.copy()
        span = Span(0, min(self._part, self.size - start))
        sending: Optional[StreamBody] = None

        def made(sent: Callable[[], None]) -> FileBody:
            nonlocal sending
            self._check()
            if sending is not None:
                sending.stopProducing()
            self._stream.go_back(start)
            self._hash = hashed.copy()
            sending = StreamBody(self._come, span, self._bucket.in_thread, sent)
            return sending

        async def send() -> None:
            try:
                self._done[number] = await send_part(
                    self._bucket.client, self.key, self.upload_id, number, made
                )
            except S3Error:
                self._check()  # It may be upstream that has failed.
                raise

        await self._patiently(send)
        self.sent += len(span)

    async def _come(self, count: int, md5: Any) -> bytes:
        """Return the next bytes from upstream, and hash them."""
        data = bytearray(count)
        try:
            await self._stream.read_into(data)
        except (SourceFailed, SourceRefused):
            self._failure = Failure()
            raise
        await self._bucket.in_thread(_hash_all, data, self._hash, md5)
        return bytes(data)

    def _check(self) -> None:
        if self._failure is not None:
            self._failure.raiseException()

    def _check_digest(self) -> None:
        found = Digest(self._hash.hexdigest())
        if found != self.digest:
            raise WrongDigest(found)

    # to S3

    async def _patiently(self, ask: Callable[..., Any], *arguments: Any) -> None:
        """Repeat a request until S3 does it; `S3Error` if that is hopeless or takes too long."""
        began, wait = self._bucket.clock.seconds(), FIRST_WAIT
        while True:
            try:
                await ask(*arguments)
                return
            except S3Error as error:
                if not error.passing or self._bucket.clock.seconds() - began >= PATIENCE:
                    raise
                self._log.warn(
                    "{digest}: its way into S3 waits {seconds} s: {error}",
                    digest=str(self.digest),
                    seconds=round(wait, 1),
                    error=str(error),
                )
                rest = max(jittered(wait), error.retry_after or 0.0)
            await deferLater(self._bucket.clock, rest)
            wait = min(LONGEST_WAIT, 2 * wait)

    async def _begin(self) -> None:
        begun = await self._bucket.client.init_multipart_upload(self.key, self._note.media_type)
        self.upload_id = begun
        await self._write_note(again=True)

    async def _write_note(self, *, again: bool) -> None:
        """Tell the next process what S3 has of it, and whether to bring it ``again``."""
        note = evolve(
            self._note,
            upload_id=self.upload_id,
            part_size=self._part,
            size=self.size if again else 0,
        )
        try:
            await self._bucket.in_thread(note.write, self._note_path, self._bucket.made_in)
        except OSError as error:
            self._log.warn("{path}: {error}", path=self._note_path, error=error.strerror)

    async def _abort(self) -> None:
        await self._bucket.client.abort_multipart_upload(self.key, self.upload_id)
        self.upload_id = ""

    async def _send(self, number: int, data: bytearray) -> None:
        await self._patiently(self._send_once, number, data)
        self.sent += len(data)

    async def _send_once(self, number: int, data: bytearray) -> None:
        made = self._body(data)
        self._done[number] = await send_part(
            self._bucket.client, self.key, self.upload_id, number, made
        )

    def _was_sent(self, result: Any, going: Deferred[None], count: int) -> None:
        self._memory.give_back(count)
        self._going.discard(going)
        if isinstance(result, Failure) and self._failure is None:
            self._failure = result
        self._buffers.release()

    def _body(self, data: bytearray) -> Made:
        def read(offset: int, count: int) -> bytes:
            return bytes(memoryview(data)[offset : offset + count])

        return partial(FileBody, read, Span(0, len(data)), self._bucket.in_thread)

    async def _put(self, data: bytearray) -> None:
        media_type = self._note.media_type
        if data:
            await put_in_one(self._bucket.client, self.key, media_type, self._body(data))
            self.sent += len(data)
        else:
            await self._bucket.client.put_object(self.key, b"", media_type)

    async def _complete(self) -> None:
        if not await self._is_there():  # a rival's, or ours where S3's reply was lost
            await self._bucket.client.complete_multipart_upload(
                self.key, self.upload_id, self._done
            )
            if not await self._is_there():
                raise S3Error("Missing", 404, f"{self.key} is not there, though S3 completed it")
            self._is_complete = True

    async def _is_there(self) -> bool:
        """Whether S3 has the object, whole; False if S3 does not answer."""
        try:
            found = await self._bucket.client.head_object(self.key)
        except S3Error:
            return False
        return found is not None and found.size == self.size

    async def _rival_was_first(self) -> bool:
        """Whether another daemon has completed the object; asked now and then."""
        now = self._bucket.clock.seconds()
        if now - self._looked_at < RIVAL_EVERY:
            return False
        self._looked_at = now
        return await self._is_there()

    async def _leave(self, patience: float, *, again: bool) -> None:
        """Leave nothing but the object in S3. The note stays if that fails, or with ``again``."""
        if self.upload_id and not self._is_complete:
            try:
                await Deferred.fromCoroutine(self._abort()).addTimeout(patience, self._bucket.clock)
            except Exception as error:
                self._log.warn("{key}: upload not aborted: {why}", key=self.key, why=why(error))
        if again or (self.upload_id and not self._is_complete):
            await self._write_note(again=again)
        else:
            await self._bucket.in_thread(remove, self._note_path)


def _hash_all(data: bytearray, *hashes: Any) -> None:
    """Add the same bytes to several hashes. Blocks: for a disk thread."""
    for each in hashes:
        each.update(data)
