"""
S3 by Deferreds: txaws's names, one method for each S3 operation.

`Requests` sends and repeats them. One that must not be repeated (a conditional put whose reply was
lost may have been done) fails at once, and the caller looks at what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional, Union
from urllib.parse import unquote

from attrs import define, field
from twisted.internet.defer import DeferredSemaphore
from twisted.logger import Logger
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse

from yukari.net.bodies import TooLarge
from yukari.s3.errors import S3Error
from yukari.s3.pages import goes_round
from yukari.s3.presign import presign_lifetime
from yukari.s3.replies import (
    Head,
    ListedObject,
    ListedPage,
    Part,
    UnfinishedUpload,
    bare,
    head,
    modified,
    seconds,
)
from yukari.s3.requests import REPLY_LIMIT, Requests
from yukari.s3.signing import Signing
from yukari.spans import Span

COMPLETING = 600.0
"""Seconds that S3 may be silent while it assembles the parts of an upload."""
MAX_CONCURRENT_PARTS = 16
"""Parts being uploaded at most, so that requests that clients wait for find room."""
MAX_PAGES_OF_UPLOADS = 1000
"""Pages of uploads that are read, of a thousand each."""

Streamed = Callable[[Callable[[], None]], IBodyProducer]
"""Makes a body's producer, for each attempt; its argument is to be called for each block sent."""


