"""
Connections by address: for a proxy that is given an address, the name is resolved here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

RESOLVED_WITHIN = 5.0
"""Seconds to resolve a name."""


@implementer(IResolutionReceiver)
@define(eq=False)
class _First:
    """The first address that a name is resolved to."""

    name: str
    found: Deferred[str] = field(factory=Deferred)

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        if not self.found.called:
            self.found.callback(address.host)  # type: ignore[attr-defined]

    def resolutionComplete(self) -> None:
        if not self.found.called:
            self.found.errback(Failure(DNSLookupError(self.name)))


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Resolved:
    """Connects by the endpoint that ``by_address`` makes for the name's first address."""

    _reactor: Any
    _host: str
    _port: int
    _by_address: Callable[[str, int], IStreamClientEndpoint]

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        first = _First(self._host)
        late = Failure(TimeoutError(RESOLVED_WITHIN, "no answer in time"))
        found = first.found.addTimeout(
            RESOLVED_WITHIN, self._reactor, onTimeoutCancel=lambda *_: late
        )
        self._reactor.nameResolver.resolveHostName(first, self._host, self._port)
        return await self._by_address(await found, self._port).connect(factory)
