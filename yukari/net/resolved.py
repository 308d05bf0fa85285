"""
Connections by address: for a proxy that is given an address, the name is resolved here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
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
MAX_TRIED = 4
"""Addresses of a name that are tried, one after the other."""


@implementer(IResolutionReceiver)
@define(eq=False, repr=False)
class _Addresses:
    """The addresses that a name is resolved to."""

    name: str
    found: Deferred[list[str]] = field(factory=Deferred)
    _so_far: list[str] = field(factory=list)

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        self._so_far.append(address.host)  # type: ignore[attr-defined]

    def resolutionComplete(self) -> None:
        if self.found.called:
            return
        if self._so_far:
            self.found.callback(self._so_far[:MAX_TRIED])
        else:
            self.found.errback(Failure(DNSLookupError(self.name)))


@implementer(IStreamClientEndpoint)
@define(eq=False, repr=False)
class Resolved:
    """
    Connects by the endpoint that ``by_address`` makes for the first of the name's addresses that
    can be reached; fails as the first did if none can.
    """

    _reactor: Any
    _host: str
    _port: int
    _by_address: Callable[[str, int], IStreamClientEndpoint]

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        addresses = _Addresses(self._host)
        late = Failure(TimeoutError(RESOLVED_WITHIN, "no answer in time"))
        found = addresses.found.addTimeout(
            RESOLVED_WITHIN, self._reactor, onTimeoutCancel=lambda *_: late
        )
        self._reactor.nameResolver.resolveHostName(addresses, self._host, self._port)
        failed: Optional[Exception] = None
        for address in await found:
            try:
                return await self._by_address(address, self._port).connect(factory)
            except CancelledError:
                raise
            except Exception as error:
                failed = failed or error
        assert failed is not None
        raise failed
