"""The User-Agents by which clients asked for each model, to ask by when no client waits."""

from __future__ import annotations

import re

from attrs import define, field
from cachetools import LRUCache

from yukari.names import Repository, Tag

MAX_TAGS = 50_000
"""Tags whose client is remembered."""

MAX_LENGTH = 200
"""Characters of one that is remembered; Ollama's have some fifty."""

_OLLAMA = re.compile(r"ollama/v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


def version(user_agent: str) -> tuple[int, ...]:
    """Return the version in an Ollama's User-Agent, () if it has none: the higher is the newer."""
    found = _OLLAMA.match(user_agent)
    return () if found is None else tuple(int(part or 0) for part in found.groups())


@define
class _Newest:
    """The newest User-Agent that was seen of a tag, and what upstream has said to it."""

    user_agent: str
    was_granted: bool
    """Whether it, or an older one, got a manifest from upstream, and not only from here."""
    is_refused: bool = False
    """Whether it was too old for upstream's manifest when that was asked for last."""


@define(eq=False, repr=False)
class UserAgents:
    """Of each tag the newest Ollama's User-Agent that was seen since the start."""

    _newest: LRUCache[tuple[Repository, Tag], _Newest] = field(
        factory=lambda: LRUCache(MAX_TAGS), init=False
    )

    def seen(self, name: Repository, tag: Tag, user_agent: str, *, granted: bool) -> None:
        """Note that a client got this tag, from upstream with ``granted``."""
        if len(user_agent) > MAX_LENGTH or not user_agent.startswith("ollama/"):
            return
        known = self._newest.get((name, tag))
        if known is not None and known.user_agent == user_agent:
            known.was_granted |= granted
        elif known is None:
            self._newest[name, tag] = _Newest(user_agent, granted)
        elif version(user_agent) >= version(known.user_agent):
            # What an older one was granted a newer one would be.
            self._newest[name, tag] = _Newest(user_agent, granted or known.was_granted)

    def of(self, name: Repository, tag: Tag) -> str:
        """Return the User-Agent to ask by, "" if none was seen."""
        known = self._newest.get((name, tag))
        return "" if known is None else known.user_agent

    def granted(self, name: Repository, tag: Tag, user_agent: str) -> None:
        """Note that upstream has answered a question by a User-Agent that `of` returned."""
        known = self._newest.get((name, tag))
        if known is not None and known.user_agent == user_agent:
            known.was_granted, known.is_refused = True, False

    def refused(self, name: Repository, tag: Tag, user_agent: str) -> bool:
        """
        Note that upstream calls a User-Agent that `of` returned too old; whether that tells much.

        If upstream has never granted it the tag, it may be too old for what is stored as well.
        """
        known = self._newest.get((name, tag))
        if known is None or known.user_agent != user_agent:
            return not user_agent
        known.is_refused = True
        return known.was_granted

    def is_refused(self, name: Repository, tag: Tag) -> bool:
        """Whether the newest that was seen is too old for what upstream has."""
        known = self._newest.get((name, tag))
        return known is not None and known.is_refused
