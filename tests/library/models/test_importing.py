"""Archives are imported over what a store has already."""

from __future__ import annotations

import io
from collections.abc import Sequence

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.storage.memory import MemoryStore
from tests.storage.strategies import BODIES, MANIFESTS, list_of
from yukari.config.registry_names import RegistryNames
from yukari.descriptors import Descriptor
from yukari.library.models.archive import ArchiveWriter, Packed
from yukari.library.models.importing import Importer
from yukari.library.models.shown_names import ShownNames
from yukari.manifest import Manifest, Variant
from yukari.names import DEFAULT, Digest, Repository, Tag

NAME, LATEST = Repository(DEFAULT, "library", "m"), Tag("latest")
NAMES = ShownNames(RegistryNames("registry.example"))
OLD, NEW = MANIFESTS[1:3]


def archive(manifest: Manifest, bodies: Sequence[bytes]) -> io.BytesIO:
    """An archive of one model, whose manifest names these blobs."""
    made = io.BytesIO()
    writer = ArchiveWriter(made)
    found = {Digest.of(body): body for body in (manifest.body, *bodies)}
    blobs = [Descriptor(digest, len(body), "text/plain") for digest, body in found.items()]
    writer.begin([(Packed("registry.example/library/m:latest", manifest.digest), blobs)])
    for digest, body in found.items():
        writer.add(digest, len(body), io.BytesIO(body).read)
    writer.end()
    made.seek(0)
    return made


class ReplacingTests(TestCase):
    async def test_an_imported_model_wins_over_what_was_checked_upstream(self) -> None:
        """
        A list that had been checked stayed, and in a bucket any manifest did: both give way only
        to what is said to have been checked later.
        """
        store = MemoryStore()
        await store.put_manifest(NAME, OLD.digest, OLD, 1000.0)
        await store.put_manifest(NAME, LATEST, list_of(OLD.digest), 1000.0, Variant.LIST)
        importer = Importer(store, NAMES, reactor)
        await deferToThread(importer.read, archive(NEW, BODIES[2:3]))
        for variant in Variant:
            found = await store.get_manifest(NAME, LATEST, variant)
            assert found is not None
            self.assertEqual(found.manifest, NEW)
        found = await store.get_manifest(NAME, LATEST)
        assert found is not None
        self.assertGreater(found.checked_at, 1000.0)

    async def test_an_imported_model_that_is_new_was_never_checked(self) -> None:
        """Upstream is asked about it when it is pulled."""
        store = MemoryStore()
        await deferToThread(Importer(store, NAMES, reactor).read, archive(NEW, BODIES[2:3]))
        found = await store.get_manifest(NAME, LATEST)
        assert found is not None
        self.assertEqual(found.checked_at, 0.0)
