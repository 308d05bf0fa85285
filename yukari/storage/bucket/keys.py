"""
The keys of a bucket's manifests, and when each was checked, which is in its object's metadata.

::

    v2/NAMESPACE/MODEL/…                     the default registry's, as the original Yukari has them
    registries/HOST/v2/NAMESPACE/MODEL/…     those of another registry
"""

from __future__ import annotations

from yukari.manifest import Variant
from yukari.names import DEFAULT, Digest, Reference, Repository, Tag
from yukari.s3.replies import Head
from yukari.storage.ports import StoredManifest

REGISTRIES = "registries"
_CHECKED_AT = "checked-at"


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


def metadata_of(stored: StoredManifest) -> dict[str, str]:
    """Return the metadata of a manifest's object."""
    return {_CHECKED_AT: repr(stored.checked_at)}


def checked_at_of(head: Head) -> float:
    """Return when a manifest was checked, or put if others than Yukari put it."""
    try:
        return float(head.metadata[_CHECKED_AT])
    except (KeyError, ValueError):
        return head.modified
