"""A request that reads a blob while it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from yukari.errors import upstream_unreachable
from yukari.storage.ports import BlobFile, Spool

if TYPE_CHECKING:
    from yukari.fills.fill import Fill


@define(eq=False)
class FillReader:
    """One of a fill's readers (a `Readable`): it waits for the byte it needs next."""

    fill: Fill
    whole: bool
    """
    It reads the whole blob and cannot be expected to check it: it waits for the verdict near the
    end.
    """
    position: int
    result: str = field(default="fill", init=False)
    _spool: Optional[Spool] = field(default=None, init=False)
    _file: Optional[BlobFile] = field(default=None, init=False)
    _waiting: Optional[Deferred[None]] = field(default=None, init=False)
    _starting: bool = field(default=False, init=False)

    @property
    def size(self) -> int:
        return self.fill.size

    def available(self, position: int) -> int:
        if self._spool is not None and self._spool is not self.fill.spool:
            return position
        end = self.fill.plan.covered.until(position)
        return min(end, self.fill.withheld.limit) if self.whole else end

    async def ready(self, position: int) -> None:
        if not self.fill.is_flowing():
            self._starting = True
            await self.wait(position)
        self._spool = self.fill.spool
        assert self._spool is not None
        self._file = self._spool.open()

    def wait(self, position: int) -> Deferred[None]:
        self.position = position
        if self._spool is not None and self._spool is not self.fill.spool:
            wrong = upstream_unreachable("the blob came wrong from upstream")
            return fail(self.fill.error or wrong)
        if self.available(position) > position:
            self._starting = False
            return succeed(None)
        if self.fill.error is not None:
            return fail(self.fill.error)
        self._waiting = Deferred(self._give_up)
        self.fill.reader_waits(self)
        return self._waiting

    def _give_up(self, _: Deferred[None]) -> None:
        self._waiting = None
        self.fill.reader_waits_no_more(self)

    def wake(self) -> None:
        """More may be there."""
        if self._waiting is None:
            return
        if self.available(self.position) > self.position or (
            self._starting and self.fill.is_flowing()
        ):
            self._starting = False
            waiting, self._waiting = self._waiting, None
            self.fill.reader_waits_no_more(self)
            waiting.callback(None)

    def broke(self, error: Exception) -> None:
        """It is not to be had, or not this way."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.fill.reader_waits_no_more(self)
            waiting.errback(error)

    def fileno(self) -> Optional[int]:
        return self._file.fileno() if self._file is not None else None

    def read(self, offset: int, count: int) -> bytes:
        if self._file is None:
            raise RuntimeError("read before ready")
        return self._file.read(offset, count)

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        if self._file is not None:
            self._file.close()
        self.fill.reader_left(self)
