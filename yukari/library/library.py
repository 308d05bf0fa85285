"""
The one decision: is it here, is it on its way, or must it be fetched?

The library owns the fills. A manifest that is seen starts the fills of the
blobs it stands on; a blob that is asked for is read from the store, from its
fill, or, where the disk has no room, relayed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Optional, Union

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError, blob_unknown, name_invalid
from yukari.fills.fill import Fill, FillKeeper
from yukari.fills.machine import State
from yukari.fills.scheduler import FetchScheduler
from yukari.fills.spooler import HASH_STEP
from yukari.fills.verifier import Verifier
from yukari.manifest import Descriptor, Manifest
from yukari.metrics import Metrics
from yukari.names import Digest, InvalidName, ModelName, Reference, Tag
from yukari.sources.base import BlobSource
from yukari.sources.chain import Fallback
from yukari.sources.offline import Offline
from yukari.sources.upstream import Upstream
from yukari.storage.open_files import OpenBlobs
from yukari.storage.ports import BlobFile, DirectUpload, NoRoom, Spool, Store, StoredManifest
from yukari.storage.readable import Readable, StoredBlob

log = Logger()

KNOWN = 50_000
"""Blobs whose size and repository are remembered from the manifests that named them."""
_LAST_TAG = Tag("z" * 80)
"""No tag sorts behind it."""
UNKNOWN_FOR = 5.0
"""Seconds for which upstream's "no such model" is believed, against storms of the same question."""
UNKNOWN_MOST = 1000
RETRY_FIRST = 30.0
RETRY_LONGEST = 3600.0
"""
Seconds until a fill that gave up is tried again by itself, doubling from the first to the longest.
"""
RETRIES = 12
"""How often, and no more until somebody asks for its blob."""
MOST_RESTING = 200
"""Fills that gave up with something and will be tried again: each keeps two files open."""


@frozen
class Found:
    """A manifest and how it was found: ``hit``, ``stale``, or ``miss`` when upstream was asked."""

    manifest: Manifest
    result: str


@frozen
class Elsewhere:
    """A blob that the client gets from the store itself, at a URL that works for hours."""

    url: str


@frozen
class Known:
    """What manifests told of a blob."""

    blob: Descriptor
    name: ModelName


