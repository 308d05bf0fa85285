"""An Ollama's directory, of either layout, as an archive."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

from yukari.descriptors import Descriptor
from yukari.library.models.archive import (
    Archived,
    ArchivedBlob,
    ArchiveIndex,
    ArchiveWriter,
    Packed,
    contents,
)
from yukari.manifest import AnyManifest, Manifest, ManifestList, Variant
from yukari.names import SPELLED, Digest, Repository, Tag
from yukari.storage.disk.layout import Layout
from yukari.storage.disk.manifests import ManifestFiles

PAGE = 500
"""Models that are listed at a time."""

Models = list[tuple[Packed, list[Descriptor]]]
"""Models, each with all of its blobs."""


def read_directory(path: str) -> Iterator[Archived]:
    """
    Yield what `read_archive` yields of an archive: every model whose blobs are all there.

    `BadArchive` if a blob has another digest than its name says; OSError.
    """
    models, bodies = _models(path)
    yield ArchiveIndex(tuple(packed for packed, _ in models))
    yield from _blobs(path, models, bodies)


def pack(path: str, file: Any) -> None:
    """
    Write the same models into ``file``, as an archive.

    `BadArchive` if a blob has another digest than its name says; OSError.
    """
    models, bodies = _models(path)
    writer = ArchiveWriter(file)
    writer.begin(models)
    for blob in _blobs(path, models, bodies):
        writer.add(blob.digest, blob.size, blob.stream.read)
    writer.end()


def _blobs(path: str, models: Models, bodies: dict[Digest, bytes]) -> Iterator[ArchivedBlob]:
    """Yield each blob of the models once, opened."""
    digests = dict.fromkeys(blob.digest for _, blobs in models for blob in blobs)
    for digest in digests:
        if digest in bodies:
            yield ArchivedBlob(digest, len(bodies[digest]), io.BytesIO(bodies[digest]))
            continue
        file = _blob(os.path.abspath(path), digest)
        with open(file, "rb") as stream:
            yield ArchivedBlob(digest, os.fstat(stream.fileno()).st_size, stream, file)


def _models(path: str) -> tuple[Models, dict[Digest, bytes]]:
    """Return every model with all of its blobs, and the bytes of their manifests."""
    path = os.path.abspath(path)
    models: Models = []
    bodies: dict[Digest, bytes] = {}
    for host in _hosts(path):
        files = ManifestFiles(Layout(path, host), os.path.join(path, "tmp"))
        after = None
        while page := files.listing.page(after, PAGE):
            after = page[-1].name, page[-1].tag
            for entry in page:
                found = _model(files, host, entry.name, entry.tag, bodies)
                if found is not None:
                    models.append(found)
    if not models:
        raise OSError(f"{path}: no model of an Ollama is there")
    return models, bodies


def _hosts(path: str) -> list[str]:
    """Return the registries that have manifests here, each by one of its spellings."""
    found: dict[str, None] = {}
    for tree in ("manifests", "manifests-v2"):
        try:
            names = sorted(os.listdir(os.path.join(path, tree)))
        except FileNotFoundError:
            continue
        for name in names:
            host = name.replace("%3A", ":")
            found[SPELLED.get(host, host)] = None
    return list(found)


def _model(
    files: ManifestFiles, host: str, name: Repository, tag: Tag, bodies: dict[Digest, bytes]
) -> Any:
    """Return a model with all of its blobs; None if one is not there."""
    loaded = {variant: files.load(name, tag, variant) for variant in Variant}
    manifests: dict[Digest, AnyManifest] = {}
    for each in loaded.values():
        if each is not None:
            manifests[each.stored.manifest.digest] = each.stored.manifest
    plain, listed = (
        None if each is None else each.stored.manifest.digest
        for each in (loaded[Variant.PLAIN], loaded[Variant.LIST])
    )
    for manifest in list(manifests.values()):
        if isinstance(manifest, ManifestList):
            for child in manifest.children:
                found = files.load(name, child.digest, Variant.PLAIN)
                if found is not None:
                    manifests[child.digest] = found.stored.manifest
    for manifest in manifests.values():
        bodies[manifest.digest] = bytes(manifest.body)
        for blob in manifest.blobs if isinstance(manifest, Manifest) else ():
            if not os.path.exists(_blob(files.layout.path, blob.digest)):
                return None
    if not manifests:
        return None
    packed = Packed(f"{host}/{name}:{tag}", plain, None if listed == plain else listed)
    return packed, contents(manifests.values())


def _blob(path: str, digest: Digest) -> str:
    return os.path.join(path, "blobs", digest.file_name)
