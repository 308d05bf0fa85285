"""
Who asks, and what it may have: challenges, signatures and tokens.

A realm checks a signature as Ollama's does (`checked`): an ed25519 key signs
``GET,URL,base64(hex(sha256("")))``, where the URL's query has its keys sorted,
a ``ts`` near the present and a ``nonce`` that has never been seen.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from attrs import define, field, frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.emulator.answers import CODES, Answer, refusal, reply
from tests.emulator.counters import Counters, Request
from tests.emulator.faults import Fault
from tests.emulator.models import compact, digest_of
from tests.emulator.settings import Settings

KIND = b"ssh-ed25519"
SIGNED_BODY = base64.b64encode(digest_of(b"").removeprefix("sha256:").encode()).decode()
"""The end of what is signed: the base64 of the hex sha256 of an empty body."""
NONCE = 16
"""Bytes in a nonce."""


class Refused(Exception):
    """A signature is not accepted; the reason is the message."""


def public_key_of(blob: str) -> Ed25519PublicKey:
    """The key in the base64 field of an OpenSSH public key line; raises `Refused`."""
    try:
        raw = base64.b64decode(blob, validate=True)
        fields = []
        while raw:
            (length,) = struct.unpack(">I", raw[:4])
            fields.append(raw[4 : 4 + length])
            if len(fields[-1]) != length:
                raise ValueError("a field is cut short")
            raw = raw[4 + length :]
        kind, key = fields
        if kind != KIND:
            raise ValueError(f"a key of kind {kind!r}")
        return Ed25519PublicKey.from_public_bytes(key)
    except (binascii.Error, struct.error, ValueError) as error:
        raise Refused(f"no ed25519 public key: {error}") from None


def signed_text(url: str) -> bytes:
    """What is signed for a GET of this URL."""
    return f"GET,{url},{SIGNED_BODY}".encode()


def verify(authorization: str, url: str) -> str:
    """The public key whose signature of this URL an Authorization header is; raises `Refused`."""
    key, colon, signature = authorization.partition(":")
    if not colon:
        raise Refused("Authorization is not KEY:SIGNATURE")
    public = public_key_of(key)
    try:
        public.verify(base64.b64decode(signature, validate=True), signed_text(url))
    except (InvalidSignature, binascii.Error, ValueError):
        raise Refused("the signature does not match") from None
    return key


@frozen
class Token:
    """What a token opens until ``ends`` (by the reactor's clock), and whose it is."""

    scopes: frozenset[str]
    key: str
    """The public key, "" if it was given without a signature."""
    ends: float


@define
class Challenger:
    """Challenges requests, and is the realm that gives out tokens."""

    _reactor: Any
    _settings: Settings
    _counters: Counters
    _tokens: dict[str, Token] = field(factory=dict, init=False)
    _nonces: set[str] = field(factory=set, init=False)

    # Manifests and blobs.

    def refusal(self, request: Request, realm: str) -> Answer | None:
        """The answer to a request that may not pass; None if it may. ``realm`` goes into it."""
        counters, repository = self._counters, str(request.repository)
        keys = self._settings.private.get(repository)
        if keys is None and self._settings.challenge == "off":
            return None
        scheme, _, text = request.header("authorization").partition(" ")
        if scheme != "Bearer":
            counters.unsigned[request.kind] += 1
            if keys is None and not self._challenges(request):
                return None
            if keys is not None and self._settings.private_unsigned == 404:
                return refusal(request, 404, *CODES[404])
            return self.challenge(request, realm)
        token = self._tokens.get(text)
        reason = ""
        if token is None:
            reason = "unknown"
        elif token.ends <= self._reactor.seconds():
            reason = "expired"
        elif self.scope_of(request) not in token.scopes:
            reason = "scope"
        elif keys is not None and token.key not in keys:
            reason = "key"
        if reason or token is None:
            counters.refused_tokens[reason] += 1
            return self.challenge(request, realm)
        counters.authorized[request.kind] += 1
        counters.opened[f"{token.key} {repository}"] += 1
        return None

    def _challenges(self, request: Request) -> bool:
        """Whether an unsigned request is challenged."""
        if request.kind.startswith("blob") and not self._settings.challenge_blobs:
            return False
        agent = request.header("user-agent")
        whom = self._settings.challenge
        return whom == "everyone" or (whom == "ollama" and agent.startswith("ollama/"))

    def challenge(self, request: Request, realm: str) -> Answer:
        """A 401 with the challenge."""
        self._counters.challenges[request.kind] += 1
        return refusal(request, 401, *CODES[401], self.headers(request, realm))

    def headers(self, request: Request, realm: str) -> list[tuple[str, str]]:
        """The challenge's own."""
        text = self._settings.challenge_header.format(
            realm=realm, service=self._settings.service, scope=self.scope_of(request)
        )
        return [("WWW-Authenticate", line) for line in text.split("\n") if line]

    def scope_of(self, request: Request) -> str:
        return f"repository:{request.repository}:pull"

    def knows(self, authorization: str) -> bool:
        """Whether a header is a token that was given out here."""
        return authorization.removeprefix("Bearer ") in self._tokens

    # The realm.

    def token(self, request: Request, url: str, realm: str, fault: Fault | None) -> Answer:
        """The answer of the realm to a GET of ``url``, as the client knows it."""
        try:
            key, scopes = self._checked(request, url, realm)
        except Refused as error:
            self._counters.refused_signatures[str(error)] += 1
            return refusal(request, 401, "UNAUTHORIZED", str(error))
        text = secrets.token_urlsafe(24)
        ends = self._reactor.seconds() + self._settings.token_seconds
        self._tokens[text] = Token(scopes, key, ends)
        told: dict[str, Any] = {self._settings.token_field: text}
        if self._settings.tell_expiry:
            told["expires_in"] = int(self._settings.token_seconds)
        return reply(request, 200, [("Content-Type", "application/json")], compact(told), fault)

    def _checked(self, request: Request, url: str, realm: str) -> tuple[str, frozenset[str]]:
        """The key that signed, "" if none did, and the scopes asked for; raises `Refused`."""
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        scopes = frozenset(value for name, value in query if name == "scope")
        if not set(parse_qsl(urlsplit(realm).query)).issubset(query):
            raise Refused("the realm's own query is missing")
        if [value for name, value in query if name == "service"] != [self._settings.service]:
            raise Refused("another service")
        if not any(scope.startswith("repository:") for scope in scopes):
            raise Refused("no scope")
        authorization = request.header("authorization")
        kind = self._settings.signatures
        if kind == "refused" and authorization:
            raise Refused("an unexpected signature")
        if kind != "required":
            return "", scopes
        key = verify(authorization, url)
        self._check_freshness(query)
        self._counters.signatures[key] += 1
        return key, scopes

    def _check_freshness(self, query: list[tuple[str, str]]) -> None:
        names = [name for name, _ in query]
        if names != sorted(names):
            raise Refused("the query's keys are not sorted")
        given = dict(query)
        ts, nonce = given.get("ts", ""), given.get("nonce", "")
        if not ts.isdecimal() or abs(time.time() - int(ts)) > self._settings.signature_seconds:
            raise Refused("ts is not the present")
        try:
            length = len(base64.urlsafe_b64decode(nonce + "=="))
        except binascii.Error:
            length = 0
        if length != NONCE or "=" in nonce:
            raise Refused("no nonce of 16 bytes")
        if nonce in self._nonces:
            raise Refused("the nonce has been seen")
        self._nonces.add(nonce)
