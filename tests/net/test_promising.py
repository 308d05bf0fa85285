"""Connections are bounded before they are made."""

from __future__ import annotations

import socket
import struct
import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from yukari.net.agent import Connections
from yukari.net.flight import AT_FIRST
from yukari.net.tcp import promise

COUNT = 16


def window_of_new(window: int) -> int:
    """What a sender may send first on a connection on which ``window`` bytes were promised."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as near:
        promise(near, window)
        near.connect(listening.getsockname())
        with listening.accept()[0] as far:
            return first_window(far)


def first_window(far: socket.socket) -> int:
    """``tcpi_snd_wnd``."""
    told = far.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return int(struct.unpack_from("=I", told, 228)[0]) if len(told) == 232 else 1 << 30


class Ending(Protocol):
    """Tells when it has ended."""

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class Far(Ending):
    """Notes the first window of its connection, and closes it."""

    def __init__(self, made: list[Far]) -> None:
        super().__init__()
        made.append(self)

    def connectionMade(self) -> None:
        self.window = first_window(self.transport.socket)
        self.transport.loseConnection()


class PromisingTests(TestCase):
    if sys.platform != "linux" or window_of_new(AT_FIRST // COUNT) > AT_FIRST // COUNT + 1024:
        skip = "this system bounds no first window"

    async def test_many_connections_begun_at_once_are_promised_little_together(self) -> None:
        """Each had 64 KiB, which fills the queue of a modem before anybody can bound it."""
        fars: list[Far] = []
        nears = [Ending() for _ in range(COUNT)]
        listening = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await listening.listen(Factory.forProtocol(lambda: Far(fars)))
        self.addCleanup(port.stopListening)
        endpoint = Connections(reactor, COUNT).endpoint(f"http://127.0.0.1:{port.getHost().port}/")
        await gatherResults(
            [endpoint.connect(Factory.forProtocol(lambda near=near: near)) for near in nears]
        )
        await gatherResults([near.lost for near in nears])
        await gatherResults([far.lost for far in fars])
        self.assertEqual(len(fars), COUNT)
        # The first of them does not know of the others yet.
        self.assertLessEqual(sum(far.window for far in fars), 4 * AT_FIRST)
        self.assertLessEqual(min(far.window for far in fars), AT_FIRST // COUNT + 1024)


class EndpointTests(TestCase):
    def test_the_name_of_an_endpoint_says_nothing_of_its_connections(self) -> None:
        """Twisted's pool makes it for each new one: of hundreds, that was a fifth of the CPU."""
        for url in ("http://one.test/", "https://one.test/", "http://with_line.test/"):
            endpoint = Connections(reactor, COUNT).endpoint(url)
            self.assertNotIn("HostLine", repr(endpoint))
