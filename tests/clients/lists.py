"""Manifest lists, as Ollama 0.40 reads them."""

from __future__ import annotations

import json

from attrs import frozen

from tests.clients.generations import LIST, MANIFEST
from tests.clients.results import ClientError

RUNNERS = ("llamacpp", "ggml", "mlx")
"""In which order a child is looked for."""


@frozen
class Child:
    """An entry of a list: the digest of a manifest, or the manifest itself."""

    digest: str
    body: bytes = b""


def chosen(manifest: bytes, runner: str | None = None) -> Child | None:
    """
    A list's child, of ``runner`` or of the first that there is; None for a plain manifest.

    Raises a `ClientError` if the list has none of those wanted.
    """
    try:
        found = json.loads(manifest)
        if found.get("mediaType") != LIST:
            return None
        entries = found["manifests"]
    except (ValueError, KeyError, AttributeError) as error:
        raise ClientError(f"pull model manifest: {error}") from None
    wanted = RUNNERS if runner is None else (runner,)
    for name in wanted:
        for entry in entries:
            if entry.get("runner") == name and entry.get("mediaType") in (MANIFEST, ""):
                if "config" in entry:
                    return Child("", json.dumps(entry, separators=(",", ":")).encode())
                return Child(entry["digest"])
    raise ClientError(f"no compatible manifest found for runners: {', '.join(wanted)}")


def needs_newer(config: bytes, version: str) -> str:
    """The version of Ollama that a config asks for, if ``version`` is older; else empty."""
    try:
        requires = str(json.loads(config).get("requires") or "")
    except (ValueError, AttributeError):
        return ""
    older = requires and _numbers(version) < _numbers(requires)
    return requires if older else ""


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
