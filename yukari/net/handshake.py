"""The TLS version and the certificate of the other end of a connection."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer


@frozen
class Handshake:
    """A connection's TLS version, such as ``TLSv1.3``, and its certificate."""

    version: str
    issuer: str
    """The issuer of the certificate: organisation and name."""
    expires: datetime


@implementer(IHandshakeListener)
class _Look(Protocol):
    """Closes the connection as soon as its handshake is complete."""

    def __init__(self) -> None:
        self.done: Deferred[Handshake] = Deferred(lambda _: self._abort())

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        certificate = transport.getPeerCertificate()
        issuer = certificate.get_issuer()
        names = (issuer.O, issuer.CN)
        expires = datetime.strptime(certificate.get_notAfter().decode("ascii"), "%Y%m%d%H%M%SZ")
        self.done.callback(
            Handshake(
                transport.getHandle().get_protocol_version_name(),
                ", ".join(dict.fromkeys(name for name in names if name)) or "nobody",
                expires.replace(tzinfo=timezone.utc),
            )
        )
        self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.errback(reason)


async def shake_hands(endpoint: IStreamClientEndpoint) -> Handshake:
    """Connect to an endpoint that speaks TLS, and close; raises what connecting raises."""
    look = _Look()
    await connectProtocol(endpoint, look)
    return await look.done
