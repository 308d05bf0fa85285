"""
The names a registry speaks: digests, repositories, tags and references.

Each is a record that cannot hold a bad value: parse once at the edge
(`Digest.parse`, `Repository.parse`, `parse_reference`) and pass the value on.
The characters allowed are those of Ollama's own client. A tag has at most 80 of
them, and so has a namespace or model; at most 96 in another registry than the
default one, for Hugging Face allows that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Union

from attrs import field, frozen

_HEX = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_LONG_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REGISTRY = re.compile(r"[a-z0-9_\[][a-z0-9._:\[\]+-]{0,254}")

DEFAULT = ""
"""The registry of a `Repository` of UPSTREAM_REGISTRY, whichever that is."""
AS_LLAMA_CPP = "+llama-cpp"
"""
The suffix of a registry's name that stands for what llama.cpp gets there: hf.co and modelscope.cn
send llama.cpp other manifests than Ollama under the same names.
"""

SPELLED = {"ollama.com": "registry.ollama.ai", "huggingface.co": "hf.co"}
"""Hosts that are another spelling of a registry's, and have the same directories in a store."""


class InvalidName(ValueError):
    """A name that no registry could hold; the text names it and the rule."""


def _shown(text: object) -> str:
    """Return the text as it was sent, short and printable."""
    shown = ascii(text)[1:-1] if isinstance(text, str) else ascii(text)
    return shown if len(shown) <= 100 else shown[:97] + "..."


def spelled(host: str) -> str:
    """Return a registry's host in its usual spelling, in lower case."""
    return SPELLED.get(host.lower(), host.lower())


def _is_hex(_: object, __: object, value: str) -> None:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise InvalidName(f"digest {_shown(value)}: expected sha256: and 64 lower-case hex digits")


def _is_part(what: str) -> Callable[[object, object, str], None]:
    def check(instance: object, _: object, value: str) -> None:
        # Validators run once all fields are set.
        is_long = getattr(instance, "registry", DEFAULT) != DEFAULT
        rule = _LONG_PART if is_long else _PART
        if not isinstance(value, str) or not rule.fullmatch(value):
            raise InvalidName(
                f"{what} {_shown(value)}: expected 1 to {96 if is_long else 80} letters, digits,"
                " '.', '_' or '-', the first a letter, a digit or '_'"
            )

    return check


def _is_registry(_: object, __: object, value: str) -> None:
    if value != DEFAULT and (not isinstance(value, str) or not _REGISTRY.fullmatch(value)):
        raise InvalidName(f"registry {_shown(value)}: expected a host name in lower case")


@frozen(order=True)
class Digest:
    """The sha256 of a blob or of a manifest's bytes; ``hex`` is 64 lower-case hex digits."""

    hex: str = field(validator=_is_hex)

    def __hash__(self) -> int:
        return hash(self.hex)  # A text keeps its hash, and there are hundreds of thousands.

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse ``sha256:HEX`` or, as in Ollama's file names, ``sha256-HEX``."""
        if text[:7] not in ("sha256:", "sha256-") or not _HEX.fullmatch(text, 7):
            raise InvalidName(
                f"digest {_shown(text)}: expected sha256: and 64 lower-case hex digits"
            )
        return cls(text[7:])

    @classmethod
    def of(cls, body: bytes) -> Digest:
        """Return the digest of ``body``."""
        return cls(sha256(body).hexdigest())

    @property
    def raw(self) -> bytes:
        """Its 32 bytes, for where there are many: they take half the memory."""
        return bytes.fromhex(self.hex)

    @property
    def file_name(self) -> str:
        """The name of its file in an Ollama's store: ``sha256-HEX``."""
        return f"sha256-{self.hex}"

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


@frozen(order=True, cache_hash=True)
class Repository:
    """
    A model's name in one registry, as typed (case is kept and counts).

    ``registry`` is the host by which Ollama names it, with its port if need be, in lower case;
    `DEFAULT` for the registry that is mirrored by default. The default one sorts first. It may end
    in `AS_LLAMA_CPP`.
    """

    registry: str = field(validator=_is_registry)
    namespace: str = field(validator=_is_part("namespace"))
    model: str = field(validator=_is_part("model"))

    @classmethod
    def parse(cls, text: str) -> Repository:
        """Parse ``[HOST/]NAMESPACE/MODEL``, as ``str`` writes it."""
        parts = text.split("/")
        if len(parts) == 2:
            return cls(DEFAULT, *parts)
        if len(parts) != 3 or not parts[0]:
            raise InvalidName(f"name {_shown(text)}: expected [HOST/]NAMESPACE/MODEL")
        return cls(*parts)

    @property
    def host(self) -> str:
        """The registry's host, "" if it is the default one."""
        return self.registry.removesuffix(AS_LLAMA_CPP)

    @property
    def path(self) -> str:
        """``NAMESPACE/MODEL``: its name in its own registry."""
        return f"{self.namespace}/{self.model}"

    def __str__(self) -> str:
        return f"{self.registry}/{self.path}" if self.registry else self.path


@frozen(order=True, cache_hash=True)
class Tag:
    """A manifest's movable name."""

    name: str = field(validator=_is_part("tag"))

    def __str__(self) -> str:
        return self.name


Reference = Union[Tag, Digest]


@lru_cache(maxsize=4096)
def parse_reference(text: str) -> Reference:
    """Parse what follows ``manifests/``: a digest if it begins as one, else a tag."""
    return Digest.parse(text) if text.startswith(("sha256:", "sha256-")) else Tag(text)