@define(eq=False)
class Library(FillKeeper):
    """Manifests and blobs by name, wherever they are."""

    store: Store
    upstream: Union[Upstream, Offline]
    _crew: FetchScheduler
    _in_thread: Callable[..., Deferred[Any]]
    _clock: IReactorTime
    _now: Callable[[], float] = time.time
    """The time of day, in seconds of the epoch."""
    _metrics: Metrics = field(factory=Metrics)
    pulled: Callable[[ModelName, Tag, StoredManifest], None] = lambda *_: None
    """Told of each stored manifest that is asked for by its tag."""
    is_stale: Callable[[ModelName, Tag, StoredManifest], bool] = lambda *_: False
    """Whether a stored manifest is past its lifetime because it could not be checked."""
    stored: Callable[[], None] = lambda: None
    """Told that there is something more in the store."""
    redirects: Callable[[str, str], bool] = lambda *_: False
    """Whether a client that came by a Host header may be sent to a presigned URL."""
    rules: ModelRules = field(factory=ModelRules)
    fills: dict[Digest, Fill] = field(factory=dict, init=False)
    user_agent: str = field(default="", init=False)
    """The latest client's, by which manifests are asked for where no client waits."""
    _unknown: OrderedDict[tuple[ModelName, Reference], tuple[float, RegistryError]] = field(
        factory=OrderedDict, init=False
    )
    _leaving: dict[Digest, Deferred[None]] = field(factory=dict, init=False)
    """Fills that were dropped and whose spools are being removed."""
    _ends: dict[Fill, list[Deferred[None]]] = field(factory=dict, init=False)
    _known: OrderedDict[Digest, Known] = field(factory=OrderedDict, init=False)
    _learned: OrderedDict[tuple[ModelName, Digest], None] = field(factory=OrderedDict, init=False)
    _opened: OpenBlobs = field(init=False)
    _sound: dict[Digest, None] = field(factory=dict, init=False)
    _came: OrderedDict[Digest, float] = field(factory=OrderedDict, init=False)
    """Blobs whose fills have ended well, and when, in the clock's seconds."""
    _complete: OrderedDict[Digest, None] = field(factory=OrderedDict, init=False)
    _ensuring: dict[Digest, Deferred[None]] = field(factory=dict, init=False)
    _asking: dict[tuple[Any, ...], list[Deferred[Any]]] = field(factory=dict, init=False)
    _retries: dict[Fill, tuple[int, IDelayedCall]] = field(factory=dict, init=False)
    _tasks: set[Deferred[None]] = field(factory=set, init=False)
    _stopping: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._opened = OpenBlobs(self.store.open_blob, self._clock)

    # start and stop

    async def start(self) -> None:
        """Take up again every blob that was on its way when the last process ended."""
        await self.restore()
        self.resume()

    def resume(self) -> None:
        """
        Begin to work on what `restore` found; what only refused models have waits for another one.
        """
        for fill in list(self.fills.values()):
            names = (fill.name,) if fill.spool is None else fill.spool.repositories
            if any(map(self.rules.allow, names)):
                fill.start()

    async def restore(self) -> None:
        """Find what was on its way when the last process ended; needs no threads."""
        for spool in await self.store.spools():
            empty = spool.size > 0 and not spool.covered().total
            if empty or await self.store.blob_size(spool.digest) is not None:
                await self._in_thread(spool.discard)
                continue
            self._new_fill(spool.digest, spool.size, *spool.repositories, spool=spool)
        for blob in await self.store.unfinished():
            self._new_fill(blob.digest, blob.size, blob.repository)

    async def stop(self) -> None:
        """Stop what is on its way, so that the next start takes it up."""
        self._stopping = True
        self._opened.close()
        self._crew.close()
        for _, timer in self._retries.values():
            timer.cancel()
        self._retries.clear()
        for task in list(self._tasks):
            task.cancel()
        await DeferredList([Deferred.fromCoroutine(fill.stop()) for fill in self.fills.values()])
        self.fills.clear()

    # manifests

    async def manifest(
        self, name: ModelName, reference: Reference, user_agent: str, *, prefetch: bool
    ) -> Found:
        """
        A manifest, from the store or from upstream; with ``prefetch`` its blobs start to come.
        `RegistryError`.
        """
        self._check_running()
        stored = await self.store.get_manifest(name, reference)
        if stored is not None and isinstance(stored.manifest, Manifest):
            manifest, result = stored.manifest, "hit"
            if isinstance(reference, Tag):
                if self.is_stale(name, reference, stored):
                    result = "stale"
                self.pulled(name, reference, stored)
        else:
            self._check_unknown((name, reference))
            key = (name, reference, user_agent)
            manifest = await self._once(key, self._fetch_manifest, name, reference, user_agent)
            result = "miss"
        self._learn(name, manifest)
        if prefetch:
            self._ensure(name, manifest)
        return Found(manifest, result)

    async def _fetch_manifest(
        self, name: ModelName, reference: Reference, user_agent: str
    ) -> Manifest:
        try:
            manifest = await self.upstream.manifest(name, reference, user_agent)
            if user_agent.startswith("ollama"):
                self.user_agent = user_agent
        except RegistryError as error:
            if error.status == 404:
                self._remember_unknown((name, reference), error)
            raise
        try:
            await self.store.put_manifest(name, reference, manifest, self._now())
        except (OSError, NoRoom) as error:
            log.error(
                "{name}:{reference}: manifest not stored: {error}",
                name=str(name),
                reference=str(reference),
                error=str(error),
            )
        self.stored()
        return manifest

    def _check_running(self) -> None:
        if self._stopping:
            raise RegistryError("UNAVAILABLE", "this cache is stopping", 503)

    def _check_unknown(self, key: tuple[ModelName, Reference]) -> None:
        """Raise what upstream has just said of a model that it does not have."""
        unknown = self._unknown.get(key)
        if unknown is not None:
            if self._clock.seconds() < unknown[0]:
                raise unknown[1].with_traceback(None)
            del self._unknown[key]

    def _remember_unknown(self, key: tuple[ModelName, Reference], error: RegistryError) -> None:
        self._unknown[key] = (self._clock.seconds() + UNKNOWN_FOR, error)
        self._unknown.move_to_end(key)
        while len(self._unknown) > UNKNOWN_MOST:
            self._unknown.popitem(last=False)

    async def _once(self, key: tuple[Any, ...], ask: Any, *arguments: Any) -> Any:
        """One question for all who ask it at the same time; no asker's leaving cancels it."""
        waiting = self._asking.get(key)
        answer: Deferred[Any] = Deferred()
        if waiting is None:
            self._asking[key] = waiting = [answer]

            def settle(result: Any) -> None:
                for each in self._asking.pop(key):
                    if not each.called:
                        each.callback(result)

            Deferred.fromCoroutine(ask(*arguments)).addBoth(settle)
        else:
            waiting.append(answer)
        return await answer

    async def tags(self, name: ModelName) -> list[Tag]:
        """The tags stored of a model; `RegistryError` where none is."""
        found = await self.store.tags(name)
        if not found:
            raise RegistryError("NAME_UNKNOWN", f"no tag of {name} is stored here", 404)
        return found

    async def catalog(self, last: str, most: int) -> list[ModelName]:
        """
        Up to ``most`` stored models that may be pulled, behind the one named ``last``, sorted; ""
        is before all.
        """
        after: Optional[tuple[ModelName, Tag]] = None
        if last:
            try:
                after = ModelName.parse(last), _LAST_TAG
            except InvalidName as error:
                raise name_invalid(str(error)) from None
        found: dict[ModelName, None] = {}
        while len(found) < most:
            page = await self.store.manifests(after)
            if not page:
                break
            found.update((entry.name, None) for entry in page if self.rules.allow(entry.name))
            after = page[-1].name, page[-1].tag
        return list(found)[:most]

    def _learn(self, name: ModelName, manifest: Manifest) -> None:
        """Remember what the manifest tells of its blobs."""
        if (name, manifest.digest) in self._learned:
            return
        self._learned[name, manifest.digest] = None
        if len(self._learned) > KNOWN:
            self._learned.popitem(last=False)
        for blob in manifest.blobs:
            self._known[blob.digest] = Known(blob, name)
            self._known.move_to_end(blob.digest)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def _ensure(self, name: ModelName, manifest: Manifest) -> None:
        """See to it that the blobs of a manifest are here or on their way."""
        if manifest.digest in self._complete or manifest.digest in self._ensuring:
            return
        task = Deferred.fromCoroutine(self._bring(name, manifest))
        if task.called:
            return
        self._ensuring[manifest.digest] = task
        self._tasks.add(task)

        def settle(result: Any) -> None:
            self._ensuring.pop(manifest.digest, None)
            self._tasks.discard(task)
            if isinstance(result, Failure) and not self._stopping:
                log.failure("{name}: prefetching", result, name=str(name))

        task.addBoth(settle)

    async def _bring(self, name: ModelName, manifest: Manifest) -> None:
        missing = 0
        for blob in manifest.blobs:
            looked = self._clock.seconds()
            if blob.digest in self.fills or await self._size_stored(blob.digest) is None:
                if self._came_since(blob.digest, looked):
                    continue
                missing += 1
                if not self._stopping:
                    self._fill(blob.digest, blob.size, name).start()
        if not missing:
            self._complete[manifest.digest] = None
            while len(self._complete) > KNOWN:
                self._complete.popitem(last=False)

    async def ensure_stored(self, name: ModelName, manifest: Manifest) -> None:
        """Returns when all blobs of a manifest are stored; `RegistryError` where one cannot be."""
        self._learn(name, manifest)
        await self._bring(name, manifest)
        for blob in manifest.blobs:
            fill = self.fills.get(blob.digest)
            if fill is not None:
                await self._end_of(fill)
            if fill is not None and isinstance(fill.error, RegistryError):
                raise fill.error
            if await self._size_stored(blob.digest) is None:
                raise RegistryError("UNAVAILABLE", f"blob {blob.digest} is not stored", 503)

    async def _end_of(self, fill: Fill) -> None:
        if fill.state is not State.SUSPENDED:
            end: Deferred[None] = Deferred()
            self._ends.setdefault(fill, []).append(end)
            await end

    # blobs

    async def blob_size(self, name: ModelName, digest: Digest) -> int:
        """A blob's size in bytes, without fetching it. `RegistryError`."""
        fill = self.fills.get(digest)
        if fill is not None:
            return fill.size
        stored = await self._size_stored(digest)
        if stored is not None:
            return stored
        return await self._size_upstream(name, digest)

    async def _size_stored(self, digest: Digest) -> Optional[int]:
        """The size of the stored blob, None where it is not here or was cut by someone else."""
        stored = self._opened.size(digest)
        if stored is None:
            stored = await self.store.blob_size(digest)
        return None if stored is None or await self._was_cut(digest, stored) else stored

    async def _was_cut(self, digest: Digest, stored: int) -> bool:
        """
        Whether a blob was changed by someone else; then it is removed.

        A size that is not the manifest's raises the suspicion, the digest
        decides: a manifest may lie about a blob that is another model's too.
        """
        known = self._known.get(digest)
        if known is None or stored == known.blob.size or digest in self._sound:
            return False
        return not await self._once((digest, "sound"), self._is_sound, digest, known.blob.size)

    async def _is_sound(self, digest: Digest, size: int) -> bool:
        """
        Whether a stored blob's digest is right; one that is wrong is removed.

        Only that condemns: what cannot be read now may be whole. But what is
        gone by now was condemned before, and who has it open has a wrong one.
        """
        try:
            file = await self.store.open_blob(digest)
        except OSError:
            return True
        if file is None:
            return False
        verifier = Verifier(file)
        try:
            while verifier.position < file.size and not self._stopping:
                step = min(file.size, verifier.position + HASH_STEP)
                await self._in_thread(verifier.advance, step)
        except OSError:
            return True
        finally:
            verifier.close()
        if self._stopping:
            return True
        if verifier.digest() == digest:
            self._sound[digest] = None
            return True
        log.error(
            "{digest}: stored with {found} bytes, its manifest says {size}: fetched again",
            digest=str(digest),
            found=file.size,
            size=size,
        )
        await self.store.forget_blob(digest)
        self.invalidate_open_files()
        return False

    async def _size_upstream(self, name: ModelName, digest: Digest) -> int:
        known = self._known.get(digest)
        if known is not None:
            return known.blob.size
        found: int = await self._once((name, digest), self.upstream.blob_size, name, digest)
        return found

    async def blob(
        self, name: ModelName, digest: Digest, host: str = ""
    ) -> Union[Readable, Fill, Elsewhere]:
        """
        A stored blob, opened; or where the store keeps it for all to read; or the fill that
        brings it, from the store's bucket or from upstream, which gives out readers.

        ``host`` is the Host header of who asks. `RegistryError` where there is none of these.
        """
        self._check_running()
        for _ in range(3):
            looked = self._clock.seconds()
            fill = self.fills.get(digest)
            if fill is None:
                stored = await self._open_stored(digest)
                if stored is not None:
                    try:
                        if not await self._was_cut(digest, stored.size):
                            return StoredBlob(stored)
                    except BaseException:
                        stored.close()
                        raise
                    stored.close()
                remote = await self.store.blob_size(digest)
                if remote is not None:
                    if self.store.source(digest, remote) is None:
                        continue  # It was published just now.
                    url = await self.store.presigned(digest)
                    if url is not None and self.redirects(url, host):
                        return Elsewhere(url)
                    return self._fill(digest, remote, name)
                size = await self._size_upstream(name, digest)
                if digest not in self.fills and await self.store.blob_size(digest) is not None:
                    continue
                if self._came_since(digest, looked):
                    continue
                fill = self._fill(digest, size, name)
            fill.also_in(name)
            return fill
        raise blob_unknown(digest)

    def invalidate_open_files(self) -> None:
        """A stored blob could not be read to its end: what is open is not what is stored now."""
        self._opened.close()

    async def _open_stored(self, digest: Digest) -> Optional[BlobFile]:
        try:
            return await self._opened.open(digest)
        except OSError as error:
            message = f"this cache cannot read blob {digest}: {error.strerror}"
            raise RegistryError("UNAVAILABLE", message, 503) from None

    def _came_since(self, digest: Digest, looked: float) -> bool:
        """Whether a blob has come since ``looked``: a look that began then may have missed it."""
        return digest not in self.fills and self._came.get(digest, looked) > looked

    def _fill(self, digest: Digest, size: int, name: ModelName) -> Fill:
        """The blob's fill, a new one where it has none. It begins when it is started."""
        fill = self.fills.get(digest)
        if fill is None:
            fill = self._new_fill(digest, size, name)
        else:
            fill.also_in(name)
        return fill

    def _new_fill(
        self,
        digest: Digest,
        size: int,
        *names: ModelName,
        spool: Optional[Spool] = None,
    ) -> Fill:
        source: BlobSource = self.upstream.blob(digest, size, *names)
        kept = self.store.source(digest, size)
        fill = Fill(
            digest=digest,
            size=size,
            source=source if kept is None else Fallback(kept, source, spool is not None),
            crew=self._crew,
            keeper=self,
            in_thread=self._in_thread,
            clock=self._clock,
            name=names[0],
            spool=spool,
            metrics=self._metrics,
        )
        self._metrics.fill_began()
        self.fills[digest] = fill
        return fill

    def count_fills(self, state: str) -> int:
        """How many fills are in the `State` of that value."""
        return sum(1 for fill in self.fills.values() if fill.state.value == state)

    def stop_fill(self, digest: Digest) -> Optional[Deferred[None]]:
        """Stop a blob's fill and throw away what came of it; None where there is no such fill."""
        fill = self.fills.get(digest)
        if fill is None:
            return None
        error = RegistryError("UNAVAILABLE", "this transfer was stopped by the operator", 503)
        return self._drop(fill, error)

    def _drop(self, fill: Fill, error: RegistryError) -> Deferred[None]:
        """Forget a fill and what came of it."""
        self.fills.pop(fill.digest, None)
        self._forget_retry(fill)
        self._tell_end(fill)
        dropped: Deferred[None] = Deferred()
        self._leaving[fill.digest] = dropped
        return Deferred.fromCoroutine(fill.discard(error)).addBoth(self._left, fill, dropped)

    def _left(self, result: Any, fill: Fill, dropped: Deferred[None]) -> Any:
        if self._leaving.get(fill.digest) is dropped:
            del self._leaving[fill.digest]
        dropped.callback(None)
        return result

    # what fills ask

    async def open_spool(self, fill: Fill) -> Spool:
        while (leaving := self._leaving.get(fill.digest)) is not None:
            gone: Deferred[None] = Deferred()
            leaving.chainDeferred(gone)
            await gone
        return await self.store.new_spool(fill.digest, fill.size, fill.name)

    async def publish(self, fill: Fill) -> None:
        assert fill.spool is not None
        await self.store.publish(fill.spool)

    async def straight(self, fill: Fill) -> Optional[DirectUpload]:
        if await self.store.blob_size(fill.digest) is not None:
            return None
        return self.store.straight(fill.digest, fill.size, fill.name, fill.source)

    def ended(self, fill: Fill) -> None:
        self._tell_end(fill)
        if self._stopping or self.fills.get(fill.digest) is not fill:
            return
        seconds = self._clock.seconds() - fill.progress.began_at
        self._metrics.fill_ended(seconds, well=fill.state is State.DONE)
        if fill.state is State.DONE:
            self.stored()
            del self.fills[fill.digest]
            self._forget_retry(fill)
            self._came[fill.digest] = self._clock.seconds()
            self._came.move_to_end(fill.digest)
            while len(self._came) > KNOWN:
                self._came.popitem(last=False)
        elif isinstance(fill.error, RegistryError) and fill.error.code == "SIZE_INVALID":
            # The manifest that told its size was wrong: who asks next asks upstream for it.
            self._known.pop(fill.digest, None)
            self._drop(fill, fill.error)
        elif fill.state is State.SUSPENDED:
            self._retry_later(fill)

    def _tell_end(self, fill: Fill) -> None:
        for end in self._ends.pop(fill, []):
            if not end.called:
                end.callback(None)

    def _forget_retry(self, fill: Fill) -> None:
        if fill in self._retries:
            timer = self._retries.pop(fill)[1]
            if timer.active():
                timer.cancel()

    def _retry_later(self, fill: Fill) -> None:
        tried = self._retries[fill][0] if fill in self._retries else 0
        self._forget_retry(fill)
        if tried >= RETRIES:
            self._let_go(fill)
            return
        wait = min(RETRY_LONGEST, RETRY_FIRST * 2 ** min(tried, 10))
        wait = max(wait, fill.rests_for())
        self._retries[fill] = (tried + 1, self._clock.callLater(wait, fill.start))
        resting = [
            each
            for each in self._retries
            if each.state is State.SUSPENDED and each.spool is not None
        ]
        if len(resting) > MOST_RESTING:
            self._let_go(resting[0])

    def _let_go(self, fill: Fill) -> None:
        """Try it no more; who asks for it next, or the next start, goes on with what came."""
        self._forget_retry(fill)
        del self.fills[fill.digest]
        leaving = self._leaving[fill.digest] = Deferred()
        Deferred.fromCoroutine(fill.stop()).addBoth(self._left, fill, leaving)
