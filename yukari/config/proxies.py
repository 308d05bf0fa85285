"""
The proxy of a connection, by the environment variables of curl.

``http_proxy``, ``https_proxy`` and ``all_proxy`` name the proxies, ``no_proxy`` the hosts that are
reached without one. Capitals work too; if both are set, the small letters win. (curl does not read
HTTP_PROXY because a CGI script's environment has the request's Proxy header there. A daemon is no
CGI script, and people set it.) These variables are not Yukari's own, so one that cannot be read is
ignored with a warning.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Optional
from urllib.parse import unquote_to_bytes

import idna
from attrs import field, frozen

from yukari.config.no_proxy import Exempt, parse_no_proxy
from yukari.config.setting import InvalidSetting
from yukari.config.urls import RegistryUrl

_EXPECTED = (
    "http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT, a user and a password before HOST"
)
_PORTS = {
    "http": 80,
    "https": 443,
    **dict.fromkeys(("socks4", "socks4a", "socks5", "socks5h"), 1080),
}
_KINDS = {**{kind: kind for kind in _PORTS}, "socks": "socks5h"}  # GNOME calls any SOCKS proxy so


@frozen
class Proxy:
    """A proxy, and the protocol that it speaks."""

    host: str
    """A name or an address, IPv6 without brackets."""
    port: int
    kind: str = "http"
    """
    ``http``, ``https`` (the same inside TLS), ``socks4`` and ``socks5`` (names are resolved here),
    ``socks4a`` and ``socks5h`` (names are resolved by the proxy).
    """
    credentials: Optional[tuple[bytes, bytes]] = field(default=None, repr=False)
    """A user and a password."""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """
        Parse ``[KIND://][USER[:PASSWORD]@]HOST[:PORT]``; `InvalidSetting` repeats none of the text.

        User and password are percent-encoded. The default port is that of the kind. What stands
        behind them, such as a path, is ignored, as by Go and curl.
        """
        scheme, slashes, rest = text.removeprefix("//").partition("://")
        if not slashes:
            scheme, rest = "http", scheme
        credentials, at, place = rest.rpartition("@")
        place = re.sub(r"(?<!:)[/?#].*|:?[;,]?$", "", place)
        kind = _KINDS.get(scheme.lower())
        if kind is None:
            raise InvalidSetting(f"expected {_EXPECTED}")
        try:
            host = place.partition(":")[0]
            if not host.isascii():
                place = idna.encode(host, uts46=True).decode("ascii") + place.removeprefix(host)
            url = RegistryUrl.parse(f"http://{place}")
        except (InvalidSetting, idna.IDNAError) as error:
            wrong_port = "port" in str(error)
            raise InvalidSetting(str(error) if wrong_port else f"expected {_EXPECTED}") from None
        given = re.search(r":[0-9]+$", place)
        port = url.port if given else _PORTS[kind]
        return cls(url.hostname.strip("[]"), port, kind, _parse(credentials, kind) if at else None)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS and not HTTP."""
        return self.kind.startswith("socks")

    @property
    def authorization(self) -> Optional[str]:
        """Return the value of Proxy-Authorization, for a proxy that speaks HTTP."""
        if self.credentials is None:
            return None
        return f"Basic {b64encode(b':'.join(self.credentials)).decode('ascii')}"

    def __str__(self) -> str:
        return host_and_port(self.host, self.port)


def _parse(credentials: str, kind: str) -> tuple[bytes, bytes]:
    user, _, password = (unquote_to_bytes(part) for part in credentials.partition(":"))
    if kind.startswith("socks"):
        # RFC 1929, section 2: each has its length in one byte.
        if not 0 < len(user) < 256 or len(password) > 255 or b"\0" in user:
            raise InvalidSetting("expected a user and a password of at most 255 bytes each")
    # RFC 7617, section 2.
    elif b":" in user or re.search(rb"[\x00-\x1f\x7f]", user + password):
        raise InvalidSetting("expected a user without a colon, and no control characters")
    return user, password


@frozen
class Proxies:
    """The proxies by scheme of the target, and the ``exempt`` targets."""

    http: Optional[Proxy] = None
    https: Optional[Proxy] = None
    exempt: tuple[Exempt, ...] = ()
    ignored: tuple[str, ...] = ()
    """The variables that could not be read, or not fully, for a warning; no secrets."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Proxies:
        """Read the variables; an empty one counts as unset."""
        ignored: list[str] = []
        every = _proxy("all_proxy", environment, ignored)
        http = _proxy("http_proxy", environment, ignored) or every
        https = _proxy("https_proxy", environment, ignored) or every
        if http is None and https is None:
            return cls(ignored=tuple(ignored))  # NO_PROXY is then for other programs
        name, text = _given("no_proxy", environment)
        exempt, strange = parse_no_proxy(text)
        if strange:
            shown = ", ".join(ascii(_without_secrets(entry))[:60] for entry in strange[:3])
            more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
            ignored.append(f"{name}: {shown}{more}")
        return cls(http, https, exempt, tuple(ignored))

    def proxy(self, scheme: str, *places: tuple[str, int]) -> Optional[Proxy]:
        """
        Return the proxy of a connection; None if there is none or one of the ``places`` is exempt.

        The ``places`` are the names of the target, each with its port.
        """
        if any(each.covers(*place) for each in self.exempt for place in places):
            return None
        return self.https if scheme == "https" else self.http


def _given(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the name of a variable as it was written, and its value, "" if it is not set."""
    for written in (name, name.upper()):
        if text := environment.get(written, "").strip().strip("\"'"):
            return written, text
    return name, ""


def _proxy(name: str, environment: Mapping[str, str], ignored: list[str]) -> Optional[Proxy]:
    written, text = _given(name, environment)
    try:
        return Proxy.parse(text) if text else None
    except InvalidSetting as error:
        ignored.append(f"{written} {ascii(_without_secrets(text))[:120]}: {error}")
        return None


def _without_secrets(text: str) -> str:
    """Describe a proxy that cannot be read: if the host is missing, the port may be a password."""
    scheme, slashes, rest = text.partition("://")
    if not slashes or ":" in scheme or "@" in scheme:
        scheme, slashes, rest = "", "", text
    _, at, place = rest.rpartition("@")
    host, colon, port = place.partition(":")
    if colon and not (at and port.isdigit()):
        port = "***"
    return f"{scheme}{slashes}{at and '***@'}{host}{colon}{port}"


def host_and_port(host: str, port: int) -> str:
    """Format a host and a port as in a URL, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
