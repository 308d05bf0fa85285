"""
Places on the network that settings name: the registry to mirror, and where to connect for it.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from attrs import frozen

from yukari.config.setting import InvalidSetting

HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
_URL = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>[a-z0-9._-]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[a-z0-9._~!$&'()*+,;=:@%-]+)*)/?",
    re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}


@frozen
class RegistryUrl:
    """The registry being mirrored; ``prefix`` begins and ends with a slash."""

    scheme: str
    hostname: str
    """A name or an IPv4 address, lower case, or an IPv6 address in brackets."""
    port: int
    prefix: str = "/"

    @classmethod
    def parse(cls, text: str, example: str = "https://registry.ollama.ai/") -> RegistryUrl:
        """
        Parse an http or https URL; a port and a path prefix are allowed, a user and a query are
        not. ``example`` is for the error.
        """
        if "@" in text:
            raise InvalidSetting("expected an http or https URL without a user or a password")
        found = _URL.fullmatch(text)
        if found is None:
            raise InvalidSetting(
                f"expected an http or https URL, such as {example}, without a query"
            )
        scheme, path = found["scheme"].lower(), found["path"]
        hostname = (found["host"] or "").lower()
        if found["v6"]:
            try:
                hostname = f"[{IPv6Address(found['v6'])}]"
            except ValueError:
                raise InvalidSetting("expected an IPv6 address between [ and ]") from None
        elif not HOST.fullmatch(hostname) or len(hostname) > 253:
            raise InvalidSetting("expected a host name or an address after //")
        elif scheme == "https" and "_" in hostname:
            raise InvalidSetting("expected a host name without _ for https: TLS here takes none")
        port = int(found["port"] or _PORTS[scheme])
        if not 0 < port < 65536:
            raise InvalidSetting("expected a port from 1 to 65535")
        if re.search(r"/\.\.?(/|$)|%(?![0-9A-Fa-f]{2})", path):
            raise InvalidSetting(
                "expected a path without '.' or '..' and with % only before two hex digits"
            )
        return cls(scheme, hostname, port, f"{path}/")

    @property
    def host(self) -> str:
        """
        The name of its directory in an Ollama's store: the host, with a port unless it is the
        scheme's.
        """
        return self.hostname if self.port == _PORTS[self.scheme] else f"{self.hostname}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL; it ends in a slash."""
        return f"{self.scheme}://{self.host}{self.prefix}"

    def __str__(self) -> str:
        return self.url


@frozen
class Address:
    """Where to connect instead of to a URL's host; ``port`` None for the URL's own."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``."""
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^][:]+))(?::([0-9]{1,5}))?", text)
        if found is None:
            raise InvalidSetting("expected HOST, HOST:PORT, [V6] or [V6]:PORT")
        v6, host, port = found.groups()
        if port is not None and not 0 < int(port) < 65536:
            raise InvalidSetting("expected a port from 1 to 65535")
        if v6 is not None:
            try:
                host = str(IPv6Address(v6))
            except ValueError:
                raise InvalidSetting("expected an IPv6 address between [ and ]") from None
        elif not HOST.fullmatch(host):
            raise InvalidSetting("expected a host name or an address")
        return cls(host, None if port is None else int(port))
