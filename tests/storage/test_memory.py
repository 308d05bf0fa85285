"""The store in memory."""

from __future__ import annotations

from typing import Optional

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.storage.contract import BODY, DIGEST, NAME, StoreContract
from tests.storage.machine import StoreMachine
from tests.storage.memory import MemoryStore
from tests.storage.strategies import result_of
from yukari.storage.ports import NoRoom, Store


class MemoryContract(StoreContract, TestCase):
    """Every promise."""

    def make_store(self, room: Optional[int] = None) -> Store:
        return MemoryStore(room)

    def after_a_kill(self, store: Store) -> Store:
        return store


class MemoryStoreTests(SynchronousTestCase):
    """What only this one does."""

    def test_published_blobs_count_against_the_capacity(self) -> None:
        store = MemoryStore(len(BODY))
        spool = result_of(store.new_spool(DIGEST, len(BODY), NAME))
        spool.write([(0, [BODY])])
        result_of(store.publish(spool))
        with self.assertRaises(NoRoom):
            result_of(store.new_spool(DIGEST, 1, NAME))
        result_of(store.delete_blob(DIGEST))
        result_of(store.new_spool(DIGEST, 1, NAME))

    def test_there_is_no_descriptor(self) -> None:
        spool = result_of(MemoryStore().new_spool(DIGEST, 1, NAME))
        self.assertIsNone(spool.open().fileno())


class MemoryMachine(StoreMachine):
    """`StoreMachine` over a store in memory."""

    def make_store(self) -> Store:
        return MemoryStore()

    def after_a_stop(self) -> Store:
        return self.store


class MemoryMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_any_sequence_of_calls_and_restarts(self) -> None:
        run_state_machine_as_test(MemoryMachine, settings=settings(max_examples=50, deadline=None))
