"""
The keys of a bucket's manifests.

::

    v2/NAMESPACE/MODEL/…                     the default registry's, as the original Yukari has them
    registries/HOST/v2/NAMESPACE/MODEL/…     those of another registry
"""

from __future__ import annotations

from yukari.manifest import Variant
from yukari.names import DEFAULT, Digest, Reference, Repository, Tag

REGISTRIES = "registries"


def root_of(registry: str) -> str:
    """Return what the keys of a registry's models begin with; it ends in a slash."""
    return "v2/" if registry == DEFAULT else f"{REGISTRIES}/{registry}/v2/"


def model_root(name: Repository) -> str:
    """Return what the keys of a model begin with; it ends in a slash."""
    return f"{root_of(name.registry)}{name.path}/"


def manifest_key(name: Repository, reference: Reference, variant: Variant) -> str:
    """Return the key of a manifest."""
    listed = variant is Variant.LIST and isinstance(reference, Tag)
    return f"{model_root(name)}{'lists' if listed else 'manifests'}/{reference}"


def blob_key(digest: Digest) -> str:
    """Return the key of a blob."""
    return f"blobs/{digest}"
