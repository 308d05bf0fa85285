"""File systems that refuse what local disks do; directories that vanish or cannot be written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
from typing import Any, Optional

from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.storage.contract import BODY, DIGEST, LATEST, LISTED, NAME, NEW, OLD
from tests.storage.disk.test_store import HOST, MODULES, DirectoryContract, Told, store_in
from tests.storage.dying import RefusingOs
from tests.storage.strategies import result_of
from yukari.manifest import Variant
from yukari.names import Digest
from yukari.storage.disk import blobs, lock, spool_dir, tolerance
from yukari.storage.disk.blobs import BlobFiles
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.ports import Spool, Store, StoredManifest, StoreUnusable

NICE_TO_HAVE = ("chmod", "fchmod", "utime", "symlink", "link", "ftruncate")


def refusing(*calls: str, number: int = errno.EPERM) -> Any:
    """``os`` of a file system without these calls; ``fsync`` is refused of directories only."""

    def refuse(name: str, *args: Any) -> None:
        if name in calls and (name != "fsync" or stat.S_ISDIR(os.fstat(args[0]).st_mode)):
            raise OSError(number, os.strerror(number))

    return RefusingOs(refuse)


class Fcntl:
    """``fcntl`` in which these calls are refused."""

    def __init__(self, *refused: str) -> None:
        self._refused = refused

    def __getattr__(self, name: str) -> Any:
        if name not in self._refused:
            return getattr(fcntl, name)

        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

        return refuse


class CoarseContract(DirectoryContract):
    """Every promise, on a file system without modes, links, locks and fsync of directories."""

    def make_store(self, room: Optional[int] = None) -> Store:
        system = refusing("chmod", "fchmod", "symlink", "link", "fsync", number=errno.ENOTSUP)
        for module in MODULES:
            self.patch(module, "os", system)
        self.patch(lock, "fcntl", Fcntl("flock"))
        return super().make_store(room)


class OneFileSystem(SynchronousTestCase):
    """A store in `path`."""

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.clock = Clock()
        self.told: list[Any] = []
        self.patch(tolerance, "_told", set())
        self.patch(tolerance, "_log", Told(self.told))
        self.patch(spool_dir.OwnedDirectories, "_log", Told(self.told))

    def started(self, **keywords: Any) -> DirectoryStore:
        store = store_in(self.path, clock=self.clock, **keywords)
        result_of(store.start())
        self.addCleanup(lambda: result_of(store.stop()))
        return store

    def filled(self, store: DirectoryStore, body: bytes = BODY) -> Spool:
        spool = result_of(store.new_spool(Digest.of(body), len(body), NAME))
        self.addCleanup(spool.close)
        spool.write([(0, [body])])
        return spool

    def used(self, store: DirectoryStore) -> None:
        """Everything that a store is for works."""
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        result_of(store.put_manifest(NAME, LATEST, LISTED, 2000.0, Variant.LIST))
        result_of(store.touch_manifest(NAME, LATEST, OLD.digest, 3000.0))
        result_of(store.publish(self.filled(store)))
        result_of(store.check())
        self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))
        self.assertEqual(self.manifest(store), OLD)
        self.assertEqual(self.manifest(store, Variant.LIST), LISTED)

    def manifest(self, store: DirectoryStore, variant: Variant = Variant.PLAIN) -> Any:
        found = result_of(store.get_manifest(NAME, LATEST, variant))
        return found and found.manifest


class RefusedTests(OneFileSystem):
    """Single calls are refused."""

    def test_what_is_nice_to_have_may_be_refused_and_is_logged_once(self) -> None:
        numbers = (errno.EPERM, errno.ENOSYS, errno.EIO, errno.EOVERFLOW)
        cases = [(call, number) for call in NICE_TO_HAVE for number in numbers]
        for call, number in (*cases, ("fsync", errno.EINVAL), ("fsync", errno.EIO)):
            self.path = os.path.abspath(self.mktemp())
            tolerance._told.clear()
            del self.told[:]
            for module in MODULES:
                self.patch(module, "os", refusing(call, number=number))
            store = self.started()
            self.used(store)
            for module in MODULES:
                self.patch(module, "os", os)
            self.assertLessEqual(len(self.told), 1, call)
            if call in ("utime", "symlink", "ftruncate"):
                self.assertEqual(len(self.told), 1, call)
                self.assertTrue(self.told[0]["lost"])
                self.assertTrue(self.told[0]["banner"], "nobody sees it: SLOG_LEVEL is ERROR")

    def test_a_must_that_is_refused_is_told_at_the_start(self) -> None:
        """Without rename nothing was ever stored, and nobody was told why."""
        for call in ("mkdir", "open", "rename", "unlink"):
            self.path = os.path.abspath(self.mktemp())
            for module in MODULES:
                self.patch(module, "os", refusing(call))
            with self.assertRaises(StoreUnusable) as caught:
                result_of(store_in(self.path).start())
            self.assertIn("Operation not permitted", str(caught.exception))
            for module in MODULES:
                self.patch(module, "os", os)

    def test_a_blob_that_may_not_be_read_is_logged_once(self) -> None:
        """Each client that asked for it was a line."""
        told: list[Any] = []
        self.patch(BlobFiles, "_log", Told(told))
        store = self.started()
        self.used(store)
        self.patch(blobs, "os", refusing("stat", number=errno.EACCES))
        path = os.path.join(self.path, "blobs", DIGEST.file_name)
        for _ in range(3):
            self.assertIsNone(result_of(store.blob_size(DIGEST)))
        self.assertEqual([each["path"] for each in told].count(path), 1)

    def test_a_path_too_long_for_blobs_is_refused_at_the_start(self) -> None:
        """Each blob and each manifest was an error, and nothing was ever stored."""
        self.addCleanup(shutil.rmtree, self.path)
        path = self.path
        while len(path) < 4000:
            path = os.path.join(path, "d" * min(200, 4030 - len(path)))
        with self.assertRaises(StoreUnusable) as caught:
            result_of(store_in(path).start())
        self.assertIn("File name too long", str(caught.exception))

    def test_a_full_disk_is_served_from(self) -> None:
        """The daemon did not start."""
        store = store_in(self.path)
        result_of(store.start())
        self.used(store)
        result_of(store.stop())
        for number in (errno.ENOSPC, errno.EDQUOT):

            def refuse(name: str, *args: Any, number: int = number) -> None:
                if name == "open" and args[1] & os.O_CREAT and not os.path.exists(args[0]):
                    raise OSError(number, os.strerror(number), args[0])

            for module in MODULES:
                self.patch(module, "os", RefusingOs(refuse))
            store = store_in(self.path)
            result_of(store.start())
            self.assertEqual(self.manifest(store), OLD)
            self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))
            result_of(store.stop())

    def test_without_times_no_list_client_is_kept_from_asking_upstream(self) -> None:
        """A link that is there for Ollama 0.40 alone would count as checked just now."""
        for module in MODULES:
            self.patch(module, "os", refusing("utime"))
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        found = result_of(store.get_manifest(NAME, LATEST, Variant.LIST))
        self.assertEqual(found, StoredManifest(OLD, 0.0))

    def test_another_users_file_is_checked_by_a_new_one(self) -> None:
        store = self.started()
        result_of(store.put_manifest(NAME, LATEST, OLD, 1000.0))
        path = os.path.join(self.path, "manifests", HOST, "library", "m", "latest")

        def refuse(name: str, *args: Any) -> None:
            if name == "utime" and args[0] == path:
                raise PermissionError(errno.EPERM, "Operation not permitted", path)

        for module in MODULES:
            self.patch(module, "os", RefusingOs(refuse))
        result_of(store.touch_manifest(NAME, LATEST, OLD.digest, 3000.0))
        self.assertEqual(result_of(store.get_manifest(NAME, LATEST)), StoredManifest(OLD, 3000.0))
        self.assertEqual(self.told, [])

    def test_a_groups_store_stays_its_groups(self) -> None:
        before = os.umask(0o002)
        self.addCleanup(os.umask, before)
        os.mkdir(self.path)
        os.chmod(self.path, 0o2775)
        store = self.started()
        self.used(store)
        for folder, _, names in os.walk(self.path):
            self.assertEqual(oct(os.stat(folder).st_mode & 0o7777), oct(0o2775), folder)
            for name in names:
                path = os.path.join(folder, name)
                self.assertEqual(os.stat(path).st_mode & 0o664, 0o664, path)


class LockTests(OneFileSystem):
    """One daemon owns a directory, whatever locks the file system has."""

    def refused(self, path: Optional[str] = None, **keywords: Any) -> str:
        with self.assertRaises(StoreUnusable) as caught:
            result_of(store_in(path or self.path, **keywords).start())
        return str(caught.exception)

    def test_a_second_one_is_refused_by_any_kind_of_lock(self) -> None:
        for missing in ((), ("flock",), ("flock", "lockf")):
            self.path = os.path.abspath(self.mktemp())
            self.patch(lock, "fcntl", Fcntl(*missing))
            store = self.started()
            self.assertIn("in use by another yukari", self.refused())
            result_of(store.stop())
            result_of(self.started().stop())

    def test_a_second_one_is_refused_though_the_lock_file_was_removed(self) -> None:
        self.started()
        os.unlink(os.path.join(self.path, "yukari", "lock"))
        self.assertIn("in use by another yukari", self.refused())

    def test_a_second_one_does_not_read_a_lock_that_is_no_file_any_more(self) -> None:
        """A FIFO kept it waiting for ever."""
        self.started()
        file = os.path.join(self.path, "yukari", "lock")
        os.unlink(file)
        os.mkfifo(file)
        writer = os.open(file, os.O_RDWR)
        self.addCleanup(os.close, writer)
        os.write(writer, b"5" + b" " * 20_000)  # As much as whoever reads it asks for.
        self.assertIn("in use by another yukari:", self.refused())

    def test_a_spool_directory_is_owned_wherever_it_lies(self) -> None:
        self.started()
        within = os.path.join(self.path, "yukari", "spool")
        self.assertIn("in use", self.refused(self.mktemp(), spool_dir=within))
        self.assertIn("in use", self.refused(self.mktemp(), spool_dir=self.path))

    def test_directories_in_a_store_are_owned_and_all_below_them(self) -> None:
        """A spool there was removed by one's sweep, and counted as a model or a blob by another."""
        for within in (
            *("blobs", "manifests", "manifests-v2", "yukari", "yukari/tmp"),
            *("blobs/x", "manifests/h/n/m", "manifests-v2/x", "yukari/tmp/x", "yukari/spool/x/y"),
        ):
            self.path = os.path.abspath(self.mktemp())
            store, place = self.started(), os.path.join(self.path, within)
            self.assertIn("in use by another yukari", self.refused(place), within)
            other = self.mktemp()
            self.assertIn("in use", self.refused(other, spool_dir=place), within)
            os.makedirs(place, exist_ok=True)
            os.symlink(place, f"{self.path}-link")
            self.assertIn("in use", self.refused(other, spool_dir=f"{self.path}-link"), within)
            self.used(store)

    def test_store_does_not_start_around_anothers_directory(self) -> None:
        for within in ("blobs", "manifests", "manifests-v2", "yukari", "yukari/tmp"):
            self.path = os.path.abspath(self.mktemp())
            above = self.path
            self.path = os.path.join(above, within)
            store = self.started()
            self.assertIn("in use by another yukari", self.refused(above), within)
            self.used(store)

    def test_directory_beside_a_stores_own_may_be_anothers(self) -> None:
        """By default the spools of a bucket lie beside the directories of a store on the disk."""
        self.started()
        for within in ("spool", "models/blobs"):
            other = store_in(os.path.join(self.path, within), clock=self.clock)
            result_of(other.start())
            result_of(other.stop())

    def test_a_store_may_be_its_own_spool_directory(self) -> None:
        self.used(self.started(spool_dir=self.path))

    def test_process_is_named_though_its_file_cannot_be_cut_or_written(self) -> None:
        """Azure Files refuse it of an open file: digits of another process stayed behind."""
        for missing, named in (("ftruncate", os.getpid()), ("pwrite", 4194304123)):
            self.path = os.path.abspath(self.mktemp())
            os.makedirs(os.path.join(self.path, "yukari"))
            record = os.path.join(self.path, "yukari", "lock")
            with open(record, "w", encoding="ascii") as file:
                file.write("4194304123\n")
            self.patch(lock, "os", refusing(missing, number=errno.EACCES))
            self.used(self.started())
            self.assertIn(f"another yukari (process {named}):", self.refused())

    def test_a_record_of_a_process_that_is_gone_is_no_lock(self) -> None:
        self.patch(lock, "fcntl", Fcntl("flock", "lockf"))
        os.makedirs(os.path.join(self.path, "yukari"))
        record = os.path.join(self.path, "yukari", "lock")
        process = subprocess.Popen(["true"])
        process.wait()
        machine = os.uname().nodename
        for text in (
            "",
            "garbage \u2026",
            "[]",
            '{"pid": "x", "machine": 1}',
            json.dumps({"pid": process.pid, "machine": machine, "boot": "x", "began": "1"}),
            json.dumps({"pid": os.getpid(), "machine": machine, "boot": "x", "began": "1"}),
        ):
            with open(record, "w", encoding="utf-8") as file:
                file.write(text)
            if text.startswith('{"pid": "x"'):
                self.assertIn("in use", self.refused())  # It may run on the machine 1.
                continue
            result_of(self.started().stop())

    def test_a_record_of_another_machine_is_believed_and_named(self) -> None:
        self.patch(lock, "fcntl", Fcntl("flock", "lockf"))
        os.makedirs(os.path.join(self.path, "yukari"))
        record = os.path.join(self.path, "yukari", "lock")
        with open(record, "w", encoding="ascii") as file:
            file.write('{"pid": 12, "machine": "elsewhere"}')
        self.assertIn(f"(process 12 on elsewhere; see {record})", self.refused())


class VanishedTests(OneFileSystem):
    """An operator removes directories while the daemon runs."""

    def remove(self, *names: str) -> None:
        for name in names or os.listdir(self.path):
            shutil.rmtree(os.path.join(self.path, name))

    def test_what_was_removed_is_forgotten_and_stored_again_in_new_directories(self) -> None:
        for names in (("blobs", "manifests"), ("blobs",), ("yukari",), ()):
            self.path = os.path.abspath(self.mktemp())
            store = self.started()
            self.used(store)
            del self.told[:]
            self.remove(*names)
            self.clock.advance(10)
            if "yukari" not in names:
                self.assertIsNone(result_of(store.blob_size(DIGEST)))
            self.used(store)
            self.assertEqual(len(self.told), 1, names)
            self.assertIn("in use by another yukari", LockTests.refused(self))  # type: ignore

    def test_the_second_check_makes_them_again(self) -> None:
        """The first may see a directory that is just being moved; nobody is sent here till then."""
        store = self.started()
        self.remove()
        with self.assertRaises(StoreUnusable) as caught:
            result_of(store.check())
        self.assertIn("No such file or directory", str(caught.exception))
        self.assertEqual(self.told, [])
        result_of(store.check())
        self.assertEqual(len(self.told), 1)
        result_of(store.check())
        self.assertEqual(len(self.told), 1)

    def test_the_whole_directory_is_owned_again(self) -> None:
        store = self.started()
        shutil.rmtree(self.path)
        self.used(store)
        self.assertIn("in use by another yukari", LockTests.refused(self))  # type: ignore

    def test_a_blob_on_its_way_is_stored_though_its_spool_was_removed(self) -> None:
        store = self.started()
        spool = result_of(store.new_spool(DIGEST, len(BODY), NAME))
        self.addCleanup(spool.close)
        spool.write([(0, [BODY[:500]])])
        self.remove()
        spool.write([(500, [BODY[500:]])])
        result_of(store.publish(spool))
        blob = result_of(store.open_blob(DIGEST))
        assert blob is not None
        self.assertEqual(blob.read(0, 2000), BODY)
        blob.close()


class ReadOnlyTests(OneFileSystem):
    """A store that cannot be written, with ``OFFLINE=1``."""

    def prepare(self) -> None:
        store = store_in(self.path, clock=self.clock)
        result_of(store.start())
        self.used(store)
        result_of(store.stop())

    def serve(self) -> None:
        store = self.started(offline=True)
        self.assertEqual(self.manifest(store), OLD)
        self.assertEqual(self.manifest(store, Variant.LIST), LISTED)
        self.assertEqual(result_of(store.blob_size(DIGEST)), len(BODY))
        self.assertEqual(result_of(store.tags(NAME)), [LATEST])
        self.assertEqual(result_of(store.spools()), [])
        result_of(store.check())
        for writing in (
            store.new_spool(Digest.of(b"x"), 1, NAME),
            store.put_manifest(NAME, LATEST, NEW, 5000.0),
            store.touch_manifest(NAME, LATEST, OLD.digest, 5000.0),
        ):
            with self.assertRaises(OSError) as caught:
                result_of(writing)
            self.assertEqual(caught.exception.errno, errno.EROFS)

    def test_a_file_system_that_refuses_every_change_is_served(self) -> None:
        self.prepare()

        def refuse(name: str, *args: Any) -> None:
            creates = name == "open" and args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            if creates or name in ("mkdir", "rename", "unlink", "symlink", "utime"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), args[0])

        for module in MODULES:
            self.patch(module, "os", RefusingOs(refuse))
        self.serve()
        with self.assertRaises(StoreUnusable):
            result_of(store_in(self.path).start())

    def test_a_read_only_mount_is_served(self) -> None:
        self.prepare()
        mounted(self, "--bind", self.path, self.path)
        subprocess.run(["mount", "-o", "remount,bind,ro", self.path], check=True)
        self.serve()

    def test_a_directory_that_is_not_there_is_not_served(self) -> None:
        def refuse(name: str, *args: Any) -> None:
            if name == "mkdir":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), args[0])

        for module in MODULES:
            self.patch(module, "os", RefusingOs(refuse))
        with self.assertRaises(StoreUnusable):
            result_of(store_in(self.path, offline=True).start())


