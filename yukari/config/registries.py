"""
The registries that one cache mirrors: the default one, and others that have a name.

A client asks for another registry by a Host header that is one of its `hosts`, by a port of
its own, or by a namespace that begins with its `prefix`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from attrs import asdict, evolve, frozen

from yukari.config.files import Roots
from yukari.config.keys import SigningKey
from yukari.config.listen import Bind
from yukari.config.patterns import Patterns
from yukari.config.setting import SettingError
from yukari.config.token_file import BearerToken
from yukari.config.units import Connections
from yukari.config.urls import Address, InvalidSetting, RegistryUrl

DEFAULT_NAME = "default"
"""The name of the registry that is asked if a request names no other."""
UPSTREAMS = "hf=https://huggingface.co/ ms=https://modelscope.cn/"
"""The registries that are mirrored beside the default one unless others are named."""
CHALLENGES = ("auto", "ollama", "oci")
"""
How a registry's 401 is answered first: with a signature (``ollama``), with a token that is asked
for without one (``oci``), or as the reply suggests (``auto``).
"""
MOST = 64
"""Registries at most: each has a pool of connections of its own."""
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


@frozen
class RegistrySettings:
    """One registry and how it is asked; None is what the cache does for every registry."""

    name: str
    """`DEFAULT_NAME`, or what a user calls it; in logs and metrics."""
    url: RegistryUrl
    host: str
    """The name of its directory in the store, as an Ollama that pulls from it would write it."""
    prefix: str | None = None
    """What a namespace that is meant for it begins with, such as ``hf--``."""
    hosts: tuple[str, ...] = ()
    """``HOST``, for any port, or ``HOST:PORT``; lower case. `host_candidates` finds them."""
    bind: tuple[Bind, ...] = ()
    address: Address | None = None
    ca: Roots | None = None
    key: SigningKey | None = None
    """A private key that is registered there."""
    token: BearerToken | None = None
    rate: int | None = None
    """Bytes a second."""
    connections: Connections | None = None
    lifetime: float | None = None
    """Seconds until a stored manifest is checked again."""
    allow: Patterns | None = None
    deny: Patterns | None = None
    challenge: str = "auto"
    """One of `CHALLENGES`."""

    @classmethod
    def named(cls, name: str, url: RegistryUrl) -> RegistrySettings:
        """
        Make the settings of a registry that has no others than its name and its URL.

        One that is called ``hf``, or is Hugging Face, is ``hf.co`` in the store and answers to its
        public names, also if the URL is that of a mirror; ``ms`` likewise.
        """
        host, hosts = _known(url) or _KNOWN.get(name) or (url.host, _own_hosts(url))
        return cls(name, url, host, f"{name}--", hosts)

    @classmethod
    def default(cls, url: RegistryUrl) -> RegistrySettings:
        """Make the settings of the default registry, which is asked if no other is named."""
        return cls(DEFAULT_NAME, url, (_known(url) or (url.host,))[0])


def parse_upstream(text: str) -> RegistrySettings | None:
    """Parse ``NAME=URL``; None for ``none``."""
    if text.lower() == "none":
        return None
    name, equals, url = text.partition("=")
    if not equals:
        raise InvalidSetting("expected NAME=URL, such as hf=https://huggingface.co/, or none")
    return RegistrySettings.named(parse_name(name), RegistryUrl.parse(url))


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


def parse_challenge(text: str) -> str:
    """One of `CHALLENGES`."""
    if text.lower() not in CHALLENGES:
        raise InvalidSetting("expected auto, ollama or oci")
    return text.lower()


def host_candidates(header: str) -> tuple[str, ...]:
    """
    Return what `RegistrySettings.hosts` may have for a request's Host header; the first that is
    found counts. Empty for a header that is no host.
    """
    try:
        host = parse_host(header)
    except InvalidSetting:
        return ()
    name = re.sub(r":[0-9]+$", "", host)
    return (host, name) if name != host else (host, f"{host}:443", f"{host}:80")


Where = Callable[[RegistrySettings, str], tuple[str, str]]
"""By which setting a registry's field was given, and as what text."""


