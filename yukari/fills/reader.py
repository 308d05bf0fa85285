"""A request that reads a blob while it arrives."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from yukari.errors import upstream_unreachable
from yukari.fills.coverage import Coverage
from yukari.storage.ports import BlobFile, Spool


@define(eq=False, repr=False)
class Reader:
    """It waits for the byte it needs next (a `Readable`, but for where the bytes are)."""

    coverage: Coverage
    whole: bool
    """
    Whether it reads the whole blob, and cannot be expected to check it: near the end it waits for
    the verdict.
    """
    position: int
    client: Hashable = field(default=None, kw_only=True)
    """Who reads; readers take turns client by client."""
    _waiting: Optional[Deferred[None]] = field(default=None, init=False)
    _starting: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.coverage.joined(self)

    @property
    def size(self) -> int:
        return self.coverage.plan.size

    def available(self, position: int) -> int:
        return self.coverage.available(position, whole=self.whole)

    async def ready(self, position: int) -> None:
        if not self.coverage.is_flowing:
            self._starting = True
            await self.wait(position)

    def wait(self, position: int) -> Deferred[None]:
        self.position = position
        if self.available(position) > position:
            self._starting = False
            return succeed(None)
        if self.coverage.error is not None:
            return fail(self.coverage.error)
        waiting = self._waiting = Deferred(self._give_up)
        self.coverage.waits(self)
        return waiting

    def _give_up(self, _: Deferred[None]) -> None:
        self._waiting = None
        self.coverage.waits_no_more(self)

    def wake(self) -> None:
        """More bytes may be there."""
        if self._waiting is None:
            return
        if self.available(self.position) > self.position or (
            self._starting and self.coverage.is_flowing
        ):
            self._starting = False
            waiting, self._waiting = self._waiting, None
            self.coverage.waits_no_more(self)
            waiting.callback(None)

    def let_go(self) -> Optional[Deferred[None]]:
        """Stop waiting, and return the Deferred that waited, to be failed; None if none did."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.coverage.waits_no_more(self)
        return waiting

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self.coverage.left(self)


@define(eq=False, repr=False)
class FillReader(Reader):
    """Reads a fill's spool for one reply, as far as bytes are there."""

    result: str = field(default="fill", init=False)
    _spool: Optional[Spool] = field(default=None, init=False)
    _file: Optional[BlobFile] = field(default=None, init=False)

    @property
    def _lost_its_spool(self) -> bool:
        return self._spool is not None and self._spool is not self.coverage.spool

    def available(self, position: int) -> int:
        return position if self._lost_its_spool else Reader.available(self, position)

    async def ready(self, position: int) -> None:
        await Reader.ready(self, position)
        spool = self._spool = self.coverage.spool
        assert spool is not None
        self._file = spool.open()

    def wait(self, position: int) -> Deferred[None]:
        if self._lost_its_spool:
            self.position = position
            wrong = upstream_unreachable("the blob came wrong from upstream")
            return fail(self.coverage.error or wrong)
        return Reader.wait(self, position)

    def fileno(self) -> Optional[int]:
        return self._file.fileno() if self._file is not None else None

    def read(self, offset: int, count: int) -> bytes:
        if self._file is None:
            raise RuntimeError("read before ready")
        return self._file.read(offset, count)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        Reader.close(self)
