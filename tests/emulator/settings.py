"""How the emulated registry behaves when nothing is wrong."""

from __future__ import annotations

from typing import Any

from attrs import define, field

CHALLENGE = "ollama"
"""Whom every emulator challenges unless a test says otherwise; see `Settings.challenge`."""


@define
class Settings:
    """How the registry and its store behave; every setting may be changed at any time."""

    rate: float | None = None
    """Blob bytes per second over one connection."""
    line: float | None = None
    """Blob bytes per second over all connections, shared fairly."""
    latency: float = 0.0
    """Seconds before each answer."""
    redirect: bool = True
    """Whether a blob GET is a 307 to the store; else the registry answers it."""
    head_redirects: bool = False
    """Whether a blob HEAD is a 307 too, as in 2024."""
    ignore_range: bool = False
    framing: str = "length"
    """A blob's body: ``length`` (Content-Length), ``chunked`` or ``close``."""
    head_manifests: bool = True
    """Whether a manifest's HEAD is 200 with its digest; else 405."""
    manifests_by_digest: bool = False
    """Whether a manifest is found by its digest; else 500."""
    url_seconds: float = 1200.0
    """How long a signed URL serves."""
    url_uses: int | None = None
    """How many requests a signed URL serves."""
    store_front: str | None = None
    """What signed URLs begin with, where it is not the store's own address."""

    # Identification (tests/emulator/challenge.py).

    challenge: str = field(factory=lambda: CHALLENGE)
    """
    Which unsigned requests get a 401: ``ollama`` (a User-Agent that begins with ``ollama/``, as
    registry.ollama.ai does), ``everyone`` (as OCI registries do) or ``off``.
    """
    challenge_blobs: bool = False
    """Whether blobs are challenged like manifests."""
    challenge_header: str = 'Bearer realm="{realm}",service="{service}",scope="{scope}"'
    """The WWW-Authenticate header, one per line; without any if empty."""
    realm: str = "{registry}/token"
    """Where tokens are said to be; ``{registry}`` and ``{other}`` are the two hosts' URLs."""
    service: str = "ollama.com"
    tls: bool = False
    """Whether clients reach the registry by https, through something in front of it."""
    other_front: str | None = None
    """What realms and redirects to the other host begin with, if it is not its own address."""
    signatures: str = "required"
    """What the realm does with a signature: ``required``, ``ignored`` or ``refused`` (with 401)."""
    signature_seconds: float = 300.0
    """How far ``ts`` may be from this machine's clock."""
    token_field: str = "token"
    """The token's name in the realm's reply: ``token`` or ``access_token``."""
    token_seconds: float = 300.0
    """How long a token opens what it was asked for."""
    tell_expiry: bool = False
    """Whether the realm's reply has ``expires_in``."""
    private: dict[str, list[str]] = field(factory=dict)
    """The public keys that open a model, by ``NAMESPACE/MODEL``; nobody does if there are none."""
    private_unsigned: int = 401
    """The status of unsigned requests for private models: 401 or 404."""

    # Manifests.

    list_to_everybody: bool = False
    """Whether a model's list is sent to clients that do not accept lists, too."""
    redirect_children: bool = True
    """Whether a GET of a list's child is redirected as other blobs are."""
    bytes_by_agent: bool = False
    """Whether a manifest's bytes differ by User-Agent, as those of hf.co do."""

    # hf.co.

    huggingface: bool = False
    """Whether errors are hf.co's: 400 for an unknown tag, 401 for an unknown model."""
    sharded: list[str] = field(factory=list)
    """Names with tags that hf.co refuses as sharded, by 400."""
    moved: bool = False
    """Whether the registry redirects every ``/v2/`` request to the other host, which answers it."""
    gated: dict[str, list[str]] = field(factory=dict)
    """The Bearer tokens that open a repository, by ``NAMESPACE/MODEL``; 401 without one of them."""
    head_digest: bool = True
    """Whether a manifest's HEAD has its digest."""
    etags: bool = False
    """Whether manifests have an ETag, by which If-None-Match is answered 304."""
    per_ip: int | None = None
    """How many ``/v2/`` requests an address may make in `per_ip_seconds` before it gets 429."""
    per_ip_seconds: float = 300.0
    retry_after: int | None = None
    """What such a 429 says in Retry-After; nothing if None."""


HUB: dict[str, Any] = {
    "huggingface": True,
    "challenge": "off",
    "moved": True,
    "head_redirects": True,
    "head_digest": False,
    "bytes_by_agent": True,
}
"""
Settings of an emulated hf.co: its redirects and refusals, a CDN that HEAD leads to as well, and no
challenge. Tokens of `Settings.gated` are all that opens anything.
"""
