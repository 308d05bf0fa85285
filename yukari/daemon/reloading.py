"""
Settings that a running daemon takes over.

On SIGHUP all settings are read again: the configuration file may have changed. What cannot change
while the daemon runs waits for a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from attrs import define, evolve, frozen
from constantly import NamedConstant
from twisted.logger import Logger, LogLevel

from yukari.config.registries import KEYS
from yukari.config.registry_tables import TABLES
from yukari.config.settings import SETTINGS, SettingError, Settings
from yukari.daemon.assembly import Parts, may_fetch_ahead
from yukari.daemon.mirrors import freshness_of, rules_of

log = Logger()

Take = Callable[[Settings], bool]
"""Takes over a changed setting; returns whether that was possible without a restart."""


@define(eq=False, repr=False)
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
        for change in list(changes(self.settings, new)):
            take, changed = self._takes.get(change.what), change.made_in(self.settings)
            if take is not None and take(changed):
                self.settings = changed
                log.info("{setting} has changed", setting=change.name, banner=True)
            else:
                log.warn(
                    "{setting} has changed: restart the daemon for it to take effect",
                    setting=change.name,
                    banner=True,
                )


@frozen
class Change:
    """One thing that differs between two settings."""

    name: str
    """For people."""
    what: str
    """The key of what takes it over: a field of `Settings`, or ``registries.FIELD``."""
    made_in: Callable[[Settings], Settings]
    """Returns settings with this change made."""


def changes(old: Settings, new: Settings) -> Iterator[Change]:
    """Yield what differs."""
    said = set()
    for row in SETTINGS:
        if getattr(new, row.name) != getattr(old, row.name):
            said.add(row.name)
            made_in = partial(_with_setting, new=new, name=row.name)
            yield Change(row.environment, row.name, made_in)
    if [each.name for each in old.registries] != [each.name for each in new.registries]:
        if "upstreams" not in said:
            yield Change(TABLES, TABLES, partial(evolve, registries=new.registries))
        return
    done = {field for name in said for field in _OF_DEFAULT.get(name, ())}
    for at, registry in enumerate(new.registries):
        for row in KEYS:
            differs = getattr(registry, row.field) != getattr(old.registries[at], row.field)
            if differs and not (at == 0 and row.field in done):
                name = f"{TABLES}.{registry.name}.{row.name}"
                made_in = partial(_with_field, new=new, at=at, field=row.field)
                yield Change(name, f"{TABLES}.{row.field}", made_in)


_OF_DEFAULT = {
    "upstream_registry": ("url", "host"),
    "upstream_address": ("address",),
    "upstream_ca": ("ca",),
    "upstream_key": ("key",),
}
"""The fields of the default registry that follow from a setting."""


def _with_setting(settings: Settings, new: Settings, name: str) -> Settings:
    """Return settings with one of ``new``, and with what follows from it."""
    settings = evolve(settings, **{name: getattr(new, name)})
    for field in _OF_DEFAULT.get(name, ()):
        settings = _with_field(settings, new, 0, field)
    return settings


def _with_field(settings: Settings, new: Settings, at: int, field: str) -> Settings:
    """Return settings of which one registry has a field as in ``new``."""
    registries = list(settings.registries)
    value: Any = getattr(new.registries[at], field)
    registries[at] = evolve(registries[at], **{field: value})
    return evolve(settings, registries=tuple(registries))


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

    def rules(settings: Settings) -> bool:
        parts.library.rules.become(rules_of(settings))
        return True

    def keys(settings: Settings) -> bool:
        parts.mirrors.take_keys(settings)
        return True

    def freshness(settings: Settings) -> bool:
        found, revalidator = freshness_of(settings), parts.library.revalidator
        if found is not None and revalidator is not None:
            revalidator.freshness = found
        return True

    def prefetch_hours(settings: Settings) -> bool:
        parts.scheduler.may_fetch_ahead = may_fetch_ahead(settings)
        return True

    def client_rate(settings: Settings) -> bool:
        if parts.client_lines is None or settings.client_rate is None:
            return False
        parts.client_lines.change(settings.client_rate)
        return True

    return {
        "client_rate": client_rate,
        "prefetch_hours": prefetch_hours,
        **dict.fromkeys(("upstream_rate", "registries.rate"), parts.mirrors.take_rates),
        "slog_level": slog_level,
        "allow": allow,
        "idle_timeout": idle_timeout,
        "client_connections": client_connections,
        **dict.fromkeys(("models_allow", "models_deny"), rules),
        **dict.fromkeys(("registries.allow", "registries.deny"), rules),
        **dict.fromkeys(("upstream_key", "private_models"), keys),
        **dict.fromkeys(("registries.key", "registries.token"), keys),
        **dict.fromkeys(("manifest_lifetime", "revalidate_after"), freshness),
        "registries.lifetime": freshness,
    }
