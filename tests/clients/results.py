"""How a pull goes: what it brought, and how it fails."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from attrs import asdict, define, field

if TYPE_CHECKING:
    from tests.clients.wire import Reply


class ClientError(Exception):
    """Something that the real client would say of one request."""


class Stalled(ClientError):
    """No byte within the generation's patience."""


class Cut(ClientError):
    """The body ended before its length; what came of it counts (Go's ErrUnexpectedEOF)."""


class Lost(ClientError):
    """The connection failed; ``silent`` if it did so before any byte of an answer."""

    silent = False


class PullFailed(Exception):
    """The pull failed with the message that the user would see; `pulled` is how far it came."""

    def __init__(self, message: str, pulled: Pulled) -> None:
        super().__init__(message)
        self.pulled = pulled


@define
class Blob:
    """One blob of a pull; ``ok`` is None where its sha256 was not looked at."""

    size: int
    ok: bool | None = None


@define
class Pulled:
    """What a pull brought and how long it took; times in seconds."""

    generation: str
    model: str
    manifest: bytes = b""
    child: bytes = b""
    """The manifest that was chosen, if ``manifest`` is a list."""
    blobs: dict[str, Blob] = field(factory=dict)
    seconds: float = 0.0
    """Until the last byte, without verifying."""
    verify_seconds: float = 0.0
    bytes: int = 0
    """Of all bodies that were read, those thrown away too."""
    first_wait: float = 0.0
    """The longest from a part's request to its body's first byte."""
    gap_wait: float = 0.0
    """The longest between two reads of a part's body."""
    retries: list[str] = field(factory=list)
    """Why parts were asked again."""
    error: str | None = None

    @property
    def manifest_digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"

    @property
    def ok(self) -> bool:
        """The pull went through, and no blob that was verified is wrong."""
        return self.error is None and all(blob.ok is not False for blob in self.blobs.values())

    def as_json(self) -> dict[str, Any]:
        shown = asdict(self, filter=lambda at, _: at.name not in ("manifest", "child"))
        return {"ok": self.ok, "manifest_digest": self.manifest_digest, **shown}

    def waited(self, reply: Reply) -> None:
        """Take a part's waits into account."""
        self.first_wait = max(self.first_wait, reply.first_wait)
        self.gap_wait = max(self.gap_wait, reply.gap_wait)
