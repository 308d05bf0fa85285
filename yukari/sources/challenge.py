"""
A registry's challenge: its WWW-Authenticate header, and whose realms may be asked for a token.

RFC 9110, section 11.6.1, and the distribution specification's token authentication. All of it
comes from the network: what is too long, too much or malformed is no challenge.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Optional
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from attrs import frozen
from twisted.web.iweb import IResponse

from yukari.config.urls import RegistryUrl
from yukari.net.http import IN_URLS

LONGEST = 8 * 1024
"""Characters of a header that are read, and of all of them together."""
MAX_CHALLENGES = 16
MAX_SCOPES = 16
MAX_FIELDS = 32
"""Fields of a realm's own query."""

FAMILIES = (("ollama.com", "ollama.ai"), ("hf.co", "huggingface.co"))
"""Domains of one owner, each with all that is below it."""

_PORTS = {"http": 80, "https": 443}
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=[ \t,]|$)")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REALM = re.compile(
    r"(?P<base>https?://(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?"
    r"(?:/[a-z0-9._~!$&'()*+,;=:@%/-]*)?)(?:\?(?P<query>[a-z0-9._~!$&'()*+,;=:@%/?-]*))?",
    re.IGNORECASE,
)


@frozen
class Origin:
    """The origin of a URL: a scheme, a host in lower case and a port."""

    scheme: str
    host: str
    port: int

    @classmethod
    @lru_cache(maxsize=128)  # Of the same few URLs each request asks three times.
    def of(cls, url: str) -> Optional[Origin]:
        """None for what is no plain http or https URL, such as one with a user in it."""
        try:
            parts: SplitResult = urlsplit(url)
            port = parts.port
            if "[" in parts.netloc:
                IPv6Address(parts.hostname)  # Python 3.10 does not look at it.
        except ValueError:
            return None
        if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
            return None
        port = _PORTS[parts.scheme] if port is None else port
        return cls(parts.scheme, parts.hostname, port)

    @property
    def family(self) -> Optional[tuple[str, ...]]:
        """The `FAMILIES` that the host belongs to."""
        for family in FAMILIES:
            if any(self.host == name or self.host.endswith(f".{name}") for name in family):
                return family
        return None

    def is_of(self, registry: RegistryUrl) -> bool:
        """Whether this is a registry itself, or its owner's other host and no less private."""
        own = Origin.of(registry.url)
        assert own is not None
        if self == own:
            return True
        same_family = own.family is not None and own.family is self.family
        return same_family and self.is_as_private_as(own)

    def is_as_private_as(self, other: Origin) -> bool:
        """Whether what ``other`` is asked by https stays within https."""
        return self.scheme == "https" or other.scheme == "http"


@frozen
class Challenge:
    """A Bearer challenge: who gives tokens, and what for. `realm` is a URL that can be asked."""

    realm: str
    """Without its query."""
    query: tuple[tuple[str, str], ...]
    """The realm's own."""
    service: str
    scope: str

    @classmethod
    def of(cls, response: IResponse) -> Optional[Challenge]:
        """The first of a reply's challenges that can be answered."""
        values = response.headers.getRawHeaders(b"www-authenticate") or ()
        return cls.parse(*(value.decode("latin-1") for value in values))

    @classmethod
    def parse(cls, *headers: str) -> Optional[Challenge]:
        """From the values of WWW-Authenticate headers."""
        left = LONGEST
        for text in headers:
            left -= len(text)
            if left < 0:
                return None
            for scheme, parameters in challenges(text):
                found = _REALM.fullmatch(_as_url(parameters.get("realm", "")))
                if scheme != "bearer" or found is None or Origin.of(found["base"]) is None:
                    continue
                try:
                    query = parse_qsl(
                        found["query"] or "", keep_blank_values=True, max_num_fields=MAX_FIELDS
                    )
                except ValueError:
                    continue
                service, scope = (parameters.get(name, "") for name in ("service", "scope"))
                if len(scope.split()) > MAX_SCOPES:
                    continue
                base = found["base"]
                if base.count("/") == 2:
                    base += "/"
                return cls(base, tuple(query), service, scope)
        return None

    @property
    def origin(self) -> Origin:
        """Where the realm is."""
        found = Origin.of(self.realm)
        assert found is not None
        return found

    def url(self, *more: tuple[str, str]) -> str:
        """What is asked of the realm: its own query and the challenge's, the keys sorted."""
        asked = [*self.query, *more]
        if self.service:
            asked.append(("service", self.service))
        asked += (("scope", word) for word in self.scope.split())
        return f"{self.realm}?{urlencode(sorted(asked, key=lambda pair: pair[0]))}"


def _as_url(realm: str) -> str:
    """
    Percent-encode characters that no URL may have (a space, UTF-8), as clients do; they ask for
    none with control characters.
    """
    if _CONTROL.search(realm):
        return ""
    return quote(realm, safe=IN_URLS, encoding="latin-1", errors="replace")


def challenges(text: str) -> list[tuple[str, dict[str, str]]]:
    """
    The schemes of a header's challenges and their parameters, names in lower case.

    What is behind something malformed is not read. Of a parameter given twice the first counts.
    """
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while len(found) < MAX_CHALLENGES:
        scheme = _SCHEME.match(text, at)
        if scheme is None:
            break
        at = scheme.end()
        parameters: dict[str, str] = {}
        token68 = _TOKEN68.match(text, at)
        if token68 is not None:
            at = token68.end()
        while (parameter := _PARAMETER.match(text, at)) is not None:
            name, quoted, bare = parameter.groups()
            value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), value)
            at = parameter.end()
        found.append((scheme[1].lower(), parameters))
    return found
