"""Whose certificates are accepted, for which hosts."""

from __future__ import annotations

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.authority import Authority
from yukari.config.files import Roots
from yukari.net.trust import trust


class Greeter(Protocol):
    """Keeps what it receives, and why its connection was lost."""

    received = b""
    lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason


class NameTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.authority = Authority(self.mktemp())
        self.policy = trust(Roots.parse(self.authority.path), system=False)

    def talk(self, host: str, pem: bytes) -> Greeter:
        """Connect to a host that has this certificate, and have it send a word."""
        creator = self.policy.creatorForNetloc(host.encode(), 443)
        assert IOpenSSLClientConnectionCreator.providedBy(creator)
        options = PrivateCertificate.loadPEM(pem).options()
        ends, clock = [], Clock()
        for context, is_client in ((creator, True), (options, False)):
            greeter, wire = Greeter(), StringTransport()
            inner = Factory.forProtocol(lambda greeter=greeter: greeter)
            made = TLSMemoryBIOFactory(context, is_client, inner, clock).buildProtocol(None)
            made.makeConnection(wire)
            ends.append((greeter, wire, made))
        (client, to_server, by_client), (server, to_client, by_server) = ends
        server.transport.write(b"hello")
        client.transport.write(b"hello")
        for _ in range(10):
            clock.advance(0.1)
            for wire, end in ((to_server, by_server), (to_client, by_client)):
                data = wire.value()
                wire.clear()
                if data and not wire.disconnected:
                    end.dataReceived(data)
        return client

    def test_only_a_certificate_that_names_the_host_is_accepted(self) -> None:
        """One without any name was accepted for every host; Twisted logged an error."""
        for host, names, accepted in (
            ("127.0.0.1", ("127.0.0.1",), True),
            ("[::1]", ("::1",), True),
            ("cdn.test", ("cdn.test",), True),
            ("cdn.a.test", ("*.a.test", "other"), True),
            ("127.0.0.1", ("127.0.0.2",), False),
            ("cdn.test", ("other.test",), False),
            ("127.0.0.1", (), False),
            ("cdn.test", (), False),
        ):
            client = self.talk(host, self.authority.certificate(*names))
            self.assertEqual(client.received, b"hello" if accepted else b"", (host, names))
            self.flushLoggedErrors()
