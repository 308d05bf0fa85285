"""Small pools of names, manifests and blobs, so that a machine's steps meet each other."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from yukari.manifest import Manifest
from yukari.names import Digest, ModelName, Tag

T = TypeVar("T")


def result_of(coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
    """What a coroutine that needs no reactor comes to; raises what it raises."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    assert results, "it waits for something"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]  # type: ignore[no-any-return]


def manifest_of(*bodies: bytes, note: str = "") -> Manifest:
    """A manifest whose layers are ``bodies``."""
    layers = [
        {"mediaType": "application/x", "digest": str(Digest.of(body)), "size": len(body)}
        for body in bodies
    ]
    content: dict[str, Any] = {"schemaVersion": 2, "layers": layers, "note": note}
    return Manifest.parse(json.dumps(content).encode())


BODIES: Sequence[bytes] = (b"", b"x", bytes(range(200)), b"layer " * 50)
MANIFESTS: Sequence[Manifest] = tuple(manifest_of(body) for body in BODIES)

model_names = st.builds(
    ModelName, st.sampled_from(["library", "Me", "a-b", "a"]), st.sampled_from(["m", "m.1", "M_"])
)
tags = st.builds(Tag, st.sampled_from(["latest", "7b", "Q4_K.M", "sha256-1"]))
manifests = st.sampled_from(MANIFESTS)
bodies = st.sampled_from(BODIES)
times = st.integers(0, 2**31).map(float)
