"""
Where to listen, as a setting says it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from ipaddress import IPv6Address

from attrs import frozen
from twisted.internet.endpoints import quoteStringArgument, serverFromString

from yukari.config.files import check_file, reason_of
from yukari.config.setting import InvalidSetting
from yukari.config.urls import HOST

ENDPOINTS = ("tcp", "tcp6", "ssl", "tls", "unix", "systemd", "haproxy", "onion")
"""
Kinds of Twisted's endpoints: a value with one of these before its first colon is an endpoint, not a
host and a port.
"""

BACKLOG = 4096
"""
Connections that may wait to be accepted. Two hundred clients open thousands at once, and each one
beyond this, or beyond the system's ``somaxconn``, tries again a second later, then after three
more.
"""

CREATORS = {"ssl": "_sslContextFactory", "tls": "connectionCreator"}
"""The attribute of a Twisted endpoint that makes its TLS connections, by kind of endpoint."""

_PARAMETERS = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": ("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
    "tls": ("path", "port", "backlog", "interface"),
}
"""The parameters that may stand in an endpoint without a name, in this order."""
_ALL = r"interface=\:\:"
_ALL_OF_IPV4 = "interface=0.0.0.0"


@frozen
class Bind:
    """A place to listen: its text, and the Twisted endpoints to try in order."""

    text: str
    descriptions: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Bind:
        """
        Parse ``host:port``, ``[v6]:port``, ``:port`` or a Twisted endpoint.

        ``:port``, and an endpoint without an interface, listens on all addresses of IPv4 and IPv6,
        or of IPv4 alone if the machine has no IPv6.
        """
        if text.startswith(tuple(f"{name}:" for name in ENDPOINTS)):
            _refuse_bad_endpoint(text)
            return cls(text, _whole(text))
        host, colon, port = text.rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise InvalidSetting(
                "expected HOST:PORT, [V6]:PORT, :PORT or an endpoint such as tcp:PORT,"
                " PORT from 0 to 65535"
            )
        tcp = f"tcp:{int(port)}:backlog={BACKLOG}"
        if not host:
            return cls(text, _whole(tcp))
        if host.startswith("[") and host.endswith("]"):
            try:
                host = str(IPv6Address(host[1:-1]))
            except ValueError:
                raise InvalidSetting("expected an IPv6 address between [ and ]") from None
        elif not HOST.fullmatch(host):
            raise InvalidSetting("expected a host name or an address before the port; IPv6 in [ ]")
        return cls(text, (f"{tcp}:interface={quoteStringArgument(host)}",))

    def overlaps(self, other: Bind) -> bool:
        """Whether both cannot listen: they are the same place, or one of them is ``:PORT``."""
        (port, address), (others_port, others_address) = self._place, other._place
        has_all = self.text.startswith(":") or other.text.startswith(":")
        return port == others_port != "0" and (has_all or address == others_address)

    @property
    def _place(self) -> tuple[str, str]:
        """The port and the address; for what is no TCP port, the whole description and ""."""
        kind, *parts = re.split(r"(?<!\\):", self.descriptions[0])
        if kind not in _PARAMETERS:
            return self.descriptions[0], ""
        said = dict(zip(_PARAMETERS[kind], (part for part in parts if "=" not in part)))
        said.update((name, value) for name, _, value in (part.partition("=") for part in parts))
        return said["port"], said.get("interface", "").replace("\\", "")


def _whole(description: str) -> tuple[str, ...]:
    """Return the endpoint with our backlog and all interfaces, unless it names them."""
    kind, *parts = re.split(r"(?<!\\):", description)
    if kind not in _PARAMETERS:
        return (description,)
    said = {part.partition("=")[0] for part in parts if "=" in part}
    said.update(_PARAMETERS[kind][: sum("=" not in part for part in parts)])
    if "backlog" not in said:
        description += f":backlog={BACKLOG}"
    if "interface" in said:
        return (description,)
    if kind == "tcp6":
        return (f"{description}:{_ALL}",)
    return f"{description}:{_ALL}", f"{description}:{_ALL_OF_IPV4}"


def _refuse_bad_endpoint(description: str) -> None:
    """Make the endpoint only to raise its errors; for ``ssl:`` this reads the PEM files."""
    numbered = re.match(r"(?:tcp6?|ssl):(?:port=)?([0-9]+)(?::|$)", description)
    if numbered and int(numbered[1][:6]) > 65535:
        raise InvalidSetting("expected a port from 0 to 65535")
    try:
        check_files(description)
        serverFromString(None, description)
    except LookupError:
        raise InvalidSetting("expected a socket that systemd passed to this process") from None
    except Exception as error:
        expected = f"expected an endpoint that Twisted can make: {reason_of(error)}"
        raise InvalidSetting(expected) from None


def has_certificates(description: str) -> bool:
    """Whether an endpoint's description names certificates that can be renewed."""
    return description.partition(":")[0] in CREATORS


def certificate_files(description: str) -> Iterator[str]:
    """Return the existing paths that an endpoint names, and the .pem files of its directories."""
    for part in re.split(r"(?<!\\):", description)[1:]:
        name, equals, value = part.partition("=")
        path = re.sub(r"\\(.)", r"\1", value if equals else name)
        if os.path.isdir(path):
            for directory, _, names in os.walk(path):
                found = (name for name in sorted(names) if name.endswith(".pem"))
                yield from (os.path.join(directory, name) for name in found)
        elif os.path.exists(path):
            yield path


def check_files(description: str) -> None:
    """
    Raise `ValueError` for a file that Twisted, and so the reactor, would wait for without end.
    """
    if has_certificates(description):
        for path in certificate_files(description):
            try:
                check_file(path)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
