"""
The daemon's parts, made from its settings and put together; nothing is started here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Optional

from attrs import frozen
from twisted.logger import LogLevel

from yukari.config.networks import NOBODY
from yukari.config.patterns import Patterns
from yukari.config.proxies import Proxies
from yukari.config.registry_names import RegistryNames, id_of
from yukari.config.settings import TIGRIS, Settings
from yukari.daemon.allocator import GiveBack
from yukari.daemon.connection_limit import most_of_one_client, room_for
from yukari.daemon.listening import open_files_limit
from yukari.daemon.mirrors import (
    Mirrors,
    freshness_of,
    line_of,
    most_upstream,
    open_mirrors,
    own_directory,
    rules_of,
)
from yukari.daemon.prometheus import PrometheusMetrics
from yukari.fatal import end
from yukari.fills.scheduler import FetchScheduler
from yukari.fills.window import Window
from yukari.large import LargeManifests
from yukari.leisure import Leisure
from yukari.library.events import Events, Observer
from yukari.library.library import Library
from yukari.library.models.shown_names import ShownNames
from yukari.library.pulls import Pulls
from yukari.library.recent_errors import RecentErrors
from yukari.library.status import StatusReader
from yukari.library.traffic import Traffic
from yukari.library.upkeep.management import Management
from yukari.library.upkeep.room import Bounds
from yukari.library.upkeep.usage import UsageCounter
from yukari.memory import Memory
from yukari.metrics import Metrics
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.net.throttle import Lines
from yukari.sending.workers import Helpers, helpful
from yukari.storage.disk.bodies import KeptFiles
from yukari.storage.opening import Opened
from yukari.storage.ports import Store
from yukari.threads import DISK_THREADS, Threads
from yukari.web.admin import Numbers, Ready
from yukari.web.client_limit import ClientLimit
from yukari.web.drain import Drain
from yukari.web.importing import Imports
from yukari.web.ollama_api import OllamaApi
from yukari.web.page.base import PageParts
from yukari.web.page.overview import Overview
from yukari.web.page.render import Pages
from yukari.web.page.watchers import Watchers
from yukari.web.readiness import Readiness
from yukari.web.site import RegistrySite
from yukari.web.status_page import put_pages
from yukari.web.store_api import StoreApi
from yukari.web.v2 import make_root

if TYPE_CHECKING:
    from yukari.storage.bucket.upkeep import BucketKeeper
    from yukari.web.htpasswd import Passwords


@frozen(eq=False, repr=False)
class Parts:
    """The parts of a daemon, as `assemble` makes them."""

    metrics: PrometheusMetrics
    disk_threads: Threads
    send_threads: Threads
    store: Store
    keeper: Optional[BucketKeeper]
    mirrors: Mirrors
    scheduler: FetchScheduler
    library: Library
    usage: UsageCounter
    management: Management
    pulls: Pulls
    imports: Imports
    catalog_thread: Threads
    traffic: Traffic
    errors: RecentErrors
    watchers: Watchers
    drain: Drain
    passwords: Optional[Passwords]
    sites: Mapping[str, RegistrySite]
    """The ports' sites of each registry, by its name in the settings."""
    client_lines: Optional[Lines]
    """The bound on each client's rate."""
    give_back: GiveBack
    admin_site: RegistrySite


def assemble(
    reactor: Any, settings: Settings, proxies: Proxies, open_store: Callable[..., Opened]
) -> Parts:
    """Make the parts; end the process if a setting turns out to be wrong."""
    disk_threads = Threads(reactor, "disk", DISK_THREADS)
    send_threads = Threads(reactor, "send", helpful())
    metrics = PrometheusMetrics(reactor)
    kept = KeptFiles(os.path.join(own_directory(settings), "tmp"))
    give_back = GiveBack()
    memory = Memory()
    large = LargeManifests(kept.keep, give_back, memory)
    try:
        store, keeper = open_store(
            reactor, settings, os.environ, disk_threads, metrics, proxies, large, memory
        )
    except ValueError as error:
        end(error)
    bounds = settings.upstream_connections
    pseudonym = f"yukari-{token_hex(8)}"
    line = None
    if settings.upstream_rate is not None:
        line = line_of(settings.upstream_rate, reactor, bounds.in_all)
    mirrors = open_mirrors(
        reactor, settings, proxies, disk_threads, metrics, pseudonym, line, large
    )
    registries = RegistryNames.of(settings.registries)
    catalog_thread = Threads(reactor, "catalog", 1)
    drain = Drain(reactor)
    leisure = Leisure(reactor, requests=lambda: drain.asked)
    management = _management(
        reactor, settings, store, catalog_thread, disk_threads, metrics, leisure
    )
    usage = UsageCounter(management, reactor)
    scheduler = FetchScheduler(
        reactor,
        bounds.per_blob,
        bounds.in_all,
        line=line,
        may_fetch_ahead=may_fetch_ahead(settings),
        most_open=open_files_limit() // 8,
        window=Window(memory),
    )
    library = Library(
        store=store,
        upstream=mirrors.upstreams,
        scheduler=scheduler,
        in_thread=disk_threads,
        clock=reactor,
        metrics=metrics,
        rules=rules_of(settings),
        freshness=freshness_of(settings),
        prefetching=settings.prefetch,
        events=Events([_Changes(usage.changed)]),
        may_check=management.marks.may_check,
        redirects=_redirects(settings),
        leisure=Leisure(reactor),
        large=large,
    )
    management.manage(library, None if settings.offline else library.is_upstream)
    pulls = Pulls(library, management.marks.may_check)
    metrics.watch(library.filling.count, mirrors.watched, lambda: usage.holdings)
    management.scrub(
        settings.scrub_period,
        settings.scrub_bucket,
        lambda: drain.busy() > 0 or library.filling.count("filling") > 0,
        metrics,
    )
    names = ShownNames(registries)
    api = OllamaApi(management, pulls, names, reactor)
    errors = RecentErrors()
    traffic = Traffic(management.catalog, metrics.moved, reactor)
    page_parts = PageParts(
        pages=Pages(disk_threads),
        status=StatusReader(management, registries, settings.offline, errors, traffic, reactor),
        management=management,
        pulls=pulls,
        api=api,
        names=names,
        clock=reactor,
    )
    watchers = Watchers(page_parts.fills, reactor)
    client_lines = None
    if settings.client_rate is not None:
        client_lines = Lines(settings.client_rate, reactor)
    root = make_root(
        library,
        disk_threads,
        Helpers(send_threads, helpful()),
        settings.upstream_registry.url,
        client_lines,
        management.catalog,
        Overview(page_parts),
        registries,
    )
    put_pages(root, page_parts, watchers)
    root.putChild(b"api", api.resource())
    imports = Imports(management, names, reactor)
    root.putChild(b"store", StoreApi(management, names, imports).resource())
    root.putChild(b"readyz", Ready(Readiness(store, drain, reactor)))
    root.putChild(b"metrics", Numbers(metrics.text))
    passwords = _read_passwords(reactor, settings, disk_threads)
    trusted = settings.trusted_proxies or NOBODY
    room = room_for(open_files_limit(), most_upstream(settings))
    client_limit = ClientLimit(settings.client_connections or most_of_one_client(room), trusted)

    def make_site(registry: str, *, is_admins: bool = False) -> RegistrySite:
        return RegistrySite(
            root,
            reactor,
            drain=drain,
            metrics=metrics,
            is_admins=is_admins,
            pseudonym=pseudonym,
            passwords=passwords,
            trusted_proxies=trusted,
            allow=settings.allow,
            log_requests=settings.slog_level <= LogLevel.info,
            client_limit=None if is_admins else client_limit,
            idle=settings.idle_timeout,
            uploads=imports,
            sent_to=traffic.sent_to,
            registry=registry,
        )

    sites = {each.name: make_site(id_of(each, settings.registries)) for each in settings.registries}
    return Parts(
        metrics=metrics,
        disk_threads=disk_threads,
        send_threads=send_threads,
        store=store,
        keeper=keeper,
        mirrors=mirrors,
        scheduler=scheduler,
        library=library,
        usage=usage,
        management=management,
        pulls=pulls,
        imports=imports,
        catalog_thread=catalog_thread,
        traffic=traffic,
        errors=errors,
        watchers=watchers,
        drain=drain,
        passwords=passwords,
        sites=sites,
        client_lines=client_lines,
        give_back=give_back,
        admin_site=make_site(DEFAULT, is_admins=True),
    )


def may_fetch_ahead(settings: Settings) -> Callable[[], bool]:
    """Return a function that says whether blobs that nobody waits for may be fetched now."""
    hours = settings.prefetch_hours
    return (lambda: True) if hours is None else hours.now


@frozen(eq=False, repr=False)
class _Changes(Observer):
    """Calls a function whenever something is stored or removed."""

    _changed: Callable[[], None]

    def tag_stored(self, name: Repository, tag: Tag) -> None:
        self._changed()

    def blob_stored(self, digest: Digest, size: int) -> None:
        self._changed()

    def removed(self) -> None:
        self._changed()


def _management(
    reactor: Any,
    settings: Settings,
    store: Store,
    catalog_thread: Threads,
    in_thread: Threads,
    metrics: Metrics,
    leisure: Leisure,
) -> Management:
    """Make the management of the store, whose catalog is on this disk."""
    in_bucket = settings.storage == TIGRIS
    if in_bucket and settings.store_max is not None and settings.store_max.bytes is None:
        end("STORE_MAX: a bucket has no size: give bytes, such as 500GB")
    return Management(
        store=store,
        catalog_path=os.path.join(own_directory(settings), "catalog.sqlite3"),
        catalog_thread=catalog_thread,
        in_thread=in_thread,
        clock=reactor,
        bounds=Bounds(
            settings.store_max,
            settings.evict == "lru" if in_bucket else settings.evict != "never",
            settings.keep or Patterns(),
            settings.superseded_lifetime,
            settings.evict_grace,
        ),
        registry=settings.registries[0].host,
        metrics=metrics,
        leisure=leisure,
    )


def _redirects(settings: Settings) -> Callable[[str, str], bool]:
    """Return a function that says whether a client may be sent to a presigned URL."""
    if settings.storage != TIGRIS:
        return lambda *_: False
    from yukari.s3.presign import redirects

    return partial(redirects, settings.redirect)


def _read_passwords(reactor: Any, settings: Settings, in_thread: Threads) -> Optional[Passwords]:
    path = settings.admin_auth_file
    if path is None:
        return None
    from yukari.web.htpasswd import Passwords

    try:
        return Passwords(path, in_thread, reactor)
    except (OSError, ValueError) as error:
        end(f"ADMIN_AUTH_FILE {path!a}: {getattr(error, 'strerror', None) or error}")
