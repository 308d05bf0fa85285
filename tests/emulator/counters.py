"""Requests as they came, and what is counted of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from attrs import asdict, define, field


@define
class Request:
    """A request as it came; ``kind`` is what `Counters.requests` counts it as."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    kind: str = "other"
    digest: str | None = None
    reference: str | None = None
    span: tuple[int, int] | None = None
    """The blob's bytes that the answer is to hold, half-open."""
    keeps_alive: bool = True
    peer: str = ""
    """The client's address."""
    side: str = ""
    """Which host was asked: ``registry``, ``other`` or ``store``."""
    repository: str | None = None
    """``NAMESPACE/MODEL``."""

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


@define
class Counters:
    """What was asked for and what was sent since the start or the last `clear`."""

    requests: Counter[str] = field(factory=Counter)
    """By kind and method: ``manifest GET``, ``blob HEAD``, ``store GET``, ..."""
    answers: Counter[str] = field(factory=Counter)
    """By kind, method and status: ``store GET 206``."""
    sent: int = 0
    """Blob bytes handed to sockets."""
    sent_by_digest: Counter[str] = field(factory=Counter)
    asked: int = 0
    """Blob bytes that GETs asked for, whether or not they were sent."""
    asked_by_digest: Counter[str] = field(factory=Counter)
    store_connections: int = 0
    store_connections_peak: int = 0
    blob_requests: int = 0
    """GETs whose body is being sent, by the store or by the registry itself."""
    blob_requests_peak: int = 0
    user_agents: Counter[str] = field(factory=Counter)
    opened_by_token: Counter[str] = field(factory=Counter)
    """Requests with a token of `Settings.gated`, by kind."""
    authorizations: list[str] = field(factory=list)
    """
    Every Authorization header, with the kind of its request before it, that is
    neither a valid signature nor a token that this registry gave out.
    """
    challenges: Counter[str] = field(factory=Counter)
    """Requests answered with a challenge, by kind and method."""
    unsigned: Counter[str] = field(factory=Counter)
    """Manifest and blob requests without a token, by kind and method."""
    authorized: Counter[str] = field(factory=Counter)
    """Manifest and blob requests that a token opened, by kind and method."""
    signatures: Counter[str] = field(factory=Counter)
    """Valid signatures, by public key (the base64 field of its OpenSSH line)."""
    opened: Counter[str] = field(factory=Counter)
    """Requests that a key's token opened, by ``KEY NAMESPACE/MODEL``."""
    refused_signatures: Counter[str] = field(factory=Counter)
    """Token requests refused, by reason."""
    refused_tokens: Counter[str] = field(factory=Counter)
    """Manifest and blob requests refused in spite of their token, by reason."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def clear(self) -> None:
        """Count from zero; what is open now stays counted as open."""
        fresh = Counters(
            store_connections=self.store_connections,
            store_connections_peak=self.store_connections,
            blob_requests=self.blob_requests,
            blob_requests_peak=self.blob_requests,
        )
        for name in asdict(fresh, recurse=False):
            setattr(self, name, getattr(fresh, name))
