"""
Names resolved by the system.

Twisted waits for ever if the system fails otherwise than by not knowing a name: if descriptors are
short, or ``/etc/resolv.conf`` cannot be read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet._resolver import GAIResolver  # Exported nowhere.

GetAddrInfo = Callable[..., list[Any]]


def resolver(reactor: Any, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> GAIResolver:
    """Return Twisted's resolver by ``getaddrinfo``, for which every failure is one of the name."""

    def resolve(*asked: Any, **more: Any) -> list[Any]:
        try:
            return getaddrinfo(*asked, **more)
        except (OSError, UnicodeError) as error:
            raise socket.gaierror(socket.EAI_FAIL, str(error)) from None

    return GAIResolver(reactor, getaddrinfo=resolve)
