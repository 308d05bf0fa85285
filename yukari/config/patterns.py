"""
Rules about which models may be pulled, by patterns of their names.

A pattern is ``NAMESPACE/MODEL`` or ``REGISTRY/NAMESPACE/MODEL``; in each part ``*``, ``?`` and
``[…]`` are as in a shell. Capitals do not count: registries accept a name either way, so a capital
would evade the rule. There are no patterns for tags, because the path of a blob has no tag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from attrs import define, field, frozen

from yukari.errors import RegistryError
from yukari.names import Repository, spelled

_PART = r"(?:[A-Za-z0-9._*?-]|\[!?[A-Za-z0-9._-]+\])+"
_PATTERN = re.compile(rf"(?:{_PART}(?::[0-9]{{1,5}})?/)?{_PART}/{_PART}")
_SHOWN = 5
"""Patterns of MODELS_ALLOW that an error names at most."""


@frozen
class Patterns:
    """Patterns as they were written."""

    each: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Patterns:
        """Parse ``library/*,hf.co/*/*-GGUF``; `ValueError` says what was expected."""
        patterns = tuple(word for word in re.split(r"[,\s]+", text) if word)
        if not patterns:
            raise ValueError("expected patterns of models such as library/*,*/llama*")
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(
                    f"expected [REGISTRY/]NAMESPACE/MODEL, without a tag, which {pattern[:50]!a}"
                    " is not"
                )
        return cls(patterns)

    def match(self, default: str, name: Repository) -> str | None:
        """Return the first pattern that matches a model; ``default`` is the default registry."""
        host = (name.host or default).lower()
        parts = [name.namespace.lower(), name.model.lower()]
        for pattern in self.each:
            *registry, namespace, model = pattern.lower().split("/")
            if all(map(fnmatchcase, parts, (namespace, model))) and all(
                fnmatchcase(host, each) or spelled(host) == spelled(each) for each in registry
            ):
                return pattern
        return None


@define
class ModelRules:
    """
    The rules: MODELS_ALLOW, None for all models, and MODELS_DENY, which wins.

    All who ask have the same object, so that the rules can change: `become`.

    ``registry`` is the default registry; ``others`` have rules of their own, None for a registry
    that has none. Models of registries that are not among them are refused.
    """

    registry: str = ""
    allowed: Patterns | None = None
    denied: Patterns = Patterns()
    others: Mapping[str, ModelRules | None] = field(factory=dict)
    changes: int = field(default=0, init=False, eq=False)
    """How often they have changed."""

    def become(self, rules: ModelRules) -> None:
        """Take over other rules."""
        self.changes += 1
        self.registry, self.others = rules.registry, rules.others
        self.allowed, self.denied = rules.allowed, rules.denied

    def refusal(self, name: Repository) -> str | None:
        """Return the rule that refuses a model; None if it may be pulled."""
        own = self.others.get(name.registry)
        if own is not None:
            refusal = own._refusal(name)
            if refusal is not None:
                return f"{refusal}, for {name.host or self.registry}"
        elif name.registry and name.registry not in self.others:
            return "it does not mirror that registry"
        return self._refusal(name)

    def _refusal(self, name: Repository) -> str | None:
        pattern = self.denied.match(self.registry, name)
        if pattern is not None:
            return f"its MODELS_DENY has {pattern}"
        if self.allowed is not None and self.allowed.match(self.registry, name) is None:
            shown = ", ".join(self.allowed.each[:_SHOWN])
            more = ", ..." if len(self.allowed.each) > _SHOWN else ""
            return f"its MODELS_ALLOW has only {shown}{more}"
        return None

    def allow(self, name: Repository) -> bool:
        """Whether a model may be pulled."""
        return self.refusal(name) is None

    def check(self, name: Repository) -> None:
        """Raise `RegistryError` if a model may not be pulled."""
        refusal = self.refusal(name)
        if refusal is not None:
            raise RegistryError("DENIED", f"this cache refuses {name}: {refusal}", 403)
