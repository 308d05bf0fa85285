"""A proxy in memory that is connected at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import AccumulatingProtocol, StringTransport
from zope.interface import implementer

from yukari.config.proxies import Proxy
from yukari.net.tunnel import ToProxy, Tunnel


@implementer(IStreamClientEndpoint)
class Reached:
    """A proxy to which connections succeed at once."""

    def __init__(self) -> None:
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 3128))

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.protocol: Any = factory.buildProtocol(self.transport.getPeer())
        self.protocol.makeConnection(self.transport)
        return succeed(self.protocol)


class Asked:
    """A way through a proxy to ``host``, port 443, that has been asked for."""

    def __init__(
        self,
        proxy: Proxy = Proxy("proxy.example", 3128),  # noqa: B008
        host: str = "registry.example",
        **opening: Any,
    ) -> None:
        self.clock, self.reached = Clock(), Reached()
        tunnel = Tunnel(ToProxy(proxy, self.reached), host, 443, self.clock, **opening)
        factory: Any = Factory.forProtocol(AccumulatingProtocol)
        factory.protocolConnectionMade = None
        self.opened = tunnel.connect(factory)

    @property
    def aborted(self) -> bool:
        return self.reached.transport.disconnected

    def answer(self, data: bytes) -> bytes:
        """Return what is written to the proxy in reply to ``data``."""
        self.reached.transport.clear()
        self.reached.protocol.dataReceived(data)
        return self.reached.transport.value()
