"""The OpenSSL connection of a client, which the reactor's thread can lend to another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from OpenSSL.SSL import Connection, Error, WantReadError
from twisted.internet import tcp
from twisted.protocols.tls import TLSMemoryBIOProtocol

from yukari.sending.handshakes import Handshake

MAX_KEPT = 64 * 1024
"""Bytes from a client that are kept while its connection is lent; then no more are read."""


class Lendable:
    """
    A server's OpenSSL connection that the reactor's thread can lend to another one.

    To Twisted it is a `Connection` that has nothing to read and nothing to send while it is lent:
    OpenSSL allows one thread at a time. Twisted may abort it, or lose it, meanwhile. It also has
    nothing to read or send until it is the turn of its ``handshake``.
    """

    _full: Callable[[], object]
    """Called if a client sends a lot while its connection is lent."""

    def __init__(
        self, make: Callable[[], Connection], handshake: Optional[Handshake] = None
    ) -> None:
        self._make = make
        self._made: Optional[Connection] = None
        self._protocol: Any = None
        self._handshake = handshake
        self._heard = False
        self._is_over = False
        self._lent = False
        self._kept: list[bytes] = []
        self._room = 0

    @property
    def _connection(self) -> Connection:
        """OpenSSL's, made for the client's first byte: thousands may connect and send none."""
        if self._made is None:
            self._made = self._make()
            self._made.set_accept_state()
            self._made.set_app_data(self._protocol)
            del self._make  # It may refer to the owner of this.
        return self._made

    @property
    def _is_silent(self) -> bool:
        """Whether nothing can be read, nor sent: it is lent, or not made yet."""
        return self._lent or self._made is None

    # what Twisted calls before the first byte

    def set_accept_state(self) -> None:
        """Do nothing: it becomes a server's when it is made."""

    def set_app_data(self, protocol: Any) -> None:
        """Keep Twisted's protocol for the connection."""
        self._protocol = protocol

    def lend(self, full: Callable[[], object]) -> Connection:
        """Let another thread use the connection; ``full`` is called if the client sends a lot."""
        self._lent, self._room, self._full = True, MAX_KEPT, full
        return self._connection

    def take_back(self) -> bytes:
        """Return what the client has sent meanwhile; the other thread is done."""
        self._lent = False
        del self._full  # It refers to the owner of this.
        kept, self._kept = self._kept, []
        return b"".join(kept)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    # what Twisted calls at any time

    def do_handshake(self) -> None:
        handshake = self._handshake
        if handshake is None:
            self._connection.do_handshake()
            return
        if not self._heard or not handshake.is_its_turn():
            raise WantReadError
        try:
            self._connection.do_handshake()
        except WantReadError:
            raise
        except Error:
            self._handshake_is_over()
            raise
        self._handshake_is_over()

    def _handshake_is_over(self) -> None:
        # Its protocol refers to this.
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.ended()

    def bio_write(self, data: bytes) -> int:
        self._heard = True
        if not data:
            return 0  # OpenSSL takes this for an error.
        if not self._lent:
            return self._connection.bio_write(data)
        self._kept.append(data)
        self._room -= len(data)
        if self._room <= 0:
            self._full()
        return len(data)

    def bio_read(self, count: int) -> bytes:
        if self._is_silent:
            raise WantReadError
        return self._connection.bio_read(count)

    def recv(self, count: int) -> bytes:
        if self._is_silent:
            raise WantReadError
        try:
            return self._connection.recv(count)
        except Error as error:
            # Twisted leaves the last error in a cycle with its traceback, which has the variables
            # of every call. OpenSSL's 50 KB of the connection must not wait there to be collected.
            is_over = self._is_over
            del self
            if is_over:
                # Most clients just close. The transport has told why, and then there is no cycle.
                raise WantReadError from None
            raise error.with_traceback(None) from None

    def send(self, data: bytes) -> int:
        if self._is_silent:
            raise WantReadError
        return self._connection.send(data)

    def shutdown(self) -> bool:
        return False if self._is_silent else self._connection.shutdown()

    def bio_shutdown(self) -> None:
        self._is_over = True
        self._handshake_is_over()
        if not self._is_silent:
            self._connection.bio_shutdown()


def lendable(request: Any) -> Optional[Lendable]:
    """Return the connection of a request that arrived over TLS, if it can be lent."""
    transport = getattr(request.channel, "transport", None)
    if not isinstance(transport, TLSMemoryBIOProtocol):
        return None
    connection = transport.getHandle()
    if isinstance(connection, Lendable) and isinstance(transport.transport, tcp.Connection):
        return connection
    return None
