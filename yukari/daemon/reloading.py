"""
Settings that a running daemon takes over.

On SIGHUP all settings are read again: the configuration file may have changed. What cannot change
while the daemon runs waits for a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import define, evolve
from constantly import NamedConstant
from twisted.logger import Logger, LogLevel

from yukari.config.settings import SETTINGS, SettingError, Settings
from yukari.daemon.assembly import Parts

log = Logger()

Take = Callable[[Settings], bool]
"""Takes over a changed setting; returns whether that was possible without a restart."""


@define(eq=False)
class Reloader:
    """Reads the settings again and hands over what has changed."""

    settings: Settings
    """Those in force."""
    _read: Callable[[], Settings]
    _takes: Mapping[str, Take]
    """By the fields of `Settings` that can change."""

    def reload(self) -> None:
        """Take over what has changed; nothing at all if anything is wrong."""
        try:
            new = self._read()
        except SettingError as error:
            for line in str(error).splitlines():
                log.error("{line}: all settings stay as they were", line=line)
            return
        for row in SETTINGS:
            value = getattr(new, row.name)
            if value == getattr(self.settings, row.name):
                continue
            changed = evolve(self.settings, **{row.name: value})
            take = self._takes.get(row.name)
            if take is not None and take(changed):
                self.settings = changed
                log.info("{setting} has changed", setting=row.environment, banner=True)
            else:
                log.warn(
                    "{setting} has changed: restart the daemon for it to take effect",
                    setting=row.environment,
                    banner=True,
                )


def takes(parts: Parts, set_level: Callable[[NamedConstant], None]) -> dict[str, Take]:
    """Return what takes over each setting of the daemon's parts that can change."""
    sites = (*parts.sites.values(), parts.admin_site)

    def slog_level(settings: Settings) -> bool:
        set_level(settings.slog_level)
        for site in sites:
            site.log_requests = settings.slog_level <= LogLevel.info
        return True

    def allow(settings: Settings) -> bool:
        for site in sites:
            site.allow = settings.allow
        return True

    def idle_timeout(settings: Settings) -> bool:
        for site in sites:
            site.timeOut = settings.idle_timeout
        return True

    def client_connections(settings: Settings) -> bool:
        if settings.client_connections is None:
            return False  # The limit of open files decides, at the start.
        for site in parts.sites.values():
            site.clients.most = settings.client_connections
        return True

    return {take.__name__: take for take in (slog_level, allow, idle_timeout, client_connections)}
