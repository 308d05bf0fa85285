"""The models: what clients ask for, put together from the rooms beside this one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Optional, Union

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError
from yukari.fills.fill import Fill
from yukari.fills.manager import FillManager
from yukari.fills.scheduler import FetchScheduler
from yukari.large import LargeManifests
from yukari.leisure import Leisure
from yukari.library.agents import UserAgents
from yukari.library.blobs import Blobs, Elsewhere
from yukari.library.children import Children
from yukari.library.events import Events
from yukari.library.in_use import InUse
from yukari.library.keeping import Keeper
from yukari.library.listing import Listing
from yukari.library.manifests import FoundManifest, Manifests
from yukari.library.prefetch import Prefetch
from yukari.library.revalidator import Freshness, Revalidator
from yukari.library.versions import Versions
from yukari.manifest import Manifest, Variant
from yukari.metrics import Metrics
from yukari.names import Digest, Reference, Repository, Tag
from yukari.sources.upstreams import AnyUpstream
from yukari.storage.ports import Store
from yukari.storage.readable import Readable, StoredBlob
from yukari.tasks import Slices


@define(eq=False, repr=False)
class Library:
    """Manifests and blobs by name, wherever they are."""

    store: Store
    upstream: AnyUpstream
    _scheduler: FetchScheduler
    _in_thread: Callable[..., Deferred[Any]]
    _clock: IReactorTime
    _now: Callable[[], float] = time.time
    """The time of day, in seconds of the epoch."""
    _metrics: Metrics = field(factory=Metrics)
    _freshness: Optional[Freshness] = None
    """None if upstream is never asked about what is stored."""
    _prefetching: str = "all"
    """``all``, ``asked`` or ``none``; see `Prefetch`."""
    in_use: InUse = field(init=False)
    events: Events = field(factory=Events)
    """Told of what is stored and checked."""
    _may_check: Callable[[Repository, Tag], bool] = lambda *_: True
    """Whether upstream is to be asked about a stored tag."""
    _redirects: Callable[[str, str], bool] = lambda *_: False
    """Whether a client that came by a Host header may be sent to a presigned URL."""
    rules: ModelRules = field(factory=ModelRules)
    _leisure: Optional[Leisure] = None
    """Makes looks for manifests that are due give way to requests."""
    _large: LargeManifests = field(factory=LargeManifests)
    filling: FillManager = field(init=False)
    blobs: Blobs = field(init=False)
    children: Children = field(init=False)
    prefetch: Prefetch = field(init=False)
    manifests: Manifests = field(init=False)
    listing: Listing = field(init=False)
    versions: Optional[Versions] = field(default=None, init=False)
    """None if upstream is never asked about what is stored."""
    revalidator: Optional[Revalidator] = field(default=None, init=False)
    _agents: UserAgents = field(init=False)
    _stopping: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        store, upstream, clock = self.store, self.upstream, self._clock
        self.in_use = InUse(clock)
        self.filling = FillManager(
            store,
            upstream,
            self._scheduler,
            self._in_thread,
            clock,
            self._metrics,
            self.events.blob_stored,
        )
        self.blobs = Blobs(
            store, upstream, self.filling, self._in_thread, clock, self._redirects, self.in_use
        )
        self.prefetch = Prefetch(self.blobs, self.filling, clock, self.in_use, self._prefetching)
        keeper = Keeper(store, self._now)
        self.children = Children(
            store,
            upstream,
            self._in_thread,
            keeper,
            self.events.child_stored,
            self._large,
            Slices(clock),
        )
        self._agents = agents = UserAgents()
        if self._freshness is not None:
            self.versions = Versions(
                store, upstream, self.blobs, self.children, self.prefetch, agents, self._now
            )
            self.revalidator = Revalidator(
                store=store,
                upstream=upstream,
                versions=self.versions,
                rules=self.rules,
                clock=clock,
                freshness=self._freshness,
                events=self.events,
                may_check=self._may_check,
                now=self._now,
                metrics=self._metrics,
                leisure=self._leisure,
            )
        self.manifests = Manifests(
            store=store,
            upstream=upstream,
            blobs=self.blobs,
            children=self.children,
            prefetch=self.prefetch,
            agents=agents,
            revalidator=self.revalidator,
            clock=clock,
            keeper=keeper,
            in_use=self.in_use,
            events=self.events,
        )
        self.listing = Listing(store, self.rules, tuple(sorted(self.rules.others)))

    # start and stop

    async def restore(self) -> None:
        """Find what was on its way when the last process ended; needs no threads."""
        await self.filling.restore()

    def resume(self) -> None:
        """Continue what `restore` found, unless the rules allow none of its models."""
        self.filling.resume(self.rules)
        if self.revalidator is not None:
            self.revalidator.start()

    async def stop(self) -> None:
        """Stop what is on its way, so that the next start restores it."""
        self._stopping = True
        self.prefetch.stop()
        self.manifests.stop()
        self.children.stop()
        self.blobs.stop()
        await self.filling.stop()

    async def is_upstream(self, name: Repository, tag: Tag) -> bool:
        """Ask the registry whether it has a tag. `RegistryError` if it does not say."""
        agent = self._agents.of(name, tag)
        try:
            if await self.upstream.manifest_digest(name, tag, agent) is None:
                await self.upstream.manifest(name, tag, agent)
        except RegistryError as error:
            if error.status == 404:
                return False
            if error.status != 412:  # That is said of what is there.
                raise
        return True

    # what operators ask

    @property
    def fills(self) -> dict[Digest, Fill]:
        """The blobs on their way."""
        return self.filling.fills

    def stop_fill(self, digest: Digest) -> Optional[Deferred[None]]:
        """Stop a blob's fill and throw away what came of it; None if there is no such fill."""
        error = RegistryError("UNAVAILABLE", "this transfer was stopped by the operator", 503)
        return self.filling.cancel(digest, error)

    # what clients ask

    @property
    def changes(self) -> int:
        """A number that grows whenever what clients get may change for another reason than age."""
        return self.store.changes + self.blobs.removed + self.rules.changes

    async def manifest(
        self,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
        *,
        prefetch: bool,
    ) -> FoundManifest:
        """
        Return a manifest, or a list to clients that accept lists. `RegistryError`.

        With ``prefetch`` its blobs are fetched ahead.
        """
        self._check_running()
        return await self.manifests.get(name, reference, user_agent, variant, prefetch=prefetch)

    async def blob_size(self, name: Repository, digest: Digest) -> int:
        """
        Return a blob's size in bytes. `RegistryError`.

        It is not fetched, unless it is a list's child: lists do not tell their children's sizes.
        """
        child = await self._child(name, digest)
        return await self.blobs.size(name, digest) if child is None else len(child.body)

    async def blob(
        self, name: Repository, digest: Digest, host: str = ""
    ) -> Union[Readable, Fill, Elsewhere]:
        """Open a blob for a client that came by this Host header; see `Blobs.open`."""
        self._check_running()
        manifest = await self._child(name, digest)
        found = await self.blobs.open(name, digest, host)
        try:
            if manifest is None and isinstance(found, StoredBlob):
                manifest = await self.children.of_blob(digest, found)
            if manifest is not None:
                await self.manifests.learn(name, manifest)
        except BaseException:  # The client may have left meanwhile.
            if isinstance(found, StoredBlob):
                found.close()
            raise
        if manifest is not None:
            self.prefetch.seen(name, manifest)
        else:
            self.prefetch.asked(name, digest)
        return found

    async def _child(self, name: Repository, digest: Digest) -> Optional[Manifest]:
        """Return the child of a list, stored by now; None if the blob is none."""
        return await self.children.find(name, digest, recall=not self.blobs.is_known(digest))

    def found_unreadable(self, digest: Digest, error: OSError) -> bool:
        """As `Blobs.found_unreadable`, of a stored blob that could not be read to its end."""
        self.blobs.invalidate()
        return self.blobs.found_unreadable(digest, error)

    def _check_running(self) -> None:
        if self._stopping:
            raise RegistryError("UNAVAILABLE", "this cache is stopping", 503)
