"""
Connections through a SOCKS5 proxy (RFC 1928), with user and password if given (RFC 1929), or one
that speaks SOCKS4 or 4A, the versions before.

No library does this on Twisted any more: txsocksx needs Python 2, and txtorcon's client knows no
passwords.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import Optional

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from yukari.net.tunnel import Opening, ProxyFailed

VERSION = 5
NO_PASSWORD, PASSWORD = 0, 2
"""Methods of authentication."""
CONNECT = 1
GRANTED = 90
"""The reply to CONNECT of a SOCKS4 proxy that has connected."""
IPV4, NAME, IPV6 = 1, 3, 4
"""Kinds of address."""
_LENGTHS = {IPV4: 4, IPV6: 16}
_REFUSALS = {
    1: "it failed",
    2: "its rules do not allow it",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "connection refused",
    6: "no answer in time",
    7: "it does not connect at all",
    8: "it knows no such address",
}
"""Replies to CONNECT, RFC 1928, section 6."""


class _Talking(Opening):
    """Asks in the course of a talk, of which each answer has a known length."""

    _talking: Deferred[None]
    _awaited: Optional[tuple[int, Deferred[bytes]]] = None

    def begin(self) -> None:
        """Talk to the proxy until the connection is open or has failed."""
        self._talking = Deferred.fromCoroutine(self._talk())
        self._talking.addErrback(self.fail)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._talking.cancel()

    def look(self) -> None:
        """Continue once the awaited bytes have arrived."""
        if self._awaited is not None and len(self._head) >= self._awaited[0]:
            (count, awaited), self._awaited = self._awaited, None
            answer, self._head = self._head[:count], self._head[count:]
            awaited.callback(answer)

    async def _receive(self, count: int) -> bytes:
        awaited: Deferred[bytes] = Deferred()
        self._awaited = count, awaited
        self.look()
        return await awaited

    async def _talk(self) -> None:
        raise NotImplementedError


class Socks(_Talking):
    """Asks a SOCKS5 proxy for a connection, then passes it to the protocol that uses it."""

    async def _talk(self) -> None:
        credentials = self._proxy.credentials
        methods = bytes([NO_PASSWORD] if credentials is None else [NO_PASSWORD, PASSWORD])
        self.send(bytes([VERSION, len(methods)]) + methods)
        version, method = await self._receive(2)
        if version != VERSION:
            raise ProxyFailed(f"the proxy {self._proxy} does not answer as a SOCKS5 proxy")
        if method == PASSWORD and credentials is not None:
            user, password = credentials
            self.send(bytes([1, len(user)]) + user + bytes([len(password)]) + password)
            _, status = await self._receive(2)
            if status != 0:
                raise ProxyFailed(f"the proxy {self._proxy} refused the user and the password")
        elif method != NO_PASSWORD:
            raise ProxyFailed(f"the proxy {self._proxy} wants another authentication")
        self.send(bytes([VERSION, CONNECT, 0]) + _address(self._host, self._port))
        version, reply, _, kind = await self._receive(4)
        if version != VERSION:
            raise ProxyFailed(f"the proxy {self._proxy} does not answer as a SOCKS5 proxy")
        if reply != 0:
            words = _REFUSALS.get(reply, f"error {reply}")
            raise ProxyFailed(f"the proxy {self._proxy} did not connect: {words}")
        length = _LENGTHS.get(kind) or (await self._receive(1))[0]
        await self._receive(length + 2)  # the proxy's own address and port
        self.open(self._head)


class Socks4(_Talking):
    """As `Socks`, of a SOCKS4 proxy, or of a SOCKS4A one, which resolves names."""

    async def _talk(self) -> None:
        name, user = b"", (self._proxy.credentials or (b"", b""))[0]
        try:
            address = IPv4Address(self._host).packed
        except ValueError:
            if ":" in self._host:
                raise ProxyFailed(f"{self._host}: SOCKS4 knows no IPv6 addresses") from None
            address, name = b"\0\0\0\1", self._host.encode("ascii") + b"\0"
        port = self._port.to_bytes(2, "big")
        self.send(bytes([4, CONNECT]) + port + address + user + b"\0" + name)
        version, reply = (await self._receive(8))[:2]
        if version not in (0, 4):
            raise ProxyFailed(f"the proxy {self._proxy} does not answer as a SOCKS4 proxy")
        if reply != GRANTED:
            raise ProxyFailed(f"the proxy {self._proxy} did not connect: error {reply}")
        self.open(self._head)


def _address(host: str, port: int) -> bytes:
    """A target as the protocol has it: an address, or a name that the proxy resolves."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if len(name) > 255:
            raise ProxyFailed(f"{host[:80]!a}: too long a name for SOCKS") from None
        return bytes([NAME, len(name)]) + name + port.to_bytes(2, "big")
    return (
        bytes([IPV4 if address.version == 4 else IPV6]) + address.packed + port.to_bytes(2, "big")
    )
