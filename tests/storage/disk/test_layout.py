"""A directory as either kind of Ollama leaves it, and as a store of earlier days does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Awaitable, Callable
from typing import Any, Optional

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.contract import ANOTHER, BODY, DIGEST, LATEST, LISTED, NAME, NEW, OLD, OTHER
from tests.storage.disk.test_crashes import AtEveryStep
from tests.storage.disk.test_store import HOST, HeldThread, store_in
from tests.storage.strategies import list_of, manifest_of, result_of
from yukari.manifest import DOCKER_MANIFEST, MANIFEST_LIST, AnyManifest, Manifest, Variant
from yukari.names import AS_LLAMA_CPP, DEFAULT, Digest, Repository, Tag
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.ports import (
    NEVER_CHECKED,
    Holdings,
    ManifestEntry,
    Store,
    StoredManifest,
)

OLLAMAS = ("registry.ollama.ai", "ollama.com")
LINKED_HOST = HOST.replace(":", "%3A")


def anchor_of(manifest: Manifest, *named: AnyManifest) -> bytes:
    """What Ollama 0.40 writes for older versions: ``manifest``, and layers that name manifests."""
    content = json.loads(manifest.body)
    for each in named:
        kind = DOCKER_MANIFEST if isinstance(each, Manifest) else MANIFEST_LIST
        layer = {"mediaType": kind, "digest": str(each.digest), "size": len(each.body)}
        content["layers"].append(layer)
    return json.dumps(content).encode()


class Directories(SynchronousTestCase):
    """A directory, and what is put into it as Ollama would."""

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.clock = Clock()

    def at(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    def started(self, host: str = HOST) -> DirectoryStore:
        free: Any = store_in(self.path).min_free
        store = DirectoryStore(self.path, host, maybeDeferred, self.clock, min_free=free)
        result_of(store.start())
        self.addCleanup(lambda: result_of(store.stop()))
        return store

    def put_file(self, body: bytes, *parts: str, mtime: float = 1000.0) -> str:
        path = self.at(*parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(body)
        os.utime(path, (mtime, mtime))
        return path

    def put_blob(self, manifest: AnyManifest) -> str:
        return self.put_file(manifest.body, "blobs", manifest.digest.file_name)

    def put_link(
        self,
        target: str,
        host: str = LINKED_HOST,
        name: Repository = NAME,
        tag: str = "latest",
        mtime: float = 2000.0,
    ) -> str:
        path = self.at("manifests-v2", host, name.namespace, name.model, tag)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
        os.utime(path, (mtime, mtime), follow_symlinks=False)
        return path

    def put_plain(self, body: bytes, host: str = HOST, tag: str = "latest") -> str:
        return self.put_file(body, "manifests", host, "library", "m", tag)

    def link_to(self, digest: Digest) -> str:
        return f"../../../../blobs/{digest.file_name}"

    def both(self, store: Store, tag: Tag = LATEST) -> list[Optional[StoredManifest]]:
        """What plain and list clients get."""
        return [result_of(store.get_manifest(NAME, tag, variant)) for variant in Variant]

    def bodies(self, *parts: str) -> bytes:
        with open(self.at(*parts), "rb") as file:
            return file.read()


class FromOllama40Tests(Directories):
    """What Ollama 0.40 wrote."""

    def test_a_pulled_list_answers_both_kinds_and_never_by_the_anchor(self) -> None:
        for manifest in (LISTED, NEW):
            self.put_blob(manifest)
        self.put_link(self.link_to(LISTED.digest))
        anchor = anchor_of(NEW, LISTED, NEW)
        self.put_plain(anchor)
        store = self.started()
        wanted = [StoredManifest(NEW, NEVER_CHECKED), StoredManifest(LISTED, 2000.0)]
        self.assertEqual(self.both(store), wanted)
        self.assertIsNone(result_of(store.get_manifest(NAME, Digest.of(anchor))))

    def test_a_dangling_link_leaves_what_the_anchor_names(self) -> None:
        self.put_blob(NEW)
        self.put_link(self.link_to(LISTED.digest))
        self.put_plain(anchor_of(NEW, LISTED, NEW))
        store = self.started()
        self.assertEqual(self.both(store), [StoredManifest(NEW, NEVER_CHECKED)] * 2)
        self.put_blob(LISTED)
        os.unlink(self.at("manifests-v2", LINKED_HOST, "library", "m", "latest"))
        self.clock.advance(6)
        wanted = [StoredManifest(NEW, NEVER_CHECKED), StoredManifest(LISTED, 1000.0)]
        self.assertEqual(self.both(store), wanted)

    def test_an_anchor_whose_blobs_are_gone_is_nothing(self) -> None:
        self.put_plain(anchor_of(NEW, LISTED, NEW))
        self.assertEqual(self.both(self.started()), [None, None])

    def test_links_hard_links_and_copies_are_read_alike(self) -> None:
        blob = self.put_blob(LISTED)
        self.put_blob(OLD)
        directory = self.at("manifests-v2", LINKED_HOST, "library", "m")
        self.put_link(self.link_to(LISTED.digest), tag="link")
        os.link(blob, os.path.join(directory, "hard"))
        shutil.copy(blob, os.path.join(directory, "copy"))
        store = self.started()
        for tag in ("link", "hard", "copy"):
            plain, listed = self.both(store, Tag(tag))
            assert listed is not None
            self.assertEqual(listed.manifest, LISTED, tag)
            self.assertEqual(plain, StoredManifest(OLD, NEVER_CHECKED), tag)
        self.assertEqual(
            [tag.name for tag in result_of(store.tags(NAME))], ["copy", "hard", "link"]
        )

    def test_a_link_wins_over_a_plain_file_of_another_version(self) -> None:
        self.put_blob(NEW)
        self.put_link(self.link_to(NEW.digest))
        self.put_plain(OLD.body)
        wanted = [StoredManifest(NEW, NEVER_CHECKED), StoredManifest(NEW, 2000.0)]
        self.assertEqual(self.both(self.started()), wanted)

    def test_a_link_whose_blobs_are_gone_falls_back_to_what_older_ollamas_pulled(self) -> None:
        """They remove the blobs of the version that they replace, and know nothing of the link."""
        lost, kept = manifest_of(b"a", b"b"), manifest_of(b"c", b"d")
        listed = list_of(lost.digest)
        for manifest in (lost, listed):
            self.put_blob(manifest)
        self.put_plain(kept.body)
        for blob in kept.blobs:
            self.put_file(b"", "blobs", blob.digest.file_name)
        for link in (lost, listed):
            path = self.put_link(self.link_to(link.digest))
            store = self.started()
            old = [StoredManifest(kept, 1000.0), StoredManifest(kept, NEVER_CHECKED)]
            self.assertEqual(self.both(store), old)
            there = [self.put_file(b"", "blobs", each.digest.file_name) for each in lost.blobs]
            self.clock.advance(60)
            new = [StoredManifest(lost, NEVER_CHECKED), StoredManifest(link, 2000.0)]
            self.assertEqual(self.both(store), new)
            result_of(store.stop())
            for each in (path, *there):
                os.unlink(each)

    def test_dangling_and_foreign_links_fall_back_to_the_plain_file(self) -> None:
        elsewhere = self.put_file(NEW.body, "elsewhere", NEW.digest.file_name)
        self.put_file(b"not JSON", "blobs", f"sha256-{'1' * 64}")
        self.put_file(OLD.body, "blobs", f"sha256-{'2' * 64}")
        self.put_plain(OLD.body)
        wanted = [StoredManifest(OLD, 1000.0), StoredManifest(OLD, NEVER_CHECKED)]
        for target in (
            self.link_to(LISTED.digest),
            elsewhere,
            "../../../../blobs/odd",
            "latest",
            f"../../../../blobs/sha256-{'1' * 64}",
            f"../../../../blobs/sha256-{'2' * 64}",
        ):
            link = self.put_link(target)
            store = self.started()
            self.assertEqual(self.both(store), wanted, target)
            result_of(store.stop())
            os.unlink(link)

    def test_what_ollama_created_is_there_by_its_link_alone(self) -> None:
        self.put_blob(OLD)
        self.put_link(self.link_to(OLD.digest))
        store = self.started()
        wanted = [StoredManifest(OLD, NEVER_CHECKED), StoredManifest(OLD, 2000.0)]
        self.assertEqual(self.both(store), wanted)
        self.assertEqual(result_of(store.manifests()), [ManifestEntry(NAME, LATEST, 2000.0)])

    def test_a_dangling_link_alone_is_not_listed(self) -> None:
        self.put_link(self.link_to(OLD.digest))
        store = self.started()
        self.assertEqual(result_of(store.tags(NAME)), [])
        self.assertEqual(result_of(store.count()), Holdings(0, 0, 0))

    def test_shadows_of_a_conversion_are_no_models(self) -> None:
        shadow = Repository(DEFAULT, "library", "llamacpp")
        self.put_blob(OLD)
        for tag in ("a" * 64, "latest"):
            self.put_file(OLD.body, "manifests", HOST, "library", "llamacpp", tag)
            self.put_link(self.link_to(OLD.digest), name=shadow, tag=tag)
        store = self.started()
        self.assertEqual(result_of(store.tags(shadow)), [LATEST])
        self.assertEqual(result_of(store.count()).models, 1)
        for variant in Variant:
            self.assertIsNone(result_of(store.get_manifest(shadow, Tag("a" * 64), variant)))

    def test_leftovers_are_not_counted_and_old_names_are_served(self) -> None:
        self.put_file(BODY, "blobs", str(DIGEST))
        for end in ("-partial", "-partial-0", "-partial-15"):
            self.put_file(b"half", "blobs", DIGEST.file_name + end)
            self.put_file(b"half", "blobs", OLD.digest.file_name + end)
        store = self.started()
        self.assertEqual(result_of(store.count()), Holdings(0, 1, len(BODY)))
        self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))
        blob = result_of(store.open_blob(DIGEST))
        assert blob is not None
        self.assertEqual(blob.read(0, 2000), BODY)
        blob.close()
        self.assertIsNone(result_of(store.blob_size(OLD.digest)))
        result_of(store.delete_blob(DIGEST))
        self.assertIsNone(result_of(store.blob_size(DIGEST)))

    def test_either_name_of_the_default_registry_is_read_in_either_tree(self) -> None:
        for manifest in (LISTED, OLD, NEW):
            self.put_blob(manifest)
        for host in OLLAMAS:
            self.put_plain(OLD.body, host, tag=f"plain-{host}")
            self.put_link(self.link_to(LISTED.digest), host, tag=f"linked-{host}")
        for host in OLLAMAS:
            store = self.started(host)
            tags = [tag.name for tag in result_of(store.tags(NAME))]
            wanted = sorted(f"{kind}-{each}" for kind in ("plain", "linked") for each in OLLAMAS)
            self.assertEqual(tags, wanted)
            for tag in tags:
                self.assertNotIn(None, self.both(store, Tag(tag)))
            result_of(store.stop())

    def test_a_link_may_not_lead_out_of_the_blobs(self) -> None:
        """The bytes of any file that is JSON could be served else."""
        self.put_file(OLD.body, "secret")
        for target in ("../../../../secret", "/etc/hostname", "../../../../blobs/../secret"):
            link = self.put_link(target)
            store = self.started()
            self.assertEqual(self.both(store), [None, None])
            self.assertEqual(result_of(store.tags(NAME)), [])
            result_of(store.stop())
            os.unlink(link)


class ForOllamaTests(Directories):
    """What we store, as either kind of Ollama reads it."""

    def assert_reads(self, host: str, plain: AnyManifest, linked: AnyManifest) -> None:
        v1 = ("manifests", host, "library", "m", "latest")
        v2 = {"registry.ollama.ai": "ollama.com"}.get(host, host.replace(":", "%3A"))
        self.assertEqual(self.bodies(*v1), plain.body)
        path = self.at("manifests-v2", v2, "library", "m", "latest")
        self.assertEqual(os.readlink(path), self.link_to(linked.digest))
        with open(path, "rb") as file:
            self.assertEqual(file.read(), linked.body)

    def test_the_newest_version_is_there_for_both(self) -> None:
        for host in ("registry.ollama.ai", HOST, "[::1]:80"):
            self.path = os.path.abspath(self.mktemp())
            store = self.started(host)
            result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
            self.assert_reads(host, OLD, OLD)
            result_of(store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST))
            self.assert_reads(host, OLD, LISTED)
            result_of(store.put_manifest(NAME, LATEST, ANOTHER, 3000.0))
            self.assert_reads(host, ANOTHER, ANOTHER)
            listed = list_of(NEW.digest)
            result_of(store.put_manifest(NAME, LATEST, listed, 4000.0, Variant.LIST))
            self.assert_reads(host, ANOTHER, listed)
            result_of(store.put_manifest(NAME, NEW.digest, NEW, 5000.0))
            self.assert_reads(host, NEW, listed)

    def test_a_store_of_huggingface_co_goes_on_under_the_name_that_ollama_writes(self) -> None:
        """As an earlier release made it, when that was the upstream registry."""
        path = self.put_plain(OLD.body, "huggingface.co")
        self.put_blob(OLD)
        self.put_link(self.link_to(OLD.digest), "huggingface.co")
        for others, host, name in (
            ((), "hf.co", NAME),
            (("hf.co",), HOST, Repository("hf.co", "library", "m")),
        ):
            free: Any = store_in(self.path).min_free
            store = DirectoryStore(
                self.path, host, maybeDeferred, self.clock, None, free, other_registries=others
            )
            result_of(store.start())
            found = result_of(store.get_manifest(name, LATEST))
            self.assertEqual(found and found.manifest, OLD)
            self.assertEqual(len(result_of(store.manifests())), 1)
            self.assertEqual(result_of(store.inventory.named_elsewhere()), frozenset())
            result_of(store.stop())
        store = self.started("hf.co")
        result_of(store.put_manifest(NAME, LATEST, NEW, 3000.0))
        self.assert_reads("hf.co", NEW, NEW)
        result_of(store.inventory.remove_tag(NAME, LATEST))
        self.assertFalse(os.path.exists(path))

    def test_what_llama_cpp_gets_is_nothing_to_ollama(self) -> None:
        theirs = Repository(f"hf.co{AS_LLAMA_CPP}", "library", "m")
        store = store_in(self.path)
        result_of(store.start())
        self.addCleanup(lambda: result_of(store.stop()))
        result_of(store.put_manifest(theirs, LATEST, NEW, 1000.0))
        for tree in ("manifests", "manifests-v2"):
            self.assertEqual(os.listdir(self.at(tree)), [])
        self.assertEqual([each.name for each in result_of(store.manifests())], [theirs])

    def test_times_of_checks_are_the_files(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, NEW, 1000.0))
        result_of(store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST))
        result_of(store.touch_manifest(NAME, LATEST, NEW.digest, 3000.0))
        result_of(store.touch_manifest(NAME, LATEST, LISTED.digest, 4000.0, Variant.LIST))
        plain = self.at("manifests", HOST, "library", "m", "latest")
        linked = self.at("manifests-v2", LINKED_HOST, "library", "m", "latest")
        self.assertEqual(os.stat(plain).st_mtime, 3000.0)
        self.assertEqual(os.lstat(linked).st_mtime, 4000.0)

    def test_a_tags_file_whose_bytes_have_changed_is_not_served(self) -> None:
        """It was served as it was, if it was still a manifest."""
        store = self.started()
        tag = self.at("manifests", HOST, NAME.namespace, NAME.model, LATEST.name)
        for checked in (False, True):
            result_of(store.put_manifest(NAME, LATEST, OLD, 1000.5))
            if checked:
                result_of(store.touch_manifest(NAME, LATEST, OLD.digest, 2000.25))
            found = os.stat(tag)
            with open(tag, "ab") as file:
                file.write(b" ")
            os.utime(tag, ns=(found.st_atime_ns, found.st_mtime_ns))
            (stored,) = result_of(store.read_anew([(NAME, LATEST)]))
            self.assertEqual([stored[each].manifest for each in Variant], [OLD, OLD])
            result_of(store.touch_manifest(NAME, LATEST, OLD.digest, 3000.0))
            with open(tag, "rb") as file:
                self.assertEqual(file.read(), OLD.body)

    def test_a_tags_file_that_names_absent_blobs_gives_way_to_what_is_whole(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, manifest_of(BODY), 1000.5))
        self.put_file(BODY, "blobs", Digest.of(BODY).file_name)
        layer = b"a layer whose digest has another digit"
        changed = manifest_of(layer)
        self.put_plain(changed.body)
        (stored,) = result_of(store.read_anew([(NAME, LATEST)]))
        self.assertEqual(stored[Variant.PLAIN].manifest, manifest_of(BODY))
        self.put_file(layer, "blobs", Digest.of(layer).file_name)
        (stored,) = result_of(store.read_anew([(NAME, LATEST)]))
        self.assertEqual(
            stored[Variant.PLAIN].manifest, changed
        )  # An Ollama up to 0.39 has pulled it.

    def test_an_anchor_gives_way_once_its_model_is_checked(self) -> None:
        for manifest in (LISTED, NEW):
            self.put_blob(manifest)
        self.put_link(self.link_to(LISTED.digest))
        self.put_plain(anchor_of(NEW, LISTED, NEW))
        store = self.started()
        result_of(store.touch_manifest(NAME, LATEST, LISTED.digest, 5000.0, Variant.LIST))
        self.assertEqual(self.bodies("manifests", HOST, "library", "m", "latest"), NEW.body)
        self.assertEqual(result_of(store.manifests()), [ManifestEntry(NAME, LATEST, 5000.0)])

    def test_what_ollama_34_deletes_at_its_start_is_forgotten_and_put_again(self) -> None:
        """It knows no lists: it deletes theirs and the children's blobs as unreferenced."""
        store = self.started()
        result_of(store.put_manifest(NAME, NEW.digest, NEW, 1000.0))
        result_of(store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST))
        for manifest in (LISTED, NEW):
            os.unlink(self.at("blobs", manifest.digest.file_name))
        self.clock.advance(6)
        self.assertEqual(self.both(store), [StoredManifest(NEW, NEVER_CHECKED)] * 2)
        self.assertEqual(result_of(store.tags(NAME)), [LATEST])
        result_of(store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST))
        wanted = [StoredManifest(NEW, NEVER_CHECKED), StoredManifest(LISTED, 2000.0)]
        self.assertEqual(self.both(store), wanted)

    def test_a_child_that_appears_is_noticed_while_its_list_is_known(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, ANOTHER, 1000.0))
        result_of(store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST))
        self.assertEqual(self.both(store)[0], StoredManifest(ANOTHER, 1000.0))
        self.put_blob(NEW)
        self.clock.advance(6)
        self.assertEqual(self.both(store)[0], StoredManifest(NEW, NEVER_CHECKED))

    def test_a_large_blob_is_not_read_for_a_manifest(self) -> None:
        store = self.started()
        large = Digest("ab" * 32)
        path = self.put_file(b"{", "blobs", large.file_name)
        os.truncate(path, 20 * 1024 * 1024)
        self.assertIsNone(result_of(store.get_manifest(NAME, large)))


