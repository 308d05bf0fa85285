"""Small pools of names, manifests and blobs, so that a machine's steps meet each other."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar, Union

from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from yukari.manifest import (
    DOCKER_MANIFEST,
    MANIFEST_LIST,
    Manifest,
    ManifestList,
    Variant,
    parse_manifest,
)
from yukari.names import AS_LLAMA_CPP, DEFAULT, Digest, Repository, Tag

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


def list_of(*children: Union[Digest, Manifest], note: str = "") -> ManifestList:
    """A list of ``children``, the most wanted one last; a `Manifest` is inline."""
    runners = ("mlx", "ggml", "llamacpp")[-len(children) :]
    entries: list[dict[str, Any]] = []
    for runner, child in zip(runners, children):
        entry: dict[str, Any] = {"mediaType": DOCKER_MANIFEST, "runner": runner}
        if isinstance(child, Digest):
            entry["digest"] = str(child)
        else:
            entry |= json.loads(child.body)
        entries.append(entry)
    content = {"schemaVersion": 2, "mediaType": MANIFEST_LIST, "manifests": entries, "note": note}
    found = parse_manifest(json.dumps(content).encode())
    assert isinstance(found, ManifestList)
    return found


BODIES: Sequence[bytes] = (b"", b"x", bytes(range(200)), b"layer " * 50)
MANIFESTS: Sequence[Manifest] = tuple(manifest_of(body) for body in BODIES)

REGISTRIES = (DEFAULT, "hf.co", "10.0.0.5:5000", f"hf.co{AS_LLAMA_CPP}")
"""All have models of the same names, which must not be mixed up."""
model_names = st.builds(
    Repository,
    st.sampled_from(REGISTRIES),
    st.sampled_from(["library", "Me", "a-b", "a"]),
    st.sampled_from(["m", "m.1", "M_"]),
)
tags = st.builds(Tag, st.sampled_from(["latest", "7b", "Q4_K.M", "sha256-1"]))
manifests = st.sampled_from(MANIFESTS)
bodies = st.sampled_from(BODIES)
LISTS: Sequence[ManifestList] = (
    list_of(MANIFESTS[1].digest, MANIFESTS[2].digest),
    list_of(MANIFESTS[0].digest),
    list_of(MANIFESTS[2].digest, MANIFESTS[3].digest, note="newer"),
    list_of(Digest.of(b"never stored")),
    list_of(Digest.of(b"never stored"), manifest_of(b"inline")),
)
lists = st.sampled_from(LISTS)
variants = st.sampled_from(Variant)
times = st.integers(1, 2**31).map(float)
