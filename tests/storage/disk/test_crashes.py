"""A store in a directory whose process ends, or whose disk fails, at any step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.contract import (
    BODY,
    DIGEST,
    LATEST,
    NAME,
    NEW,
    OLD,
    OTHER,
)
from tests.storage.disk.test_store import HOST, MODULES, store_in
from tests.storage.dying import DyingOs, Killed
from tests.storage.machine import StoreMachine
from tests.storage.strategies import result_of
from yukari.spans import Span
from yukari.storage.disk import spool as spoolfile
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.ports import (
    Store,
    StoredManifest,
)


class AtEveryStep(SynchronousTestCase):
    """Processes that are killed in any step of what they do."""

    def at_every_step(
        self,
        before: Callable[[DirectoryStore], Awaitable[None]],
        do: Callable[[DirectoryStore], Awaitable[None]],
        check: Callable[[DirectoryStore, bool], Awaitable[None]],
    ) -> None:
        """``check`` gets a store on what was left, and whether ``do`` came to its end."""
        done = False
        steps = 0
        while not done:
            path = os.path.abspath(self.mktemp())
            store = store_in(path)
            result_of(store.start())
            result_of(_coroutine(before(store)))
            result_of(store.stop())

            system = DyingOs(steps)
            for module in MODULES:
                self.patch(module, "os", system)
            store = store_in(path)
            try:
                result_of(store.start())
                result_of(_coroutine(do(store)))
                done = True
            except Killed:
                pass
            system.bury()
            for module in MODULES:
                self.patch(module, "os", os)

            store = store_in(path)
            result_of(store.start())
            self.assertEqual(os.listdir(os.path.join(path, "yukari", "tmp")), [])
            result_of(_coroutine(check(store, done)))
            result_of(store.stop())
            steps += 1
        self.assertGreater(steps, 5)


class CrashTests(AtEveryStep):
    """A kill leaves the old or the new."""

    def test_in_the_replacement_of_a_manifest(self) -> None:
        seen = set()

        async def before(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, LATEST, OLD, 1000.0)

        async def do(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, LATEST, NEW, 2000.0)

        async def check(store: DirectoryStore, done: bool) -> None:
            old, new = StoredManifest(OLD, 1000.0), StoredManifest(NEW, 2000.0)
            found = await store.get_manifest(NAME, LATEST)
            self.assertIn(found, (new,) if done else (old, new))
            seen.add(found == new)
            self.assertEqual(await store.get_manifest(NAME, OLD.digest), old)
            if found == new:
                self.assertEqual(await store.get_manifest(NAME, NEW.digest), new)
            self.assertEqual(await store.tags(NAME), [LATEST])
            await store.put_manifest(NAME, LATEST, NEW, 3000.0)
            self.assertEqual(await store.get_manifest(NAME, LATEST), StoredManifest(NEW, 3000.0))

        self.at_every_step(before, do, check)
        self.assertEqual(seen, {False, True})

    def test_in_the_replacement_of_a_manifest_that_ollama_put(self) -> None:
        async def before(store: DirectoryStore) -> None:
            path = os.path.join(store.path, "manifests", HOST, "library", "m", "latest")
            os.makedirs(os.path.dirname(path))
            with open(path, "wb") as file:
                file.write(OLD.body)

        async def do(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, LATEST, NEW, 2000.0)

        async def check(store: DirectoryStore, done: bool) -> None:
            found = await store.get_manifest(NAME, LATEST)
            assert found is not None
            self.assertIn(found.manifest, (NEW,) if done else (OLD, NEW))
            by_digest = await store.get_manifest(NAME, OLD.digest)
            assert by_digest is not None
            self.assertEqual(by_digest.manifest, OLD)

        self.at_every_step(before, do, check)

    def test_in_a_first_manifest_and_a_touch(self) -> None:
        async def before(store: DirectoryStore) -> None:
            pass

        async def do(store: DirectoryStore) -> None:
            await store.put_manifest(NAME, LATEST, OLD, 1000.0)
            await store.touch_manifest(NAME, LATEST, OLD.digest, 2000.0)

        async def check(store: DirectoryStore, done: bool) -> None:
            found = await store.get_manifest(NAME, LATEST)
            times = (2000.0,) if done else (1000.0, 2000.0)
            left = [StoredManifest(OLD, time) for time in times]
            self.assertIn(found, left if done else [None, *left])

        self.at_every_step(before, do, check)

    def test_in_a_spool_from_its_first_byte_to_its_publishing(self) -> None:
        self.patch(spoolfile, "_LINES", 3)
        written: list[Span] = []
        seen = set()

        async def before(store: DirectoryStore) -> None:
            del written[:]

        async def do(store: DirectoryStore) -> None:
            spool = await store.new_spool(DIGEST, len(BODY), NAME)
            for start in range(0, len(BODY), 128):
                middle = start + 64
                buffers = [BODY[start:middle], BODY[middle : start + 128]]
                spool.write([(start, buffers)])
                written.append(Span(start, start + 128))
            spool.note_repository(OTHER)
            await store.publish(spool)

        async def check(store: DirectoryStore, done: bool) -> None:
            blob = await store.open_blob(DIGEST)
            spools = await store.spools()
            seen.add((blob is not None, len(spools)))
            if blob is not None:
                self.assertEqual(blob.read(0, 2000), BODY)
                self.assertEqual(spools, [])
                blob.close()
            if done or not written:
                self.assertEqual(blob is not None, done)
                for spool in spools:
                    spool.discard()
                return
            if blob is None:
                (spool,) = spools
                for span in written:
                    self.assertGreaterEqual(spool.covered().until(span.start), span.end)
                reader = spool.open()
                for span in spool.covered():
                    got = reader.read(span.start, len(span))
                    self.assertEqual(got, BODY[span.start : span.end])
                reader.close()
                spool.write([(0, [BODY])])
                await store.publish(spool)
                spool.close()
            self.assertEqual(await store.blob_size(DIGEST), len(BODY))
            left = os.listdir(os.path.join(store.path, "yukari", "spool"))
            self.assertEqual(left, ["yukari-spool.lock"])

        self.at_every_step(before, do, check)
        self.assertEqual(seen, {(False, 0), (False, 1), (True, 0)})


async def _coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


class DirectoryMachine(StoreMachine):
    """`StoreMachine` over a directory; time passes too."""

    def make_store(self) -> Store:
        self.clock = Clock()
        self.path = tempfile.mkdtemp()
        return self.after_a_stop()

    def after_a_stop(self) -> Store:
        return store_in(self.path, clock=self.clock)

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(getattr(self, "path", ""), ignore_errors=True)


class DirectoryMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_any_sequence_of_calls_and_restarts(self) -> None:
        run_state_machine_as_test(
            DirectoryMachine, settings=settings(max_examples=30, deadline=None)
        )
