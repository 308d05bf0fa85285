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


@define(eq=False)
class UserAgents:
    """Of each tag the newest Ollama's User-Agent that was seen since the start."""

    _newest: LRUCache[tuple[Repository, Tag], str] = field(
        factory=lambda: LRUCache(MAX_TAGS), init=False
    )

    def seen(self, name: Repository, tag: Tag, user_agent: str) -> None:
        """Note that a client got this tag."""
        known = self.of(name, tag)
        if user_agent == known or not user_agent.startswith("ollama/"):
            return
        if len(user_agent) > MAX_LENGTH:
            return
        if version(user_agent) >= version(known):
            self._newest[name, tag] = user_agent

    def of(self, name: Repository, tag: Tag) -> str:
        """Return the User-Agent to ask by, "" if none was seen."""
        return self._newest.get((name, tag), "")
