"""Which registry a request is for: decided once, when it arrives."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from cachetools import LRUCache

from yukari.config.registry_names import RegistryNames
from yukari.errors import RegistryError, name_invalid
from yukari.names import InvalidName, Repository
from yukari.web import clients
from yukari.web.replies import text_header

MAX_HOSTS = 1000
"""Host headers that are remembered: clients may send any."""
MAX_NAMES = 10_000
"""Names of models that are remembered, so that each is checked once and is one object."""
LONGEST_HOST = 300
"""Characters; no registry's is longer."""


@define(eq=False, repr=False)
class AskedRegistry:
    """
    Decides by the Host header, then by the listener, then by the namespace's prefix.

    A path may also have a registry's host before the namespace, which Ollama never sends; clients
    for OCI registries do for ``CACHE/hf.co/USER/MODEL``.
    """

    names: RegistryNames
    _by_host: LRUCache[str, Optional[str]] = field(factory=lambda: LRUCache(MAX_HOSTS), init=False)
    _by_name: LRUCache[tuple[str, str, str], Repository] = field(
        factory=lambda: LRUCache(MAX_NAMES), init=False
    )
    """By the registry that was asked, the namespace and the model."""

    def of(self, request: Any) -> str:
        """Return the registry that the host or the listener of a request stands for."""
        if not self.names.hosts:
            return str(request.site.registry)
        headers = request.requestHeaders
        if headers.hasHeader(b"x-forwarded-host"):
            host = clients.host(request)
        else:
            host = headers.getRawHeaders(b"host", [b""])[0].decode("latin-1")
        if len(host) > LONGEST_HOST:
            return str(request.site.registry)
        try:
            found = self._by_host[host]
        except KeyError:
            found = self._by_host[host] = self.names.by_host(host)
        return str(request.site.registry) if found is None else found

    def repository(self, request: Any, parts: list[str]) -> Repository:
        """
        Return the repository that ``[HOST, ]NAMESPACE, MODEL`` of a path mean. `RegistryError`.
        """
        registry = self.of(request)
        if len(parts) == 3:
            host, *parts = parts
            named = self.names.find(host)
            if named is None:
                message = f"this cache does not mirror {host[:100]!a}"
                raise RegistryError("NAME_UNKNOWN", message, 404)
            registry = named
        key = registry, parts[0], parts[1]
        name = self._by_name.get(key)
        if name is None:
            try:
                name = self.names.repository(parts[0], parts[1], registry)
            except InvalidName as error:
                raise name_invalid(str(error)) from None
            self._by_name[key] = name
        if name.registry not in self.names.as_llama_cpp:
            return name
        return self.names.for_agent(name, text_header(request, b"user-agent") or "")