class RealTests(OneFileSystem):
    """File systems that this machine has."""

    def image(self, make: str, kind: str = "auto") -> None:
        """
        Mount a new file system of 32 MB, made by a command, at `path`.

        If the kernel does not know it, it is mounted as ``kind``, by FUSE.
        """
        if shutil.which(make) is None:
            raise SkipTest(f"{make} is not installed")
        image = os.path.abspath(self.mktemp())
        with open(image, "wb") as file:
            file.truncate(32 * 1024 * 1024)
        subprocess.run([make, image], check=True, capture_output=True)
        os.mkdir(self.path)
        try:
            mounted(self, "-o", "loop", image, self.path)
        except SkipTest:
            mounted(self, "-t", kind, "-o", "loop", image, self.path)

    def test_on_vfat(self) -> None:
        self.image("mkfs.vfat")
        self.used_twice()

    def test_on_exfat(self) -> None:
        self.image("mkfs.exfat", "exfat-fuse")
        self.used_twice()

    def test_on_tmpfs(self) -> None:
        os.mkdir(self.path)
        mounted(self, "-t", "tmpfs", "tmpfs", self.path)
        self.used_twice()

    def used_twice(self) -> None:
        store = self.started()
        self.used(store)
        result_of(store.stop())
        self.clock.advance(10)
        store = self.started()
        self.assertEqual(self.manifest(store), OLD)
        found = result_of(store.get_manifest(NAME, LATEST, Variant.LIST))
        self.assertEqual(found, StoredManifest(LISTED, 2000.0))
        self.used(store)
        result_of(store.stop())


def mounted(case: SynchronousTestCase, *arguments: str) -> None:
    """Mount something for a test, or skip it."""
    if os.geteuid():
        raise SkipTest("only root can mount")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SkipTest(f"cannot mount: {done.stderr.strip()}")
    case.addCleanup(subprocess.run, ["umount", "-l", arguments[-1]], check=True)


del DirectoryContract
