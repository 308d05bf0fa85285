"""
How requests get past a registry that challenges them.

registry.ollama.ai answers 401 to an unsigned request with an Ollama User-Agent, public models too,
and 200 to any other; registries of the OCI kind want a token of everybody. A challenge is answered
in the `Way` that the kind of registry suggests, then in the others, and the way that worked is
remembered.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Optional, Protocol
from urllib.parse import urlsplit

from attrs import define, field
from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from yukari.config.keys import SigningKey
from yukari.config.urls import RegistryUrl
from yukari.errors import RegistryError, only_by_key, too_many
from yukari.net.bodies import discard
from yukari.net.http import header
from yukari.sources.challenge import Challenge, Origin
from yukari.sources.own_key import KeyUnusable
from yukari.sources.tokens import RealmFailed, RealmRefused, Tokens
from yukari.sources.ways import (
    FALLBACK_FOR,
    MAX_REMEMBERED,
    OPERATORS,
    USER_AGENT,
    WAYS,
    KnownWays,
    Place,
    Way,
)
from yukari.tasks import Waiters

SETTLED_WITHIN = 30.0
"""Seconds after which no further way past a challenge is tried."""
_PATH = re.compile(r"v2/(.+)/(manifests|blobs)/[^/]+")


Send = Callable[[str, str, Optional[str]], Awaitable[IResponse]]
"""Sends a request to a URL, with a User-Agent and a token if there is one."""


class KeySource(Protocol):
    """The source of this cache's own key."""

    async def get(self) -> SigningKey:
        """Return the key; `KeyUnusable`."""


@define
class Keys:
    """
    The keys that this cache signs with, and who may pull what the operator's key opens.

    The operator may change them while requests are made.
    """

    own: Optional[KeySource] = None
    operator: Optional[SigningKey] = None
    private_for_everyone: bool = False
    token: Optional[str] = field(default=None, repr=False)
    """The operator's, for the registry itself: no realm is asked for it."""

    @property
    def has_operators(self) -> bool:
        """Whether the operator has given a key or a token."""
        return self.operator is not None or self.token is not None


@define(eq=False, repr=False)
class Authorizer:
    """Sends requests to ``registry``, and past its challenges."""

    _registry: RegistryUrl
    tokens: Tokens
    clock: IReactorTime
    keys: Keys = field(factory=Keys)
    kind: str = "auto"
    """The kind of challenge that is expected: ``ollama``, ``oci``, or ``auto`` for any."""
    by_agent: bool = False
    """Whether it answers by User-Agent, so that no manifest is asked for by another one."""
    ways: KnownWays = field(init=False)
    _first: dict[tuple[Origin, str], Waiters] = field(factory=dict, init=False)
    """Requests that wait for the result of the first of their kind."""
    _strangers: TTLCache[Optional[Origin], None] = field(init=False)
    """Hosts outside the registry that challenge requests with Ollama's User-Agent."""

    def __attrs_post_init__(self) -> None:
        self.ways = KnownWays(self.clock)
        self._strangers = TTLCache(MAX_REMEMBERED, FALLBACK_FOR, self.clock.seconds)

    async def send(self, send: Send, url: str, path: str, user_agent: str) -> IResponse:
        """
        Return the reply to a request for ``path`` of the registry.

        401 or 403 only if every way was refused. ``url`` may be where a redirect led to:
        credentials go there only if that is the same path on a host of the same owner.
        `RealmFailed`, `KeyUnusable`; `RegistryError` for what only the operator's key opens and
        clients may not have.
        """
        place = self._place(url, path)
        if place is None:
            return await self._send_to_stranger(send, url, user_agent)
        errand = _Errand(self, send, url, user_agent, place)
        if not self.ways.is_open_question(place):
            return await errand.run()
        # A registry that challenges manifests may challenge blobs: of many requests for them at
        # once, the first finds out, for all.
        key = place.origin, place.kind
        if key in self._first:
            await self._first[key].wait()
            return await errand.run()
        self._first[key] = Waiters()
        try:
            return await errand.run()
        finally:
            self._first.pop(key).fire()

    async def _send_to_stranger(self, send: Send, url: str, user_agent: str) -> IResponse:
        """
        Return the reply of a host that a redirect led to, which gets no credentials.

        If it challenges a request with Ollama's User-Agent, it is asked once more without that.
        """
        origin = Origin.of(url)
        if origin in self._strangers:
            return await send(url, USER_AGENT, None)
        response = await send(url, user_agent, None)
        if response.code != 401 or user_agent == USER_AGENT or Challenge.of(response) is None:
            return response
        discard(response, self.clock)
        response = await send(url, USER_AGENT, None)
        if response.code < 400:
            self._strangers[origin] = None
        return response

    def is_registrys(self, url: str, path: str) -> bool:
        """Whether ``url`` is what is at ``path`` of the registry, on a host of its owner."""
        return self._place(url, path) is not None

    def way(self, url: str) -> Way:
        """Return the way by which a URL was reached last."""
        place = self._place(url, urlsplit(url).path)
        known = None if place is None else self.ways.known(place)
        return Way.PLAIN if known is None else known.way

    def _place(self, url: str, path: str) -> Optional[Place]:
        origin = Origin.of(url)
        if origin is None or not origin.is_of(self._registry) or urlsplit(url).path != path:
            return None
        own = path.startswith(self._registry.prefix)
        found = _PATH.fullmatch(path[len(self._registry.prefix) :] if own else path[1:])
        return None if found is None else Place(origin, found[1], found[2])

    def may_sign(self, challenge: Challenge) -> bool:
        """Whether a signature may go to a challenge's realm."""
        return challenge.origin.is_of(self._registry)

    def may_ask(self, challenge: Challenge) -> bool:
        """Whether a realm may be asked at all: not in the clear for a registry that is not."""
        own = Origin.of(self._registry.url)
        return own is not None and challenge.origin.is_as_private_as(own)


