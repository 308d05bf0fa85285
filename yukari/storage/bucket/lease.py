"""
Which daemon removes blobs from a bucket, and which blobs: one daemon at a time.

The object ``yukari/sweep.json`` names the daemon that removes, and the blobs that it is about to
remove: the doomed. It is put by If-None-Match and If-Match. A daemon that has put a manifest reads
the object afterwards (`look`); the one that removes lists all manifests after it has put the
object. So either the first sees that a blob of its manifest is doomed, or the second sees that the
blob is needed, and leaves it. A doomed blob counts as not stored, and nobody uploads it before the
lease is over.

No clocks are compared: a lease is over if its holder has released it, or if it was seen unchanged
for `LIFETIME`. Its holder removes nothing later than `REMOVED_WITHIN` after it has put it. A daemon
that was killed and started again finds its own lease, and need not wait for as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from secrets import token_hex
from typing import Optional

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from yukari.names import Digest, InvalidName
from yukari.s3.client import S3Client
from yukari.s3.errors import S3Error

KEY = "yukari/sweep.json"
LIFETIME = 600.0
"""Seconds after which a lease that did not change belongs to nobody: its holder was killed."""
OWN_LIFETIME = 30.0
"""Seconds after which no request of an earlier process of this daemon is in flight."""
REMOVED_WITHIN = 300.0
"""Seconds after the lease was put in which its holder removes what is doomed."""
LOOK_EVERY = 2.0
"""Seconds between two reads of the lease while waiting for its end."""
SETTLED_AFTER = 5.0
"""Seconds to wait before an S3 without conditional puts is asked whose lease it has kept."""


class LeaseLost(OSError):
    """Another daemon holds the lease by now, or this one took too long."""


@frozen
class _Seen:
    """The lease as it was read; ``at`` is when this version of it was first seen."""

    etag: str
    at: float
    holder: str
    """"" if nobody holds it."""
    doomed: frozenset[Digest]


@define(eq=False, repr=False)
class Lease:
    """The lease of one bucket, as its holder and as all others see it. `S3Error`."""

    _client: S3Client
    _clock: IReactorTime
    holder: str = field(factory=lambda: token_hex(8))
    """This daemon's name, the same after a restart."""
    _seen: Optional[_Seen] = field(default=None, init=False)
    _own: Optional[str] = field(default=None, init=False)
    """The ETag of the lease that this daemon holds, if it does."""
    _put_at: float = field(default=0.0, init=False)

    # for the daemon that removes

    async def take(self) -> bool:
        """Take the lease; return False if another daemon has it."""
        await self.look()
        seen = self._seen
        if seen is not None and seen.holder and not self._is_stale(seen):
            return False
        return await self._put(self.holder, ())

    async def doom(self, digests: Iterable[Digest]) -> None:
        """Say that these, and no others, are about to be removed. `LeaseLost`."""
        if self._own is None or not await self._put(self.holder, digests):
            self._own = None
            raise LeaseLost("another daemon has begun to remove from the bucket")

    def check(self) -> None:
        """`LeaseLost` if it is too late to remove what was doomed."""
        if self._own is None or self._clock.seconds() - self._put_at > REMOVED_WITHIN:
            raise LeaseLost(f"the blobs were not removed within {REMOVED_WITHIN:g} s")

    async def release(self) -> None:
        """Give the lease back; harmless if it was lost."""
        if self._own is not None:
            await self._put("", ())
            self._own = None

    async def _put(self, holder: str, doomed: Iterable[Digest]) -> bool:
        """Put the lease over the version that was seen last; False if there is another by now."""
        listed = sorted(map(str, doomed))
        # ``put`` makes each body unique, so that `_kept` can tell two puts apart.
        content = {"holder": holder, "put": token_hex(8), "doomed": listed}
        body = json.dumps(content).encode()
        began = self._clock.seconds()
        etag = await self._put_over(body, self._own or (self._seen.etag if self._seen else None))
        if etag is None:
            await self.look()
            return False
        self._own, self._put_at = etag, began
        self._seen = _read(body, etag, self._clock.seconds())
        return True

    async def _put_over(self, body: bytes, etag: Optional[str]) -> Optional[str]:
        """Return the new ETag; None if the stored lease is not the one of ``etag`` any more."""
        try:
            return await self._client.put_object(
                KEY, body, "application/json", only_new=etag is None, only_over=etag
            )
        except S3Error as error:
            if error.unanswered:
                return await self._kept(body)
            if not error.unsupported:
                raise
        found = await self._client.get_whole(KEY)
        if (None if found is None else found[0].etag) != etag:
            return None
        await self._client.put_object(KEY, body, "application/json")
        await deferLater(self._clock, SETTLED_AFTER)
        return await self._kept(body)

    async def _kept(self, body: bytes) -> Optional[str]:
        """Return the ETag if the lease is what was put, None if it is another's."""
        found = await self._client.get_whole(KEY)
        return found[0].etag if found is not None and found[1] == body else None

    # for all

    async def look(self) -> None:
        """Read which blobs are doomed."""
        found = await self._client.get_whole(KEY)
        if found is None:
            self._seen = None
        elif self._seen is None or self._seen.etag != found[0].etag:
            self._seen = _read(found[1], found[0].etag, self._clock.seconds())

    def is_doomed(self, digest: Digest) -> bool:
        """Whether a blob was about to be removed by the last `look`, and may still be."""
        seen = self._seen
        return seen is not None and digest in seen.doomed and not self._is_stale(seen)

    async def over(self, digest: Digest) -> None:
        """Return once a blob is no longer doomed: then it has been removed, or it stays."""
        while self.is_doomed(digest):
            await deferLater(self._clock, LOOK_EVERY)
            try:
                await self.look()
            except S3Error as error:
                if not error.passing:
                    raise

    def _is_stale(self, seen: _Seen) -> bool:
        is_own = self._own is None and seen.holder == self.holder
        return self._clock.seconds() - seen.at >= (OWN_LIFETIME if is_own else LIFETIME)


def _read(body: bytes, etag: str, at: float) -> _Seen:
    """Parse a lease; one that cannot be parsed is nobody's."""
    try:
        content = json.loads(body)
        doomed = frozenset(Digest.parse(each) for each in content["doomed"])
        return _Seen(etag, at, str(content["holder"]), doomed)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, InvalidName):
        return _Seen(etag, at, "", frozenset())
