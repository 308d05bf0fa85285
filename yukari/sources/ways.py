"""
The ways past a registry's challenges, in their order, and which is known to lead in.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Optional

from attrs import define, evolve, field, frozen
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from yukari import __version__
from yukari.names import AS_LLAMA_CPP, Repository
from yukari.sources.challenge import Challenge, Origin

log = Logger()

USER_AGENT = f"yukari/{__version__}"
OLLAMA = "ollama/0.34.4 (amd64 linux) Go/go1.26.0"
"""What is sent in place of the User-Agent of any other client than llama.cpp."""
LLAMA_CPP = "llama-cpp"
"""What is sent for a name of llama.cpp's if another client asks for it."""
FALLBACK_FOR = 3600.0
"""
Seconds until a registry that refused our signature is asked by it again: without one, clients too
old for a model are not told so.
"""
PRIVATE_FOR = 3600.0
"""Seconds for which what only the operator's key opened is asked for by that key at once."""
MAX_REMEMBERED = 1000
"""Private models that are remembered at most, and kinds of requests to hosts."""
MAX_SHOWN = 20
"""Kinds of requests whose way in is shown at most."""


def agent_for(name: Repository, client: str, *, by_agent: bool) -> str:
    """
    Return the User-Agent to ask a registry with, for a client whose own is ``client``.

    If manifests differ by it (``by_agent``), it is one of llama.cpp's for a name of llama.cpp's,
    else one of Ollama's: all clients but llama.cpp have one manifest here.
    """
    if not by_agent:
        return client or USER_AGENT
    if name.registry.endswith(AS_LLAMA_CPP):
        return client if "llama-cpp" in client else LLAMA_CPP
    return client if client.startswith("ollama/") else OLLAMA


class Way(Enum):
    """How a request is sent; the value says so in the log."""

    PLAIN = "as it is"
    OWN_KEY = "signed by this cache's own key"
    OWN_NAME = f"unsigned, as {USER_AGENT}"
    ANONYMOUS = "with a token that was given without a signature"
    OPERATOR_KEY = "signed by UPSTREAM_KEY"
    OPERATOR_TOKEN = "with the token that this cache was given for it"


OPERATORS = (Way.OPERATOR_KEY, Way.OPERATOR_TOKEN)
"""The ways that open what is private."""
WAYS = {
    False: (Way.OWN_KEY, Way.OWN_NAME, Way.ANONYMOUS, *OPERATORS),
    True: (Way.OWN_KEY, Way.ANONYMOUS, Way.OWN_NAME, *OPERATORS),
}
"""The order of answers to a challenge, by whether the registry seems to be of the OCI kind."""


@frozen
class Place:
    """What a request is for, if it is for the registry: ``kind`` is ``manifests`` or ``blobs``."""

    origin: Origin
    name: str
    kind: str


@frozen
class Access:
    """How requests to ``host`` for ``kind``, ``manifests`` or ``blobs``, get in; for people."""

    host: str
    kind: str
    way: str


@frozen
class Known:
    """The way in, and the challenge that it answers."""

    way: Way
    challenge: Challenge
    name: str
    """The model that it was the challenge of."""
    until: float

    def challenge_of(self, name: str) -> Challenge:
        """What the registry is likely to say of another model."""
        scope = f"repository:{self.name}:pull"
        if self.challenge.scope != scope:
            return self.challenge
        return evolve(self.challenge, scope=f"repository:{name}:pull")


@define(eq=False, repr=False)
class KnownWays:
    """What has been learnt of each host, manifests and blobs apart."""

    _clock: IReactorTime
    _known: LRUCache[tuple[Origin, str], Known] = field(
        factory=lambda: LRUCache(MAX_REMEMBERED), init=False
    )
    _open: set[tuple[Origin, str]] = field(factory=set, init=False)
    """Where a request got in as it is."""
    _private: LRUCache[Place, Known] = field(factory=lambda: LRUCache(MAX_REMEMBERED), init=False)

    def is_open_question(self, place: Place) -> bool:
        """Whether it is challenged where other requests are, and nobody knows yet."""
        key = place.origin, place.kind
        return (
            key not in self._open
            and self.known(place) is None
            and place.kind == "blobs"
            and self.likely(place) is not None
        )

    def remember_open(self, place: Place) -> None:
        """A request got in as it is."""
        self._known.pop((place.origin, place.kind), None)
        if len(self._open) < MAX_REMEMBERED:
            self._open.add((place.origin, place.kind))

    def known(self, place: Place) -> Optional[Known]:
        """Return how requests for ``place`` get in, None if they are sent as they are."""
        # Whoever may not pull a model may be told that it has no blobs, instead of a challenge.
        for private in (place, evolve(place, kind="manifests")):
            if (known := self._private.get(private)) and self._clock.seconds() < known.until:
                return known
        # What is known of manifests says nothing of blobs: those may need nothing.
        known = self._known.get((place.origin, place.kind))
        return known if known and self._clock.seconds() < known.until else None

    def access(self) -> tuple[Access, ...]:
        """Return how each kind of request got in last, at most `MAX_SHOWN` of them."""
        now = self._clock.seconds()
        ways = {key: known.way for key, known in self._known.items() if now < known.until}
        ways = {**dict.fromkeys(self._open, Way.PLAIN), **ways}
        found = sorted((origin.host, kind, way.value) for (origin, kind), way in ways.items())
        return tuple(Access(*each) for each in found[:MAX_SHOWN])

    def likely(self, place: Place) -> Optional[Way]:
        """The way by which the registry's other requests get in."""
        other = "manifests" if place.kind == "blobs" else "blobs"
        known = self.known(evolve(place, kind=other))
        return None if known is None else known.way

    def remember(self, place: Place, way: Way, challenge: Challenge) -> None:
        """A way has led in."""
        now = self._clock.seconds()
        if way in OPERATORS:
            self._private[place] = Known(way, challenge, place.name, now + PRIVATE_FOR)
            return
        key = place.origin, place.kind
        before = self._known.get(key)
        until = now + FALLBACK_FOR if way is Way.OWN_NAME else inf
        if before is None or before.way is not way:
            log.info(
                "{host} challenges requests for {kind}; they are sent {way}",
                host=place.origin.host,
                kind=place.kind,
                way=way.value,
            )
        elif way is Way.OWN_NAME:
            until = before.until if now < before.until else until
        self._known[key] = Known(way, challenge, place.name, until)
