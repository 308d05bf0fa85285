"""What the system tells of a connection, on a real one."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

from attrs import define
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from yukari.net.tcp import ORDINARY, UNBOUNDED, SocketConnection, promise


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

    def test_a_promise_is_the_first_window_and_bounds_no_later_one(self) -> None:
        """A buffer that stays small would bound the window for good, and so would its scale."""
        near, far = self.promised(16_000)
        if self.window_at(far) > 20_000:
            raise SkipTest("this system keeps to a buffer's size for good")
        connection = SocketConnection(Transport(near))
        connection.bound(UNBOUNDED)
        far.setblocking(False)
        sent = 0
        while sent < 4_000_000:
            with contextlib.suppress(BlockingIOError):
                sent += far.send(bytes(100_000))
            near.recv(100_000)
        self.assertGreater(self.window_at(far), 65_535)

    def test_a_bound_after_a_promise_may_be_larger(self) -> None:
        near, _ = self.promised(8_000)
        SocketConnection(Transport(near)).bound(50_000)
        self.assertGreaterEqual(
            near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), 2 * ORDINARY - 1
        )
        found = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP)
        self.assertEqual(found, 50_000)

    def promised(self, window: int) -> tuple[socket.socket, socket.socket]:
        """A connection on which so much was promised, and its far end."""
        near = socket.socket()
        self.addCleanup(near.close)
        promise(near, window)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            near.connect(listening.getsockname())
            far, _ = listening.accept()
        self.addCleanup(far.close)
        return near, far

    def window_at(self, far: socket.socket) -> int:
        """How many bytes a sender may have on their way, as it knows."""
        told = far.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        return int(struct.unpack_from("=I", told, 228)[0]) if len(told) == 232 else 1 << 30

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
