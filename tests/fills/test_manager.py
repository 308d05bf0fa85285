"""Fills that are stopped while their disk is slow."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import NAME, ScriptedDisk, ScriptedSource, content_of
from tests.storage.memory import MemoryStore
from yukari.errors import RegistryError
from yukari.fills.manager import FillManager
from yukari.fills.scheduler import FetchScheduler
from yukari.metrics import Metrics
from yukari.names import Digest, Repository

BODY = content_of(1000)
DIGEST = Digest.of(BODY)


class StoppingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.disk, self.store = Clock(), ScriptedDisk(), MemoryStore()
        self.sources: list[ScriptedSource] = []
        self.stored: list[Digest] = []
        self.manager = self.new_manager()

    def new_manager(self) -> FillManager:
        return FillManager(
            self.store,
            self,
            FetchScheduler(self.clock, 4, 8),
            self.disk,
            self.clock,
            Metrics(),
            lambda digest, _: self.stored.append(digest),
        )

    def blob(self, digest: Digest, size: int, *repositories: Repository) -> Any:
        self.sources.append(ScriptedSource(BODY))
        return self.sources[-1]

    def begin(self) -> None:
        """Begin the blob's fill, and have some of it arrive."""
        self.manager.begin(DIGEST, len(BODY), NAME).start()
        for asked in self.sources[-1].open:
            asked.answer()
            asked.send(100)

    def stopped(self) -> Deferred[None]:
        """Stop it while its bytes are being written."""
        self.disk.slow = True
        self.clock.advance(0.06)
        stopped = self.manager.cancel(DIGEST, RegistryError("UNAVAILABLE", "no more", 503))
        assert stopped is not None
        return stopped

    def stop_all(self) -> None:
        """The process ends."""
        self.clock.advance(0.06)
        self.successResultOf(Deferred.fromCoroutine(self.manager.stop()))

    def write(self) -> None:
        self.disk.slow = False
        while self.disk.waiting:
            self.disk.work()

    def test_blob_stopped_twice_while_it_is_written_can_be_pulled_again(self) -> None:
        """The second fill waited for its own end, and the blob was lost until a restart."""
        stopped = []
        for _ in range(2):
            self.begin()
            stopped.append(self.stopped())
        self.assertNoResult(stopped[0])
        self.write()
        for each in stopped:
            self.successResultOf(each)
        self.begin()
        for asked in self.sources[-1].open:
            asked.send(len(BODY))
        self.clock.advance(0.06)
        self.assertEqual(self.stored, [DIGEST])

    def test_fill_is_stopped_though_its_admin_leaves(self) -> None:
        """Its spool stayed open, with the room for all that had not come, until a restart."""
        self.begin()
        stopped = self.stopped()
        stopped.cancel()
        self.failureResultOf(stopped, CancelledError)
        self.write()
        self.assertEqual(self.manager._leaving, {})
        self.assertEqual(self.store._spools, {})

    def test_daemon_starts_although_the_disk_fails_to_look_a_blob_up(self) -> None:
        self.begin()
        self.stop_all()

        async def blob_size(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        self.patch(MemoryStore, "blob_size", blob_size)
        again = self.new_manager()
        self.successResultOf(Deferred.fromCoroutine(again.restore()))
        self.assertEqual([fill.size for fill in again.fills.values()], [len(BODY)])

    def test_end_of_all_waits_for_one_that_is_being_stopped(self) -> None:
        """What an operator had stopped went on in the next process."""
        self.begin()
        stopped = self.stopped()
        end = Deferred.fromCoroutine(self.manager.stop())
        self.assertNoResult(end)
        self.write()
        self.successResultOf(stopped)
        self.successResultOf(end)
