"""
All registries together: the default one, those that are named, and what two of them may not share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from attrs import asdict, evolve

from yukari.config.listen import Bind
from yukari.config.registries import DEFAULT_NAME, RegistrySettings, known
from yukari.config.setting import SettingError
from yukari.names import spelled

MAX_REGISTRIES = 64
"""Registries at most: each has a pool of connections of its own."""
Where = Callable[[RegistrySettings, str], tuple[str, str]]
"""Returns the setting that gave a registry's field, and the text it was given as."""


def gather(
    default: RegistrySettings,
    named: Sequence[RegistrySettings],
    spare: Sequence[RegistrySettings],
    where: Where,
    binds: Sequence[Bind] = (),
) -> tuple[RegistrySettings, ...]:
    """
    Return all registries, the default one first; `SettingError` for what two of them share.

    A named registry that is the default one gives it its prefix, its hosts and the rest. ``spare``
    are those that nobody asked for: one that shares anything with another is left out. ``binds``
    are where the cache itself listens.
    """
    others = []
    for each in (*named, *spare):
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
    if len(found) > MAX_REGISTRIES:
        raise SettingError(
            *where(found[-1], "url"), f"expected at most {MAX_REGISTRIES} registries in all"
        )
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
    both_known = known(default.url) is not None and known(named.url) is not None
    return default.host == named.host and (default.url == named.url or both_known)


def _identity(registry: RegistrySettings) -> Iterator[tuple[str, str, str]]:
    """Yield what tells a registry from others: the field, what is compared, what is shown."""
    yield "name", registry.name, registry.name
    yield "host", spelled(registry.host), registry.host
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
