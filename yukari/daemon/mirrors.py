"""
The registries that are mirrored, each with its connections and credentials.

Each has its own connections, their budget, tokens, and a record of whether it answers: a registry
that is slow or down does not affect the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Optional, TypeVar

from attrs import frozen
from twisted.internet.defer import DeferredList

from yukari.config.hours import DailyRate
from yukari.config.patterns import ModelRules, Patterns
from yukari.config.proxies import Proxies
from yukari.config.registries import RegistrySettings
from yukari.config.registry_names import answers_by_agent, id_of, ids_of
from yukari.config.settings import TIGRIS, Settings
from yukari.daemon.listening import open_files_limit
from yukari.daemon.prometheus import PrometheusMetrics
from yukari.daemon.watched import Watched
from yukari.large import LargeManifests
from yukari.library.revalidator import Freshness
from yukari.names import DEFAULT
from yukari.net.agent import READ, Connections
from yukari.net.budget import ConnectionBudget
from yukari.net.perimeter import Perimeter
from yukari.net.throttle import Line
from yukari.net.trust import trust
from yukari.sources.authorizer import Keys, KeySource
from yukari.sources.host_facts import HostFacts
from yukari.sources.offline import Offline
from yukari.sources.own_key import OwnKey
from yukari.sources.patience import Patience
from yukari.sources.questions import MAX_QUESTIONS
from yukari.sources.registry import Registry
from yukari.sources.upstream import Upstream
from yukari.sources.upstreams import One, Upstreams
from yukari.threads import InThread

T = TypeVar("T")

FILES_EACH = 8
"""A registry's connections take at most one of so many descriptors."""


@frozen(eq=False, repr=False)
class Mirrors:
    """All mirrored registries."""

    upstreams: Upstreams
    connections: tuple[Connections, ...]
    """Those of the default registry first."""
    watched: Mapping[str, Watched]
    """The measurements of each, by its name in the settings."""
    asked: Mapping[str, Registry]
    """Each by its name in the settings; none if the cache is offline."""
    line: Optional[Line]
    """The bound on the rate of those that have no rate of their own; None for no bound."""

    def take_keys(self, settings: Settings) -> None:
        """Ask by the keys and tokens of these settings from now on."""
        for registry in settings.registries:
            if registry.name in self.asked:
                keys, new = self.asked[registry.name].keys, keys_of(registry, settings, None)
                keys.operator, keys.token = new.operator, new.token
                keys.private_for_everyone = new.private_for_everyone

    def take_rates(self, settings: Settings) -> bool:
        """Take over rates; False if there is a bound where there was none, or the reverse."""
        lines: dict[str, tuple[Optional[Line], Optional[DailyRate]]] = {}
        for registry in settings.registries:
            if registry.name in self.asked:
                line = self.asked[registry.name].line
                own = None if line is self.line else line
                lines[registry.name] = own, registry.rate
        lines[""] = self.line, settings.upstream_rate
        if any((line is None) != (rate is None) for line, rate in lines.values()):
            return False
        for line, rate in lines.values():
            if line is not None and rate is not None:
                line.follow(rate.now, rate.lowest)
        for asked in self.asked.values():
            asked.rate_changed()
        return True

    async def close(self) -> None:
        """Close their connections."""
        await DeferredList([each.close() for each in self.connections])


