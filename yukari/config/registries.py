"""
The registries that one cache mirrors: the default one, and others that have a name.

A client asks for another registry by a Host header that is one of its `hosts`, by a port of
its own, or by a namespace that begins with its `prefix`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
from attrs import frozen

from yukari.config.files import Roots
from yukari.config.hours import DailyRate
from yukari.config.keys import BearerToken, SigningKey
from yukari.config.listen import Bind
from yukari.config.parsers import one_of, parse_count
from yukari.config.patterns import Patterns
from yukari.config.setting import InvalidSetting, Setting, declared
from yukari.config.units import MAX_CONNECTIONS, parse_duration
from yukari.config.urls import Address, RegistryUrl

DEFAULT_NAME = "default"
"""The name of the registry that is asked if a request names no other."""
UPSTREAMS = "hf=https://huggingface.co/ ms=https://modelscope.cn/"
"""The registries that are mirrored beside the default one unless others are named."""
GROUP = "A table for each registry"
"""The heading of the keys in docs/settings.rst."""
_LONGEST_NAME = 32
"""
Characters. The rest of a namespace, which has at most 80, is for the user's name; Hugging Face's
have at most 42.
"""
_NAME = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+)*")
_EXPECTED_NAME = (
    f"1 to {_LONGEST_NAME} letters, digits, '_' and single '-', neither first nor last a '-'"
)
_KNOWN = {
    "hf": ("hf.co", ("hf.co", "huggingface.co")),
    "ms": ("modelscope.cn", ("modelscope.cn", "www.modelscope.cn")),
}
"""By usual name: the name that Ollama's users write, and all names of the registry's hosts."""


def parse_name(text: str) -> str:
    """Parse a registry's name into lower case, for clients do not tell capitals apart."""
    name = text.lower()
    if name == DEFAULT_NAME:
        raise InvalidSetting(
            f"expected another name: {DEFAULT_NAME} is the one of UPSTREAM_REGISTRY"
        )
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise InvalidSetting(f"expected a name: {_EXPECTED_NAME}")
    return name


def parse_prefix(text: str) -> str:
    """Parse what a namespace begins with, such as ``hf--``, into lower case."""
    name = text.lower().removesuffix("--")
    if not text.endswith("--") or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise InvalidSetting(f"expected a prefix such as hf--: {_EXPECTED_NAME}, and then --")
    return f"{name}--"


def parse_host(text: str) -> str:
    """Parse ``HOST`` or ``HOST:PORT``, as in a Host header, into lower case."""
    address = Address.parse(text.lower())
    host = f"[{address.host}]" if ":" in address.host else address.host.removesuffix(".")
    return host if address.port is None else f"{host}:{address.port}"


def parse_connections(text: str) -> int:
    """Parse a count of connections, from 1 to `MAX_CONNECTIONS`."""
    count = parse_count(text)
    if count > MAX_CONNECTIONS:
        raise InvalidSetting(f"expected at most {MAX_CONNECTIONS} connections")
    return count


def _key(
    parse: Callable[[str], Any], help: str, empty: Any = None, name: str = "", **more: Any
) -> Any:
    """Declare a key of a registry's table; the arguments are those of `Setting`."""
    row = Setting(name, GROUP, parse, None, help, **more)
    return attrs.field(default=empty, metadata={Setting: row})


