"""
Connections that leave the process.

A reply's body is read in large pieces: much of its cost is per read, and a busy upstream has far
more than Twisted's 64 KiB ready each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, ProxyAgent
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    IAgent,
    IAgentEndpointFactory,
    IBodyProducer,
    IPolicyForHTTPS,
    IResponse,
)
from zope.interface import implementer

from yukari.config.proxies import Proxies, Proxy
from yukari.net.bodies import discard
from yukari.net.heads import BoundedPool, take_whole_reads
from yukari.net.host_line import HostLine, HostLines
from yukari.net.perimeter import Outside, Perimeter
from yukari.net.promising import Promising
from yukari.net.resolved import Resolved
from yukari.net.socks import Socks, Socks4
from yukari.net.tcp import SocketConnection
from yukari.net.trust import trust
from yukari.net.tunnel import ToProxy, Tunnel, refused

READ = 1024 * 1024
READ_SECURE = 256 * 1024
"""
Bytes of one read from a socket at most: without TLS, and with it. The reactor does nothing else
while it decrypts them.
"""
CONNECT_WITHIN = 5.0
"""Seconds to connect to a host."""
KEPT_ALIVE = 30
"""Seconds that an unused connection is kept."""

Place = tuple[str, int]
"""A host, IPv6 without brackets, and a port."""


@implementer(IStreamClientEndpoint)
@define(eq=False, repr=False)  # The pool makes a repr of it for every connection.
class _Connecting:
    """
    Connects as ``endpoint`` does, makes the connection read ``read`` bytes at once, and lets
    ``check`` refuse the address that was reached. ``line`` is told of each connection.
    """

    _endpoint: IStreamClientEndpoint
    _read: int
    _check: Optional[Callable[[str], None]] = None
    _line: Optional[HostLine] = None

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        if self._line is None:
            return self._endpoint.connect(factory).addCallback(self._connected)
        self._line.begin()
        connected = self._endpoint.connect(factory).addErrback(self._failed, self._line)
        return connected.addCallback(self._connected)

    def _failed(self, failure: Failure, line: HostLine) -> Failure:
        line.failed()
        return failure

    def _connected(self, protocol: IProtocol) -> IProtocol:
        transport: Any = protocol.transport  # type: ignore[attr-defined]
        read = self._read
        while (beneath := getattr(transport, "transport", None)) is not None:
            transport = beneath  # TLS has the socket below it
            read = min(read, READ_SECURE)
        transport.bufferSize = read
        take_whole_reads(protocol, transport)
        if self._check is not None:
            try:
                self._check(transport.getPeer().host)
            except BaseException:
                transport.abortConnection()
                if self._line is not None:
                    self._line.failed()
                raise
        if self._line is not None:
            self._line.connected(SocketConnection(transport))
        return protocol


@implementer(IStreamClientEndpoint)
@define(eq=False, repr=False)
class _Endpoint:
    """
    The endpoint that ``make`` returns, made when it is to connect: most requests are sent on a
    connection that was kept, and to make one takes as long as a tenth of a request.
    """

    _make: Callable[[], IStreamClientEndpoint]

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._make().connect(factory)


@implementer(IAgentEndpointFactory)
@define
class _Endpoints:
    """The endpoints of connections: directly, or through a proxy."""

    _reactor: Any
    _policy: IPolicyForHTTPS
    _elsewhere: Mapping[Place, Place]
    _proxies: Proxies
    read: int
    perimeter: Optional[Perimeter]
    _lines: HostLines

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        if uri.scheme not in (b"http", b"https"):
            raise SchemeNotSupported(f"{uri.scheme!r}: expected http or https")
        return _Endpoint(partial(self._made, uri, self._lines.of(place_of(uri))))

    def _made(self, uri: URI, line: HostLine) -> IStreamClientEndpoint:
        place = self._goes_to(uri)
        proxy = self.proxy(uri)
        endpoint: IStreamClientEndpoint
        check = None
        reactor = Promising(self._reactor, line)
        if proxy is None:
            endpoint = self._direct(reactor, *place)
            if self.perimeter is not None:
                check = partial(self.perimeter.connected, place_of(uri))
        elif proxy.kind in ("socks4", "socks5"):
            by_socks = partial(self._by_socks_resolved, reactor, place_of(uri), proxy)
            endpoint = Resolved(self._reactor, *place, by_socks)
        elif proxy.is_socks:
            endpoint = self._by_socks(reactor, proxy, *place)
        else:
            endpoint = Tunnel(self.to_proxy(reactor, proxy), *place, self._reactor)
        if uri.scheme == b"https":
            creator = self._policy.creatorForNetloc(uri.host, uri.port)
            return _Connecting(wrapClientTLS(creator, endpoint), self.read, check, line)
        return _Connecting(endpoint, self.read, check, line)

    def _direct(self, reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
        if "_" in host:
            # No host name by IDNA, which Twisted insists on; Docker and Kubernetes have such names.
            return Resolved(self._reactor, host, port, partial(self._direct, reactor))
        return HostnameEndpoint(reactor, host, port, timeout=CONNECT_WITHIN)

    def proxy(self, uri: URI) -> Optional[Proxy]:
        """Return the proxy of a URL's connection; NO_PROXY may have either of its names."""
        return self._proxies.proxy(uri.scheme.decode("ascii"), place_of(uri), self._goes_to(uri))

    def answers_itself(self, uri: URI, proxy: Proxy) -> bool:
        """Whether the proxy fetches the whole URL itself, without a tunnel."""
        in_the_clear = uri.scheme == b"http" and place_of(uri) not in self._elsewhere
        return in_the_clear and not proxy.is_socks

    def _by_socks_resolved(
        self, reactor: Any, named: Place, proxy: Proxy, address: str, port: int
    ) -> Tunnel:
        if self.perimeter is not None:
            self.perimeter.connected(named, address)
        return self._by_socks(reactor, proxy, address, port)

    def _by_socks(self, reactor: Any, proxy: Proxy, host: str, port: int) -> Tunnel:
        opening = Socks4 if proxy.kind.startswith("socks4") else Socks
        return Tunnel(self.to_proxy(reactor, proxy), host, port, self._reactor, opening)

    def to_proxy(self, reactor: Any, proxy: Proxy) -> ToProxy:
        """Return the endpoint that connects to a proxy, by TLS if that is its kind."""
        endpoint = HostnameEndpoint(reactor, proxy.host, proxy.port, timeout=CONNECT_WITHIN)
        if proxy.kind == "https":
            creator = self._policy.creatorForNetloc(proxy.host.encode("ascii"), proxy.port)
            return ToProxy(proxy, wrapClientTLS(creator, endpoint))
        return ToProxy(proxy, endpoint)

    def _goes_to(self, uri: URI) -> Place:
        return self._elsewhere.get(place_of(uri), place_of(uri))