def open_mirrors(
    reactor: Any,
    settings: Settings,
    proxies: Proxies,
    in_thread: InThread,
    metrics: PrometheusMetrics,
    pseudonym: str,
    line: Optional[Line],
    large: LargeManifests,
) -> Mirrors:
    """Make the registries of the settings; ``line`` bounds those that have no rate of their own."""
    own_key = OwnKey(own_key_path(settings), in_thread, reactor)
    each: dict[str, One] = {}
    connections: list[Connections] = []
    watched: dict[str, Watched] = {}
    asked: dict[str, Registry] = {}
    open_files = open_files_limit()
    for registry in settings.registries:
        most = connections_of(registry, settings)
        bound = line if registry.rate is None else line_of(registry.rate, reactor, most)
        made = make_connections(reactor, settings, registry, proxies, bound)
        connections.append(made)
        key = id_of(registry, settings.registries)
        upstream: One = Offline()
        allowed: Callable[[], int] = int
        hosts: Callable[[], tuple[HostFacts, ...]] = tuple
        if not settings.offline:
            asked[registry.name] = source = Registry(
                registry.url,
                made.agent,
                reactor,
                metrics.of_registry(registry.name),
                pseudonym,
                bound,
                made.answered_by(registry.url.url),
                ConnectionBudget(most),
                keys_of(registry, settings, own_key),
                settings.upstream_timeout,
                answers_by_agent(registry),
                registry.challenge,
                key == DEFAULT,
                made.lines,
                in_thread,
                large,
                min(MAX_QUESTIONS, open_files // 16),
            )
            upstream = Upstream(source)
            allowed, hosts = partial(source.allowed, most), source.hosts
        each.update(dict.fromkeys(ids_of(registry, settings.registries), upstream))
        watched[registry.name] = Watched(partial(_is_down, upstream, key), allowed, hosts)
    # The default registry's clients are told to wait, as they are without a cache.
    patience = {key: Patience(reactor) for key in each if key != DEFAULT}
    return Mirrors(Upstreams(each, patience), tuple(connections), watched, asked, line)


def keys_of(registry: RegistrySettings, settings: Settings, own: Optional[KeySource]) -> Keys:
    """Return what opens a registry."""
    token = None if registry.token is None else registry.token.value
    return Keys(own, registry.key, settings.private_models == "everyone", token)


def _is_down(upstream: One, registry: str) -> bool:
    return not upstream.state_of(registry).reachable


def line_of(rate: DailyRate, reactor: Any, most: int) -> Line:
    """Return a line with the rate that the clock says, for so many connections at once."""
    line = Line(rate.now(), reactor, most)
    line.follow(rate.now, rate.lowest)
    return line


def _wished_of(registry: RegistrySettings, settings: Settings) -> int:
    return registry.connections or settings.upstream_connections.in_all


def connections_of(registry: RegistrySettings, settings: Settings) -> int:
    """Return how many connections a registry may have, as set and as the descriptors allow."""
    return min(_wished_of(registry, settings), open_files_limit() // FILES_EACH)


def cut_short(settings: Settings) -> dict[str, int]:
    """Return the registries that may have fewer connections than are set, and how many."""
    allowed = {each: connections_of(each, settings) for each in settings.registries}
    return {each.host: most for each, most in allowed.items() if most < _wished_of(each, settings)}


def most_upstream(settings: Settings) -> int:
    """Return how many connections all registries may have together."""
    return sum(connections_of(each, settings) for each in settings.registries)


def make_connections(
    reactor: Any,
    settings: Settings,
    registry: RegistrySettings,
    proxies: Proxies,
    line: Optional[Line],
) -> Connections:
    """Make the connections to a registry, at its own address if that is set."""
    url, elsewhere = registry.url, {}
    named = at = url.hostname.strip("[]"), url.port
    if registry.address is not None:
        at = registry.address.host, registry.address.port or url.port
        elsewhere[named] = at
    return Connections(
        reactor,
        connections_of(registry, settings),
        trust(registry.ca),
        elsewhere,
        proxies,
        READ if line is None else min(READ, line.smallest_share),
        Perimeter(named, at[0]),
    )


def own_directory(settings: Settings) -> str:
    """Return the directory of the cache's own files: in the store, or on this disk for a bucket."""
    if settings.storage == TIGRIS:
        assert settings.spool_dir is not None
        return settings.spool_dir
    return os.path.join(settings.storage, "yukari")


def own_key_path(settings: Settings) -> str:
    """Return the path of the key that the cache makes for itself."""
    return os.path.join(own_directory(settings), "id_ed25519")


def rules_of(settings: Settings) -> ModelRules:
    """Return which models may be pulled, of all registries."""
    registries = settings.registries
    return ModelRules(
        registries[0].host,
        settings.models_allow,
        settings.models_deny or Patterns(),
        _by_id(registries, _own_rules),
    )


def _own_rules(registry: RegistrySettings) -> Optional[ModelRules]:
    if registry.allow is None and registry.deny is None:
        return None
    return ModelRules(registry.host, registry.allow, registry.deny or Patterns())


def freshness_of(settings: Settings) -> Optional[Freshness]:
    """Return how often registries are asked about what is stored; None for never."""
    if settings.offline:
        return None
    lifetimes = _by_id(settings.registries, lambda each: each.lifetime)
    return Freshness(
        settings.invalidator_period,
        settings.manifest_lifetime,
        settings.revalidate_after,
        {key: each for key, each in lifetimes.items() if each is not None},
    )


def _by_id(
    registries: Sequence[RegistrySettings], of: Callable[[RegistrySettings], T]
) -> dict[str, T]:
    """Return something of each registry, by what `Repository` calls it."""
    return {key: of(each) for each in registries for key in ids_of(each, registries)}
