"""
The daemon as a whole: its start in order, its stop in the reverse of it.

The store is taken in hand and unfinished fills are taken up before the
reactor runs, so that whatever is wrong with the setting up ends the start
with one line.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Optional

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, execute, fail
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.tcp import Port
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from yukari import __version__
from yukari.config.listen import BACKLOG, Bind
from yukari.config.networks import NOBODY
from yukari.config.patterns import ModelRules, Patterns
from yukari.config.proxies import Proxies
from yukari.config.settings import TIGRIS, Settings
from yukari.daemon.certificates import Certificates
from yukari.daemon.connection_limit import ConnectionLimiter, room_for
from yukari.daemon.logs import end
from yukari.daemon.stall_watch import TurnWatch
from yukari.daemon.systemd import Notifier
from yukari.fills.scheduler import FetchScheduler
from yukari.library.library import Library
from yukari.library.revalidator import Revalidator
from yukari.metrics import PrometheusMetrics
from yukari.net.agent import READ, Connections
from yukari.net.throttle import Line, Lines
from yukari.net.trust import trust
from yukari.sending.workers import Helpers, helpful
from yukari.sources.offline import Offline
from yukari.sources.upstream import Upstream
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.ports import Store, StoreUnusable
from yukari.storage.usage import UsageCounter
from yukari.web.admin import Numbers, Ready
from yukari.web.drain import Drain
from yukari.web.htpasswd import Passwords
from yukari.web.readiness import Readiness
from yukari.web.site import RegistrySite
from yukari.web.v2 import make_root

if TYPE_CHECKING:
    from yukari.storage.bucket.upkeep import BucketKeeper

log = Logger()

DISK_THREADS = 6

ENDS_WITHIN = 20.0
"""Seconds that saving the fills and letting go of the store may take, once transfers have ended."""
HURRIED_WITHIN = 3.0
"""Seconds until the end, whatever is under way, once the operator has asked for it again."""


@define(eq=False)
class Threads:
    """
    Runs blocking work in threads of its own (the reactor's pool is DNS's too).

    Until it is started the work is done at once, and once it is stopped none is done any more.
    """

    _reactor: Any
    _name: str
    _most: int
    _pool: Optional[ThreadPool] = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        """Threads from now on."""
        self._pool = ThreadPool(0, self._most, self._name)
        self._pool.start()

    def stop(self) -> None:
        """Wait for what is under way, then no more threads."""
        pool, self._pool = self._pool, None
        self._stopped = True
        if pool is not None:
            pool.stop()

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if self._stopped:
            return fail(OSError(errno.ESHUTDOWN, "the daemon is stopping"))
        if self._pool is None:
            return execute(work, *arguments)
        return deferToThreadPool(self._reactor, self._pool, work, *arguments)


def run_sync(work: Deferred[Any]) -> Any:
    """The result of what needs no reactor; raises what it failed with."""
    results: list[Any] = []
    work.addBoth(results.append)
    if not results:
        raise RuntimeError("this must not wait for the reactor")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def open_files_limit() -> int:
    """As many descriptors as the system lets us have: each client and each fill takes some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