def in_upstreams(registry: RegistrySettings, _: str) -> tuple[str, str]:
    """Every field of the registry follows from its entry in UPSTREAMS."""
    return "UPSTREAMS", f"{registry.name}={registry.url}"


def gather(
    default: RegistrySettings,
    named: Sequence[RegistrySettings | None],
    spare: Sequence[RegistrySettings] = (),
    where: Where = in_upstreams,
    binds: Sequence[Bind] = (),
) -> tuple[RegistrySettings, ...]:
    """
    Return all registries, the default one first; `SettingError` for what two of them share.

    None in ``named`` is ``none``, which has to be alone. A named registry that is the default one
    gives it its prefix, its hosts and the rest. ``spare`` are those that nobody asked for: one that
    shares anything with another is left out. ``binds`` are where the cache itself listens.
    """
    registries = [each for each in named if each is not None]
    if len(registries) < len(named) and len(named) > 1:
        raise SettingError("UPSTREAMS", "none", "expected none alone, or registries without it")
    others = []
    for each in (*registries, *spare):
        if default.prefix is None and _is_same(default, each):
            default = _joined(default, each)
        else:
            others.append(each)
    taken = {("bind", key): f"{text} is where this cache listens" for key, text in _ports(binds)}
    found = []
    for each in (default, *others):
        identity = list(_identity(each))
        shared = next((row for row in identity if row[:2] in taken), None)
        if shared is None:
            taken.update({row[:2]: f"{row[2]} belongs to {each.name}" for row in identity})
            taken["name", each.name] = f"{each.name} is given twice"
            found.append(each)
        elif not any(each is unasked for unasked in spare):
            field, key, _ = shared
            raise SettingError(
                *where(each, field), f"expected {_WHAT[field]} of its own: {taken[field, key]}"
            )
    if len(found) > MOST:
        raise SettingError(*where(found[-1], "url"), f"expected at most {MOST} registries in all")
    return tuple(found)


_WHAT = {
    "name": "a name",
    "host": "a directory in the store",
    "prefix": "a prefix",
    "hosts": "hosts",
    "bind": "a port",
}


def _is_same(default: RegistrySettings, named: RegistrySettings) -> bool:
    """Whether two records are of one registry, not only of one host."""
    both_known = _known(default.url) is not None and _known(named.url) is not None
    return default.host == named.host and (default.url == named.url or both_known)


def _identity(registry: RegistrySettings) -> Iterator[tuple[str, str, str]]:
    """Yield what tells a registry from others: the field, what is compared, what is shown."""
    yield "name", registry.name, registry.name
    yield "host", registry.host.lower(), registry.host
    if registry.prefix is not None:
        yield "prefix", registry.prefix, registry.prefix
    for host in registry.hosts:
        yield "hosts", host, host
    for key, text in _ports(registry.bind):
        yield "bind", key, text


def _ports(binds: Sequence[Bind]) -> Iterator[tuple[str, str]]:
    """Yield each place to listen: what is compared, and its text; not port 0, which is any."""
    for bind in binds:
        if not re.match(r"tcp6?:(port=)?0(:|$)", bind.descriptions[0]):
            yield bind.descriptions[0], bind.text


def _joined(default: RegistrySettings, named: RegistrySettings) -> RegistrySettings:
    """The default registry, with what is said of the same registry under a name."""
    said = {
        field: value
        for field, value in asdict(named, recurse=False).items()
        if value not in (None, (), "auto")
    }
    return evolve(default, **{**said, "name": DEFAULT_NAME})


def _known(url: RegistryUrl) -> tuple[str, tuple[str, ...]] | None:
    """Return the row of `_KNOWN` that a URL is of."""
    return next((row for row in _KNOWN.values() if url.host in row[1]), None)


def _own_hosts(url: RegistryUrl) -> tuple[str, ...]:
    """
    Return the URL's host with its port.

    Always with the port: a registry may stand on the machine of the cache, or have its name.
    """
    return (parse_host(f"{url.hostname}:{url.port}"),)
