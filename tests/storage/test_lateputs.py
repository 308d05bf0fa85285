"""Which manifests wait for S3, and in which order they are put."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.contract import LATEST
from tests.test_library import manifest_of
from yukari.manifest import Manifest
from yukari.names import ModelName, Reference
from yukari.s3.errors import S3Error
from yukari.storage import lateputs
from yukari.storage.interface import StoredManifest
from yukari.storage.lateputs import AGAIN, LatePuts

MANIFEST = manifest_of(b"late")


def named(number: int) -> ModelName:
    return ModelName("library", f"m{number}")


@define(eq=False)
class Bucket:
    """It takes what is not ``busy``."""

    busy: set[ModelName] = field(factory=set)
    taken: list[ModelName] = field(factory=list)

    async def put(
        self, name: ModelName, reference: Reference, manifest: Manifest, checked_at: float
    ) -> None:
        if name in self.busy:
            raise S3Error("SlowDown", 503, "later")
        self.taken.append(name)


class LatePutsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.bucket = Clock(), Bucket()
        self.late = LatePuts(self.bucket.put, self.clock)

    def add(self, count: int) -> None:
        for number in range(count):
            self.late.add((named(number), LATEST), StoredManifest(MANIFEST, 1.0))

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
        self.patch(lateputs, "MOST_BYTES", 3 * len(MANIFEST.body))
        self.add(5)
        self.try_so_often(1)
        self.assertEqual(self.bucket.taken, [named(2), named(3), named(4)])

    def test_what_is_added_once_it_has_stopped_is_not_tried(self) -> None:
        self.add(1)
        self.late.stop()
        self.add(2)
        self.assertEqual(self.clock.getDelayedCalls(), [])