@frozen
class RegistrySettings:
    """One registry and how it is asked; None stands for what applies to every registry."""

    name: str
    """`DEFAULT_NAME`, or what a user calls it; in logs and metrics."""
    url: RegistryUrl = _key(
        RegistryUrl.parse,
        "The registry, an http or https URL.",
        attrs.NOTHING,
        default_shown="the URL in ``UPSTREAMS``",
        example="http://10.0.0.5:5000/",
    )
    host: str = _key(
        parse_host,
        "The name of its directory in the store, as Ollama would write it.",
        attrs.NOTHING,
        default_shown="the URL's host, ``hf.co`` for Hugging Face",
        example="10.0.0.5:5000",
    )
    prefix: str | None = _key(
        parse_prefix,
        "What a namespace begins with if this registry is meant, such as ``hf--``.",
        default_shown="its name and ``--``",
        example="lab--",
    )
    hosts: tuple[str, ...] = _key(
        parse_host,
        "Names by which clients may ask for this registry, instead of by its prefix: ``HOST`` or"
        " ``HOST:PORT``, which have to lead to this cache.",
        (),
        several=True,
        default_shown="the URL's own",
        example="lab.cache.lan",
    )
    """Lower case; without a port for any port. `host_candidates` finds them."""
    bind: tuple[Bind, ...] = _key(
        Bind.parse,
        "Where to listen for this registry alone. Written as ``BIND``.",
        (),
        several=True,
        default_shown="nowhere",
        example=":9202",
    )
    address: Address | None = _key(
        Address.parse,
        "Where to connect for it, if its name leads elsewhere. Written as ``UPSTREAM_ADDRESS``.",
        default_shown="where its name leads",
        example="192.0.2.1:5000",
    )
    ca: Roots | None = _key(
        Roots.parse,
        "A PEM file of root certificates that are trusted for it beside the system's.",
        default_shown="those of ``UPSTREAM_CA``",
        example="/etc/ssl/lab.pem",
    )
    key: SigningKey | None = _key(
        SigningKey.parse,
        "The file of a private key that is registered there. Written as ``UPSTREAM_KEY``.",
        default_shown="none",
        example="/etc/yukari/lab_ed25519",
    )
    token: BearerToken | None = _key(
        BearerToken.parse,
        "The file of a token that opens private and gated models there, such as Hugging Face's."
        " ``PRIVATE_MODELS`` says who may pull them.",
        name="token_file",
        default_shown="none",
        example="/etc/yukari/lab_token",
    )
    rate: DailyRate | None = _key(
        DailyRate.parse,
        "How fast blobs may come from it. Written as ``UPSTREAM_RATE``.",
        default_shown="a share of ``UPSTREAM_RATE``",
        commas=True,
        example="off, 08:00-18:00 50Mbit/s",
    )
    connections: int | None = _key(
        parse_connections,
        "The most connections to it, in all.",
        default_shown="as ``UPSTREAM_CONNECTIONS``",
        example="16",
    )
    lifetime: float | None = _key(
        parse_duration,
        "How old the last check of a stored manifest may get before it is checked again.",
        default_shown="as ``MANIFEST_LIFETIME``",
        example="24h",
    )
    """Seconds."""
    allow: Patterns | None = _key(
        Patterns.parse,
        "Patterns of the models that may be pulled from it, ``NAMESPACE/MODEL``, beside what"
        " ``MODELS_ALLOW`` allows of all registries.",
        commas=True,
        default_shown="all",
        example="team/*",
    )
    deny: Patterns | None = _key(
        Patterns.parse,
        "Patterns of models that may not be pulled from it.",
        commas=True,
        default_shown="none",
        example="*/*-base",
    )
    challenge: str = _key(
        one_of("auto", "ollama", "oci"),
        "What answers its challenges first: a signature (``ollama``), a token that is given"
        " without one (``oci``), or what its reply suggests (``auto``).",
        "auto",
        default_shown="auto",
        example="oci",
    )
    """``auto``, ``ollama`` or ``oci``."""

    @classmethod
    def named(cls, name: str, url: RegistryUrl) -> RegistrySettings:
        """
        Make the settings of a registry of which only the name and the URL are given.

        One that is called ``hf``, or is Hugging Face, is ``hf.co`` in the store and answers to its
        public names, even if the URL is that of a mirror; ``ms`` likewise.
        """
        host, hosts = known(url) or _KNOWN.get(name) or (url.host, _own_hosts(url))
        return cls(name, url, host, f"{name}--", hosts)

    @classmethod
    def default(cls, url: RegistryUrl) -> RegistrySettings:
        """Make the settings of the default registry, which is asked if no other is named."""
        return cls(DEFAULT_NAME, url, (known(url) or (url.host,))[0])


def parse_upstream(text: str) -> RegistrySettings | None:
    """Parse ``NAME=URL``; None for ``none``."""
    if text.lower() == "none":
        return None
    name, equals, url = text.partition("=")
    if not equals:
        raise InvalidSetting("expected NAME=URL, such as hf=https://huggingface.co/, or none")
    return RegistrySettings.named(parse_name(name), RegistryUrl.parse(url))


def host_candidates(header: str) -> tuple[str, ...]:
    """
    Return what `RegistrySettings.hosts` may have for a request's Host header; the first that is
    found counts. Empty for a header that is no host.
    """
    try:
        # The port may be empty (RFC 3986, section 3.2.3).
        host = parse_host(header.removesuffix(":"))
    except InvalidSetting:
        return ()
    name = re.sub(r":[0-9]+$", "", host)
    return (host, name) if name != host else (host, f"{host}:443", f"{host}:80")


KEYS: tuple[Setting, ...] = declared(GROUP, RegistrySettings)
"""The keys of a registry's table."""


def known(url: RegistryUrl) -> tuple[str, tuple[str, ...]] | None:
    """Return the store's name and all hosts of a registry that many use; None for another."""
    return next((row for row in _KNOWN.values() if url.host in row[1]), None)


def is_known(host: str) -> bool:
    """Whether a host is that of a registry that many use, and so never a cache's own name."""
    return any(host.lower() in hosts for _, hosts in _KNOWN.values())


def _own_hosts(url: RegistryUrl) -> tuple[str, ...]:
    """
    Return the URL's host with its port.

    Always with the port: a registry may stand on the machine of the cache, or have its name.
    """
    return (parse_host(f"{url.hostname}:{url.port}"),)
