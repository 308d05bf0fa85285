"""
One hypothesis strategy for every value of the domain.
"""

from __future__ import annotations

import json
from string import ascii_letters, digits

from hypothesis import strategies as st

from yukari.descriptors import Descriptor
from yukari.manifest import DOCKER_MANIFEST, Manifest
from yukari.names import DEFAULT, Digest, Reference, Repository, Tag
from yukari.spans import Span, SpanSet


def blob_digests() -> st.SearchStrategy[Digest]:
    """Digests of nothing in particular."""
    return st.binary(min_size=32, max_size=32).map(lambda raw: Digest(raw.hex()))


def name_parts() -> st.SearchStrategy[str]:
    """Valid namespaces, models and tags: 1 to 80 characters, capitals too."""
    rest = st.text(ascii_letters + digits + "._-", max_size=79)
    return st.tuples(st.sampled_from(ascii_letters + digits + "_"), rest).map("".join)


def model_names(*registries: str) -> st.SearchStrategy[Repository]:
    """Repositories, ``library`` as often as any other namespace; by default the default one's."""
    return st.builds(
        Repository,
        st.sampled_from(registries or (DEFAULT,)),
        st.one_of(st.just("library"), name_parts()),
        name_parts(),
    )


def tags() -> st.SearchStrategy[Tag]:
    """Movable names of manifests."""
    return st.builds(Tag, st.one_of(st.just("latest"), name_parts()))


def references() -> st.SearchStrategy[Reference]:
    """Valid references: what may follow ``manifests/``."""
    return st.one_of(tags(), blob_digests())


def sizes(most: int = 2**40) -> st.SearchStrategy[int]:
    """Sizes of blobs in bytes, 0 among them."""
    return st.integers(min_value=0, max_value=most)


def spans(most: int = 200) -> st.SearchStrategy[Span]:
    """Spans within the first ``most`` bytes."""
    return st.integers(0, most - 1).flatmap(
        lambda start: st.builds(Span, st.just(start), st.integers(start + 1, most))
    )


def span_sets(most: int = 200) -> st.SearchStrategy[SpanSet]:
    """Sets of some of the first ``most`` bytes, none and all among them."""
    return st.lists(spans(most), max_size=10).map(SpanSet.of)


def media_types() -> st.SearchStrategy[str]:
    """Ollama's own kinds of layers."""
    return st.sampled_from(("model", "template", "license", "params", "system", "projector")).map(
        "application/vnd.ollama.image.{}".format
    )


def descriptors() -> st.SearchStrategy[Descriptor]:
    """Blobs as manifests name them."""
    return st.builds(Descriptor, blob_digests(), sizes(), media_types())


def manifest_body(layers: list[Descriptor], config: Descriptor | None, indent: int | None) -> bytes:
    """A manifest of these blobs in one of many ways to write it."""

    def one(blob: Descriptor) -> dict[str, object]:
        return {"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size}

    content: dict[str, object] = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST}
    if config is not None:
        content["config"] = one(config)
    content["layers"] = [one(layer) for layer in layers]
    return json.dumps(content, indent=indent).encode()


def manifests() -> st.SearchStrategy[Manifest]:
    """Manifests of up to seven layers, and a config."""
    blobs = st.lists(descriptors(), min_size=1, max_size=8, unique_by=lambda blob: blob.digest)
    return st.builds(
        lambda blobs, indent: Manifest.parse(manifest_body(blobs[1:], blobs[0], indent)),
        blobs,
        st.sampled_from((None, 2, 3)),
    )
