"""Fetching the blobs of a manifest before anybody asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Optional

from attrs import define, evolve, field
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.demand import DEMAND
from yukari.descriptors import Descriptor, among
from yukari.errors import RegistryError
from yukari.fills.fill import Fill
from yukari.fills.manager import FillManager
from yukari.fills.retries import TOLD_OF_WAIT
from yukari.fills.scheduler import OPEN_AHEAD
from yukari.library.blobs import FIRST_WORD_WITHIN, Blobs
from yukari.library.in_use import InUse
from yukari.manifest import AnyManifest, Manifest, ManifestList, manifests_in
from yukari.names import Digest, Repository
from yukari.tasks import Background, Coalescer, Slices, Waiters

log = Logger()

MAX_AHEAD = 1000
LEAST_AHEAD = 8
"""
Fills of one manifest that are started before the first of them must have ended: its share of the
former if several have their fills started, but the latter at least. Without shares, forty manifests
of 12,000 layers have 80,000 fills, some 500 MB.
"""
MAX_GIVEN_UP = 16
"""Blobs of one manifest that may be given up for now before no more of its fills are started."""
ARMED_IN_A_TURN = 1000
"""Blobs of a manifest that are noted so in one turn of the reactor, some 5 ms."""
MAX_ARMED = 25_000
"""Blobs whose first request starts the fills of their manifest's other blobs."""
NOTED_EVERY = 5.0
"""Seconds in which this is noted once: for a list of 18,000 blobs it takes a tenth of one."""
MAX_NOTED = 1000
"""Manifests and lists of which that is remembered."""
MAX_WHOLE = 10_000
"""Manifests that are remembered as stored with all their blobs."""


