"""
The daemon as a whole: its start in order, and its stop in the reverse order.

The store is opened and unfinished fills are restored before the reactor runs, so that a setting
that is wrong ends the start with one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Optional

from attrs import define, evolve, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from yukari import __version__
from yukari.config.proxies import Proxies
from yukari.config.registries import RegistrySettings
from yukari.config.settings import Settings
from yukari.daemon.assembly import Parts, assemble
from yukari.daemon.certificates import Certificates
from yukari.daemon.connection_limit import ConnectionLimiter, room_for
from yukari.daemon.listening import close, describe, listen, name_for_clients, open_files_limit
from yukari.daemon.mirrors import cut_short, most_upstream
from yukari.daemon.stall_watch import TurnWatch
from yukari.daemon.systemd import Notifier
from yukari.fatal import end
from yukari.storage.opening import Opened, open_store
from yukari.storage.ports import StoreUnusable
from yukari.threads import run_sync

log = Logger()

ENDS_WITHIN = 20.0
"""Seconds for saving the fills and closing the store, once transfers have ended."""
HURRIED_WITHIN = 3.0
"""Seconds until the end, whatever is in progress, once the operator has asked a second time."""


@define(eq=False, repr=False)
class YukariService(Service):
    """The whole daemon, made from its settings."""

    _reactor: Any
    _settings: Settings
    _proxies: Proxies = field(factory=Proxies)
    give_up_after: Callable[[float], None] = lambda _: None
    """Called with the seconds after which the process is to end even if its threads do not."""
    open_store: Callable[..., Opened] = open_store
    ports: list[IListeningPort] = field(factory=list, init=False)
    admin_ports: list[IListeningPort] = field(factory=list, init=False)
    parts: Parts = field(init=False)
    _limiter: ConnectionLimiter = field(init=False)
    _certificates: Certificates = field(init=False)
    _notifier: Notifier = field(init=False)
    _turns: Optional[TurnWatch] = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._certificates = Certificates(self._reactor, self._reactor)
        self._notifier = Notifier(self._reactor, os.environ, os.getpid())
        self.parts = assemble(self._reactor, self._settings, self._proxies, self.open_store)

    # start

    def privilegedStartService(self) -> None:
        """Open the ports, which may need rights that are given up afterwards."""
        super().privilegedStartService()
        parts = self.parts
        open_files = open_files_limit()
        most = room_for(open_files, most_upstream(self._settings))
        self._limiter = ConnectionLimiter(most, parts.drain, self._reactor, open_files)
        default, *others = self._settings.registries
        for bind in (*self._settings.bind, *default.bind):
            self.ports += listen("BIND", bind, parts.sites[default.name], self._certificates)
        for registry in others:
            for bind in registry.bind:
                site, named = parts.sites[registry.name], f"bind of {registry.name}"
                self.ports += listen(named, bind, site, self._certificates)
        for port in self.ports:
            self._limiter.guard(port)
        for bind in self._settings.admin_bind:
            self.admin_ports += listen("ADMIN_BIND", bind, parts.admin_site, self._certificates)

    def startService(self) -> None:
        """Open the store, restore what was in progress, and log that the daemon is running."""
        super().startService()
        parts = self.parts
        try:
            run_sync(Deferred.fromCoroutine(parts.store.start()))
        except StoreUnusable as error:
            end(error)
        run_sync(Deferred.fromCoroutine(parts.library.restore()))
        # Disk threads give the reactor its turn ten times sooner than by default: the longest
        # waits of requests beside a fill halve (bench/latency.py).
        sys.setswitchinterval(0.0005)
        parts.disk_threads.start()
        parts.send_threads.start()
        parts.catalog_thread.start()
        parts.imports.start()
        parts.library.resume()
        if parts.keeper is not None:
            parts.keeper.start()
        parts.metrics.start()
        parts.usage.start()
        parts.management.start()
        parts.traffic.start()
        parts.errors.start()
        parts.give_back.start(self._reactor, parts.disk_threads)
        self._certificates.start()
        if self._settings.long_turns:
            self._turns = TurnWatch(self._reactor, self._settings.long_turns)
            self._reactor.callWhenRunning(self._turns.start)
        # By then signals are handled: whoever sees either of these may send one.
        for tell in (self._log_banner, self._notifier.ready):
            self._reactor.callWhenRunning(tell)

    def _log_banner(self) -> None:
        where = ", ".join(describe(port) for port in self.ports)
        default = self._settings.upstream_registry.url
        proxy = self.parts.mirrors.connections[0].proxy(default)
        by = "" if proxy is None else f" by the proxy {proxy}"
        others = map(_shown, self._settings.registries[1:])
        log.info(
            "yukari {version} listens on {where}, mirrors {upstream}{offline}, stores in {store};"
            " to pull through it: ollama pull --insecure {host}/library/MODEL:TAG",
            version=__version__,
            where=where,
            upstream=", ".join((f"{default}{by}", *others)),
            offline=" (OFFLINE: asks none of them)" if self._settings.offline else "",
            store=self.parts.store.describe(),
            host=name_for_clients(self.ports),
            banner=True,
        )
        if self._proxies.ignored:
            log.warn(
                "ignored, because it cannot be read: {ignored}",
                ignored="; ".join(self._proxies.ignored),
                banner=True,
            )
        for line in self._settings.unused:
            log.warn("{line}", line=line, banner=True)
        if short := cut_short(self._settings):
            log.warn(
                "fewer connections than UPSTREAM_CONNECTIONS: {most}, an eighth of the limit of"
                " open files; raise it (ulimit -Hn, LimitNOFILE=)",
                most=", ".join(f"{most} to {host}" for host, most in short.items()),
                banner=True,
            )

    def reload(self) -> None:
        """Read the certificates and the admins' passwords again."""
        self._certificates.reload()
        passwords = self.parts.passwords
        if passwords is not None:
            try:
                passwords.load()
            except (OSError, ValueError) as error:
                log.error(
                    "{path}: {error}: the admins' passwords stay as they were",
                    path=passwords.path,
                    error=str(getattr(error, "strerror", None) or error),
                )

    def take_stop(self, settings: Settings) -> bool:
        """Take over SHUTDOWN_DELAY and GRACE."""
        self._settings = evolve(
            self._settings, shutdown_delay=settings.shutdown_delay, grace=settings.grace
        )
        return True

    # stop

    def stopService(self) -> Deferred[None]:
        """Close the ports, let transfers finish, save the fills, close the store."""
        super().stopService()
        settings = self._settings
        self._notifier.stopping(settings.shutdown_delay + settings.grace + ENDS_WITHIN)
        return Deferred.fromCoroutine(self._stop())

    def hurry(self) -> None:
        """Wait for no transfer any more: the operator has asked for the end a second time."""
        self.parts.drain.hurry()
        self.give_up_after(HURRIED_WITHIN)

    async def _stop(self) -> None:
        parts = self.parts
        if parts.library.revalidator is not None:
            await parts.library.revalidator.stop()
        await parts.drain.pause(self._settings.shutdown_delay)
        self._limiter.stop()
        parts.watchers.stop()
        ports = self.ports + self.admin_ports
        await DeferredList([Deferred.fromCoroutine(close(port)) for port in ports])
        await parts.drain.close(self._settings.grace)
        parts.drain.cut()
        self.give_up_after(ENDS_WITHIN)
        parts.metrics.stop()
        parts.usage.stop()
        parts.give_back.stop()
        self._certificates.stop()
        if self._turns is not None:
            self._turns.stop()
        try:
            parts.pulls.stop()
            await parts.imports.stop()
            stopping = Deferred.fromCoroutine(parts.library.stop())
            parts.store.interrupt()
            await stopping
            await parts.traffic.stop()
            await parts.management.stop()
            await parts.mirrors.close()
            await parts.store.stop()
            if parts.keeper is not None:
                await parts.keeper.stop()
        finally:
            parts.send_threads.stop()
            parts.catalog_thread.stop()
            parts.disk_threads.stop()
            parts.errors.stop()
            self._notifier.stop()


def _shown(registry: RegistrySettings) -> str:
    """Return a registry beside the default one as the log shows it."""
    by = "" if registry.prefix is None else f" as {registry.prefix}NAMESPACE"
    return f"{registry.host}{by}"
