"""
How a tag's two variants go together, for every store.

A store keeps up to two answers for a tag: what upstream said to a client that accepts lists, and
what it said to one that does not. The functions here say which answer a client gets.
"""

from __future__ import annotations

from typing import Optional

from attrs import evolve, frozen

from yukari.manifest import AnyManifest, ManifestList, Variant
from yukari.names import Digest, Reference
from yukari.storage.ports import NEVER_CHECKED, Answers, StoredManifest

SMALL_MANIFEST = 1024 * 1024
"""Bytes; a larger blob is not looked at for whether it is the child of a list."""


def differ(plain: AnyManifest, listed: AnyManifest) -> bool:
    """Whether a tag's two variants cannot be of the same version."""
    if isinstance(listed, ManifestList):
        return all(child.digest != plain.digest for child in listed.children)
    return listed.digest != plain.digest


def check_put(reference: Reference, manifest: AnyManifest, variant: Variant) -> None:
    """ValueError if a manifest cannot be stored as this."""
    if isinstance(reference, Digest):
        if reference != manifest.digest:
            raise ValueError(f"manifest {manifest.digest} put as {reference}")
    elif variant is Variant.PLAIN and isinstance(manifest, ManifestList):
        raise ValueError(f"list {manifest.digest} put as the plain variant of {reference}")


def alone(found: Optional[StoredManifest]) -> Answers:
    """Return what a digest stands for."""
    return {} if found is None else {Variant.PLAIN: found}


@frozen
class Variants:
    """
    What is stored under a tag.

    ``plain`` is no list. ``listed`` is what was put as `Variant.LIST`, and ``runnable`` the
    manifest that a client gets of it which does not accept lists, if its bytes are stored.
    """

    plain: Optional[StoredManifest] = None
    listed: Optional[StoredManifest] = None
    runnable: Optional[AnyManifest] = None

    @property
    def conflict(self) -> bool:
        """Whether the two are of different versions."""
        return (
            self.plain is not None
            and self.listed is not None
            and differ(self.plain.manifest, self.listed.manifest)
        )

    def answer(self, variant: Variant) -> Optional[StoredManifest]:
        """Return what a client gets."""
        if variant is Variant.LIST and self.listed is not None:
            return self.listed
        if self.runnable is not None and (self.plain is None or self.conflict):
            return StoredManifest(self.runnable, NEVER_CHECKED)
        if variant is Variant.LIST and self.plain is not None:
            return evolve(self.plain, checked_at=NEVER_CHECKED)
        return self.plain

    def answers(self) -> Answers:
        """Return what each kind of client gets; see `Answers`."""
        found = ((variant, self.answer(variant)) for variant in Variant)
        return {variant: stored for variant, stored in found if stored is not None}

    def outdates(self, manifest: AnyManifest, checked_at: float, variant: Variant) -> bool:
        """Whether the other variant is of another version that upstream had later than this."""
        if variant is Variant.PLAIN:
            return (
                self.listed is not None
                and self.runnable is not None
                and self.listed.checked_at > checked_at
                and differ(manifest, self.listed.manifest)
            )
        return (
            self.plain is not None
            and self.plain.checked_at > checked_at
            and differ(self.plain.manifest, manifest)
        )