class MigrationTests(Directories):
    """A store of before ``manifests-v2``."""

    def seed(self, count: int = 3) -> list[Manifest]:
        """Tags ``t0``, ``t1``, …, each of a manifest; `OLD` by its digest alone."""
        made = [manifest_of(b"%d" % number) for number in range(count)]
        for number, manifest in enumerate(made):
            self.put_plain(manifest.body, tag=f"t{number}")
        for manifest in (*made, OLD):
            self.put_old(manifest)
        return made

    def put_old(self, manifest: Manifest, host: str = HOST) -> None:
        name = manifest.digest.file_name
        self.put_file(manifest.body, "yukari", "manifests", host, "library", "m", name)

    def test_manifests_become_blobs_with_links_and_the_old_place_goes(self) -> None:
        made = self.seed()
        self.put_old(NEW, "other.example")
        store = self.started()
        for number, manifest in enumerate(made):
            plain, listed = self.both(store, Tag(f"t{number}"))
            self.assertEqual(plain, StoredManifest(manifest, 1000.0))
            self.assertEqual(listed, StoredManifest(manifest, NEVER_CHECKED))
            linked = self.at("manifests-v2", LINKED_HOST, "library", "m", f"t{number}")
            self.assertEqual(os.readlink(linked), self.link_to(manifest.digest))
        for manifest in (*made, OLD, NEW):
            self.assertEqual(self.bodies("blobs", manifest.digest.file_name), manifest.body)
        self.assertEqual(
            result_of(store.get_manifest(OTHER, OLD.digest)), StoredManifest(OLD, 1000.0)
        )
        self.assertFalse(os.path.exists(self.at("yukari", "manifests")))

    def test_by_digest_they_are_found_before_they_are_moved(self) -> None:
        self.seed()
        held = HeldThread()
        store = store_in(self.path)
        self.patch(store, "_in_thread", held)
        starting = Deferred.fromCoroutine(store.start())
        for which in (0, 1):
            held.work()
            held.tell(which)
        self.successResultOf(starting)
        getting = Deferred.fromCoroutine(store.get_manifest(NAME, OLD.digest))
        self.assertEqual(len(held.waiting), 2)
        held.waiting.reverse()
        held.work()
        held.tell(2)
        self.assertEqual(self.successResultOf(getting), StoredManifest(OLD, 1000.0))
        held.work()
        held.tell(3)
        stopping = Deferred.fromCoroutine(store.stop())
        while held.waiting:
            held.work()
            held.tell(len(held.calls) - 1)
        self.successResultOf(stopping)

    def test_a_damaged_one_takes_no_blobs_place_and_ends_no_start(self) -> None:
        self.seed()
        wrong = self.put_file(
            b"{}", "yukari", "manifests", HOST, "library", "m", NEW.digest.file_name
        )
        self.put_file(b"x", "yukari", "manifests", HOST, "odd")
        store = self.started()
        self.assertIsNone(result_of(store.get_manifest(NAME, NEW.digest)))
        self.assertTrue(os.path.exists(wrong))
        self.assertEqual(
            result_of(store.get_manifest(NAME, OLD.digest)), StoredManifest(OLD, 1000.0)
        )


