"""
The objects of a bucket that blobs are kept for: manifests under their tags and by their digests.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Optional

from attrs import frozen

from yukari.manifest import (
    MAX_BYTES,
    AnyManifest,
    InvalidManifest,
    ManifestList,
    Variant,
    parse_manifest,
    stands_on,
)
from yukari.names import DEFAULT, Digest, InvalidName, Repository, parse_reference
from yukari.s3.client import S3Client
from yukari.storage.bucket.keys import (
    REGISTRIES,
    blob_key,
    manifest_key,
    model_root,
    root_of,
)
from yukari.storage.bucket.listing import KEYS_A_PAGE
from yukari.storage.shared import Root, RootNeeds


@frozen(eq=False, repr=False)
class BucketRoots:
    """Lists and reads the roots of a bucket; its methods raise `S3Error`."""

    _client: S3Client

    async def page(self, after: str) -> list[Root]:
        """Return the next roots, in the order of their keys; none at the end."""
        for prefix in (f"{REGISTRIES}/", root_of(DEFAULT)):
            while after.startswith(prefix) or after < prefix:
                behind = after if after.startswith(prefix) else ""
                page = await self._client.list_objects(prefix, after=behind, most=KEYS_A_PAGE)
                roots = [
                    Root(row.key, name, row.etag, row.modified, _digest(row.key))
                    for row in page.objects
                    if (name := _name(row.key)) is not None
                ]
                if roots:
                    return roots
                if not page.objects:
                    break
                after = page.objects[-1].key
        return []

    async def read(self, root: Root) -> Optional[RootNeeds]:
        """
        Return what a root stands on; None if it is gone by now.

        OSError if it is no manifest: then nothing is known of its blobs.
        """
        found = await self._client.get_whole(root.key)
        if found is None:
            return None
        try:
            manifest = parse_manifest(found[1])
        except InvalidManifest as error:
            said = f"{root.key} is no manifest ({error}), and may be needed: remove it"
            raise OSError(said) from None
        needs, is_final = stands_on(manifest), True
        if isinstance(manifest, ManifestList):
            for child in manifest.children:
                stored = await self._child(root.name, child.digest)
                if stored is not None:
                    needs |= stands_on(stored)
                elif child.inline is None:
                    is_final = False  # The child may be stored later.
        return RootNeeds(root, found[0].etag, manifest.digest, frozenset(needs), is_final)

    async def _child(self, name: Repository, digest: Digest) -> Optional[AnyManifest]:
        for key in (manifest_key(name, digest, Variant.PLAIN), blob_key(digest)):
            head = await self._client.head_object(key)
            if head is None or head.size > MAX_BYTES:
                continue
            found = await self._client.get_whole(key)
            with suppress(InvalidManifest):
                if found is not None:
                    return parse_manifest(found[1])
        return None


def _name(key: str) -> Optional[Repository]:
    """Return the model of a root; None if the object is no root."""
    *place, namespace, model, kind, _ = ["", "", "", *key.split("/")]
    registry = place[-2] if place[-3:-2] == [REGISTRIES] else DEFAULT
    try:
        name = Repository(registry, namespace, model)
    except InvalidName:
        return None  # Nobody can pull it.
    is_root = kind in ("manifests", "lists") and key.startswith(model_root(name))
    return name if is_root else None


def _digest(key: str) -> Optional[Digest]:
    try:
        reference = parse_reference(key.rpartition("/")[2])
    except InvalidName:
        return None
    return reference if isinstance(reference, Digest) else None
