"""
Which proxy a connection goes by, as curl's environment variables have it.

``http_proxy``, ``https_proxy`` and ``all_proxy`` say by which, ``no_proxy`` for
which hosts by none; in capitals too, and where both are set the small ones
win. (curl reads no HTTP_PROXY in capitals because a CGI script's environment
has the request's Proxy header there. A daemon is none, and people set it so.)
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Optional, Union
from urllib.parse import unquote_to_bytes

from attrs import field, frozen

from yukari.config.settings import SettingError
from yukari.config.urls import HOST, InvalidSetting, RegistryUrl

_EXPECTED = "http://HOST:PORT or https://HOST:PORT, a user and a password before HOST"
_EXEMPT = (
    "expected *, or hosts (with all below them), addresses and networks such as 10.0.0.0/8,"
    " each with :PORT if only that one is meant, between them commas"
)


@frozen
class Proxy:
    """An HTTP proxy; ``tls`` where it is spoken to by TLS."""

    host: str
    """A name or an address, one of IPv6 without brackets."""
    port: int
    tls: bool = False
    authorization: Optional[str] = field(default=None, repr=False)
    """What goes into Proxy-Authorization."""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """
        From ``[http[s]://][USER[:PASSWORD]@]HOST[:PORT]``; `InvalidSetting`, which has nothing of
        the text.

        The user and the password are percent-encoded. A port that is not given is the scheme's.
        """
        scheme, slashes, rest = text.partition("://")
        if not slashes:
            scheme, rest = "http", text
        credentials, at, place = rest.rpartition("@")
        if scheme.lower() not in ("http", "https"):
            raise InvalidSetting(f"expected an HTTP proxy: {_EXPECTED}")
        try:
            url = RegistryUrl.parse(f"{scheme}://{place}")
        except InvalidSetting as error:
            wrong_port = "port" in str(error)
            raise InvalidSetting(str(error) if wrong_port else f"expected {_EXPECTED}") from None
        if url.prefix != "/":
            raise InvalidSetting(f"expected {_EXPECTED}; no path, and %2F for a / in a password")
        return cls(
            url.hostname.strip("[]"),
            url.port,
            url.scheme == "https",
            _basic(credentials) if at else None,
        )

    def __str__(self) -> str:
        return host_and_port(self.host, self.port)


def _basic(credentials: str) -> str:
    user, _, password = (unquote_to_bytes(part) for part in credentials.partition(":"))
    # RFC 7617, section 2.
    if b":" in user or re.search(rb"[\x00-\x1f\x7f]", user + password):
        raise InvalidSetting("expected a user without a colon, and no control characters")
    return f"Basic {b64encode(user + b':' + password).decode('ascii')}"


@frozen
class Exempt:
    """An entry of NO_PROXY: a domain or a network, with neither every host; at one port or all."""

    domain: str = ""
    network: Optional[Union[IPv4Network, IPv6Network]] = None
    port: Optional[int] = None

    @classmethod
    def parse(cls, text: str) -> Exempt:
        """
        From ``*``, ``example.com``, ``.example.com``, ``*.example.com``, an address (IPv6 with or
        without brackets) or a network; `InvalidSetting`.
        """
        if text == "*":
            return cls()
        try:
            return cls(network=ip_network(text, strict=False))
        except ValueError:
            pass
        found = re.fullmatch(r"(?:\[([^]]*)\]|([^:]*))(?::([0-9]{1,5}))?", text)
        if found is None or (found[3] and not 0 < int(found[3]) < 65536):
            raise InvalidSetting(_EXEMPT)
        port = int(found[3]) if found[3] else None
        domain = (found[2] or "").removeprefix("*").removeprefix(".").rstrip(".").lower()
        try:
            return cls(network=ip_network(found[1] or domain, strict=False), port=port)
        except ValueError:
            pass
        if found[1] is not None or not HOST.fullmatch(domain) or domain[-1].isdigit():
            raise InvalidSetting(_EXEMPT)
        return cls(domain, port=port)

    def covers(self, host: str, port: int) -> bool:
        """Whether it names this host, IPv6 without brackets, at this port."""
        if self.port is not None and self.port != port:
            return False
        name = host.lower().rstrip(".")
        if self.network is not None:
            try:
                return ip_address(name) in self.network
            except ValueError:
                return False
        return not self.domain or name == self.domain or name.endswith(f".{self.domain}")


@frozen
class Proxies:
    """By which proxy connections go, by scheme; ``exempt`` by none."""

    http: Optional[Proxy] = None
    https: Optional[Proxy] = None
    exempt: tuple[Exempt, ...] = ()

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Proxies:
        """As the variables have it; an empty one counts as unset. `SettingError`."""
        http = _proxy("http_proxy", environment) or _proxy("all_proxy", environment)
        https = _proxy("https_proxy", environment) or _proxy("all_proxy", environment)
        if http is None and https is None:
            return cls()  # then NO_PROXY is not for us
        name, text = _given("no_proxy", environment)
        try:
            exempt = tuple(Exempt.parse(each) for each in re.split(r"[\s,]+", text) if each)
        except InvalidSetting as error:
            raise SettingError(name, text, str(error)) from None
        return cls(http, https, exempt)

    def proxy(self, scheme: str, *places: tuple[str, int]) -> Optional[Proxy]:
        """
        The one for a connection; None where there is none, or one of the ``places``, each a name
        of where it goes and its port, is exempt.
        """
        if any(each.covers(*place) for each in self.exempt for place in places):
            return None
        return self.https if scheme == "https" else self.http


def _given(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """A variable as it was written, and its value, "" where it is not set."""
    for written in (name, name.upper()):
        if text := environment.get(written, "").strip():
            return written, text
    return name, ""


def _proxy(name: str, environment: Mapping[str, str]) -> Optional[Proxy]:
    written, text = _given(name, environment)
    try:
        return Proxy.parse(text) if text else None
    except InvalidSetting as error:
        raise SettingError(written, _without_secrets(text), str(error)) from None


def _without_secrets(text: str) -> str:
    """
    What can be shown of a proxy that cannot be read: where the host was left out, the port may be a
    password.
    """
    scheme, slashes, rest = text.partition("://")
    if not slashes or ":" in scheme or "@" in scheme:
        scheme, slashes, rest = "", "", text
    _, at, place = rest.rpartition("@")
    host, colon, port = place.partition(":")
    if colon and not (at and port.isdigit()):
        port = "***"
    return f"{scheme}{slashes}{at and '***@'}{host}{colon}{port}"


def host_and_port(host: str, port: int) -> str:
    """As a URL has it; IPv6 gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
