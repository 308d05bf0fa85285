"""A blob in a bucket, as a fill's source."""

from __future__ import annotations

from collections.abc import Callable, Container

from attrs import define, field
from twisted.logger import Logger

from yukari.errors import RegistryError, blob_unknown, upstream_unreachable
from yukari.names import Digest, Repository
from yukari.net.bodies import Counted
from yukari.s3.errors import S3Error
from yukari.sources.base import Answer, SourceFailed, SourceRefused
from yukari.sources.pace import HostPace
from yukari.sources.range_reply import WrongSize, span_of_part, span_of_whole
from yukari.spans import Span
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.keys import blob_key


@define(eq=False, repr=False)
class BucketBlob:
    """
    A `KeptSource` over ranged GETs. ``there`` has the blobs that the bucket is known to have;
    ``gone`` is called with a blob that it does not have.
    """

    _bucket: Bucket
    _digest: Digest
    _size: int
    pace: HostPace
    _there: Container[Digest]
    _gone: Callable[[Digest], None]
    ranges: bool = field(default=True, init=False)
    _key: str = field(init=False)
    _etags: set[str] = field(factory=set, init=False)
    """Those of the objects whose bytes have come: several if it was replaced meanwhile."""

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._key = blob_key(self._digest)

    @property
    def there(self) -> bool:
        return self._digest in self._there

    def add_repository(self, name: Repository) -> None:
        """Do nothing: a bucket has blobs by digest alone."""

    def retry(self) -> None:
        """Do nothing: S3 would refuse the same again."""

    def move_on(self, *, soon: bool = False) -> bool:
        return False

    def describe(self) -> str:
        return f"bucket {self._bucket.client.bucket}"

    async def set_aside(self, *, alone: bool) -> bool:
        etags, self._etags = self._etags, set()
        if not alone or len(etags) != 1:
            return False  # It was replaced while it was read.
        try:
            removed = await self._bucket.calls.run(
                self._bucket.client.delete_exact(self._key, *etags)
            )
        except S3Error as error:
            self._log.error("{key}: not removed: {error}", key=self._key, error=str(error))
            return False
        self._gone(self._digest)
        if removed:
            self._log.error("{key}: wrong in the bucket, removed from there", key=self._key)
        return True

    async def fetch(self, span: Span) -> Answer:
        try:
            found = await self._bucket.calls.run(
                self._bucket.client.get_object(self._key, span, once=True)
            )
        except S3Error as error:
            if error.status == 416:
                self._gone(self._digest)
                raise SourceRefused(self._wrong_size("fewer")) from None
            busy = error.status in (429, 503)
            raise SourceFailed(str(error), error.retry_after, busy=busy) from None
        if found is None:
            self._gone(self._digest)
            raise SourceRefused(blob_unknown(self._digest))
        head, response = found
        try:
            answered = self._span(head.content_range, head.size, span)
        except (SourceFailed, SourceRefused):
            self._bucket.client.discard(response)
            raise
        self.pace.ranges = True
        self._etags.add(head.etag)
        asked = answered == span or bool(head.content_range)
        body = Counted(response, self._bucket.client.metrics.from_store)
        return Answer(answered, asked, self.pace, body)

    def _span(self, content_range: str, size: int, span: Span) -> Span:
        try:
            if content_range:
                return span_of_part(content_range, span, self._size)
            return span_of_whole(size, self._size)
        except WrongSize as error:
            self._gone(self._digest)
            raise SourceRefused(self._wrong_size(error.found)) from None

    def _wrong_size(self, found: str) -> RegistryError:
        return upstream_unreachable(
            f"blob {self._digest} has {found} bytes in S3, expected {self._size}"
        )
