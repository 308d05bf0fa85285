"""TLS handshakes of crowds."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from OpenSSL.SSL import Connection
from twisted.internet import ssl
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.turning import Turning
from yukari.sending import handshakes
from yukari.sending.handshakes import Handshake, Handshakes
from yukari.sending.lendable import Lendable


@define(eq=False)
class Peer:
    """Where a connection comes from."""

    host: str


@define(eq=False)
class Double:
    """A TLS protocol and its transport, whose handshake needs ``steps`` arrivals."""

    all: Handshakes
    address: str = "192.0.2.1"
    steps: int = 2
    connected: bool = True
    paused: bool = False
    handshake: Handshake = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.handshake = Handshake(self, self.all)

    @property
    def transport(self) -> Double:
        return self

    def getPeer(self) -> Peer:
        return Peer(self.address)

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def abortConnection(self) -> None:
        self.connected = False

    def dataReceived(self, data: bytes) -> None:
        if self.steps and self.handshake.is_its_turn():
            self.steps -= 1
            if not self.steps:
                self.handshake.ended()


class HandshakesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Turning()
        self.all = Handshakes(self.clock)
        self.patch(handshakes, "IN_A_TURN", 3)
        self.patch(handshakes, "MAX_UNFINISHED", 4)
        self.patch(handshakes, "PATIENCE", 10.0)

    def crowd(self, count: int, address: str = "192.0.2.1") -> list[Double]:
        made = [Double(self.all, address) for _ in range(count)]
        for each in made:
            each.dataReceived(b"hello")
        return made

    def steps(self, made: list[Double]) -> list[int]:
        return [each.steps for each in made]

    def test_few_go_on_in_a_turn_and_the_others_are_not_read_meanwhile(self) -> None:
        """A thousand at once took a turn of half a second."""
        self.patch(handshakes, "MAX_UNFINISHED", 100)
        made = self.crowd(7)
        self.assertEqual(self.steps(made), [1] * 3 + [2] * 4)
        self.assertEqual([each.paused for each in made], [False] * 3 + [True] * 4)
        self.clock.advance(1)
        self.assertEqual(self.steps(made), [1] * 6 + [2])
        self.clock.advance(1)
        self.assertEqual(self.steps(made), [1] * 7)
        self.assertEqual([each.paused for each in made], [False] * 7)

    def test_all_are_completed_and_nothing_is_left(self) -> None:
        made = self.crowd(9)
        for _ in range(40):
            for each in made:
                if each.steps == 1:
                    each.dataReceived(b"finished")
            self.clock.advance(1)
        self.assertEqual(self.steps(made), [0] * 9)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_those_that_are_not_completed_are_bounded_and_make_way(self) -> None:
        """Four thousand that never went on took 250 MB."""
        made = self.crowd(6)
        self.clock.pump([1] * 5)
        self.assertEqual(self.steps(made), [1] * 4 + [2] * 2)
        self.clock.pump([1] * 10)
        self.assertEqual([each.connected for each in made], [False] * 2 + [True] * 4)
        self.assertEqual(self.steps(made)[4:], [1] * 2)

    def test_a_client_with_few_does_not_wait_for_one_with_many(self) -> None:
        made = self.crowd(9)
        self.clock.advance(1)
        other = self.crowd(1, "192.0.2.2")
        self.clock.advance(1)
        self.assertEqual(self.steps(other), [1])
        self.assertEqual([each.connected for each in made[:5]], [False] + [True] * 4)

    def test_one_whose_connection_has_gone_makes_way(self) -> None:
        made = self.crowd(5)
        self.clock.advance(1)
        made[0].connected = False
        made[0].handshake.ended()
        self.clock.pump([1, 1])
        self.assertEqual(self.steps(made), [1] * 5)


@implementer(IOpenSSLServerConnectionCreator)
@define(eq=False)
class Creator:
    """Makes connections as the daemon does."""

    all: Handshakes
    context: Any
    made: int = 0
    """Connections of OpenSSL's that were made."""

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        return Lendable(self.make, Handshake(protocol, self.all))

    def make(self) -> Connection:
        """Make one of OpenSSL's own."""
        self.made += 1
        return Connection(self.context, None)


class ConnectionTests(SynchronousTestCase):
    """Twisted's connections over TLS."""

    def setUp(self) -> None:
        key = ssl.KeyPair.generate(size=2048)
        certificate = ssl.PrivateCertificate.fromCertificateAndKeyPair(
            key.selfSignedCert(1, CN="h"), key
        )
        self.unfinished = Handshakes(Turning())
        protocols = Factory.forProtocol(Protocol)
        self.creator = Creator(self.unfinished, certificate.options().getContext())
        self.servers = TLSMemoryBIOFactory(self.creator, False, protocols)
        options: Any = ssl.CertificateOptions(verify=False)
        self.clients = TLSMemoryBIOFactory(options, True, protocols)

    def connected(self) -> tuple[Any, bytes]:
        """Return a server's protocol, and what its client has said first."""
        client, server = (each.buildProtocol(None) for each in (self.clients, self.servers))
        hello = StringTransport()
        client.makeConnection(hello)
        server.makeConnection(StringTransport())
        return server, hello.value()

    def test_one_that_leaves_before_it_is_complete_is_forgotten(self) -> None:
        """Port scanners' connections stayed in memory, up to half a thousand."""
        for is_hello in (True, False):
            server, hello = self.connected()
            server.dataReceived(hello if is_hello else b"GET / HTTP/1.1")
            self.assertEqual(len(self.unfinished._unfinished), int(is_hello))
            server.connectionLost(Failure(ConnectionLost()))
            self.assertEqual(len(self.unfinished._unfinished), 0)

    def test_one_that_says_nothing_has_nothing_of_openssl(self) -> None:
        """Each took 15 KB, however many clients connected and sent nothing."""
        servers = [self.connected() for _ in range(3)]
        self.assertEqual(self.creator.made, 0)
        for server, _ in servers[1:]:
            server.loseConnection()
            server.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.creator.made, 0)
        server, hello = servers[0]
        server.dataReceived(hello)
        self.assertEqual(self.creator.made, 1)
        self.assertIs(server.getHandle().get_app_data(), server)
        self.assertGreater(len(server.transport.value()), 100)
        server.connectionLost(Failure(ConnectionLost()))
