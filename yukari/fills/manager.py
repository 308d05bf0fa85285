"""The fills: at most one for each digest, what they ask of the store, and when they are retried."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Optional

from attrs import define, field
from cachetools import LRUCache
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError
from yukari.fills.fill import Fill
from yukari.fills.machine import State
from yukari.fills.ports import FillKeeper, StoreFull
from yukari.fills.scheduler import FetchScheduler
from yukari.metrics import Metrics
from yukari.names import Digest, Repository
from yukari.sources.base import BlobSource
from yukari.sources.chain import Fallback
from yukari.sources.upstreams import AnyUpstream
from yukari.storage.capabilities import DirectUploads, RemoteBlobs
from yukari.storage.ports import DirectUpload, NoRoom, Spool, Store
from yukari.tasks import Waiters, backoff

RETRY_FIRST = 30.0
RETRY_LONGEST = 3600.0
"""Seconds until a fill that gave up is retried by itself: the first time, and at most."""
MAX_RETRIES = 12
"""How often a fill is retried before it waits for somebody to ask for its blob."""
MAX_RESTING = 200
"""Fills that gave up halfway and will be retried."""
MAX_REFUSED = 25_000
"""Blobs for which the reason why they cannot be had is remembered."""


OpenSpool = Callable[[], Coroutine[Any, Any, Spool]]
Reserve = Callable[[Digest, int, OpenSpool], Coroutine[Any, Any, Spool]]


async def open_at_once(_: Digest, __: int, open_spool: OpenSpool) -> Spool:
    """Open a spool of a store whose bounds nobody keeps."""
    return await open_spool()


@define(eq=False, repr=False)
class FillManager(FillKeeper[Fill]):
    """Begins, resumes and stops fills; there is one at most for each blob."""

    _store: Store
    _upstream: AnyUpstream
    _scheduler: FetchScheduler
    _in_thread: Callable[..., Deferred[Any]]
    _clock: IReactorTime
    _metrics: Metrics
    _stored: Callable[[Digest, int], None]
    """Called with the digest and size of each blob that was stored."""
    reserve: Reserve = open_at_once
    """Makes room for a blob, then has its spool opened."""
    fills: dict[Digest, Fill] = field(factory=dict, init=False)
    refused: LRUCache[Digest, RegistryError] = field(
        factory=lambda: LRUCache(MAX_REFUSED), init=False
    )
    """Why blobs cannot be had that nobody fetches any more; forgotten when a fill begins."""
    _leaving: dict[Digest, Waiters] = field(factory=dict, init=False)
    """Fills that are being stopped, whose spools are still open."""
    _ends: dict[Fill, Waiters] = field(factory=dict, init=False)
    _retries: dict[Fill, tuple[int, IDelayedCall]] = field(factory=dict, init=False)
    _stopping: bool = field(default=False, init=False)

    # start and stop

    async def restore(self) -> None:
        """Find the fills that the last process did not finish; needs no threads."""
        for spool in await self._store.spools():
            try:
                is_stored = await self._store.blob_size(spool.digest) is not None
            except OSError:
                is_stored = False  # The disk cannot tell.
            if is_stored:
                await self._in_thread(spool.discard)
                continue
            self._make(spool.digest, spool.size, spool.repositories, spool)
        if isinstance(self._store, DirectUploads):
            for blob in await self._store.unfinished():
                self._make(blob.digest, blob.size, (blob.repository,))

    def resume(self, rules: ModelRules) -> None:
        """Start what `restore` found, unless ``rules`` allow none of its models."""
        for fill in list(self.fills.values()):
            names = (fill.name,) if fill.spool is None else fill.spool.repositories
            if any(map(rules.allow, names)):
                fill.start()

    async def stop(self) -> None:
        """Stop all fills, so that the next process restores them."""
        self._stopping = True
        self._scheduler.close()
        for _, timer in self._retries.values():
            timer.cancel()
        self._retries.clear()
        await DeferredList([Deferred.fromCoroutine(fill.stop()) for fill in self.fills.values()])
        self.fills.clear()
        while self._leaving:
            await next(iter(self._leaving.values())).wait()

    # fills

    def begin(self, digest: Digest, size: int, name: Repository) -> Fill:
        """Return the blob's fill, a new one if it has none; it fetches once it is started."""
        fill = self.fills.get(digest)
        if fill is None:
            return self._make(digest, size, (name,))
        fill.also_in(name)
        return fill

    def _make(
        self, digest: Digest, size: int, names: Iterable[Repository], spool: Optional[Spool] = None
    ) -> Fill:
        names = tuple(names)
        source: BlobSource = self._upstream.blob(digest, size, *names)
        store = self._store
        kept = store.source(digest, size) if isinstance(store, RemoteBlobs) else None
        fill = Fill(
            digest=digest,
            size=size,
            source=source if kept is None else Fallback(kept, source, spool is not None),
            scheduler=self._scheduler,
            keeper=self,
            in_thread=self._in_thread,
            clock=self._clock,
            name=names[0],
            spool=spool,
            metrics=self._metrics,
        )
        self._metrics.fill_began()
        self.refused.pop(digest, None)
        self.fills[digest] = fill
        return fill

    def count(self, state: str) -> int:
        """Return how many fills are in the `State` of that value."""
        return sum(1 for fill in self.fills.values() if fill.state.value == state)

    def cancel(self, digest: Digest, error: RegistryError) -> Optional[Deferred[None]]:
        """Stop a blob's fill and discard its bytes; None if there is no such fill."""
        fill = self.fills.get(digest)
        return None if fill is None else self.discard(fill, error)

    def is_under_way(self, fill: Fill) -> bool:
        """Whether the fill goes on: it has neither ended nor been given up for now."""
        return self.fills.get(fill.digest) is fill and fill.state is not State.SUSPENDED

    def is_stored(self, fill: Fill) -> bool:
        """Whether the store is known to have the blob, which the fill brings to this disk too."""
        store = self._store
        return isinstance(store, RemoteBlobs) and store.source(fill.digest, fill.size).there

    async def end_of(self, fill: Fill) -> None:
        """Return when the fill has ended, well or not; at once if nobody works on it."""
        if self.is_under_way(fill):
            await self._ends.setdefault(fill, Waiters()).wait()

    def refusal(self, digest: Digest) -> Optional[RegistryError]:
        """
        Return why a blob cannot be had for now; None if nobody has said so.

        A wrong size is no reason: upstream says which is right when the blob is asked for again.
        Nor are failures while the host sends other blobs.
        """
        fill = self.fills.get(digest)
        error: Optional[Exception] = self.refused.get(digest)
        if fill is not None:
            error = fill.error if fill.state is State.SUSPENDED else None
            if fill.state is State.FILLING and fill.tries.keep_failing:
                error = None if fill.source.pace.limit.served else fill.tries.reason()
        if isinstance(error, RegistryError) and error.code != "SIZE_INVALID":
            return error
        return None

    async def first_word(self, fill: Fill) -> Optional[RegistryError]:
        """Return None once upstream sends bytes of a blob, or why it will send none."""
        starting = fill.state in (State.QUEUED, State.FILLING) and not fill.tries.are_bringing
        if not fill.is_waited_for and not self._scheduler.may_fetch_ahead():
            starting = False  # It waits for its hour, and upstream is not asked.
        if starting and self.fills.get(fill.digest) is fill:
            await fill.first_word.wait()
        return self.refusal(fill.digest)

    def discard(self, fill: Fill, error: RegistryError) -> Deferred[None]:
        """Stop a fill and discard its bytes."""
        self._tell_end(fill)
        return self._leave(fill, Deferred.fromCoroutine(fill.discard(error)))

    def _let_go(self, fill: Fill) -> None:
        """Stop retrying a fill; it continues when the blob is asked for, or at the next start."""
        self._leave(fill, Deferred.fromCoroutine(fill.stop()))

    def _leave(self, fill: Fill, stopping: Deferred[None]) -> Deferred[None]:
        self.fills.pop(fill.digest, None)
        self._forget_retry(fill)
        if not stopping.called:
            left = self._leaving[fill.digest] = Waiters()
            stopping.addBoth(self._left, fill, left)
        stopped: Deferred[None] = Deferred()
        stopping.chainDeferred(stopped)  # If its caller leaves, the fill is stopped all the same.
        return stopped

    def _left(self, result: Any, fill: Fill, left: Waiters) -> Any:
        if self._leaving.get(fill.digest) is left:
            del self._leaving[fill.digest]
        left.fire()
        return result

    # what fills ask

    async def vacated(self, fill: Fill) -> None:
        while self.fills.get(fill.digest) is fill and fill.digest in self._leaving:
            await self._leaving[fill.digest].wait()

    async def open_spool(self, fill: Fill) -> Spool:
        if not self._scheduler.may_open:
            # Nor past the disk: that takes memory and connections.
            raise StoreFull(os.strerror(errno.EMFILE))
        return await self.reserve(
            fill.digest,
            fill.size,
            lambda: self._store.new_spool(fill.digest, fill.size, fill.name),
        )

    async def discard_kept(self, fill: Fill) -> None:
        try:
            spool = await self._store.new_spool(fill.digest, fill.size, fill.name)
        except (NoRoom, OSError):
            return  # Its bytes stay until somebody asks for the blob, or the next start.
        await self._in_thread(spool.discard)

    async def publish(self, fill: Fill) -> None:
        assert fill.spool is not None
        await self._store.publish(fill.spool)

    async def direct_upload(self, fill: Fill) -> Optional[DirectUpload]:
        store = self._store
        if not isinstance(store, DirectUploads) or await store.blob_size(fill.digest) is not None:
            return None
        return store.direct_upload(fill.digest, fill.size, fill.name, fill.source)

    def ended(self, fill: Fill) -> None:
        if not self._stopping and self.fills.get(fill.digest) is fill:
            self._settle(fill)
        self._tell_end(fill)

    def _settle(self, fill: Fill) -> None:
        seconds = self._clock.seconds() - fill.progress.began_at
        self._metrics.fill_ended(seconds, well=fill.state is State.DONE)
        if fill.state is State.DONE:
            del self.fills[fill.digest]
            self._forget_retry(fill)
            self._stored(fill.digest, fill.size)
        elif isinstance(fill.error, RegistryError) and fill.error.code == "SIZE_INVALID":
            self.refused[fill.digest] = fill.error
            self.discard(fill, fill.error)
        elif fill.state is State.SUSPENDED:
            self._retry_later(fill)

    def _tell_end(self, fill: Fill) -> None:
        fill.first_word.fire()
        if fill in self._ends:
            self._ends.pop(fill).fire()

    def _forget_retry(self, fill: Fill) -> None:
        if fill in self._retries:
            timer = self._retries.pop(fill)[1]
            if timer.active():
                timer.cancel()

    def _retry_later(self, fill: Fill) -> None:
        tried = self._retries[fill][0] if fill in self._retries else 0
        self._forget_retry(fill)
        if self.is_stored(fill):
            tried = 0
        error = fill.error
        told = error if isinstance(error, RegistryError) else None
        is_absent = told is not None and told.status == 404
        # What upstream does not have is asked for again when somebody asks for it here.
        if is_absent or (tried >= MAX_RETRIES and not fill.relay.is_read):
            if told is not None:
                self.refused[fill.digest] = told
            self._let_go(fill)
            return
        wait = max(backoff(tried + 1, RETRY_FIRST, RETRY_LONGEST), fill.rests_for())
        self._retries[fill] = tried + 1, self._clock.callLater(wait, self._retry, fill)
        resting = [
            each
            for each in self._retries
            if each.state is State.SUSPENDED and (each.kept or each.spool is not None)
        ]
        if len(resting) > MAX_RESTING:
            self._let_go(resting[0])

    def _retry(self, fill: Fill) -> None:
        """Start a fill anew, or let it go if the store has the blob and nobody reads it."""
        is_missed = fill.kept or not self.is_stored(fill) or fill.relay.is_read
        if fill.state is State.SUSPENDED and not is_missed:
            self._let_go(fill)
        else:
            fill.start()


def confirms(fill: Fill) -> bool:
    """Whether its size is beyond doubt: some of the blob has arrived, and was not wrong."""
    return not fill.was_wrong and has_bytes(fill)


def has_bytes(fill: Fill) -> bool:
    """Whether some of the blob has arrived."""
    return fill.upstream_bytes > 0 or fill.kept > 0 or fill.coverage.plan.covered.total > 0
