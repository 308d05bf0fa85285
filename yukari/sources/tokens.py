"""
Tokens: what a registry's realm gives for a signature, or for the asking, and when it must be asked.

Ollama's realm wants a signed URL (ollama's ``auth/auth.go`` and ``server/auth.go``); others are
asked without one (the distribution specification's token authentication).
"""

from __future__ import annotations

import json
import re
import secrets
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Optional

from attrs import define, field, frozen
from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from yukari.config.keys import SigningKey
from yukari.net.bodies import Collector, content_encoding, decoded, discard
from yukari.net.http import retry_after, why, within
from yukari.sources.challenge import Challenge
from yukari.tasks import Coalescer

ANSWER_WITHIN = 10.0
"""Seconds within which a realm's whole reply must be here."""
LARGEST = 64 * 1024
"""Bytes of a realm's reply that are read."""
LONGEST = 16 * 1024
"""Characters of a token."""
LIFETIME = 60.0
"""Seconds for which a token is used if nothing says for how long it may be."""
LONGEST_LIFETIME = 3600.0
"""Seconds for which a token is used at most, whatever its reply says."""
MAX_TOKENS = 1000
"""Tokens that are kept."""

_EMPTY_BODY = b64encode(sha256(b"").hexdigest().encode("ascii"))
_TOKEN = re.compile(r"[!-~]+")


class RealmRefused(Exception):
    """The realm gives no token for this."""


class RealmFailed(Exception):
    """
    The realm said neither yes nor no; the text has its host alone.

    ``status`` is its reply's, None if none came; ``retry_after`` is in seconds.
    """

    def __init__(
        self, message: str, status: Optional[int] = None, wait: Optional[float] = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = wait


@frozen
class Token:
    """``value`` goes into Authorization, until ``ends`` by the clock."""

    value: str = field(repr=False)
    ends: float


@define(eq=False, repr=False)
class Tokens:
    """Tokens by what they were asked for; a token that several wait for is asked for once."""

    _agent: IAgent
    _clock: IReactorTime
    _via: dict[str, list[str]] = field(factory=dict)
    _now: Callable[[], float] = time.time
    """The time of day, in seconds of the epoch."""
    _kept: LRUCache[tuple[Challenge, str], Token] = field(
        factory=lambda: LRUCache(MAX_TOKENS), init=False
    )
    _asking: Coalescer = field(factory=Coalescer, init=False)

    async def get(
        self, challenge: Challenge, key: Optional[SigningKey], user_agent: str
    ) -> tuple[Token, bool]:
        """
        A token, and whether it is new; ``key`` signs for it if there is one.

        `RealmRefused`, `RealmFailed`. Whoever decides to sign has checked where the realm is.
        """
        sought = challenge, "" if key is None else key.public
        token = self._kept.get(sought)
        if token is not None and self._clock.seconds() < token.ends:
            return token, False
        return await self._asking.run(sought, self._get, challenge, key, user_agent), True

    async def _get(self, challenge: Challenge, key: Optional[SigningKey], user_agent: str) -> Token:
        token = await self._ask(challenge, key, user_agent)
        sought = challenge, "" if key is None else key.public
        self._kept[sought] = token
        return token

    def forget(self, challenge: Challenge, key: Optional[SigningKey], token: Token) -> None:
        """The registry has refused a token: the next `get` asks for another."""
        sought = challenge, "" if key is None else key.public
        if self._kept.get(sought) == token:
            del self._kept[sought]

    async def _ask(self, challenge: Challenge, key: Optional[SigningKey], user_agent: str) -> Token:
        headers = Headers({"User-Agent": [user_agent], "Accept-Encoding": ["identity"]})
        for name, values in self._via.items():
            headers.setRawHeaders(name, values)
        url = challenge.url()
        if key is not None:
            nonce = urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode("ascii")
            url = challenge.url(("ts", str(int(self._now()))), ("nonce", nonce))
            signed = b",".join((b"GET", url.encode("ascii"), _EMPTY_BODY))
            headers.setRawHeaders("Authorization", [key.sign(signed)])
        asked_at = self._clock.seconds()
        # Its redirects are not followed: a signature is for this address alone.
        asking = Deferred.fromCoroutine(self._reply(url, headers))
        host = challenge.origin.host
        try:
            response, body = await within(ANSWER_WITHIN, asking, self._clock)
        except (TimeoutError, ConnectTimeout):
            raise RealmFailed(f"the realm at {host} does not answer") from None
        except CancelledError:
            raise
        except Exception as error:
            raise RealmFailed(f"the realm at {host} cannot be asked: {why(error)}") from None
        code = response.code
        if code == 429 or code >= 500:
            wait = retry_after(response, self._now())
            raise RealmFailed(f"the realm at {host} answered {code}", code, wait)
        if code != 200:
            raise RealmRefused(f"the realm at {host} answered {code}")
        try:
            return read_token(body, asked_at)
        except ValueError as error:
            raise RealmFailed(f"the realm at {host}: {error}") from None

    async def _reply(self, url: str, headers: Headers) -> tuple[IResponse, bytes]:
        response = await self._agent.request(b"GET", url.encode("ascii"), headers)
        if response.code != 200:
            discard(response, self._clock)
            return response, b""
        collector = Collector(LARGEST)
        response.deliverBody(collector)
        body = await collector.done
        return response, decoded(body, content_encoding(response), LARGEST)


def read_token(body: bytes, asked_at: float) -> Token:
    """The token in a realm's reply to what was asked ``asked_at``, by the clock; ValueError."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("its reply is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("its reply is no JSON object")
    found = {name.lower(): value for name, value in found.items()}  # as Go reads them
    value = found.get("token") or found.get("access_token")
    if not isinstance(value, str) or len(value) > LONGEST or not _TOKEN.fullmatch(value):
        raise ValueError("its reply has no token")
    lifetime = found.get("expires_in")
    if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not lifetime > 0:
        lifetime = LIFETIME
    lifetime = min(lifetime, LONGEST_LIFETIME)
    # What is about to expire would have done so by the time that it is read upstream.
    return Token(value, asked_at + lifetime - min(5.0, lifetime / 10))
