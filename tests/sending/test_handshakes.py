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
from yukari.sending.tls import Lendable


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

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        return Lendable(Connection(self.context, None), Handshake(protocol, self.all))


class ConnectionTests(SynchronousTestCase):
    def test_one_that_leaves_before_it_is_complete_is_forgotten(self) -> None:
        """Port scanners' connections stayed in memory, up to half a thousand."""
        key = ssl.KeyPair.generate(size=2048)
        certificate = ssl.PrivateCertificate.fromCertificateAndKeyPair(
            key.selfSignedCert(1, CN="h"), key
        )
        unfinished = Handshakes(Turning())
        protocols = Factory.forProtocol(Protocol)
        creator = Creator(unfinished, certificate.options().getContext())
        servers = TLSMemoryBIOFactory(creator, False, protocols)
        options: Any = ssl.CertificateOptions(verify=False)
        clients = TLSMemoryBIOFactory(options, True, protocols)
        for is_hello in (True, False):
            (client, hello), (server, _) = (
                (each.buildProtocol(None), StringTransport()) for each in (clients, servers)
            )
            client.makeConnection(hello)
            server.makeConnection(StringTransport())
            server.dataReceived(hello.value() if is_hello else b"GET / HTTP/1.1")
            self.assertEqual(len(unfinished._unfinished), int(is_hello))
            server.connectionLost(Failure(ConnectionLost()))
            self.assertEqual(len(unfinished._unfinished), 0)
