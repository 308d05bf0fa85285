"""A reactor whose connections are bounded from their first byte on."""

from __future__ import annotations

from typing import Any

from attrs import define
from twisted.internet.interfaces import IConnector
from zope.interface import directlyProvides, providedBy

from yukari.net.host_line import HostLine
from yukari.net.tcp import promise


@define(eq=False, slots=False)
class Promising:
    """
    ``reactor``, except that a connection is bounded as its line says before it is made.

    Twisted has no place of its own for a socket's options: `connectTCP` has made the socket when it
    returns, and connects it in a later turn.
    """

    _reactor: Any
    _line: HostLine

    def __attrs_post_init__(self) -> None:
        directlyProvides(self, providedBy(self._reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def connectTCP(self, *arguments: Any, **keywords: Any) -> IConnector:
        connector: IConnector = self._reactor.connectTCP(*arguments, **keywords)
        window = self._line.promised
        opened = getattr(getattr(connector, "transport", None), "socket", None)
        if window is not None and opened is not None:
            promise(opened, window)
        return connector
