"""
Which versions go when room is needed: a pure function from what is stored to a plan.

Superseded versions go first, the oldest before the others; then whole models, the least recently
pulled first. What could not be fetched again never goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Optional

from attrs import define, field, frozen

from yukari.library.catalog.rows import Candidate, Outline, Version
from yukari.names import Digest, Repository, Tag

USELESS = 1024 * 1024
"""A model that frees fewer bytes shares its weights with one that stays, and stays too."""


@frozen
class Rules:
    """The rules of eviction; times in seconds, ``now`` of the epoch."""

    now: float
    grace: float
    """Versions that were pulled or stored this recently stay."""
    superseded_lifetime: float
    """Superseded versions go after so long, whether or not room is needed."""
    kept: Callable[[Repository], Optional[str]] = lambda _: None
    """The pattern of KEEP that a model matches."""
    pinned: Callable[[Repository, Tag], Optional[str]] = lambda *_: None
    """Returns who has pinned a tag, if anybody has."""
    in_use: Callable[[Candidate], Optional[str]] = lambda _: None
    """Why a version is in use just now."""
    silent: frozenset[str] = frozenset()
    """Registries that do not say whether they still have what would go."""


@frozen
class Step:
    """A version that is evicted."""

    candidate: Candidate
    reason: str


@frozen
class Kept:
    """A version that stays, although it would have been next."""

    version: Version
    reason: str


MAX_KEPT = 1000
"""Versions that stay and are listed in a plan, at most."""


@frozen
class EvictionPlan:
    """The versions to evict, in this order, and those that stay."""

    steps: tuple[Step, ...]
    kept: tuple[Kept, ...]
    frees: int
    """Bytes of the blobs that nothing stands on any more once all of the steps are done."""


def protection(candidate: Candidate, rules: Rules) -> Optional[str]:
    """Return why a version must not go, None if it may."""
    return rules.in_use(candidate) or _protection(candidate.outline, rules)


def _protection(found: Outline, rules: Rules) -> Optional[str]:
    """Return why a version must not go, whatever its blobs are."""
    # A clock that was wrong may have put it years ahead.
    if abs(rules.now - found.used_at) < rules.grace:
        return "pulled or stored within EVICT_GRACE"
    if found.superseded_at is not None:
        return None
    pinned = rules.pinned(found.name, found.tag)
    if pinned is not None:
        return f"pinned by {pinned}"
    pattern = rules.kept(found.name)
    if pattern is not None:
        return f"KEEP has {pattern}"
    if found.own:
        return "a copy made here: it cannot be fetched again"
    if found.gone:
        return "gone upstream: it cannot be fetched again"
    if found.name.registry in rules.silent:
        return "its registry does not say whether it still has it"
    return None


@define(eq=False, repr=False)
class Planner:
    """Chooses what goes so that ``need`` bytes become free, or as many as can."""

    _rules: Rules
    _need: int
    steps: list[Step] = field(factory=list, init=False)
    kept: list[Kept] = field(factory=list, init=False)
    frees: int = field(default=0, init=False)
    _going: Counter[Digest] = field(factory=Counter, init=False)
    """The number of versions that go, of those that stand on a blob."""
    _changed: bool = field(default=False, init=False)

    def plan(self, candidates: Iterable[Candidate]) -> EvictionPlan:
        """
        Return the plan for candidates in the order in which they would go.

        No more of them is looked at than is needed.
        """
        for candidate in candidates:
            if not self._look(candidate):
                break
        self.spare()
        return EvictionPlan(tuple(self.steps), tuple(self.kept), self.frees)

    def wants(self, found: Outline) -> bool:
        """
        Whether a version is to be looked at: it may go, or there is room to tell why not.

        Of 100,000 that must not go it saves finding out what they stand on.
        """
        return len(self.kept) < MAX_KEPT or _protection(found, self._rules) is None

    def _look(self, candidate: Candidate) -> bool:
        """Consider the next candidate; return False if no more of them is needed."""
        reason, rules = "least recently pulled", self._rules
        if candidate.superseded_at is not None:
            expired = candidate.superseded_at + rules.superseded_lifetime < rules.now
            reason = "superseded, past SUPERSEDED_LIFETIME" if expired else "superseded"
            if not expired and self._is_enough():
                return True
        elif self._is_enough():
            return False
        why = protection(candidate, rules)
        if why is None:
            self._take(candidate)
            self.steps.append(Step(candidate, reason))
        elif len(self.kept) < MAX_KEPT:
            self.kept.append(Kept(candidate.version, why))
        return True

    def _is_enough(self) -> bool:
        if self.frees < self._need:
            return False
        self.spare()
        return self.frees >= self._need

    def _take(self, candidate: Candidate) -> None:
        self._changed = True
        for need, needed, stored in candidate.blobs():
            self._going[need.digest] += 1
            if stored and self._going[need.digest] == needed:
                self.frees += need.size

    def spare(self) -> None:
        """Let models stay, of those that were to go, whose blobs others keep here anyway."""
        if not self._changed:
            return
        self._changed = False
        for step in list(self.steps):
            candidate = step.candidate
            freed = sum(
                need.size
                for need, needed, stored in candidate.blobs()
                if stored and self._going[need.digest] >= needed
            )
            useless = min(USELESS, candidate.version.size // 10)
            if candidate.superseded_at is None and freed < useless:
                self._going.subtract(need.digest for need in candidate.version.needs)
                self.frees -= freed
                self.steps.remove(step)
                self.kept.append(
                    Kept(candidate.version, "nearly all of it is shared with models that stay")
                )