@define(eq=False, repr=False)
class S3Client(Requests):
    """One bucket: each operation of S3 that is needed, with its reply as a value."""

    _part_slots: DeferredSemaphore = field(
        factory=lambda: DeferredSemaphore(MAX_CONCURRENT_PARTS), init=False
    )
    _unquoted: bool = field(default=False, init=False)
    """This S3 wants If-Match without quotes (Ceph 16)."""
    _unconditional: bool = field(default=False, init=False)
    """This S3 knows no conditional puts."""

    _log = Logger()

    # the bucket

    async def get_bucket(self) -> None:
        """Return if the bucket can be listed; the `S3Error` says in plain words why it cannot."""
        await self.list_objects(most=1)

    async def list_objects(
        self,
        prefix: str = "",
        *,
        after: str = "",
        token: Optional[str] = None,
        most: int = 1000,
    ) -> ListedPage:
        """
        Return a page of the objects whose key begins with ``prefix``, after the key ``after``.

        `S3Error` if it has any that are not after it: it would be asked for again and again.
        """
        asked: dict[str, Any] = {"Prefix": prefix, "MaxKeys": most, "EncodingType": "url"}
        if after:
            asked["StartAfter"] = after
        if token is not None:
            asked["ContinuationToken"] = token
        told = await self._call("list_objects_v2", **asked)
        decoded = unquote if told.get("EncodingType") == "url" else str
        rows = tuple(
            ListedObject(
                decoded(row["Key"]),
                int(row["Size"]),
                bare(row.get("ETag", "")),
                seconds(row["LastModified"]),
            )
            for row in told.get("Contents", ())
        )
        if after and any(row.key <= after for row in rows):
            raise goes_round(self.endpoint)
        token = told.get("NextContinuationToken") if told.get("IsTruncated") else None
        return ListedPage(rows, token)

    # objects

    async def head_object(self, key: str) -> Optional[Head]:
        """Return what S3 says of an object; None if there is none."""
        try:
            told = await self._call("head_object", Key=key)
        except S3Error as error:
            if error.status == 404 and error.code != "NoSuchBucket":
                return None
            raise
        return head(told, int(told.get("ContentLength", 0)))

    async def get_object(
        self, key: str, span: Optional[Span] = None, *, once: bool = False
    ) -> Optional[tuple[Head, IResponse]]:
        """
        Request an object or a span of it: its head, and the reply with its body unread.

        None if there is no such object. `Head.size` is the size of this body. The caller delivers
        the body, and drops it if it stalls. ``once`` is for a caller that repeats the request
        itself.
        """
        asked = {} if span is None else {"Range": span.as_range}
        try:
            told, response = await self._open("get_object", {"Key": key, **asked}, once=once)
        except S3Error as error:
            if error.status == 404 and error.code != "NoSuchBucket":
                return None
            raise
        length = 0 if response.length is UNKNOWN_LENGTH else int(response.length)
        return head(told, length), response

    async def get_whole(
        self,
        key: str,
        limit: int = REPLY_LIMIT,
        span: Optional[Span] = None,
        *,
        most: Optional[int] = None,
    ) -> Optional[tuple[Head, bytes]]:
        """
        Return a small object, or a span of one, read to its end; None if there is none.

        `TooLarge` if it has more than ``most`` bytes, of which none is read then.
        """

        async def get() -> Optional[tuple[Head, bytes]]:
            found = await self.get_object(key, span, once=True)
            if found is None:
                return None
            if most is not None and found[0].size > most:
                self.discard(found[1])
                raise TooLarge(most)
            return found[0], await self._body(found[1], limit)

        return await self._repeat(get)

    async def put_object(
        self,
        key: str,
        body: Union[bytes, Streamed],
        content_type: str,
        *,
        metadata: Mapping[str, str] = {},  # noqa: B006 (never changed)
        only_new: bool = False,
        only_over: Optional[str] = None,
        anyway: bool = False,
    ) -> Optional[str]:
        """
        Store an object and return its ETag, or None if the condition does not hold.

        ``body`` is as for `put_file`, or bytes.
        ``only_new``: only if there is none (If-None-Match); ``only_over``: only over the object
        with this ETag (If-Match). A conditional request is sent once: on `S3Error.unanswered` look
        at what is there. An S3 that knows no conditional puts takes it ``anyway``, or raises that
        it is `S3Error.unsupported`.
        """
        if anyway and self._unconditional:
            only_new, only_over = False, None
        asked: dict[str, Any] = {"Key": key, "ContentType": content_type}
        streamed = None if isinstance(body, bytes) else body
        if streamed is None:
            asked["Body"] = body
        if metadata:
            asked["Metadata"] = dict(metadata)
        if only_new:
            asked["IfNoneMatch"] = "*"
        quoted = only_over is not None and not self._unquoted
        if only_over is not None:
            asked["IfMatch"] = f'"{only_over}"' if quoted else only_over
        conditional = only_new or only_over is not None
        try:
            told = await self._call("put_object", streamed, once=conditional, **asked)
        except S3Error as error:
            if conditional and anyway and error.unsupported:
                self._unconditional = True
                self._log.warn(
                    "this S3 knows no conditional puts: the last manifest or pin wins, and two"
                    " daemons may both remove blobs"
                )
                return await self.put_object(key, body, content_type, metadata=metadata)
            if not conditional or error.status not in (404, 409, 412) or error.passing:
                raise
            if error.code == "NoSuchBucket":
                raise
            if only_over is None or not quoted or not await self._is_still(key, only_over):
                return None
            # Ceph 16 takes the quotes for a part of the tag.
            asked["IfMatch"] = only_over
            try:
                told = await self._call("put_object", streamed, once=True, **asked)
            except S3Error as again:
                if again.status in (404, 409, 412) and not again.passing:
                    return None
                raise
            self._unquoted = True
        return bare(told.get("ETag", ""))

    async def _is_still(self, key: str, etag: str) -> bool:
        found = await self.head_object(key)
        return found is not None and found.etag == etag

    async def put_file(self, key: str, content_type: str, body: Streamed) -> str:
        """Store an object that ``body`` produces, once for each attempt, and return its ETag."""
        told = await self._call("put_object", body, Key=key, ContentType=content_type)
        return bare(told.get("ETag", ""))

    async def delete_object(self, key: str) -> None:
        """Remove an object; harmless if there is none."""
        await self._call("delete_object", Key=key)

    async def delete_exact(self, key: str, etag: str) -> bool:
        """
        Remove an object unless another one is in its place by now; return whether it was removed.

        Few S3s know a conditional DELETE: one that is put between the look and the removal is lost.
        """
        if not await self._is_still(key, etag):
            return False
        await self.delete_object(key)
        return True

    # uploads in parts

    async def init_multipart_upload(self, key: str, content_type: str) -> str:
        """Begin an upload and return its id."""
        told = await self._call(
            "create_multipart_upload", Key=key, ContentType=content_type, once=True
        )
        return str(told["UploadId"])

    async def upload_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        body: Streamed,
    ) -> str:
        """
        Send a part, numbered from 1, and return its ETag.

        ``body`` makes the producer, once for each attempt; its argument is to be called for each
        block that is written.
        """
        slot = await self._part_slots.acquire()
        try:
            told = await self._call(
                "upload_part", body, Key=key, UploadId=upload_id, PartNumber=number
            )
        finally:
            slot.release()
        return bare(told.get("ETag", ""))

    async def complete_multipart_upload(
        self, key: str, upload_id: str, parts: Mapping[int, str]
    ) -> None:
        """Assemble the object from its parts, each a number and an ETag."""
        named = [{"PartNumber": each, "ETag": f'"{parts[each]}"'} for each in sorted(parts)]
        await self._call(
            "complete_multipart_upload",
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": named},
            once=True,
            silent=COMPLETING,
        )

    async def abort_multipart_upload(self, key: str, upload_id: str) -> None:
        """Abort an upload; harmless if there is none."""
        try:
            await self._call("abort_multipart_upload", Key=key, UploadId=upload_id)
        except S3Error as error:
            if error.code != "NoSuchUpload" and error.status != 404:
                raise

    async def list_parts(self, key: str, upload_id: str) -> Optional[list[Part]]:
        """Return all the parts that S3 has; None if there is no such upload."""
        parts: list[Part] = []
        marker: dict[str, Any] = {}
        while True:
            try:
                told = await self._call("list_parts", Key=key, UploadId=upload_id, **marker)
            except S3Error as error:
                if error.status == 404 and error.code != "NoSuchBucket":
                    return None
                raise
            parts += (
                Part(
                    int(row["PartNumber"]),
                    int(row["Size"]),
                    bare(row["ETag"]),
                    modified(row),
                )
                for row in told.get("Parts", ())
            )
            following = int(told.get("NextPartNumberMarker") or 0)
            if not told.get("IsTruncated") or following <= marker.get("PartNumberMarker", 0):
                return parts
            marker = {"PartNumberMarker": following}

    async def list_multipart_uploads(self, prefix: str = "") -> list[UnfinishedUpload]:
        """
        Return all uploads in progress of keys that begin with ``prefix``; fewer if S3 does not come
        to an end.
        """
        uploads: list[UnfinishedUpload] = []
        marker: dict[str, Any] = {}
        asked = [{"KeyMarker": "", "UploadIdMarker": ""}]
        while True:
            # No EncodingType: Ceph 16 encodes the keys, and does not say that it did.
            told = await self._call("list_multipart_uploads", Prefix=prefix, **marker)
            uploads += (
                UnfinishedUpload(row["Key"], row["UploadId"], seconds(row["Initiated"]))
                for row in told.get("Uploads", ())
            )
            following = {
                "KeyMarker": told.get("NextKeyMarker") or "",
                "UploadIdMarker": told.get("NextUploadIdMarker") or "",
            }
            goes_on = told.get("IsTruncated") and following not in asked
            if not goes_on or len(asked) >= MAX_PAGES_OF_UPLOADS:
                return uploads
            marker = following
            asked.append(marker)

    # presigning

    async def presign_get(self, key: str, by: Optional[Signing] = None) -> Optional[str]:
        """
        Return a URL by which anybody can GET an object, for hours; None if the keys expire too
        soon.

        ``by`` is the same bucket as clients reach it, if that differs.
        """
        keys = await self._credentials.keys()
        seconds = presign_lifetime(keys.left)
        return None if seconds is None else (by or self._signing).presign(keys, key, seconds)
