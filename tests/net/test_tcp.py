"""What the system tells of a connection, on a real one."""

from __future__ import annotations

import socket
import sys

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from yukari.net.tcp import UNBOUNDED, SocketConnection


@define
class Transport:
    """As much of a Twisted transport as is needed."""

    socket: object
    connected: int = 1


class SocketTests(SynchronousTestCase):
    if sys.platform != "linux":
        skip = "no TCP_INFO"

    def setUp(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.near = socket.create_connection(listening.getsockname())
            self.addCleanup(self.near.close)
            self.far, _ = listening.accept()
            self.addCleanup(self.far.close)
        self.connection = SocketConnection(Transport(self.near))

    def test_received_bytes_are_counted_by_the_system(self) -> None:
        before = self.connection.read()
        self.far.sendall(bytes(100_000))
        left = 100_000
        while left:
            left -= len(self.near.recv(left))
        after = self.connection.read()
        assert before is not None and after is not None
        self.assertEqual(after.received - before.received, 100_000)
        # The handshake was one round trip, on the loopback.
        assert after.least is not None
        self.assertTrue(0 < after.least < 5.0, after)
        self.assertTrue(500 <= after.segment <= 65536, after)

    def test_a_bound_is_the_windows(self) -> None:
        for window in (20_000, 50_000, UNBOUNDED):
            self.connection.bound(window)
            found = self.near.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP)
            self.assertEqual(found, window)

    def test_a_closed_connection_tells_nothing_and_harms_nothing(self) -> None:
        self.near.close()
        self.assertIsNone(self.connection.read())
        self.connection.bound(20_000)

    def test_what_is_no_tcp_tells_nothing(self) -> None:
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        for each in (SocketConnection(Transport(one)), SocketConnection(Transport(None))):
            self.assertIsNone(each.read())
            each.bound(20_000)

    def test_it_is_open_as_long_as_its_transport_is_connected(self) -> None:
        self.assertEqual(
            [SocketConnection(Transport(None, at)).is_open for at in (0, 1)], [False, True]
        )