@define(eq=False, repr=False)
class Prefetch:
    """Starts fills for the blobs that manifests name."""

    _blobs: Blobs
    _fills: FillManager
    _clock: IReactorTime
    _in_use: InUse
    _mode: str = "all"
    """``all``; ``asked``, if a manifest alone starts nothing; or ``none``."""
    running: Background = field(factory=Background, init=False)
    _once: Coalescer = field(init=False)
    _walks: dict[Digest, Waiters] = field(factory=dict, init=False)
    """Manifests whose fills are being started."""
    _awaited: int = field(default=0, init=False)
    """Manifests that `ensure_stored` is called for."""
    _whole: LRUCache[Digest, int] = field(factory=lambda: LRUCache(MAX_WHOLE), init=False)
    """Manifests whose blobs were all found stored, with `Blobs.removed` as it was then."""
    _armed: LRUCache[tuple[Repository, Digest], Optional[Manifest]] = field(
        factory=lambda: LRUCache(MAX_ARMED), init=False
    )
    """The manifest that `asked` starts for a blob; None if several manifests have the blob."""
    _noted: TTLCache[tuple[Repository, Digest], None] = field(init=False)
    """Manifests and lists whose blobs were noted so of late."""

    def __attrs_post_init__(self) -> None:
        self._once = Coalescer(Slices(self._clock))
        self._noted = TTLCache(MAX_NOTED, NOTED_EVERY, self._clock.seconds)

    def seen(self, name: Repository, found: AnyManifest) -> None:
        """
        Note that a client got a manifest or a list, and start the manifest's fills.

        A list starts none: it is not known yet which of its children the client runs. A request
        for a blob that only one of the inline children has tells.
        """
        if self._is_whole(found):
            return
        if self._mode == "all" and isinstance(found, Manifest):
            self.start(name, found)
        elif self._mode != "none" and (name, found.digest) not in self._noted:
            self._noted[name, found.digest] = None
            self.running.start((name, found.digest), self._arm_all(name, found), _failed)

    async def _arm_all(self, name: Repository, found: AnyManifest) -> None:
        for manifest in manifests_in(found):
            bare, is_alone = _bare(manifest), isinstance(found, Manifest)
            self._arm(name, bare, manifest.blobs[:ARMED_IN_A_TURN], is_alone=is_alone)
            for start in range(ARMED_IN_A_TURN, len(manifest.blobs), ARMED_IN_A_TURN):
                await deferLater(self._clock, 0)
                some = manifest.blobs[start : start + ARMED_IN_A_TURN]
                self._arm(name, bare, some, is_alone=is_alone)

    def _arm(
        self, name: Repository, manifest: Manifest, blobs: Sequence[Descriptor], *, is_alone: bool
    ) -> None:
        for blob in blobs:
            if is_alone and blob == manifest.config:
                continue  # Who inspects a model asks for no more than this.
            key = name, blob.digest
            other = self._armed.get(key, manifest)
            same = other is not None and other.digest == manifest.digest
            self._armed[key] = manifest if same else None

    def asked(self, name: Repository, digest: Digest) -> None:
        """Start the fills of the manifest that this request for a blob points to, if any."""
        manifest = self._armed.get((name, digest))
        if manifest is not None:
            self.start(name, manifest)

    def is_settled(self, found: AnyManifest) -> bool:
        """Whether another client that gets this manifest, or list, would change nothing."""
        return isinstance(found, ManifestList) or self._is_whole(found)

    def _is_whole(self, found: AnyManifest) -> bool:
        return self._whole.get(found.digest) == self._blobs.removed

    def start(self, name: Repository, manifest: Manifest) -> None:
        """Start to fetch those blobs of a manifest that are not stored, in the background."""
        if self._is_whole(manifest):
            return
        if manifest.digest not in self.running:
            fetching = self._fetch_all(name, manifest.digest, manifest.blobs)
            self.running.start(manifest.digest, fetching, _failed)

    async def _fetch_all(self, name: Repository, of: Digest, blobs: Sequence[Descriptor]) -> None:
        removed = self._blobs.removed
        walk = self._walks[of] = Waiters()
        try:
            missing = await self._walk(name, blobs)
        finally:
            del self._walks[of]
            walk.fire()
        if not missing:
            self._whole[of] = removed

    async def _walk(self, name: Repository, blobs: Sequence[Descriptor]) -> int:
        """
        Start the fills of a manifest's blobs; returns how many are not stored.

        It stops at the first blob that upstream does not have, or once `MAX_GIVEN_UP` were given
        up: no client can do without them.
        """
        missing = given_up = 0
        ahead: deque[Fill] = deque()
        for blob in blobs:
            try:
                fill = await self._start_one(name, blob)
            except (RegistryError, OSError) as error:
                missing += 1
                log.warn("{digest}: {error}", digest=str(blob.digest), error=str(error))
                continue
            if fill is not None:
                missing += 1
                ahead.append(fill)
            if len(ahead) > self._share:
                await self._fills.end_of(ahead[0])
            while ahead and not self._fills.is_under_way(ahead[0]):
                fill = ahead.popleft()
                given_up += self._fills.fills.get(fill.digest) is fill
                refused = self._fills.refusal(fill.digest)
                is_absent = refused is not None and refused.status == 404
                if is_absent or given_up >= MAX_GIVEN_UP:
                    return missing
        return missing

    @property
    def _share(self) -> int:
        """The maximum number of fills in progress for one manifest."""
        return max(LEAST_AHEAD, MAX_AHEAD // max(1, len(self._walks) + self._awaited))

    async def _start_one(self, name: Repository, blob: Descriptor) -> Optional[Fill]:
        """Start the fill of a blob; None if the blob is stored."""
        self._blobs.learn(name, [blob])
        found = await self._blobs.fetch(name, blob.digest)
        if not isinstance(found, Fill):
            return None
        found.start()
        return found

    async def seen_and_checked(
        self, name: Repository, found: AnyManifest, *, is_first: bool
    ) -> None:
        """
        As `seen`, and raise a `RegistryError` if a blob of the manifest cannot be had.

        Clients show a reason only if the manifest's reply has it. Blobs that were refused before
        are asked for again. Waits at most `FIRST_WORD_WITHIN` for upstream's first word about each
        blob in progress, and at most `TOLD_OF_WAIT` more if that word is to ask again later; if the
        manifest ``is_first`` fetched now, also about those that `seen` has just started.
        """
        if isinstance(found, ManifestList):
            self.seen(name, found)
            return
        if self._is_whole(found):
            return
        key = name, found.digest, is_first
        refused = await self._once.run(key, self._see_and_check, name, found, is_first)
        if refused is not None:
            status = 502 if refused.status == 404 else refused.status
            said = f"{name} cannot be pulled: {refused.message}"
            raise RegistryError(refused.code, said, status, refused.retry_after)

    async def _see_and_check(
        self, name: Repository, found: Manifest, is_first: bool
    ) -> Optional[RegistryError]:
        """Do so for all who ask for the manifest meanwhile, and return the error."""
        DEMAND.set(None)  # What it starts goes on when they have left.
        before = await self._refused(name, found)
        self.seen(name, found)
        refused = await self._word_within(FIRST_WORD_WITHIN, name, found, before, is_first=is_first)
        if refused is None and self._is_asked_to_wait(found):
            # What upstream says when it may be asked again is its word.
            refused = await self._word_within(TOLD_OF_WAIT, name, found, {}, is_first=False)
        return refused

    async def _word_within(
        self,
        seconds: float,
        name: Repository,
        manifest: Manifest,
        before: dict[Descriptor, RegistryError],
        *,
        is_first: bool,
    ) -> Optional[RegistryError]:
        """Return the first refusal of a blob, by so many seconds; None if there is none."""
        asking: Deferred[Optional[RegistryError]] = Deferred.fromCoroutine(
            self._first_words(name, manifest, before, is_first=is_first)
        )
        asking.addTimeout(seconds, self._clock, lambda *_: next(iter(before.values()), None))
        # Some may have been refused before their word was waited for.
        return await asking or next(iter((await self._refused(name, manifest)).values()), None)

    async def _first_words(
        self,
        name: Repository,
        manifest: Manifest,
        refused: dict[Descriptor, RegistryError],
        *,
        is_first: bool,
    ) -> Optional[RegistryError]:
        """Return the first refusal of a blob under way; None if all of those arrive."""
        for blob in refused:
            await self._start_one(name, blob)
        if is_first and manifest.digest in self._walks:
            await self._walks[manifest.digest].wait()
        uncertain = self._uncertain(manifest)[:OPEN_AHEAD]  # No others can have begun.
        under_way = [self._fills.fills.get(blob.digest) for blob in uncertain]
        words = [
            Deferred.fromCoroutine(self._fills.first_word(fill)).addCallback(_raise)
            for fill in under_way
            if fill is not None
        ]
        try:
            await gatherResults(words, consumeErrors=True)
        except FirstError as failed:
            if isinstance(failed.subFailure.value, _Refused):
                return failed.subFailure.value.error
            failed.subFailure.raiseException()
        return None

    async def _refused(
        self, name: Repository, manifest: Manifest
    ) -> dict[Descriptor, RegistryError]:
        """The blobs of a manifest that cannot be had and are not stored, each with the reason."""
        refused = {}
        for blob in self._uncertain(manifest):
            error = self._fills.refusal(blob.digest)
            if error is not None and await self._blobs.stored_size(name, blob.digest) is None:
                refused[blob] = error
        return refused

    def _uncertain(self, manifest: Manifest) -> list[Descriptor]:
        """Return the blobs of a manifest that are on their way or were refused."""
        fills, refused = self._fills.fills, self._fills.refused
        if not fills and not refused:
            return []
        return among(manifest.blobs, fills, refused)

    def _is_asked_to_wait(self, manifest: Manifest) -> bool:
        """Whether upstream has asked to wait for one of a manifest's blobs."""
        now, fills = self._clock.seconds(), self._fills.fills
        under_way = among(manifest.blobs, fills)
        return any(fills[blob.digest].tries.is_asked_to_wait(now) for blob in under_way)

    async def ensure_stored(
        self, name: Repository, manifest: Manifest, *, at_any_hour: bool = False
    ) -> None:
        """
        Return when all blobs of a manifest are stored; `RegistryError` if one cannot be.

        They come within PREFETCH_HOURS, unless ``at_any_hour``.
        """
        ahead: deque[tuple[Fill, ExitStack]] = deque()
        self._awaited += 1
        try:
            with self._in_use.hold_whole(manifest):
                for blob in manifest.blobs:
                    fill = await self._start_one(name, blob)
                    if fill is not None:
                        ahead.append((fill, ExitStack()))
                        if at_any_hour:
                            ahead[-1][1].enter_context(fill.pulled())
                    while len(ahead) > self._share:
                        await self._first_ended(ahead)
                while ahead:
                    await self._first_ended(ahead)
        finally:
            self._awaited -= 1
            for _, pulled in ahead:
                pulled.close()
        for blob in manifest.blobs:
            if await self._blobs.stored_size(name, blob.digest) is None:
                raise RegistryError("UNAVAILABLE", f"blob {blob.digest} is not stored", 503)

    async def _first_ended(self, ahead: deque[tuple[Fill, ExitStack]]) -> None:
        """Take out the first fill once it has ended; `RegistryError` if its blob cannot be had."""
        fill, pulled = ahead[0]
        await self._fills.end_of(fill)
        if isinstance(fill.error, RegistryError):
            raise fill.error
        ahead.popleft()
        pulled.close()

    def stop(self) -> None:
        """Start no more fills."""
        self.running.stop()


def _bare(manifest: Manifest) -> Manifest:
    """Return a manifest without its bytes, of which there may be 8 MiB."""
    return evolve(manifest, body=b"")


class _Refused(Exception):
    """
    A blob cannot be had; ``error`` says why.

    The error is remembered. If it were raised, so would be whatever the frames hold that it went
    through, such as manifests.
    """

    def __init__(self, error: RegistryError) -> None:
        super().__init__(str(error))
        self.error = error


def _raise(refused: Optional[RegistryError]) -> None:
    if refused is not None:
        raise _Refused(refused)


def _failed(failure: Failure) -> None:
    log.failure("prefetching", failure)
