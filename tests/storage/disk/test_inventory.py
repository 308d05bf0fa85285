"""What the collector sees of a directory that other registries' models share."""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.storage.disk.test_store import store_in
from tests.storage.strategies import list_of, manifest_of, result_of
from yukari.config.files import read_file
from yukari.manifest import AnyManifest
from yukari.names import AS_LLAMA_CPP, DEFAULT, Digest, Repository, Tag
from yukari.storage.disk import inventory
from yukari.storage.disk.blobs import BlobFiles
from yukari.storage.disk.store import DirectoryStore

NAME, LATEST = Repository(DEFAULT, "library", "m"), Tag("latest")


class InventoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store: DirectoryStore = store_in(self.mktemp())
        result_of(self.store.start())
        self.addCleanup(lambda: result_of(self.store.stop()))

    def write(self, path: str, body: bytes) -> None:
        path = os.path.join(self.store.path, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(body)

    def blob(self, found: AnyManifest) -> str:
        path = f"blobs/{found.digest.file_name}"
        self.write(path, found.body)
        return path

    def elsewhere(self) -> frozenset[Digest]:
        return result_of(self.store.inventory.named_elsewhere())

    def test_listing_goes_on_beside_another_that_ends(self) -> None:
        """The end of the sweep's listing ended the look through the store too, for good."""
        written = {self.blob(manifest_of(str(at).encode())) for at in range(3)}
        blobs, stat = self.store._blobs, BlobFiles._stat

        def beside_another(files: BlobFiles, digest: Digest) -> Any:
            self.patch(BlobFiles, "_stat", stat)
            after = None
            while page := files.page(after, 2):
                after = page[-1].digest
            return stat(files, digest)

        self.patch(BlobFiles, "_stat", beside_another)
        found = [each.digest.file_name for each in blobs.page(None, 10)]
        self.assertEqual({f"blobs/{name}" for name in found}, written)

    def test_blobs_of_other_registries_models_are_named(self) -> None:
        # Sweeping by our own tags alone would take the weights of a model from quay.io.
        own, plain, child = (manifest_of(body) for body in (b"own", b"plain", b"child"))
        listed = list_of(child.digest)
        result_of(self.store.put_manifest(NAME, LATEST, own, 1.0))
        self.assertEqual(self.elsewhere(), frozenset())
        self.write("manifests/quay.io/user/repo/Q4", plain.body)
        self.blob(child)
        path = self.blob(listed)
        os.makedirs(os.path.join(self.store.path, "manifests-v2/ollama.com/library/x"))
        os.symlink(
            f"../../../../{path}",
            os.path.join(self.store.path, "manifests-v2/ollama.com/library/x/latest"),
        )
        wanted = {plain.digest, child.digest, listed.digest}
        wanted |= {Digest.of(b"plain"), Digest.of(b"child")}
        self.assertEqual(self.elsewhere(), wanted)

    def test_so_are_those_of_llama_cpps_models_of_a_registry_mirrored_no_more(self) -> None:
        # Their manifests are not where those for Ollama are: their weights were swept.
        for host in ("hf.co", "modelscope.cn"):
            name = Repository(f"{host}{AS_LLAMA_CPP}", "user", "repo")
            found = manifest_of(host.encode())
            store = store_in(self.mktemp(), other_registries=(name.registry,))
            result_of(store.start())
            result_of(store.put_manifest(name, LATEST, found, 1.0))
            self.assertEqual(result_of(store.inventory.named_elsewhere()), frozenset())
            result_of(store.stop())
            later = store_in(store.path, other_registries=())
            result_of(later.start())
            wanted = {found.digest, Digest.of(host.encode())}
            self.assertEqual(result_of(later.inventory.named_elsewhere()), wanted)
            result_of(later.stop())

    def test_manifest_that_cannot_be_read_leaves_nothing_known(self) -> None:
        self.write("manifests/quay.io/user/repo/Q4", b"not a manifest")
        self.assertRaises(OSError, self.elsewhere)

    def test_child_that_may_not_be_read_leaves_nothing_known(self) -> None:
        """A list's child that only another user may read counted as empty: its layers went."""
        child = manifest_of(b"child")
        self.write("manifests/quay.io/user/repo/Q4", list_of(child.digest).body)
        path = self.blob(child)

        def refuse(asked: str, largest: int) -> bytes:
            if asked.endswith(path):
                raise PermissionError(errno.EACCES, "Permission denied", asked)
            return read_file(asked, largest)

        self.patch(inventory, "read_file", refuse)
        self.assertRaises(OSError, self.elsewhere)

    def test_both_spellings_of_a_tag_and_empty_directories_go(self) -> None:
        result_of(self.store.put_manifest(NAME, LATEST, manifest_of(b"x"), 1.0))
        result_of(self.store.inventory.remove_tag(NAME, LATEST))
        left = [
            os.path.join(directory, name)
            for tree in ("manifests", "manifests-v2")
            for directory, _, names in os.walk(os.path.join(self.store.path, tree))
            for name in names
        ]
        self.assertEqual(left, [])
        host = os.path.join(self.store.path, "manifests", self.store.upstream_host)
        self.assertEqual(os.listdir(host), [])

    def test_temporary_and_foreign_files_are_no_blobs(self) -> None:
        self.write("blobs/sha256-" + "0" * 64 + "-partial", b"x")
        self.write("blobs/.DS_Store", b"x")
        os.mkdir(os.path.join(self.store.path, "blobs", "sha256-" + "1" * 64))
        self.assertEqual(result_of(self.store.blobs()), [])
