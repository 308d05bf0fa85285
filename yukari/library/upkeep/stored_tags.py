"""
Tags as they are in the store, and what they stand on: what the catalog is made of.

Manifests of many blobs are read few at a time, as a hundred of 12,000 take 350 MB.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from attrs import frozen

from yukari.large import is_large
from yukari.library.catalog.rows import Indexed, Need, Version
from yukari.library.models.details import Details
from yukari.library.upkeep.marks import Marks
from yukari.manifest import AnyManifest, Manifest, ManifestList, Variant
from yukari.names import Digest, Reference, Repository, Tag
from yukari.storage.ports import Answers, Store

Key = tuple[Repository, Tag]
R = TypeVar("R", bound=Reference)


@frozen
class StoredTag:
    """A tag as it is in the store; see `Indexed`."""

    key: Key
    manifests: Mapping[Digest, AnyManifest]
    """The one it names, then those that other clients get, and the children that are stored."""
    checked_at: float
    own: bool
    details: str

    @property
    def is_large(self) -> bool:
        """Whether one of its manifests is large, and so takes long to be read."""
        return any(map(is_large, self.manifests.values()))

    def needs(self) -> dict[Digest, int]:
        """
        Return the blobs that it stands on, with their sizes in bytes, the manifests among them.

        For the catalog's thread: there may be 20,000.
        """
        sizes: dict[Digest, int] = {}
        for manifest in self.manifests.values():
            if isinstance(manifest, Manifest):
                sizes.update((blob.digest, blob.size) for blob in manifest.blobs)
        sizes.update((digest, len(each.body)) for digest, each in self.manifests.items())
        return sizes

    def indexed(self, now: float) -> Indexed:
        """Return what the catalog has of it."""
        needs = tuple(Need(*each) for each in self.needs().items())
        return Indexed(
            version=Version(*self.key, next(iter(self.manifests)), needs),
            # Of what was here before the catalog, that is the best guess.
            stored_at=min(now, self.checked_at or now),
            checked_at=self.checked_at,
            own=self.own,
            details=self.details,
            manifests=tuple(self.manifests),
        )


@frozen(eq=False, repr=False)
class StoredTags:
    """Reads tags of a store."""

    _store: Store
    _marks: Marks
    _details: Details

    async def _answers(
        self, keys: Sequence[tuple[Repository, R]]
    ) -> dict[tuple[Repository, R], Answers]:
        """Return the answers to the first of these keys, or to all of them if none is large."""
        return dict(zip(keys, await self._store.read_anew(keys))) if keys else {}

    async def find(self, keys: Sequence[Key]) -> tuple[list[StoredTag], Sequence[Key]]:
        """
        Return those of the first of these tags that are stored, and the other tags. OSError.

        If they or their children are large, that is one: 100 of 12,000 blobs take 350 MB.
        """
        answers = await self._answers(keys)
        children = _children(answers)
        there = await self._answers(children)
        if len(there) < len(children):
            answers = {keys[0]: answers[keys[0]]}
            children = _children(answers)
            while lacking := [child for child in children if child not in there]:
                there.update(await self._answers(lacking))
        found = dict[Key, dict[Digest, AnyManifest]]()
        for key, variants in answers.items():
            stored = [*variants.values()]
            for child in _children({key: variants}):
                stored += there[child].values()
            if stored:
                found[key] = {each.manifest.digest: each.manifest for each in stored}
        named = [next(iter(manifests.values())) for manifests in found.values()]
        models = [each for each in named if isinstance(each, Manifest)]
        summaries = await self._details.summaries(models)
        details = {each.digest: json.dumps(summary) for each, summary in zip(models, summaries)}
        read = [
            StoredTag(
                key,
                manifests,
                max(stored.checked_at for stored in answers[key].values()),
                self._marks.is_copy(*key),
                details.get(first.digest, "{}"),
            )
            for (key, manifests), first in zip(found.items(), named)
        ]
        return read, keys[len(answers) :]


def _children(answers: Mapping[Key, Answers]) -> list[tuple[Repository, Digest]]:
    """The children of all lists among them, each once."""
    found: dict[tuple[Repository, Digest], None] = {}
    for (name, _), variants in answers.items():
        listed = variants.get(Variant.LIST)
        if listed is not None and isinstance(listed.manifest, ManifestList):
            found.update(((name, child.digest), None) for child in listed.manifest.children)
    return list(found)