def place_of(uri: URI) -> Place:
    """Return the host and the port of a URL."""
    return uri.host.decode("ascii").strip("[]"), uri.port


@implementer(IAgent)
@define(eq=False, repr=False)
class _Agent:
    """Sends requests, directly or through a proxy."""

    _reactor: Any
    _endpoints: _Endpoints
    _pool: BoundedPool
    _direct: Agent = field(init=False)
    _by_proxy: dict[Proxy, ProxyAgent] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._direct = Agent.usingEndpointFactory(self._reactor, self._endpoints, self._pool)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Optional[Headers] = None,
        bodyProducer: Optional[IBodyProducer] = None,
    ) -> Deferred[IResponse]:
        parsed = URI.fromBytes(uri)
        if self._endpoints.perimeter is not None:
            try:
                self._endpoints.perimeter.check(place_of(parsed))
            except Outside:
                return fail()
        proxy = self._endpoints.proxy(parsed)
        if proxy is None or not self._endpoints.answers_itself(parsed, proxy):
            return self._direct.request(method, uri, headers, bodyProducer)
        agent = self._by_proxy.get(proxy)
        if agent is None:
            to_proxy = self._endpoints.to_proxy(self._reactor, proxy)
            endpoint = _Connecting(to_proxy, self._endpoints.read)
            # No pool: some proxies close behind each reply and do not say so (tinyproxy).
            agent = self._by_proxy[proxy] = ProxyAgent(
                endpoint, self._reactor, BoundedPool(self._reactor, persistent=False)
            )
        headers = Headers() if headers is None else headers.copy()
        if proxy.authorization is not None:
            headers.setRawHeaders(b"Proxy-Authorization", [proxy.authorization.encode("ascii")])
        asked: Deferred[IResponse] = agent.request(method, uri, headers, bodyProducer)
        return asked.addCallback(self._answered, proxy)

    def _answered(self, response: IResponse, proxy: Proxy) -> IResponse:
        if response.code != 407:
            return response
        discard(response, self._reactor)
        raise refused(proxy, response.code, response.phrase)


@define(eq=False, repr=False)
class Connections:
    """
    An agent for requests to upstream, and its pool of at most ``most`` idle connections a host.

    ``policy`` has the trusted certificates, None for the system's. ``elsewhere`` has other
    addresses for some of the hosts and ports in URLs. ``proxies`` apply to all of them. ``read`` is
    the bytes of one read from a socket. No redirect leads to where a ``perimeter`` does not allow.
    """

    _reactor: Any
    _most: int
    _policy: Optional[IPolicyForHTTPS] = None
    _elsewhere: Mapping[Place, Place] = field(factory=dict)
    _proxies: Proxies = field(factory=Proxies)
    _read: int = READ
    _perimeter: Optional[Perimeter] = None
    lines: HostLines = field(factory=HostLines, init=False)
    """What is known of the way to each host."""
    agent: IAgent = field(init=False)
    _endpoints: _Endpoints = field(init=False)
    _pool: BoundedPool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pool = BoundedPool(self._reactor)
        self._pool.maxPersistentPerHost = self._pool.max_idle = self._most
        self._pool.cachedConnectionTimeout = KEPT_ALIVE
        policy = self._policy or trust()
        self._endpoints = _Endpoints(
            self._reactor,
            policy,
            self._elsewhere,
            self._proxies,
            self._read,
            self._perimeter,
            self.lines,
        )
        self.agent = _Agent(self._reactor, self._endpoints, self._pool)

    def proxy(self, url: str) -> Optional[Proxy]:
        """Return the proxy of requests for a URL, None for none."""
        return self._endpoints.proxy(URI.fromBytes(url.encode("ascii")))

    def endpoint(self, url: str) -> IStreamClientEndpoint:
        """Return the endpoint of a URL's host, through its proxy and TLS if any."""
        return self._endpoints.endpointForURI(URI.fromBytes(url.encode("ascii")))

    def answered_by(self, url: str) -> Optional[Proxy]:
        """Return the proxy whose own replies look like those of a URL's host; None for none."""
        uri = URI.fromBytes(url.encode("ascii"))
        proxy = self._endpoints.proxy(uri)
        return proxy if proxy is not None and self._endpoints.answers_itself(uri, proxy) else None

    def close(self) -> Deferred[None]:
        """Close the idle connections now, and each other one when its last reply has ended."""
        self._pool.cachedConnectionTimeout = 0
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed
