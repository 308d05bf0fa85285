"""The store in a directory."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Optional

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

import yukari
from tests.storage.contract import (
    BODY,
    DIGEST,
    LATEST,
    NAME,
    NEW,
    OLD,
    OTHER,
    StoreContract,
)
from tests.storage.disk.test_space import Disk
from tests.storage.dying import RefusingOs
from tests.storage.strategies import REGISTRIES, manifest_of, result_of
from yukari.config.units import FreeSpace
from yukari.names import Digest, Repository, Tag
from yukari.storage.disk import atomic as durable
from yukari.storage.disk import blobs, listing, lock, migration, reading, spool_dir, tolerance
from yukari.storage.disk import files as blobfile
from yukari.storage.disk import manifests as manifestfiles
from yukari.storage.disk import spool as spoolfile
from yukari.storage.disk import store as directory
from yukari.storage.disk.kept import GATHERED_FOR, TRUSTED_FOR
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.ports import (
    ManifestEntry,
    NoRoom,
    Spool,
    Store,
    StoredManifest,
    StoreUnusable,
)

HOST = "registry.example:5000"
MODULES = (
    *(blobfile, blobs, directory, durable, listing, lock, manifestfiles),
    *(migration, reading, spool_dir, spoolfile, tolerance),
)
NOTHING = FreeSpace(bytes=0)


def store_in(path: str, **keywords: Any) -> DirectoryStore:
    """One whose calls are done at once."""
    others = REGISTRIES[1:]
    given = {"min_free": NOTHING, "clock": Clock(), "other_registries": others, **keywords}
    return DirectoryStore(path, HOST, maybeDeferred, **given)


class DirectoryContract(StoreContract, TestCase):
    """Every promise."""

    def make_store(self, room: Optional[int] = None) -> Store:
        if room is None:
            return store_in(self.mktemp())
        disk = Disk()
        return store_in(
            self.mktemp(), min_free=FreeSpace(bytes=disk.free - room), statvfs=disk.statvfs
        )

    def after_a_kill(self, store: Store) -> Store:
        assert isinstance(store, DirectoryStore)
        store._owned.release()
        return store_in(store.path)


class Elsewhere(DirectoryContract):
    """Every promise, with the spools on another file system."""

    def make_store(self, room: Optional[int] = None) -> Store:
        store = super().make_store(room)
        assert isinstance(store, DirectoryStore)
        return self.apart(store.path, min_free=store.min_free, statvfs=store._statvfs)

    def after_a_kill(self, store: Store) -> Store:
        assert isinstance(store, DirectoryStore)
        store._owned.release()
        return self.apart(store.path)

    def apart(self, path: str, **keywords: Any) -> DirectoryStore:
        self.patch(directory, "os", TwoFileSystems(path + "-spool"))
        return store_in(path, spool_dir=path + "-spool", **keywords)

    async def test_room_is_needed_on_both(self) -> None:
        store = await self.started(room=1_000_000)
        assert isinstance(store, DirectoryStore) and store._landing is not None
        spool = await self.spool_of(store)
        self.assertEqual((store._spools.room.reserved, store._landing.reserved), (0, len(BODY)))
        await store.publish(spool)
        self.assertEqual((store._spools.room.reserved, store._landing.reserved), (0, 0))
        self.assertEqual(os.listdir(str(store.spool_dir)), ["yukari-spool.lock"])


class TwoFileSystems:
    """``os`` in which a directory is on another file system than all else."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def stat(self, path: str) -> Any:
        found = os.stat(path)
        if path != self._path:
            return found
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))

    def rename(self, source: str, target: str) -> None:
        if source.startswith(self._path) != target.startswith(self._path):
            raise OSError(errno.EXDEV, "Invalid cross-device link", source)
        os.rename(source, target)


SPOOLS = (spoolfile.DATA, spoolfile.COVER, spoolfile.COVER_MADE)
"""The ends of a spool's files' names."""


class DirectoryStoreTests(SynchronousTestCase):
    """What only this one does."""

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.clock = Clock()

    def started(self, **keywords: Any) -> DirectoryStore:
        store = store_in(self.path, clock=self.clock, **keywords)
        result_of(store.start())
        self.addCleanup(lambda: result_of(store.stop()))
        return store

    def patch_os(self, system: Any) -> Any:
        for module in MODULES:
            self.patch(module, "os", system)
        return system

    def at(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    def put_file(self, body: bytes, *parts: str, mtime: float = 1000.0) -> str:
        path = self.at(*parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(body)
        os.utime(path, (mtime, mtime))
        return path

    def seed(self, body: bytes, tag: str = "latest", mtime: float = 1000.0) -> str:
        """A tag's file, as Ollama writes it."""
        return self.put_file(body, "manifests", HOST, "library", "m", tag, mtime=mtime)

    def filled(self, store: DirectoryStore, body: bytes = BODY) -> Spool:
        spool = result_of(store.new_spool(Digest.of(body), len(body), NAME))
        self.addCleanup(spool.close)
        spool.write([(0, [body])])
        return spool

    # layout

    def test_files_lie_where_ollama_looks_for_them(self) -> None:
        before = os.umask(0o027)
        self.addCleanup(os.umask, before)
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1234.5))
        result_of(store.publish(self.filled(store)))
        tag = self.at("manifests", HOST, "library", "m", "latest")
        blob = self.at("blobs", DIGEST.file_name)
        for path, body in ((tag, OLD.body), (blob, BODY)):
            with open(path, "rb") as file:
                self.assertEqual(file.read(), body)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)
            self.assertEqual(os.stat(os.path.dirname(path)).st_mode & 0o777, 0o750)
        self.assertEqual(os.stat(tag).st_mtime, 1234.5)
        self.assertEqual(
            sorted(os.listdir(self.path)), ["blobs", "manifests", "manifests-v2", "yukari"]
        )
        self.assertEqual(
            sorted(os.listdir(self.at("blobs"))), sorted([DIGEST.file_name, OLD.digest.file_name])
        )
        self.assertEqual(os.listdir(self.at("yukari", "spool")), ["yukari-spool.lock"])
        self.assertEqual(os.listdir(self.at("yukari", "tmp")), [])
        linked = self.at("manifests-v2", HOST.replace(":", "%3A"), "library", "m", "latest")
        self.assertEqual(os.readlink(linked), f"../../../../blobs/{OLD.digest.file_name}")

    def test_an_existing_ollama_directory_is_a_store_at_once(self) -> None:
        self.seed(OLD.body)
        self.put_file(BODY, "blobs", DIGEST.file_name)
        self.put_file(b"half", "blobs", DIGEST.file_name + "-partial")
        store = self.started()
        stored = StoredManifest(OLD, 1000.0)
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), stored)
        self.assertEqual(result_of(store.get_manifest(NAME, OLD.digest)), stored)
        self.assertEqual(result_of(store.manifests()), [ManifestEntry(NAME, LATEST, 1000.0)])
        self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))
        self.assertTrue(os.path.exists(self.at("blobs", DIGEST.file_name + "-partial")))

    def test_what_ollama_put_stays_reachable_by_digest_when_its_tag_moves(self) -> None:
        self.seed(OLD.body)
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, NEW, 2000.0))
        self.assertEqual(
            result_of(store.get_manifest(NAME, OLD.digest)), StoredManifest(OLD, 1000.0)
        )

    def test_an_upstream_host_is_one_safe_name(self) -> None:
        for good in ("registry.ollama.ai", "localhost:5000", "[::1]:5000", "10.0.0.1"):
            DirectoryStore(self.path, good, maybeDeferred, self.clock)
        for bad in ("", ".", "..", "a/b", "../x", ".hidden", "a\0b", "a b"):
            self.assertRaises(ValueError, DirectoryStore, self.path, bad, maybeDeferred, self.clock)

    # taking hold

    def test_a_second_store_learns_who_has_the_directory(self) -> None:
        self.started()
        with self.assertRaises(StoreUnusable) as caught:
            result_of(store_in(self.path).start())
        self.assertIn(f"{self.path} is in use", str(caught.exception))
        self.assertIn(f"(process {os.getpid()})", str(caught.exception))

    def test_a_second_process_learns_it_too_until_the_first_is_gone(self) -> None:
        program = (
            "import sys\n"
            "from tests.storage.disk.test_store import result_of, store_in\n"
            "store = store_in(sys.argv[1])\n"
            "result_of(store.start())\n"
            "print('started', flush=True)\n"
            "sys.stdin.read()\n"
        )
        root = os.path.dirname(os.path.dirname(os.path.abspath(yukari.__file__)))
        process = subprocess.Popen(
            [sys.executable, "-c", program, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.addCleanup(process.communicate)
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), b"started\n")
        with self.assertRaises(StoreUnusable) as caught:
            result_of(store_in(self.path).start())
        self.assertIn(f"(process {process.pid})", str(caught.exception))
        process.kill()
        process.wait()
        self.started()

    def test_a_spool_directory_has_a_lock_of_its_own(self) -> None:
        spools = os.path.abspath(self.mktemp())
        self.started(spool_dir=spools)
        other = store_in(self.mktemp(), spool_dir=spools)
        with self.assertRaises(StoreUnusable) as caught:
            result_of(other.start())
        self.assertIn(spools, str(caught.exception))
        alone = store_in(other.path)
        result_of(alone.start())
        result_of(alone.stop())

    def test_a_store_that_cannot_be_made_says_where_and_why_in_a_line(self) -> None:
        file = self.put_file(b"", "file")
        with self.assertRaises(StoreUnusable) as caught:
            result_of(store_in(os.path.join(file, "store")).start())
        self.assertIn(file, str(caught.exception))
        self.assertIn(os.strerror(errno.ENOTDIR), str(caught.exception))

    def test_a_directory_that_cannot_be_written_says_so(self) -> None:
        self.started()
        for number in (errno.EROFS, errno.EACCES):
            for inside in ("blobs", "manifests", os.path.join("yukari", "spool")):
                path = self.at(inside) + os.sep

                def refuse(name: str, *args: Any, n: int = number, path: str = path) -> None:
                    if name == "open" and args[0].startswith(path) and args[1] & os.O_CREAT:
                        raise OSError(n, os.strerror(n), args[0])

                shutil.rmtree(self.path)
                self.patch_os(RefusingOs(refuse))
                with self.assertRaises(StoreUnusable) as caught:
                    result_of(store_in(self.path).start())
                self.patch_os(os)
                self.assertIn(path, str(caught.exception))
                self.assertIn(os.strerror(number), str(caught.exception))
                self.assertNotIn("\n", str(caught.exception))

    def test_blobs_on_another_file_system_than_the_rest_are_refused(self) -> None:
        os.makedirs(self.at("blobs"))
        self.patch(spool_dir, "os", TwoFileSystems(self.at("blobs")))
        with self.assertRaises(StoreUnusable) as caught:
            result_of(store_in(self.path).start())
        self.assertIn("on different file systems", str(caught.exception))

    def test_files_in_the_making_are_cleared_at_the_start_and_nothing_else(self) -> None:
        left = self.put_file(b"half", "yukari", "tmp", "1-2")
        kept = [
            self.put_file(b"mine", "notes.txt"),
            self.put_file(b"mine", "blobs", "odd"),
            self.put_file(b"mine", "yukari", "odd"),
            self.put_file(b"mine", "yukari", "spool", "odd"),
        ]
        self.assertEqual(result_of(self.started().spools()), [])
        self.assertFalse(os.path.exists(left))
        for path in kept:
            self.assertTrue(os.path.exists(path), path)

    # what is damaged

    def test_a_damaged_manifest_counts_as_not_stored_and_is_logged_once(self) -> None:
        store = self.started()
        told: list[Any] = []
        self.patch(reading.ManifestReader, "_log", Told(told))
        for number, body in enumerate((b"", b"<html>", OLD.body[:-5], b'{"error": "no"}')):
            tag = Tag(f"t{number}")
            path = self.seed(body, tag.name)
            del told[:]
            self.assertIsNone(result_of(store.get_manifest(NAME, tag)))
            self.assertIsNone(result_of(store.get_manifest(NAME, tag)))
            self.assertEqual([about["path"] for about in told], [path])
        self.seed(b"x")
        result_of(store.put_manifest(NAME, LATEST, NEW, 2000.0))
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(NEW, 2000.0))

    def test_a_directory_or_a_pipe_in_the_place_of_a_file_counts_as_not_stored(self) -> None:
        store = self.started()
        os.makedirs(self.at("manifests", HOST, "library", "m", "latest"))
        os.mkfifo(self.at("manifests", HOST, "library", "m", "pipe"))
        os.makedirs(self.at("blobs", DIGEST.file_name))
        self.assertIsNone(result_of(store.get_manifest(NAME, LATEST)))
        self.assertIsNone(result_of(store.get_manifest(NAME, Tag("pipe"))))
        self.assertEqual(result_of(store.tags(NAME)), [])
        self.assertEqual(result_of(store.manifests()), [])
        self.assertIsNone(result_of(store.blob_size(DIGEST)))
        self.assertIsNone(result_of(store.open_blob(DIGEST)))

    def test_a_file_in_the_place_of_a_directory_counts_as_nothing_stored(self) -> None:
        self.put_file(b"", "manifests", HOST)
        store = self.started()
        self.assertIsNone(result_of(store.get_manifest(NAME, LATEST)))
        self.assertEqual(result_of(store.manifests()), [])
        with self.assertRaises(OSError):
            result_of(store.put_manifest(NAME, LATEST, NEW, 2000.0))

    def test_what_may_not_be_read_is_not_stored(self) -> None:
        """A file that somebody had made unreadable was 503 for ever; upstream has its bytes."""
        self.seed(OLD.body)
        self.put_file(BODY, "blobs", DIGEST.file_name)
        store = self.started()

        def refuse(name: str, *args: Any) -> None:
            if name in ("open", "stat", "listdir"):
                raise OSError(errno.EACCES, "Permission denied", args[0])

        self.patch_os(RefusingOs(refuse))
        self.assertIsNone(result_of(store.get_manifest(NAME, LATEST)))
        self.assertIsNone(result_of(store.get_manifest(NAME, OLD.digest)))
        self.assertEqual(result_of(store.tags(NAME)), [])
        self.assertEqual(result_of(store.manifests()), [])
        self.assertIsNone(result_of(store.blob_size(DIGEST)))
        self.assertIsNone(result_of(store.open_blob(DIGEST)))

        self.patch_os(RefusingOs(lambda *_: None))
        self.patch(os, "access", lambda path, mode: not path.endswith(DIGEST.file_name))
        self.assertIsNone(result_of(store.blob_size(DIGEST)))

    def test_a_manifest_by_digest_that_is_another_is_repaired(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        path = self.at("blobs", OLD.digest.file_name)
        with open(path, "wb") as file:
            file.write(NEW.body)
        found = result_of(store.get_manifest(NAME, OLD.digest))
        self.assertEqual(found, StoredManifest(OLD, 1000.0))
        result_of(store.put_manifest(NAME, OLD.digest, OLD, 2000.0))
        os.unlink(self.at("manifests", HOST, "library", "m", "latest"))
        self.clock.advance(10)
        found = result_of(store.get_manifest(NAME, OLD.digest))
        self.assertEqual(found, StoredManifest(OLD, 2000.0))

    def test_odd_names_are_not_listed(self) -> None:
        self.seed(OLD.body)
        for parts in (
            (".DS_Store",),
            ("library", ".DS_Store"),
            ("library", "m", ".x"),
            ("a b", "c"),
        ):
            self.put_file(b"x", "manifests", HOST, *parts)
        self.put_file(OLD.body, "manifests", HOST, "caf\u00e9", "m", "latest")
        store = self.started()
        self.assertEqual(result_of(store.manifests()), [ManifestEntry(NAME, LATEST, 1000.0)])
        self.assertEqual(result_of(store.tags(NAME)), [LATEST])

    def test_a_write_that_fails_leaves_the_old_manifest_and_nothing_half_made(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        for failing in ("write", "fsync", "rename"):

            def refuse(name: str, *args: Any, failing: str = failing) -> None:
                if name == failing:
                    raise OSError(errno.ENOSPC, "No space left on device")

            self.patch_os(RefusingOs(refuse))
            with self.assertRaises(OSError):
                result_of(store.put_manifest(NAME, LATEST, NEW, 2000.0))
            self.patch_os(os)
            self.assertEqual(
                result_of(store.get_manifest(NAME, LATEST)), StoredManifest(OLD, 1000.0)
            )
            self.assertEqual(os.listdir(self.at("yukari", "tmp")), [])

    # room

    def test_nothing_is_stored_below_the_free_space_to_keep(self) -> None:
        disk = Disk()
        store = self.started(min_free=FreeSpace(percent=50.0), statvfs=disk.statvfs)
        disk.free = 400_000
        with self.assertRaises(NoRoom):
            result_of(store.new_spool(DIGEST, len(BODY), NAME))
        with self.assertRaises(NoRoom):
            result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        self.assertIsNone(result_of(store.get_manifest(NAME, LATEST)))
        self.assertEqual(os.listdir(self.at("yukari", "spool")), ["yukari-spool.lock"])

    def test_a_spool_holds_what_it_has_still_to_write(self) -> None:
        store = self.started()
        spool = result_of(store.new_spool(DIGEST, len(BODY), NAME))
        self.assertEqual(store._spools.room.reserved, len(BODY))
        spool.write([(0, [BODY[:1000]])])
        self.assertEqual(store._spools.room.reserved, len(BODY) - 1000)
        store._owned.release()
        again = self.started()
        (found,) = result_of(again.spools())
        self.assertEqual(again._spools.room.reserved, len(BODY) - 1000)
        found.discard()
        self.assertEqual(again._spools.room.reserved, 0)
        spool.close()

    def test_a_spool_that_names_no_repository_waits_until_it_is_asked_for(self) -> None:
        """It ended the start with a traceback."""
        store = self.started()
        spool = result_of(store.new_spool(DIGEST, len(BODY), NAME))
        spool.write([(0, [BODY[:1000]])])
        spool.close()
        result_of(store.stop())
        path = self.at("yukari", "spool", DIGEST.file_name + ".cover")
        with open(path, encoding="ascii") as file:
            text = file.read()
        with open(path, "w", encoding="ascii") as file:
            file.write(text.replace(f'"{NAME}"', ""))
        again = self.started()
        self.assertEqual(result_of(again.spools()), [])
        found = result_of(again.new_spool(DIGEST, len(BODY), OTHER))
        self.addCleanup(found.close)
        self.assertEqual(found.repositories, (OTHER,))
        self.assertEqual(found.covered().total, 1000)

    def test_a_spool_that_no_disk_could_hold_keeps_no_room_from_others(self) -> None:
        """A sidecar whose size had one digit more than it should kept all others out."""
        store = self.started()
        result_of(store.new_spool(DIGEST, len(BODY), NAME)).close()
        result_of(store.stop())
        path = self.at("yukari", "spool", DIGEST.file_name + ".cover")
        with open(path, encoding="ascii") as file:
            text = file.read()
        with open(path, "w", encoding="ascii") as file:
            file.write(text.replace(f'"size": {len(BODY)}', f'"size": {2**62}'))
        again = self.started()
        self.assertEqual(result_of(again.spools()), [])
        self.assertEqual(again._spools.room.reserved, 0)
        found = result_of(again.new_spool(DIGEST, len(BODY), NAME))
        self.addCleanup(found.close)

    def test_a_disk_that_is_full_at_once_is_no_room(self) -> None:
        store = self.started()

        def refuse(name: str, *args: Any) -> None:
            if name == "ftruncate":
                raise OSError(errno.EFBIG, "File too large")

        self.patch_os(RefusingOs(refuse))
        with self.assertRaises(NoRoom):
            result_of(store.new_spool(DIGEST, len(BODY), NAME))
        self.assertEqual(store._spools.room.reserved, 0)
        self.assertEqual(os.listdir(self.at("yukari", "spool")), ["yukari-spool.lock"])

    def test_a_failed_publish_leaves_the_spool(self) -> None:
        store = self.started()
        spool = self.filled(store)

        def refuse(name: str, *args: Any) -> None:
            if name in ("rename", "fsync"):
                raise OSError(errno.EIO, "Input/output error")

        self.patch_os(RefusingOs(refuse))
        with self.assertRaises(OSError):
            result_of(store.publish(spool))
        self.patch_os(os)
        self.assertIsNone(result_of(store.blob_size(DIGEST)))
        result_of(store.publish(spool))
        self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))

    def test_a_blob_is_published_though_its_models_cannot_be_looked_at(self) -> None:
        """It was tried again without its spool, which ended in a traceback, and never ended."""
        store = self.started()
        spool = self.filled(store)

        def refuse(name: str, *args: Any) -> None:
            if name == "open" and not args[1] & os.O_CREAT and "sha256-" in args[0]:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch_os(RefusingOs(refuse))
        result_of(store.publish(spool))
        self.patch_os(os)
        self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))
        self.assertTrue(spool.gone)

    def test_a_directory_in_the_place_of_a_file_is_set_aside(self) -> None:
        """What belonged there was fetched for each client, and never stored."""
        store = self.started()
        blob = self.at("blobs", DIGEST.file_name)
        tag = self.at("manifests", HOST, "library", "m", "latest")
        link = self.at("manifests-v2", "registry.example", "library", "m", "latest")
        spools = [self.at("yukari", "spool", DIGEST.file_name + end) for end in SPOOLS]
        for path in (blob, tag, link, *spools):
            os.makedirs(os.path.join(path, "something"))
        result_of(store.publish(self.filled(store)))
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(OLD, 1000.0))
        for path in (blob, tag, *spools):
            self.assertEqual(os.listdir(path + ".bad1"), ["something"])

    def test_a_failing_disk_and_too_few_descriptors_are_no_absence(self) -> None:
        """Upstream would be asked for what is stored, or blobs removed that a manifest needs."""
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        result_of(store.publish(self.filled(store)))
        away = (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENOLCK)
        for number in (errno.EMFILE, errno.ENFILE, errno.EIO, *away):

            def refuse(name: str, *_: Any, number: int = number) -> None:
                if name in ("open", "stat", "readlink", "listdir"):
                    raise OSError(number, os.strerror(number))

            self.patch_os(RefusingOs(refuse))
            for asked in (
                lambda: store.get_manifest(NAME, LATEST),
                lambda: store.get_manifest(NAME, OLD.digest),
                lambda: store.blob_size(DIGEST),
                lambda: store.open_blob(DIGEST),
                lambda: store.tags(NAME),
                lambda: store.manifests(),
            ):
                with self.assertRaises(OSError) as caught:
                    result_of(asked())
                self.assertEqual(caught.exception.errno, number)
            self.patch_os(os)
        self.assertIsNotNone(result_of(store.get_manifest(NAME, LATEST)))
        self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))

    # the cache

    def test_a_hit_touches_no_disk_while_it_is_trusted(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        first = result_of(store.get_manifest(NAME, LATEST))
        self.patch(store, "_in_thread", None)
        self.clock.advance(TRUSTED_FOR - 0.1)
        self.assertIs(result_of(store.get_manifest(NAME, LATEST)), first)

    def test_after_that_one_look_at_the_file_is_enough(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        first = result_of(store.get_manifest(NAME, LATEST))
        self.clock.advance(5.1)
        system = self.patch_os(RefusingOs(lambda *_: None))
        self.assertIs(result_of(store.get_manifest(NAME, LATEST)), first)
        self.assertLessEqual({name for name, _ in system.called}, {"stat", "lstat"})
        self.patch(store, "_in_thread", None)
        self.assertIs(result_of(store.get_manifest(NAME, LATEST)), first)

    def test_what_an_operator_copies_in_or_deletes_is_seen_in_seconds(self) -> None:
        store = self.started()
        path = self.seed(OLD.body)
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(OLD, 1000.0))
        self.seed(NEW.body, mtime=2000.0)
        self.clock.advance(5.1)
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(NEW, 2000.0))
        os.unlink(path)
        self.clock.advance(5.1)
        self.assertIsNone(result_of(store.get_manifest(NAME, LATEST)))

    def test_manifests_in_demand_are_compared_together_before_a_request_must_wait(self) -> None:
        """Each would take a disk thread once a second, and a request would wait for it."""
        store, tags = self.started(), [Tag(f"t{number}") for number in range(3)]
        for tag in tags:
            result_of(store.put_manifest(NAME, tag, OLD, 1000.0))
        first = [result_of(store.get_manifest(NAME, tag)) for tag in tags]
        self.clock.advance(TRUSTED_FOR * 0.6)
        for tag in tags:
            result_of(store.get_manifest(NAME, tag))
        held = HeldThread()
        self.patch(store, "_in_thread", held)
        self.clock.advance(GATHERED_FOR)
        held.work()
        self.assertEqual(held.waiting, [])
        held.tell(0)
        self.clock.advance(TRUSTED_FOR * 0.6)
        self.patch(store, "_in_thread", None)
        for tag, stored in zip(tags, first):
            self.assertIs(result_of(store.get_manifest(NAME, tag)), stored)

    def test_requests_that_must_wait_are_served_by_few_threads(self) -> None:
        """Of a thousand manifests after a rest each had a disk thread of its own."""
        store, tags = self.started(), [Tag(f"t{number}") for number in range(4)]
        for tag in tags:
            result_of(store.put_manifest(NAME, tag, OLD, 1000.0))
        first = [result_of(store.get_manifest(NAME, tag)) for tag in tags]
        self.clock.advance(TRUSTED_FOR)
        held = HeldThread()
        self.patch(store, "_in_thread", held)
        asking = [Deferred.fromCoroutine(store.get_manifest(NAME, tag)) for tag in tags]
        for call in range(2):
            held.work()
            held.tell(call)
        self.assertEqual(held.waiting, [])
        for each, stored in zip(asking, first):
            self.assertIs(self.successResultOf(each), stored)

    def test_a_comparison_finds_what_an_operator_changed(self) -> None:
        store = self.started()
        self.seed(OLD.body)
        result_of(store.get_manifest(NAME, LATEST))
        self.seed(NEW.body, mtime=2000.0)
        self.clock.advance(TRUSTED_FOR * 0.6)
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(OLD, 1000.0))
        self.clock.advance(GATHERED_FOR)
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(NEW, 2000.0))

    def test_a_comparison_that_began_before_a_put_brings_nothing_back(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        result_of(store.get_manifest(NAME, LATEST))
        self.clock.advance(TRUSTED_FOR * 0.6)
        result_of(store.get_manifest(NAME, LATEST))
        held = HeldThread()
        self.patch(store, "_in_thread", held)
        self.clock.advance(GATHERED_FOR)
        held.work()
        self.patch(store, "_in_thread", maybeDeferred)
        result_of(store.put_manifest(NAME, LATEST, NEW, 2000.0))
        held.tell(0)
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(NEW, 2000.0))

    def test_a_read_that_began_before_a_put_is_not_kept(self) -> None:
        held = HeldThread()
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        self.patch(store, "_in_thread", held)
        reading = Deferred.fromCoroutine(store.get_manifest(NAME, LATEST))
        held.work()
        putting = Deferred.fromCoroutine(store.put_manifest(NAME, LATEST, NEW, 2000.0))
        held.work()
        held.tell(1)
        self.successResultOf(putting)
        held.tell(0)
        self.assertEqual(self.successResultOf(reading), StoredManifest(OLD, 1000.0))
        self.patch(store, "_in_thread", maybeDeferred)
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(NEW, 2000.0))

    def test_the_cache_is_bounded(self) -> None:
        store = self.started()
        store._kept.cache._most_bytes = 10_000
        for number in range(50):
            tag = Tag(f"t{number}")
            result_of(store.put_manifest(NAME, tag, manifest_of(b"%d" % number), 1000.0))
            result_of(store.get_manifest(NAME, tag))
        self.assertLessEqual(store._kept.cache.held, 10_000)
        self.assertGreater(store._kept.cache.held, 5_000)

    # threads

    def test_stop_waits_for_what_is_under_way(self) -> None:
        held = HeldThread()
        store = self.started()
        self.patch(store, "_in_thread", held)
        putting = Deferred.fromCoroutine(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        putting.cancel()
        self.failureResultOf(putting, CancelledError)
        stopping = Deferred.fromCoroutine(store.stop())
        self.assertNoResult(stopping)
        held.work()
        held.tell(0)
        self.successResultOf(stopping)
        self.assertEqual(
            result_of(self.started().get_manifest(NAME, LATEST)), StoredManifest(OLD, 1000.0)
        )

    def test_what_its_reader_gave_up_waiting_for_is_closed(self) -> None:
        store = self.started()
        result_of(store.publish(self.filled(store)))
        before = _descriptors()
        held = HeldThread()
        self.patch(store, "_in_thread", held)
        for call in (
            lambda: store.open_blob(DIGEST),
            lambda: store.new_spool(Digest.of(b"other"), 5, NAME),
        ):
            calling = Deferred.fromCoroutine(call())
            calling.cancel()
            self.failureResultOf(calling, CancelledError)
            held.work()
            held.tell(len(held.calls) - 1)
        held.work()
        held.tell(len(held.calls) - 1)
        self.assertEqual(_descriptors(), before)
        self.assertEqual(os.listdir(self.at("yukari", "spool")), ["yukari-spool.lock"])
        self.patch(store, "_in_thread", maybeDeferred)

    # listing

    def test_a_long_listing_reads_a_large_directory_once(self) -> None:
        for number in range(600):
            self.put_file(OLD.body, "manifests", HOST, "library", f"m{number:04}", "latest")
        store = self.started()
        self.patch(listing, "_SETTLED", -1)
        system = self.patch_os(RefusingOs(lambda *_: None))
        after: Optional[tuple[Repository, Tag]] = None
        seen = 0
        while page := result_of(store.manifests(after, 7)):
            seen += len(page)
            after = page[-1].name, page[-1].tag
        self.assertEqual(seen, 600)
        library = self.at("manifests", HOST, "library")
        read = [args for name, args in system.called if name == "listdir"]
        self.assertLessEqual(read.count((library,)), 2)
        self.assertLess(len(read), 3000)  # Three directories of each model, and each page's last.

    def test_a_remembered_directory_that_changes_is_read_again(self) -> None:
        for number in range(300):
            self.put_file(OLD.body, "manifests", HOST, "library", "m", f"t{number:04}")
        store = self.started()
        self.patch(listing, "_SETTLED", -1)
        self.assertEqual(len(result_of(store.tags(NAME))), 300)
        result_of(store.put_manifest(NAME, Tag("t0300"), NEW, 1000.0))
        self.assertEqual(len(result_of(store.tags(NAME))), 301)


class Told:
    """A logger that keeps what it is told."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def warn(self, text: str, **about: Any) -> None:
        self.told.append(about)

    error = warn


class HeldThread:
    """A disk thread that works, and tells what came of it, when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.calls: list[tuple[Deferred[Any], Any]] = []

    def __call__(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.waiting.append((answer, work, args))
        return answer

    def work(self) -> None:
        answer, work, args = self.waiting.pop(0)
        self.calls.append((answer, work(*args)))

    def tell(self, which: int) -> None:
        answer, result = self.calls[which]
        answer.callback(result)


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))
