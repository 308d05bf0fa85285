"""Which manifests wait for S3, and in which order they are put."""

from __future__ import annotations

import os

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import ScriptedDisk
from tests.library.test_library import manifest_of
from tests.storage.contract import LATEST
from tests.storage.strategies import lists, result_of, times, variants
from tests.strategies import manifests, model_names, references
from yukari.manifest import AnyManifest, Variant
from yukari.names import DEFAULT, Reference, Repository
from yukari.s3.errors import S3Error
from yukari.storage.bucket import pending as pending_module
from yukari.storage.bucket.pending import AGAIN, PendingManifests, decode, header
from yukari.storage.ports import StoredManifest

MANIFEST = manifest_of(b"late")


def named(number: int) -> Repository:
    return Repository(DEFAULT, "library", f"m{number}")


@define(eq=False)
class Bucket:
    """It takes what is not ``busy``."""

    busy: set[Repository] = field(factory=set)
    taken: list[Repository] = field(factory=list)

    async def put(
        self,
        name: Repository,
        reference: Reference,
        variant: Variant,
        manifest: AnyManifest,
        checked_at: float,
    ) -> None:
        if name in self.busy:
            raise S3Error("SlowDown", 503, "later")
        self.taken.append(name)


class PendingManifestsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.bucket, self.disk = Clock(), Bucket(), ScriptedDisk()
        self.directory, self.through = self.mktemp(), self.mktemp()
        os.mkdir(self.directory)
        os.mkdir(self.through)
        self.pending = self.started()

    def started(self) -> PendingManifests:
        pending = PendingManifests(
            self.bucket.put, self.clock, self.directory, self.through, self.disk
        )
        result_of(pending.restore(pending.read()))
        return pending

    def add(self, count: int) -> None:
        for number in range(count):
            result_of(
                self.pending.add(
                    (named(number), LATEST, Variant.PLAIN), StoredManifest(MANIFEST, 1.0)
                )
            )

    def try_so_often(self, times: int) -> None:
        for _ in range(times):
            self.clock.advance(2 * AGAIN[1])

    def test_one_that_s3_never_takes_does_not_keep_the_others_back(self) -> None:
        self.bucket.busy.add(named(0))
        self.add(3)
        self.try_so_often(4)
        self.assertEqual(self.bucket.taken, [named(1), named(2)])
        self.bucket.busy.clear()
        self.try_so_often(4)
        self.assertEqual(self.bucket.taken, [named(1), named(2), named(0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_more_wait_than_memory_is_meant_for(self) -> None:
        self.patch(pending_module, "MAX_CACHED_BYTES", 3 * len(MANIFEST.body))
        self.add(5)
        self.try_so_often(1)
        self.assertEqual(self.bucket.taken, [named(2), named(3), named(4)])

    def test_what_is_added_once_it_has_stopped_is_not_tried(self) -> None:
        self.add(1)
        self.pending.stop()
        self.add(2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_next_process_puts_what_still_waits_and_nothing_else(self) -> None:
        self.bucket.busy.update(named(number) for number in (1, 2, 3))
        self.add(4)
        self.try_so_often(5)
        self.pending.stop()
        self.assertEqual(self.bucket.taken, [named(0)])
        with open(os.path.join(self.directory, "0" * 64), "wb") as torn:
            torn.write(b'{"name": "library/m"')
        self.bucket.busy.clear()
        again = self.started()
        self.assertEqual(
            again.newest((named(1), LATEST, Variant.PLAIN), None), StoredManifest(MANIFEST, 1.0)
        )
        self.try_so_often(4)
        self.assertEqual(self.bucket.taken, [named(each) for each in range(4)])
        self.assertEqual(os.listdir(self.directory), [])

    def test_what_is_put_while_its_file_is_written_leaves_none(self) -> None:
        self.disk.slow = True
        adding = Deferred.fromCoroutine(
            self.pending.add((named(0), LATEST, Variant.PLAIN), StoredManifest(MANIFEST, 1.0))
        )
        self.try_so_often(1)
        self.assertEqual(self.bucket.taken, [named(0)])
        while self.disk.waiting:
            self.disk.work()
        self.successResultOf(adding)
        self.assertEqual(os.listdir(self.directory), [])

    def test_no_more_files_lie_there_than_wait(self) -> None:
        self.patch(pending_module, "MAX_PENDING", 2)
        self.add(5)
        self.assertEqual(len(os.listdir(self.directory)), 2)

    def test_a_disk_that_takes_no_file_keeps_none_from_the_bucket(self) -> None:
        os.rmdir(self.through)
        self.add(1)
        self.try_so_often(1)
        self.assertEqual(self.bucket.taken, [named(0)])

    @given(model_names(), references(), variants, manifests() | lists, times)
    def test_a_file_tells_what_was_written(
        self,
        name: Repository,
        reference: Reference,
        variant: Variant,
        manifest: AnyManifest,
        checked_at: float,
    ) -> None:
        told = (name, reference, variant), StoredManifest(manifest, checked_at)
        self.assertEqual(decode(header(*told) + bytes(told[1].manifest.body)), told)

    @given(st.binary(max_size=300) | st.from_regex(rb'\{"name": .*\}\n\{.*', fullmatch=True))
    def test_other_bytes_are_a_value_error(self, content: bytes) -> None:
        try:
            decode(content)
        except ValueError:
            pass
