"""The daemon's care for its bucket."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.strategies import result_of
from yukari.storage.bucket.upkeep import SWEEP_EVERY, BucketKeeper


class KeeperTests(SynchronousTestCase):
    def test_bucket_is_swept_again_after_an_error_that_nobody_expects(self) -> None:
        """After one such error, nothing was swept or compared until the next start."""
        clock, sweeps = Clock(), list[int]()

        async def nothing(*_: object) -> None:
            pass

        async def broken(*_: object) -> None:
            raise LookupError("a reply that S3 never gives")

        async def sweep() -> None:
            sweeps.append(len(sweeps))
            await broken()

        store: Any = SimpleNamespace(
            connect=nothing, sweep=sweep, inventory=SimpleNamespace(load=broken)
        )
        connections: Any = SimpleNamespace(close=nothing)
        keeper = BucketKeeper(store, connections, clock, "registry.invalid")
        keeper.start()
        clock.advance(0)
        self.assertTrue(keeper.compared)
        for _ in range(3):
            clock.advance(1.5 * SWEEP_EVERY)
        self.assertEqual(len(sweeps), 4)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 5)
        result_of(keeper.stop())
        self.assertEqual(clock.getDelayedCalls(), [])
