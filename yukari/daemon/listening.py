"""
The ports: how they are opened and closed, and what they are called.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.tcp import Port

from yukari.config.listen import BACKLOG, Bind
from yukari.daemon.certificates import Certificates
from yukari.fatal import end
from yukari.threads import run_sync


def open_files_limit() -> int:
    """Raise the limit of open files as far as the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


def listen(
    setting: str, bind: Bind, site: IProtocolFactory, certificates: Certificates
) -> list[IListeningPort]:
    """Open the ports of one ``bind``; ends the start, naming the ``setting``, if it cannot."""
    ports: list[IListeningPort] = []
    for description in bind.descriptions:
        last = description == bind.descriptions[-1]
        try:
            endpoint = certificates.endpoint(description)
            ports.append(run_sync(endpoint.listen(site)))
        except CannotListenError as error:
            reason = error.socketError
            if last or getattr(reason, "errno", None) == errno.EADDRINUSE:
                end(f"{setting} {bind.text}: cannot listen there: {reason}")
        except Exception as error:
            if last:
                why = getattr(error, "strerror", None) or error
                end(f"{setting} {bind.text}: cannot listen there: {why}")
        if ports and not _is_ipv6_alone(ports[0]):
            break
    return ports


async def close(port: IListeningPort) -> None:
    """Stop listening, after accepting those who wait for it."""
    if isinstance(port, Port):
        # Clients in the accept backlog believe they are connected: accept them all before closing.
        port.numberAccepts = BACKLOG
        port.doRead()
    closing = port.stopListening()
    if closing is not None:
        await closing


def describe(port: IListeningPort) -> str:
    """Return a port's address, for the log."""
    address = port.getHost()
    host, number = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        name = getattr(address, "name", None)
        return os.fsdecode(name) if name else str(address)
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def name_for_clients(ports: list[IListeningPort]) -> str:
    """Return a host and port to pull from, for the log; ``HOST`` if no port has one."""
    for port in ports:
        address = port.getHost()
        host, number = getattr(address, "host", None), getattr(address, "port", None)
        if host is not None:
            return f"{'localhost' if host in ('::', '0.0.0.0') else host}:{number}"  # noqa: S104
    return "HOST"


def _is_ipv6_alone(port: IListeningPort) -> bool:
    """Whether an IPv6 port leaves IPv4 to another one, as on BSD, and on Linux if it is set so."""
    listening: Any = getattr(port, "socket", None)
    if listening is None or listening.family != socket.AF_INET6:
        return False
    return bool(listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
