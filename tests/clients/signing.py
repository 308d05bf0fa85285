"""How Ollama's clients answer a challenge: an ed25519 key signs the realm's URL."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@frozen
class Key:
    """A client's ``id_ed25519``; a new one unless its 32 secret bytes are given."""

    seed: bytes = field(factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def line(self) -> str:
        """The OpenSSH public key line."""
        public = self._private.public_key()
        return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    @property
    def public(self) -> str:
        """The base64 field of that line."""
        return self.line.split(" ")[1]

    def authorization(self, url: str) -> str:
        """The Authorization header of a GET of this URL."""
        body = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        signature = self._private.sign(f"GET,{url},{body}".encode())
        return f"{self.public}:{base64.b64encode(signature).decode()}"


@frozen
class Challenge:
    """What a WWW-Authenticate header asks for; a value that is not there is empty."""

    realm: str
    service: str
    scope: str

    @classmethod
    def parse(cls, header: str) -> Challenge:
        """As Ollama does: ``Bearer `` is taken off where it is, a value ends at ``",``."""
        text = header.removeprefix("Bearer ")
        return cls(*(_value(text, name) for name in ("realm", "service", "scope")))

    def url(self) -> str:
        """What is asked of the realm: its own query and ours, sorted, with time and nonce."""
        parts = urlsplit(self.realm)
        query = parse_qsl(parts.query, keep_blank_values=True)
        query.append(("service", self.service))
        query += [("scope", scope) for scope in self.scope.split(" ")]
        nonce = base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
        query += [("ts", str(int(time.time()))), ("nonce", nonce)]
        query.sort(key=lambda pair: pair[0])
        return urlunsplit(parts._replace(query=urlencode(query)))


def _value(text: str, name: str) -> str:
    start = text.find(f"{name}=")
    if start < 0:
        return ""
    start += len(name) + 2
    end = start
    while end < len(text) and not (text[end] == '"' and text[end + 1 : end + 2] in ("", ",")):
        end += 1
    return text[start:end]