class CrashTests(AtEveryStep):
    """A kill at any step leaves either kind of Ollama, and us, one whole version."""

    def whole(self, store: DirectoryStore) -> None:
        """Each tree names bytes that are there and are what they are called."""
        for tree in ("manifests", "manifests-v2"):
            for folder, _, names in os.walk(os.path.join(store.path, tree)):
                for name in names:
                    path = os.path.join(folder, name)
                    with open(path, "rb") as file:
                        body = file.read()
                    self.assertIn(body, [each.body for each in (OLD, NEW, ANOTHER, LISTED)])
                    if os.path.islink(path):
                        named = Digest.parse(os.path.basename(os.readlink(path)))
                        self.assertEqual(Digest.of(body), named)
        for entry in os.listdir(os.path.join(store.path, "blobs")):
            with open(os.path.join(store.path, "blobs", entry), "rb") as file:
                self.assertEqual(Digest.of(file.read()).file_name, entry)

    def answers(self, store: DirectoryStore) -> tuple[Any, ...]:
        return tuple(result_of(store.get_manifest(NAME, LATEST, each)) for each in Variant)

    def crash(
        self,
        before: Callable[[DirectoryStore], Awaitable[None]],
        do: Callable[[DirectoryStore], Awaitable[None]],
        wanted: list[tuple[Any, ...]],
    ) -> None:
        async def check(store: DirectoryStore, done: bool) -> None:
            self.whole(store)
            self.assertIn(self.answers(store), wanted[-1:] if done else wanted)
            await do(store)
            self.assertEqual(self.answers(store), wanted[-1])

        self.at_every_step(before, do, check)

    def test_in_a_list_that_takes_a_plain_manifests_place(self) -> None:
        async def before(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, LATEST, ANOTHER, 1000.0)
            await store.put_manifest(NAME, NEW.digest, NEW, 1000.0)

        async def do(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST)

        old = StoredManifest(ANOTHER, 1000.0), StoredManifest(ANOTHER, NEVER_CHECKED)
        new = StoredManifest(NEW, NEVER_CHECKED), StoredManifest(LISTED, 2000.0)
        self.crash(before, do, [old, new])

    def test_in_a_plain_manifest_that_takes_a_lists_place(self) -> None:
        async def before(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, NEW.digest, NEW, 1000.0)
            await store.put_manifest(NAME, LATEST, LISTED, 1000.0, Variant.LIST)

        async def do(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, LATEST, ANOTHER, 2000.0)

        old = StoredManifest(NEW, NEVER_CHECKED), StoredManifest(LISTED, 1000.0)
        new = StoredManifest(ANOTHER, 2000.0), StoredManifest(ANOTHER, NEVER_CHECKED)
        self.crash(before, do, [old, new])

    def test_in_a_child_that_comes_after_its_list(self) -> None:
        async def before(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, LATEST, ANOTHER, 1000.0)
            await store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST)

        async def do(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, NEW.digest, NEW, 3000.0)

        listed = StoredManifest(LISTED, 2000.0)
        old = StoredManifest(ANOTHER, 1000.0), listed
        self.crash(before, do, [old, (StoredManifest(NEW, NEVER_CHECKED), listed)])

    def test_in_the_move_of_an_older_stores_manifests(self) -> None:
        def lay(path: str, body: bytes, *parts: str) -> None:
            target = os.path.join(path, *parts)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(body)
            os.utime(target, (1000.0, 1000.0))

        async def before(store: DirectoryStore) -> None:
            lay(store.path, NEW.body, "manifests", HOST, "library", "m", "latest")
            for manifest in (OLD, NEW):
                name = manifest.digest.file_name
                lay(store.path, manifest.body, "yukari", "manifests", HOST, "library", "m", name)

        async def do(store: DirectoryStore) -> None:
            pass  # It is done by the start.

        async def check(store: DirectoryStore, done: bool) -> None:
            self.whole(store)
            plain, listed = self.answers(store)
            self.assertEqual(plain, StoredManifest(NEW, 1000.0))
            self.assertEqual(listed, StoredManifest(NEW, NEVER_CHECKED))
            for manifest in (OLD, NEW):
                found = await store.get_manifest(NAME, manifest.digest)
                assert found is not None
                self.assertEqual(found.manifest, manifest)
            self.assertFalse(os.path.exists(os.path.join(store.path, "yukari", "manifests")))

        self.at_every_step(before, do, check)