@define(eq=False)
class YukariService(Service):
    """The whole daemon, made from its settings."""

    _reactor: Any
    _settings: Settings
    _proxies: Proxies = field(factory=Proxies)
    give_up_after: Callable[[float], None] = lambda _: None
    """Told in how many seconds the process is to end, should its threads not."""
    ports: list[IListeningPort] = field(factory=list, init=False)
    admin_ports: list[IListeningPort] = field(factory=list, init=False)
    metrics: PrometheusMetrics = field(init=False)
    _threads: Threads = field(init=False)
    _helpers: Threads = field(init=False)
    _store: Store = field(init=False)
    _keeper: Optional[BucketKeeper] = field(default=None, init=False)
    _connections: Connections = field(init=False)
    _library: Library = field(init=False)
    _stock: UsageCounter = field(init=False)
    _revalidator: Revalidator = field(init=False)
    _drain: Drain = field(init=False)
    _door: ConnectionLimiter = field(init=False)
    _passwords: Optional[Passwords] = field(init=False)
    _certificates: Certificates = field(init=False)
    _notifier: Notifier = field(init=False)
    _turns: Optional[TurnWatch] = field(default=None, init=False)
    _site: RegistrySite = field(init=False)
    _admin_site: RegistrySite = field(init=False)

    def __attrs_post_init__(self) -> None:
        settings = self._settings
        self._threads = Threads(self._reactor, "disk", DISK_THREADS)
        self._helpers = Threads(self._reactor, "send", max(1, helpful()))
        self.metrics = PrometheusMetrics(self._reactor)
        self._certificates = Certificates(self._reactor, self._reactor)
        self._notifier = Notifier(self._reactor, os.environ, os.getpid())
        self._store = self._make_store()
        bounds = settings.upstream_connections
        registry, elsewhere = settings.upstream_registry, {}
        if settings.upstream_address is not None:
            address = settings.upstream_address
            named = registry.hostname.strip("[]"), registry.port
            elsewhere[named] = address.host, address.port or registry.port
        line, read = None, READ
        if settings.upstream_rate is not None:
            line = Line(settings.upstream_rate, self._reactor, bounds.in_all)
            read = min(READ, line.share_of(line.most))
        self._connections = Connections(
            self._reactor,
            bounds.in_all,
            trust(settings.upstream_ca),
            elsewhere,
            self._proxies,
            read,
        )
        pseudonym = f"yukari-{token_hex(8)}"
        upstream = (
            Offline()
            if settings.offline
            else Upstream(
                registry,
                self._connections.agent,
                self._reactor,
                self.metrics,
                pseudonym,
                line,
                self._connections.answered_by(registry.url),
            )
        )
        self._library = Library(
            store=self._store,
            upstream=upstream,
            crew=FetchScheduler(self._reactor, bounds.per_blob, bounds.in_all, line=line),
            in_thread=self._threads,
            clock=self._reactor,
            metrics=self.metrics,
            rules=ModelRules(
                registry.host, settings.models_allow, settings.models_deny or Patterns()
            ),
        )
        if settings.storage == TIGRIS:
            from yukari.s3.presign import redirects

            self._library.redirects = partial(redirects, settings.redirect)
        self._stock = UsageCounter(self._store, self._reactor)
        self._library.stored = self._stock.changed
        self.metrics.watch(
            self._library.count_fills,
            lambda: upstream.circuit_open,
            lambda: self._stock.holdings,
        )
        self._revalidator = Revalidator(
            library=self._library,
            clock=self._reactor,
            period=settings.invalidator_period,
            lifetime=settings.manifest_lifetime,
            refresh_after=settings.revalidate_after,
            metrics=self.metrics,
        )
        root = make_root(
            self._library,
            self._reactor,
            self._threads,
            Helpers(self._helpers, helpful()),
            settings.upstream_registry.url,
            settings.allow,
            None if settings.client_rate is None else Lines(settings.client_rate, self._reactor),
        )
        self._drain = Drain(self._reactor)
        self._passwords = self._read_passwords()
        root.putChild(b"readyz", Ready(Readiness(self._store, self._drain, self._reactor)))
        root.putChild(b"metrics", Numbers(self.metrics))
        self._site, self._admin_site = (
            RegistrySite(
                root,
                self._reactor,
                drain=self._drain,
                metrics=self.metrics,
                is_admins=is_admins,
                pseudonym=pseudonym,
                passwords=self._passwords,
                trusted_proxies=settings.trusted_proxies or NOBODY,
                log_requests=settings.slog_level <= LogLevel.info,
            )
            for is_admins in (False, True)
        )

    def _read_passwords(self) -> Optional[Passwords]:
        path = self._settings.admin_auth_file
        try:
            return None if path is None else Passwords(path, self._threads, self._reactor)
        except (OSError, ValueError) as error:
            end(f"ADMIN_AUTH_FILE {path!a}: {getattr(error, 'strerror', None) or error}")

    def _make_store(self) -> Store:
        settings = self._settings
        if settings.storage == TIGRIS:
            # botocore takes a quarter of a second to import: who stores in a directory waits not.
            from yukari.storage.bucket.upkeep import open_store

            try:
                self._keeper = open_store(
                    self._reactor,
                    settings,
                    os.environ,
                    self._threads,
                    self.metrics,
                    self._proxies,
                )
            except ValueError as error:
                end(error)
            return self._keeper.store
        return DirectoryStore(
            path=settings.storage,
            upstream_host=settings.upstream_registry.host,
            in_thread=self._threads,
            clock=self._reactor,
            spool_dir=settings.spool_dir,
            min_free=settings.min_free,
        )

    # start

    def privilegedStartService(self) -> None:
        """Take the ports, which may need rights that are given up afterwards."""
        super().privilegedStartService()
        most = room_for(open_files_limit(), self._settings.upstream_connections.in_all)
        self._door = ConnectionLimiter(most, self._drain, self._reactor)
        for bind in self._settings.bind:
            self.ports += self._listen("BIND", bind, self._site)
        for port in self.ports:
            self._door.guard(port)
        for bind in self._settings.admin_bind:
            self.admin_ports += self._listen("ADMIN_BIND", bind, self._admin_site)

    def _listen(self, setting: str, bind: Bind, site: RegistrySite) -> list[IListeningPort]:
        ports: list[IListeningPort] = []
        for description in bind.descriptions:
            last = description == bind.descriptions[-1]
            try:
                endpoint = self._certificates.endpoint(description)
                ports.append(run_sync(endpoint.listen(site)))
            except CannotListenError as error:
                reason = error.socketError
                if last or getattr(reason, "errno", None) == errno.EADDRINUSE:
                    end(f"{setting} {bind.text}: cannot listen there: {reason}")
            except Exception as error:
                if last:
                    why = getattr(error, "strerror", None) or error
                    end(f"{setting} {bind.text}: cannot listen there: {why}")
            if ports and not _is_ipv6_alone(ports[0]):
                break
        return ports

    def startService(self) -> None:
        """Take the store in hand, take up what was on its way, and say so."""
        super().startService()
        try:
            run_sync(Deferred.fromCoroutine(self._store.start()))
        except StoreUnusable as error:
            end(error)
        run_sync(Deferred.fromCoroutine(self._library.restore()))
        # A disk thread gives the reactor its turn ten times sooner than Python would have it:
        # the longest waits of requests beside a fill halve (bench/latency.py).
        sys.setswitchinterval(0.0005)
        self._threads.start()
        self._helpers.start()
        self._library.resume()
        if self._keeper is not None:
            self._keeper.start()
        self.metrics.start()
        self._stock.start()
        self._certificates.start()
        if self._settings.long_turns:
            self._turns = TurnWatch(self._reactor, self._settings.long_turns)
            self._reactor.callWhenRunning(self._turns.start)
        if not self._settings.offline:
            self._library.pulled = self._revalidator.pulled
            self._library.is_stale = self._revalidator.is_stale
            self._revalidator.start()
        self._banner()
        self._reactor.callWhenRunning(self._notifier.ready)

    def _banner(self) -> None:
        where = ", ".join(_shown(port) for port in self.ports)
        proxy = self._connections.proxy(self._settings.upstream_registry.url)
        log.info(
            "yukari {version} listens on {where}, mirrors {upstream}{proxy}, stores in {store};"
            " to pull through it: ollama pull --insecure {host}/library/MODEL:TAG",
            version=__version__,
            where=where,
            upstream=self._settings.upstream_registry.url,
            proxy="" if proxy is None else f" by the proxy {proxy}",
            store=self._store.describe(),
            host=_name_for_clients(self.ports),
            banner=True,
        )

    def reload(self) -> None:
        """Read the certificates and the admins' passwords anew."""
        self._certificates.reload()
        if self._passwords is not None:
            try:
                self._passwords.load()
            except (OSError, ValueError) as error:
                log.error(
                    "{path}: {error}: the admins' passwords stay as they were",
                    path=self._passwords.path,
                    error=str(getattr(error, "strerror", None) or error),
                )

    # stop

    def stopService(self) -> Deferred[None]:
        """
        Close the ports, let transfers end, leave the fills where they stand, let go of the store.
        """
        super().stopService()
        settings = self._settings
        self._notifier.stopping(settings.shutdown_delay + settings.grace + ENDS_WITHIN)
        return Deferred.fromCoroutine(self._stop())

    def hurry(self) -> None:
        """Wait for no transfer any more: whoever wants the end has asked for it again."""
        self._drain.hurry()
        self.give_up_after(HURRIED_WITHIN)

    async def _stop(self) -> None:
        await self._revalidator.stop()
        await self._drain.pause(self._settings.shutdown_delay)
        self._door.stop()
        ports = self.ports + self.admin_ports
        await DeferredList([Deferred.fromCoroutine(_close(port)) for port in ports])
        await self._drain.close(self._settings.grace)
        self._drain.cut()
        self.give_up_after(ENDS_WITHIN)
        self.metrics.stop()
        self._stock.stop()
        self._certificates.stop()
        if self._turns is not None:
            self._turns.stop()
        try:
            stopping = Deferred.fromCoroutine(self._library.stop())
            self._store.interrupt()
            await stopping
            await self._connections.close()
            await self._store.stop()
            if self._keeper is not None:
                await self._keeper.stop()
        finally:
            self._helpers.stop()
            self._threads.stop()
            self._notifier.stop()


async def _close(port: IListeningPort) -> None:
    if isinstance(port, Port):
        # Who waits to be accepted takes itself for connected; each turn would accept some only.
        port.numberAccepts = BACKLOG
        port.doRead()
    closing = port.stopListening()
    if closing is not None:
        await closing


def _is_ipv6_alone(port: IListeningPort) -> bool:
    """Whether a port of IPv6 leaves IPv4 to another, as BSDs have it, and Linux on demand."""
    listening: Any = getattr(port, "socket", None)
    if listening is None or listening.family != socket.AF_INET6:
        return False
    return bool(listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _shown(port: IListeningPort) -> str:
    address = port.getHost()
    host, number = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        name = getattr(address, "name", None)
        return os.fsdecode(name) if name else str(address)
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def _name_for_clients(ports: list[IListeningPort]) -> str:
    for port in ports:
        address = port.getHost()
        host, number = getattr(address, "host", None), getattr(address, "port", None)
        if host is not None:
            return f"{'localhost' if host in ('::', '0.0.0.0') else host}:{number}"  # noqa: S104
    return "HOST"