@define(eq=False, repr=False)
class _Errand:
    """One request on its way in."""

    _authorizer: Authorizer
    _send: Send
    _url: str
    _user_agent: str
    _place: Place
    _tried: set[Way] = field(factory=set, init=False)
    _challenge: Optional[Challenge] = field(default=None, init=False)
    _is_oci: bool = field(default=False, init=False)
    _failure: Optional[Exception] = field(default=None, init=False)
    """Why a way could not be tried to its end."""
    _silent_realm: str = field(default="", init=False)
    """The realm that does not answer, and is not asked any more."""

    async def run(self) -> IResponse:
        """Return the reply as `Authorizer.send` does, after at most one try of each way."""
        clock, known = self._authorizer.clock, self._authorizer.ways.known(self._place)
        way: Optional[Way] = Way.PLAIN
        if known is not None:
            way, self._challenge = known.way, known.challenge_of(self._place.name)
        began, last, remembered = clock.seconds(), None, self._challenge
        while way is not None:
            self._tried.add(way)
            if way is Way.PLAIN and self._user_agent == USER_AGENT:
                self._tried.add(Way.OWN_NAME)
            try:
                response = await self._go(way)
            except BaseException:
                if last is not None:
                    discard(last, clock)
                raise
            if remembered is not None and way is Way.PLAIN and self._challenge != remembered:
                # It wants something else than was remembered: that has not been tried.
                self._tried &= {Way.PLAIN, Way.OWN_NAME}
                self._failure, remembered = None, None
            if response is not None:
                if last is not None and last.code == 404 and response.code >= 400:
                    discard(response, clock)
                    return last
                if last is not None:
                    discard(last, clock)
                last = response
                if not self._may_open(response):
                    return self._came(way, response)
            if clock.seconds() - began >= SETTLED_WITHIN:
                self._failure = RealmFailed(f"{self._place.origin.host} was too slow to answer")
                break
            if response is None and remembered is not None and Way.PLAIN not in self._tried:
                # The realm may have moved: the registry says where it is by now.
                way = Way.PLAIN
            else:
                way = self._next(last)
        if last is not None and (self._failure is None or last.code == 404):
            return last
        if last is not None:
            discard(last, clock)
        raise self._failure or RealmFailed(f"{self._place.origin.host} gives no token")

    def _may_open(self, response: IResponse) -> bool:
        """Whether another way may do better."""
        if response.code not in (401, 403, 404):
            return False
        if response.code == 404:
            # Some say so of what is private, to whoever they have challenged.
            is_manifest = self._challenge is not None and self._place.kind == "manifests"
            return is_manifest and any(map(self._is_left, OPERATORS))
        return self._challenge is not None or self._is_left(Way.OPERATOR_TOKEN)

    def _came(self, way: Way, response: IResponse) -> IResponse:
        """Return a reply that is no refusal, and remember the way by which it came."""
        if way is Way.PLAIN and response.code < 400:
            self._authorizer.ways.remember_open(self._place)
        if way is Way.OWN_NAME and response.code == 404:
            # Some registries say so of what is private, to whoever does not sign.
            return response
        if way in OPERATORS:
            if response.code >= 400:
                return response
            if not self._authorizer.keys.private_for_everyone:
                discard(response, self._authorizer.clock)
                raise only_by_key(self._place.name)
        is_answer = response.code < 500 and response.code != 429
        if way is not Way.PLAIN and is_answer and self._challenge is not None:
            self._authorizer.ways.remember(self._place, way, self._challenge)
        return response

    def _is_left(self, way: Way) -> bool:
        """Whether a way can be tried and was not."""
        challenge, keys = self._challenge, self._authorizer.keys
        if way is Way.OPERATOR_TOKEN:
            return way not in self._tried and keys.token is not None
        if way in self._tried or challenge is None:
            return False
        if way is Way.OWN_NAME:
            # A blob's bytes are the same for everybody.
            return self._place.kind == "blobs" or not self._authorizer.by_agent
        may_ask = self._authorizer.may_ask(challenge) and challenge.realm != self._silent_realm
        if way is Way.ANONYMOUS:
            return may_ask
        key = keys.own if way is Way.OWN_KEY else keys.operator
        return key is not None and may_ask and self._authorizer.may_sign(challenge)

    def _next(self, last: Optional[IResponse]) -> Optional[Way]:
        """The next way to try, None if there is no other."""
        if self._challenge is None or (last is not None and last.code == 404):
            return next(filter(self._is_left, OPERATORS), None)
        likely = self._authorizer.ways.likely(self._place)
        if (
            likely is not None
            and self._tried <= {Way.PLAIN, Way.OWN_NAME}
            and self._is_left(likely)
        ):
            return likely
        is_oci = self._is_oci or not self._authorizer.may_sign(self._challenge)
        if self._authorizer.kind != "auto":
            is_oci = self._authorizer.kind == "oci"
        return next(filter(self._is_left, WAYS[is_oci]), None)

    async def _go(self, way: Way) -> Optional[IResponse]:
        """Return the reply by one way; None if there is no token for it."""
        keys = self._authorizer.keys
        if way is Way.PLAIN:
            return self._heard(await self._send(self._url, self._user_agent, None))
        if way is Way.OWN_NAME:
            return self._heard(await self._send(self._url, USER_AGENT, None))
        if way is Way.OPERATOR_TOKEN:
            return self._heard(await self._send(self._url, self._user_agent, keys.token))
        try:
            if way is Way.ANONYMOUS:
                return await self._with_token(None)
            key = keys.operator
            if way is Way.OWN_KEY:
                key = None if keys.own is None else await keys.own.get()
            return None if key is None else await self._with_token(key)
        except RealmRefused:
            return None
        except (RealmFailed, KeyUnusable) as error:
            self._failure = error
            # A realm may break at a signature and still give tokens without one.
            answered = isinstance(error, RealmFailed) and (error.status or 0) >= 500
            if isinstance(error, RealmFailed) and not answered and self._challenge is not None:
                self._silent_realm = self._challenge.realm
            return None

    async def _with_token(self, key: Optional[SigningKey]) -> Optional[IResponse]:
        """
        Return the reply to a request with a token; it is sent once more if the token has expired or
        was for something else.
        """
        authorizer = self._authorizer
        for again in (True, False):
            challenge = self._challenge
            assert challenge is not None
            if not authorizer.may_ask(challenge) or (key and not authorizer.may_sign(challenge)):
                return None
            token, new = await authorizer.tokens.get(challenge, key, self._user_agent)
            response = self._heard(await self._send(self._url, self._user_agent, token.value))
            if response.code != 401:
                break
            authorizer.tokens.forget(challenge, key, token)
            if not again or (new and self._challenge == challenge):
                break
            discard(response, authorizer.clock)
        return response

    def _heard(self, response: IResponse) -> IResponse:
        """Note what a reply says of tokens."""
        if response.code == 401:
            challenge = Challenge.of(response)
            if challenge is not None:
                self._challenge = challenge
                self._is_oci = bool(header(response, b"docker-distribution-api-version"))
        return response


def failed(error: Exception, host: str) -> RegistryError:
    """Return the error that a client gets for a `RealmFailed` or a `KeyUnusable`."""
    if isinstance(error, RealmFailed) and error.status == 429:
        return too_many(f"upstream {host} asks to wait", error.retry_after)
    return RegistryError("UNAVAILABLE", f"upstream {host} wants a token: {error}", 502)
