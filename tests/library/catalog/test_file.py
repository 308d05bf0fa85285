"""The catalog's tables against a plain model of them, and files that are damaged."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from typing import Any, Optional

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.registry_names import RegistryNames
from yukari.library.catalog import schema as catalog_schema
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.reads import LISTED
from yukari.library.catalog.rows import Entry, Indexed, Need, Usage, Version
from yukari.library.models.shown_names import ShownNames
from yukari.names import DEFAULT, Digest, Repository, Tag

M, N = Repository(DEFAULT, "library", "m"), Repository(DEFAULT, "user", "n")
LATEST, SMALL = Tag("latest"), Tag("small")
NAMES = ShownNames(RegistryNames("registry.ollama.ai", {}))


def digest(name: object) -> Digest:
    return Digest.of(str(name).encode())


def version(
    *blobs: tuple[str, int], name: Repository = M, tag: Tag = LATEST, called: str = "v1"
) -> Version:
    needs = [Need(digest(blob), size) for blob, size in blobs]
    return Version(name, tag, digest(called), (Need(digest(called), 100), *needs))


def indexed(found: Version, checked_at: float = 10.0, own: bool = False) -> Indexed:
    return Indexed(found, 5.0, checked_at, own, '{"family": "llama"}')


def put(file: CatalogFile, found: Version, now: float = 20.0, **more: Any) -> None:
    file.put([indexed(found, **more)], now)


class Contract:
    """What the tables do, wherever they are."""

    def make(self) -> CatalogFile:
        raise NotImplementedError

    def setUp(self: Any) -> None:
        self.file = self.make()
        self.addCleanup(self.file.close)

    def find(self: Any, name: Repository = M, tag: Tag = LATEST) -> Entry:
        (found,) = self.file.find(name, tag)
        return found

    def test_what_is_put_is_found_and_listed(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        put(self.file, version(("w", 1000), name=N))
        found = self.find()
        self.assertEqual((found.repository, found.tag), ("library/m", "latest"))
        self.assertEqual((found.size, found.missing), (1100, 2))
        self.assertEqual(found.digest, digest("v1").hex)
        self.assertEqual([row.repository for row in self.file.page()], ["library/m", "user/n"])
        self.assertEqual(self.file.page(("library/m", "latest"), 9), [self.find(N)])
        self.assertEqual(self.file.page(most=1), [found])
        self.assertEqual(self.file.find(M, SMALL), [])

    def test_listing_in_json_is_what_the_rows_are(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        put(self.file, version(("x", 10), called="v2"), 30.0)
        put(self.file, version(("w", 1000), name=N, called='quo"ted'))
        put(self.file, version(("w", 1000), tag=SMALL))
        pinned, names = {"user/n:latest": 'Ana "A"'}, ["m:latest", "m:small", "user/n:latest"]
        wanted = [
            [name, pinned.get(f"{row.repository}:{row.tag}"), *row]
            for name, row in zip(names, self.file.page())
        ]
        found: list[Any] = []
        after: Any = ("", "")
        while after is not None:
            rows, after = self.file.listing(list(LISTED), after, 2, pinned)
            found += json.loads(rows)
        self.assertEqual(found, wanted)
        for row, name in zip(self.file.page(), names):
            self.assertEqual(NAMES.show(row.repository, row.tag), name)

    def test_version_is_whole_once_all_its_blobs_are_here(self: Any) -> None:
        self.file.blobs_stored([(digest("w"), 1000)])
        put(self.file, version(("w", 1000)))
        self.assertEqual(self.find().missing, 1)
        self.file.blobs_stored([(digest("v1"), 100)])
        self.assertEqual(self.find().missing, 0)
        self.file.blob_removed(digest("w"))
        self.assertEqual(self.find().missing, 1)

    def test_stored_blobs_size_counts_and_not_the_manifests_word(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        self.file.blobs_stored([(digest("w"), 7)])
        self.assertEqual(self.find().size, 107)

    def test_sizes_that_no_blob_has_come_to_no_number_that_clients_cannot_read(self: Any) -> None:
        """One model's made every list of models unreadable for Ollama."""
        put(self.file, version(*((str(blob), 2**63 - 1) for blob in range(10))))
        self.file.blobs_stored([(digest("5"), 7)])
        self.assertIsInstance(self.find().size, int)
        self.assertLess(self.find().size, 2**63)

    def test_version_that_is_replaced_is_superseded(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        put(self.file, version(("x", 10), called="v2"), 30.0)
        self.assertEqual(self.find().digest, digest("v2").hex)
        (old,) = self.file.find(M, LATEST, superseded=True)
        self.assertEqual((old.digest, old.superseded_at), (digest("v1").hex, 30.0))
        first, second = self.file.candidates()
        self.assertEqual((first.superseded_at, second.superseded_at), (30.0, None))
        put(self.file, version(("w", 1000)), 40.0)
        self.assertEqual(self.find().digest, digest("v1").hex)
        (old,) = self.file.find(M, LATEST, superseded=True)
        self.assertEqual(old.digest, digest("v2").hex)

    def test_removing_tells_which_blobs_nothing_needs(self: Any) -> None:
        for blob, size in (("w", 1000), ("shared", 5), ("v1", 100)):
            self.file.blobs_stored([(digest(blob), size)])
        put(self.file, version(("w", 1000), ("shared", 5)))
        put(self.file, version(("shared", 5), name=N, called="v3"))
        self.assertEqual(self.file.own_bytes(M, LATEST), 1100)
        self.assertEqual(set(self.file.remove(M, LATEST)), {digest("w"), digest("v1")})
        self.assertEqual(self.file.find(M, LATEST), [])
        self.assertEqual(set(self.file.unneeded()), {digest("w"), digest("v1")})
        self.file.blob_removed(digest("w"))
        self.assertEqual(self.file.unneeded(), [digest("v1")])
        self.assertEqual(self.file.remove(M, LATEST), [])

    def test_one_version_is_removed_without_the_others(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        put(self.file, version(("x", 10), called="v2"))
        self.file.remove(M, LATEST, digest("v1"))
        self.assertEqual(self.file.find(M, LATEST, superseded=True), [])
        self.assertEqual(self.find().digest, digest("v2").hex)

    def test_pulls_are_counted_by_tag_and_client(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        put(self.file, version(("w", 1000), tag=SMALL))
        self.file.use({(M, LATEST): Usage(2, 50.0, 60.0, {"a", "b"})}, {})
        self.file.use({(M, LATEST): Usage(1, 70.0, 70.0, {"b"})}, {(M, digest("w")): 900})
        found = self.find()
        self.assertEqual((found.pulls, found.clients, found.sent), (3, 2, 900))
        self.assertEqual((found.first_pull, found.last_pull), (50.0, 70.0))
        self.assertEqual(self.find(tag=SMALL).sent, 0)
        self.assertEqual([each.used_at for each in self.file.candidates()], [5.0, 70.0])
        # Of what is not stored nothing is counted.
        self.file.use({(N, LATEST): Usage(1, 1.0, 1.0, {"a"})}, {(N, digest("w")): 1})

    def test_gone_upstream_is_remembered_from_its_first_time(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        self.file.checked(M, LATEST, 100.0, gone=True)
        self.file.checked(M, LATEST, 200.0, gone=True)
        put(self.file, version(("w", 1000)))
        self.assertEqual(self.find().gone_since, 100.0)
        self.assertTrue(next(self.file.candidates()).gone)
        self.file.checked(M, LATEST, 300.0, gone=False)
        self.assertEqual((self.find().gone_since, self.find().checked_at), (None, 300.0))

    def test_totals_tell_what_bytes_are_for(self: Any) -> None:
        for blob, size in (("v1", 100), ("v2", 100), ("old", 7), ("new", 70), ("lost", 1000)):
            self.file.blobs_stored([(digest(blob), size)])
        put(self.file, version(("old", 7)))
        put(self.file, version(("new", 70), called="v2"))
        put(self.file, version(("new", 70), called="v2", name=N))
        found = self.file.totals()
        self.assertEqual((found.tags, found.versions, found.blobs), (2, 3, 5))
        self.assertEqual((found.stored, found.superseded), (1277, 107))
        self.assertEqual((found.shared, found.unneeded), (170, 1000))

    def test_tags_that_were_checked_since_are_to_be_read_again(self: Any) -> None:
        put(self.file, version(("w", 1000)), checked_at=10.0)
        page = [(M, LATEST, 10.0), (N, LATEST, 10.0)]
        self.assertEqual(self.file.changed(page), [(N, LATEST)])
        self.assertEqual(self.file.changed([(M, LATEST, 11.0)]), [(M, LATEST)])

    def test_tags_without_details_are_found_by_their_blobs(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        self.file.put([Indexed(version(("w", 1000), name=N), 5.0, 10.0, False, "{}")], 20.0)
        self.assertEqual(self.file.lacking([digest("w"), digest("v1")]), [(N, LATEST)])
        self.assertEqual(self.file.lacking([digest("other")]), [])

    def test_what_is_in_the_files_no_more_is_found_out(self: Any) -> None:
        put(self.file, version(("w", 1000)))
        put(self.file, version(("w", 1000), name=N))
        self.file.blobs_stored([(digest("gone"), 3)])
        self.file.begin_sweep()
        self.file.see_tags([(N, LATEST)])
        self.file.see_blobs([(digest("w"), 1000), (digest("other"), 5)])
        self.assertEqual(self.file.unseen(), ([(M, LATEST)], [digest("gone")]))
        self.assertEqual(self.file.unneeded(), [digest("gone"), digest("other")])


class MemoryTests(Contract, SynchronousTestCase):
    def make(self) -> CatalogFile:
        return CatalogFile(":memory:")


class FileTests(Contract, SynchronousTestCase):
    def make(self) -> CatalogFile:
        self.path = self.mktemp()
        return CatalogFile(self.path)

    def test_file_is_found_again(self) -> None:
        put(self.file, version(("w", 1000)))
        # As after a kill: it was not closed.
        again = CatalogFile(self.path)
        self.addCleanup(again.close)
        self.assertEqual(again.page(), self.file.page())
        self.assertFalse(again.is_new)

    def test_group_may_write_it_if_the_umask_says_so(self) -> None:
        """SQLite makes its files 0644, and the next user of a group could not store."""
        self.addCleanup(os.umask, os.umask(0o002))
        path = self.mktemp()
        self.addCleanup(CatalogFile(path).close)
        for each in (path, path + "-wal", path + "-shm"):
            self.assertEqual(stat.S_IMODE(os.stat(each).st_mode), 0o664, each)

    def test_file_that_only_another_user_may_write_is_made_anew(self) -> None:
        put(self.file, version(("w", 1000)))
        self.file.close()
        self.patch(os, "access", lambda path, mode: mode != os.W_OK)
        again = CatalogFile(self.path)
        self.addCleanup(again.close)
        self.assertTrue(again.is_new)

    def test_file_that_another_program_has_locked_is_no_damaged_one(self) -> None:
        """A backup at the daemon's start cost the counts of all pulls."""
        put(self.file, version(("w", 1000)))
        self.file.close()
        self.patch(catalog_schema, "LOCKED_FOR", 0.0)
        backup = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(backup.close)
        backup.execute("PRAGMA locking_mode = EXCLUSIVE")
        backup.execute("BEGIN EXCLUSIVE")
        with self.assertRaises(sqlite3.OperationalError):
            CatalogFile(self.path)
        backup.close()
        again = CatalogFile(self.path)
        self.addCleanup(again.close)
        self.assertFalse(again.is_new)

    def test_damaged_file_and_file_of_another_version_are_made_anew(self) -> None:
        put(self.file, version(("w", 1000)))
        self.file.close()
        with open(self.path, "rb") as file:
            whole = file.read()
        with sqlite3.connect(self.path) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        with open(self.path, "rb") as file:
            newer = file.read()
        for body in (b"", b"nonsense" * 1000, whole[: len(whole) // 2], newer):
            for extra in ("-wal", "-shm"):
                if os.path.exists(self.path + extra):
                    os.unlink(self.path + extra)
            with open(self.path, "wb") as file:
                file.write(body)
            found = CatalogFile(self.path)
            self.assertTrue(found.is_new)
            self.assertEqual(found.page(), [])
            put(found, version(("w", 1000)))
            found.close()


class CatalogMachine(RuleBasedStateMachine):
    """Versions, blobs and their numbers against a model in dictionaries."""

    names = st.sampled_from([M, N])
    tags = st.sampled_from([LATEST, SMALL])
    blobs = st.sampled_from("uvwxyz")

    @initialize()
    def begin(self) -> None:
        self.file = CatalogFile(":memory:")
        self.versions: dict[tuple[Repository, Tag, Digest], set[str]] = {}
        self.current: dict[tuple[Repository, Tag], Digest] = {}
        self.here: set[str] = set()

    @rule(name=names, tag=tags, called=st.sampled_from("123"), needs=st.sets(blobs, min_size=1))
    def put(self, name: Repository, tag: Tag, called: str, needs: set[str]) -> None:
        found = Version(
            name, tag, digest(called), tuple(Need(digest(blob), 10) for blob in sorted(needs))
        )
        put(self.file, found)
        self.versions[name, tag, digest(called)] = needs
        self.current[name, tag] = digest(called)

    @rule(name=names, tag=tags, called=st.sampled_from([None, "1", "2", "3"]))
    def remove(self, name: Repository, tag: Tag, called: Optional[str]) -> None:
        wanted = None if called is None else digest(called)
        before = self.needed()
        freed = self.file.remove(name, tag, wanted)
        for key in [each for each in self.versions if each[:2] == (name, tag)]:
            if wanted in (None, key[2]):
                del self.versions[key]
        if wanted in (None, self.current.get((name, tag))):
            self.current.pop((name, tag), None)
        lost = (before - self.needed()) & self.here
        assert set(freed) == set(map(digest, lost)), (freed, lost)

    @rule(blob=blobs)
    def store(self, blob: str) -> None:
        self.file.blobs_stored([(digest(blob), 10)])
        self.here.add(blob)

    @rule(blob=blobs)
    def lose(self, blob: str) -> None:
        self.file.blob_removed(digest(blob))
        self.here.discard(blob)

    def needed(self) -> set[str]:
        return set().union(*self.versions.values())

    @invariant()
    def numbers_add_up(self) -> None:
        listed = {(row.repository, row.tag): row for row in self.file.page()}
        assert {
            (str(name), str(tag)): found.hex for (name, tag), found in self.current.items()
        } == {key: row.digest for key, row in listed.items()}
        for (name, tag), found in self.current.items():
            row, needs = listed[str(name), str(tag)], self.versions[name, tag, found]
            assert (row.size, row.missing) == (10 * len(needs), len(needs - self.here))
        assert set(self.file.unneeded()) == set(map(digest, self.here - self.needed()))
        totals = self.file.totals()
        assert (totals.versions, totals.stored) == (len(self.versions), 10 * len(self.here))
        assert {
            (each.version.digest, each.superseded_at is None) for each in self.file.candidates()
        } == {(key[2], self.current.get(key[:2]) == key[2]) for key in self.versions}

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class MachineTests(SynchronousTestCase):
    def test_numbers_add_up_whatever_happens(self) -> None:
        run_state_machine_as_test(CatalogMachine, settings=settings(deadline=None))
