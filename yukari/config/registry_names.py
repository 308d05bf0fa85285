"""
Which registry a name means, of those that are mirrored.

A client that came by a registry's own host or port means that one. Of all others the namespace
decides: ``hf--bartowski`` is ``bartowski`` of the registry whose prefix is ``hf--``. What is left
is the default registry's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from attrs import evolve, field, frozen

from yukari.config.registries import RegistrySettings, host_candidates
from yukari.names import AS_LLAMA_CPP, DEFAULT, Repository, spelled

_BY_AGENT = ("hf.co", "modelscope.cn")
"""Hosts of registries whose manifests differ by User-Agent."""


@frozen
class RegistryNames:
    """All names of the registries; a registry itself is named as `Repository` has it."""

    default_host: str
    """The host of the default registry, with its port if need be."""
    hosts: Mapping[str, str] = field(factory=dict)
    """Registries by the Host headers of their clients, as `host_candidates` has these."""
    prefixes: Mapping[str, str] = field(factory=dict)
    """Registries by what a namespace that is meant for them begins with."""
    others: tuple[str, ...] = ()
    """The registries beside the default one, in their order; with those of `as_llama_cpp`."""
    as_llama_cpp: Mapping[str, str] = field(factory=dict)
    """The names, for llama.cpp, of registries that answer it differently."""

    @classmethod
    def of(cls, registries: Sequence[RegistrySettings]) -> RegistryNames:
        """Return the names of the registries that the settings have, the default one first."""
        hosts: dict[str, str] = {}
        prefixes: dict[str, str] = {}
        others: list[str] = []
        as_llama_cpp: dict[str, str] = {}
        for each in registries:
            registry, *for_agents = ids_of(each, registries)
            if registry != DEFAULT:
                others.append(registry)
            as_llama_cpp.update((registry, other) for other in for_agents)
            hosts.update((host, registry) for host in each.hosts)
            if each.prefix is not None:
                prefixes[each.prefix] = registry
        others += as_llama_cpp.values()
        return cls(registries[0].host, hosts, prefixes, tuple(sorted(others)), as_llama_cpp)

    @property
    def hosts_beside(self) -> tuple[str, ...]:
        """The hosts of the registries beside the default one, in their order."""
        return tuple(each for each in self.others if not each.endswith(AS_LLAMA_CPP))

    def by_host(self, header: str) -> Optional[str]:
        """Return the registry that has this Host header; None if none has."""
        candidates = host_candidates(header)
        return next((self.hosts[each] for each in candidates if each in self.hosts), None)

    def find(self, host: str) -> Optional[str]:
        """Return the registry that people call ``host``; None if it is not mirrored."""
        meant = spelled(host)
        if meant == spelled(self.default_host):
            return DEFAULT
        found = next((each for each in self.others if spelled(each) == meant), None)
        return found or self.by_host(host)

    def host_of(self, registry: str) -> str:
        """Return the host of a registry."""
        return registry.removesuffix(AS_LLAMA_CPP) or self.default_host

    def prefix_of(self, registry: str) -> Optional[str]:
        """Return what a namespace begins with if a registry is meant, None for nothing."""
        found = (prefix for prefix, meant in self.prefixes.items() if meant == registry)
        return next(found, None)

    def for_agent(self, name: Repository, user_agent: str) -> Repository:
        """Return what a client of this User-Agent means by a name."""
        other = self.as_llama_cpp.get(name.registry)
        if other is None or "llama-cpp" not in user_agent:
            return name
        return evolve(name, registry=other)

    def path_for_clients(self, name: Repository) -> str:
        """
        Return the name of a model for clients whose Host names no registry: ``hf--USER/MODEL``.

        If the registry has no prefix, its host stands in front, for clients that take such names.
        """
        if name.registry == DEFAULT:
            return name.path
        prefix = self.prefix_of(name.host)
        return str(name) if prefix is None else f"{prefix}{name.path}"

    def repository(self, namespace: str, model: str, registry: str = DEFAULT) -> Repository:
        """
        Return the repository that a client means by a name that it asks ``registry`` for.

        `InvalidName`.
        """
        if registry == DEFAULT and "--" in namespace:
            name, dashes, rest = namespace.partition("--")
            meant = self.prefixes.get((name + dashes).lower())
            if meant is not None and rest:
                return Repository(meant, rest, model)
        return Repository(registry, namespace, model)


def answers_by_agent(registry: RegistrySettings) -> bool:
    """Whether a registry's manifests differ by User-Agent."""
    return registry.host.lower() in _BY_AGENT


def id_of(registry: RegistrySettings, registries: Sequence[RegistrySettings]) -> str:
    """Return what `Repository` calls one of the registries that the settings have."""
    return DEFAULT if registry is registries[0] else registry.host.lower()


def ids_of(registry: RegistrySettings, registries: Sequence[RegistrySettings]) -> list[str]:
    """Return all that `Repository` calls it: its id, then the one for llama.cpp if that differs."""
    ids = [id_of(registry, registries)]
    if answers_by_agent(registry):
        ids.append(f"{registry.host.lower()}{AS_LLAMA_CPP}")
    return ids
