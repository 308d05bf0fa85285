"""A reply's body that arrives no faster than its turns on a `Line` allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, cast

from attrs import define, field
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from zope.interface import implementer

from yukari.net.bodies import Body
from yukari.net.throttle import Line, Taker


@implementer(IPushProducer)
@define(eq=False)
class Paced:
    """
    Stands between a body and the protocol that receives it, as protocol of the one and transport of
    the other: reading pauses while the receiver or the line wants it to.
    """

    _body: Body
    _line: Line
    yields: Callable[[], bool] = lambda: False
    """Whether it takes only what others leave of the line; the receiver may change it."""
    _protocol: Any = field(default=None, init=False)
    _transport: Any = field(default=None, init=False)
    _taker: Optional[Taker] = field(default=None, init=False)
    _paused: bool = field(default=False, init=False)
    _held: bool = field(default=False, init=False)

    @property
    def held(self) -> bool:
        """Whether the line makes it wait, so that silence is not the fault of the other end."""
        return self._held

    def deliverBody(self, protocol: IProtocol) -> None:
        self._protocol = protocol
        self._body.deliverBody(cast(IProtocol, self))
        # `deliverBody` ends by resuming the transport, even if it was paused.
        self._rest_or_go_on()

    # the body's protocol

    def makeConnection(self, transport: Any) -> None:
        self._transport = transport
        self._taker = self._line.join(self._hold, self._release, lambda: self.yields())
        self._protocol.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        if self._taker is not None:
            self._taker.took(len(data))
        self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        self._end()
        self._protocol.connectionLost(reason)

    # the protocol's transport

    def pauseProducing(self) -> None:
        self._paused = True
        self._rest_or_go_on()

    def resumeProducing(self) -> None:
        self._paused = False
        self._rest_or_go_on()

    def stopProducing(self) -> None:
        transport = self._transport
        self._end()
        if transport is not None:
            transport.stopProducing()

    # the line

    def _hold(self) -> None:
        self._held = True
        self._rest_or_go_on()

    def _release(self) -> None:
        self._held = False
        self._rest_or_go_on()

    def _rest_or_go_on(self) -> None:
        if self._transport is None:
            return
        if self._paused or self._held:
            self._transport.pauseProducing()
        else:
            self._transport.resumeProducing()

    def _end(self) -> None:
        """The body is complete, or not wanted any more."""
        taker, self._taker, self._transport = self._taker, None, None
        self._held = False
        if taker is not None:
            taker.end()
