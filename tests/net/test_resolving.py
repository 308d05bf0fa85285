"""Names that the system does not resolve."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase

from yukari.net.resolving import resolver


class ResolvingTests(TestCase):
    async def test_every_failure_of_the_system_is_an_answer(self) -> None:
        """Of any but gaierror nobody was told: requests waited for 30 s, with a traceback."""
        for error in (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
            PermissionError(errno.EACCES, "/etc/resolv.conf"),
            UnicodeError("label too long"),
        ):

            def fail(*_: Any, error: Exception = error) -> list[Any]:
                raise error

            before = reactor.installNameResolver(resolver(reactor, fail))  # type: ignore[attr-defined]
            try:
                endpoint = HostnameEndpoint(reactor, "registry.example", 80)
                with self.assertRaises(DNSLookupError):
                    await endpoint.connect(Factory())
            finally:
                reactor.installNameResolver(before)  # type: ignore[attr-defined]
