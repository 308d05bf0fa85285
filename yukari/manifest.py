"""
A model's manifest: the bytes as they came, and what they name.

The bytes are the identity (a model's local ID is their sha256), so they are
kept and served unchanged; parsing only reads which blobs they stand on.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import field, frozen

from yukari.names import Digest, InvalidName

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
"""The media type of a manifest that names none, and of every model Ollama publishes."""

MAX_BYTES = 16 * 1024 * 1024
"""No manifest is larger: ten thousand layers come to two or three megabytes."""


class InvalidManifest(ValueError):
    """Bytes that are no manifest; the text says why."""


@frozen
class Descriptor:
    """One blob as a manifest names it; ``size`` in bytes."""

    digest: Digest
    size: int
    media_type: str


@frozen
class Manifest:
    """A manifest's bytes, their digest, its media type and the blobs it stands on."""

    body: bytes = field(repr=False)
    digest: Digest
    media_type: str
    blobs: tuple[Descriptor, ...] = field(repr=False)
    """The layers in their order and then the config, each digest once."""

    @classmethod
    def parse(cls, body: bytes) -> Manifest:
        """`InvalidManifest` unless ``body`` is JSON of schema 2 whose digests and sizes parse."""
        if len(body) > MAX_BYTES:
            raise InvalidManifest(f"a manifest of {len(body)} bytes: expected at most {MAX_BYTES}")
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InvalidManifest(f"not JSON: {error}") from None
        if not isinstance(content, dict):
            raise InvalidManifest("not a JSON object")
        version = content.get("schemaVersion")
        if version != 2:
            raise InvalidManifest(f"schemaVersion {_shown(version)}: expected 2")
        layers = content.get("layers")
        if not isinstance(layers, list):
            raise InvalidManifest("layers: expected a list")
        named = [_descriptor(f"layer {at}", layer) for at, layer in enumerate(layers)]
        if content.get("config") is not None:
            named.append(_descriptor("config", content["config"]))
        if not named:
            raise InvalidManifest("it names no blob")
        once: dict[Digest, Descriptor] = {}
        for blob in named:
            if once.setdefault(blob.digest, blob).size != blob.size:
                raise InvalidManifest(f"blob {blob.digest} has two sizes")
        return cls(body, Digest.of(body), _media_type(content), tuple(once.values()))


def _shown(found: Any) -> str:
    """What was found, short; what is nested only by its kind (it may be too deep to show)."""
    if isinstance(found, (list, dict)):
        return f"a {type(found).__name__}"
    return ascii(found)[:40]


def _media_type(content: dict[str, Any]) -> str:
    named = content.get("mediaType") or DOCKER_MANIFEST
    if not isinstance(named, str) or not named.isascii() or not named.isprintable():
        raise InvalidManifest("mediaType: expected printable text")
    return named


def _descriptor(where: str, found: Any) -> Descriptor:
    if not isinstance(found, dict):
        raise InvalidManifest(f"{where}: expected an object")
    digest, size = found.get("digest"), found.get("size")
    if not isinstance(digest, str):
        raise InvalidManifest(f"{where}: expected a digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise InvalidManifest(f"{where}: size {_shown(size)}: expected a count of bytes")
    media_type = found.get("mediaType") or "application/octet-stream"
    if not isinstance(media_type, str) or not media_type.isascii() or not media_type.isprintable():
        raise InvalidManifest(f"{where}: mediaType: expected printable text")
    try:
        return Descriptor(Digest.parse(digest), size, media_type)
    except InvalidName as error:
        raise InvalidManifest(f"{where}: {error}") from None
