"""
How connections leave the process.

A reply's body comes in large pieces: what a read costs in Python is paid per
piece, and a busy upstream has far more than Twisted's 64 KiB ready each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

READ = 256 * 1024
"""Bytes of one read from a socket."""
CONNECT_WITHIN = 5.0
"""Seconds to connect to a host."""
KEPT_ALIVE = 30
"""Seconds that an unused connection is kept."""


@implementer(IStreamClientEndpoint)
@define
class _LargeReads:
    """Connects as ``endpoint`` does and makes the connection read `READ` bytes at once."""

    _endpoint: IStreamClientEndpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._endpoint.connect(factory).addCallback(self._connected)

    def _connected(self, protocol: IProtocol) -> IProtocol:
        transport: Any = protocol.transport  # type: ignore[attr-defined]
        while transport is not None:
            if hasattr(transport, "bufferSize"):
                transport.bufferSize = READ
                break
            transport = getattr(transport, "transport", None)  # TLS has the socket beneath it
        return protocol


@implementer(IAgentEndpointFactory)
@define
class _Endpoints:
    _reactor: Any
    _policy: BrowserLikePolicyForHTTPS
    _elsewhere: Mapping[tuple[str, int], tuple[str, int]]

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii").strip("[]")
        host, port = self._elsewhere.get((host, uri.port), (host, uri.port))
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout=CONNECT_WITHIN)
        if uri.scheme == b"https":
            creator = self._policy.creatorForNetloc(uri.host, uri.port)
            return _LargeReads(wrapClientTLS(creator, endpoint))
        if uri.scheme != b"http":
            raise SchemeNotSupported(f"{uri.scheme!r}: expected http or https")
        return _LargeReads(endpoint)


@define(eq=False)
class Connections:
    """
    An agent for requests to upstream, and its pool of at most ``most`` idle connections a host.

    ``policy`` says whose certificates are trusted, None for the system's. ``elsewhere`` has other
    addresses for some of the hosts and ports that URLs name.
    """

    _reactor: Any
    _most: int
    _policy: Optional[BrowserLikePolicyForHTTPS] = None
    _elsewhere: Mapping[tuple[str, int], tuple[str, int]] = field(factory=dict)
    agent: Agent = field(init=False)
    _pool: HTTPConnectionPool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pool = HTTPConnectionPool(self._reactor)
        self._pool.maxPersistentPerHost = self._most
        self._pool.cachedConnectionTimeout = KEPT_ALIVE
        policy = self._policy or BrowserLikePolicyForHTTPS()
        endpoints = _Endpoints(self._reactor, policy, self._elsewhere)
        self.agent = Agent.usingEndpointFactory(self._reactor, endpoints, self._pool)

    def close(self) -> Deferred[None]:
        """Close the idle ones."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed
