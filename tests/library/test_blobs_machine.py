"""Blobs under models that tell the truth and models that lie: nobody harms another."""

from __future__ import annotations

from typing import Any, Optional

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import ScriptedDisk, ScriptedSource, content_of
from tests.storage.memory import MemoryStore
from tests.storage.strategies import result_of
from yukari.descriptors import Descriptor
from yukari.errors import RegistryError, upstream_unreachable
from yukari.fills.fill import Fill
from yukari.fills.scheduler import FetchScheduler
from yukari.library.library import Library
from yukari.names import DEFAULT, Digest, Repository
from yukari.sources.base import SourceRefused
from yukari.storage.readable import StoredBlob

NAMES = [Repository(DEFAULT, "library", name) for name in ("a", "b")]
BODIES = {Digest.of(body): body for body in (content_of(1000, seed) for seed in range(1))}

names = st.sampled_from(NAMES)
digests = st.sampled_from(sorted(BODIES))
claims = st.sampled_from((None, 7, 1000, 5000))


class Upstream:
    """Knows the truth, while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.sources: list[tuple[Digest, int, ScriptedSource]] = []

    async def blob_size(self, name: Repository, digest: Digest) -> int:
        if not self.up:
            raise upstream_unreachable("it is down")
        return len(BODIES[digest])

    def blob(self, digest: Digest, size: int, *names: Repository) -> ScriptedSource:
        source = ScriptedSource(BODIES[digest])
        self.sources.append((digest, size, source))
        return source


class Blobs(RuleBasedStateMachine):
    """What clients of two models see of a blob, whatever the models' manifests say."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore()
        self.upstream = Upstream()
        upstream: Any = self.upstream
        self.library = Library(
            store=self.store,
            upstream=upstream,
            scheduler=FetchScheduler(self.clock, 4, 8),
            in_thread=ScriptedDisk(),
            clock=self.clock,
            now=self.clock.seconds,
        )
        self.honest: set[tuple[Repository, Digest]] = set()
        self.lying: set[tuple[Repository, Digest]] = set()
        self.refused: set[Digest] = set()

    def teardown(self) -> None:
        result_of(self.library.stop())
        assert not self.clock.getDelayedCalls()

    @rule(
        digest=digests,
        sizes=st.lists(claims, min_size=len(NAMES), max_size=len(NAMES)),
        heads=st.booleans(),
    )
    def learn(self, digest: Digest, sizes: list[Optional[int]], heads: bool) -> None:
        for name, size in zip(NAMES, sizes):
            if size is not None:
                true = size == len(BODIES[digest])
                (self.honest if true else self.lying).add((name, digest))
                (self.lying if true else self.honest).discard((name, digest))
                self.library.blobs.learn(name, [Descriptor(digest, size, "text/plain")])
        for name in NAMES if heads else ():
            self.head(name, digest)

    def may_be_deceived(self, name: Repository, digest: Digest) -> bool:
        """Whether nobody has contradicted the lie of the model's own manifest."""
        told = any(each == digest for _, each in self.honest)
        return (name, digest) in self.lying and not told

    def asked(self, asking: Any) -> Any:
        """The answer, or the error that it is; it must not take longer than a few seconds."""
        asked = Deferred.fromCoroutine(asking)
        if not asked.called:
            self.clock.advance(3)
        results: list[Any] = []
        asked.addCallbacks(results.append, lambda failure: results.append(failure.value))
        assert results, "it hangs"
        return results[0]

    @rule(name=names, digest=digests)
    def head(self, name: Repository, digest: Digest) -> None:
        found = self.asked(self.library.blob_size(name, digest))
        if isinstance(found, RegistryError):
            assert not self.upstream.up or digest in self.refused, found
        elif self.upstream.up and not self.may_be_deceived(name, digest):
            assert found == len(BODIES[digest])

    @rule(name=names, digest=digests)
    def get(self, name: Repository, digest: Digest) -> None:
        found = self.asked(self.library.blob(name, digest))
        if isinstance(found, StoredBlob):
            assert found.read(0, 10_000) == BODIES[digest] or not self.upstream.up
            found.close()
        elif isinstance(found, Fill):
            found.start()
        else:
            assert isinstance(found, RegistryError), found
            assert not self.upstream.up, found

    @rule()
    def feed(self) -> None:
        """Upstream answers all it is asked, and refuses what is of a wrong size."""
        for _ in range(6):
            for digest, size, source in self.upstream.sources:
                for asked in source.open:
                    if size != len(BODIES[digest]):
                        wrong = RegistryError("SIZE_INVALID", "another size", 502)
                        asked.refuse(SourceRefused(wrong))
                    elif not asked.answered:
                        asked.answer()
                    else:
                        asked.send(10**6)
            self.clock.advance(0.06)

    @rule(digest=digests)
    def refuse(self, digest: Digest) -> None:
        """Upstream does not have it for now."""
        for each, _, source in self.upstream.sources:
            for asked in source.open if each == digest else ():
                if not asked.answered:
                    gone = RegistryError("BLOB_UNKNOWN", "gone", 404)
                    asked.refuse(SourceRefused(gone))
                    self.refused.add(digest)

    @rule(up=st.booleans())
    def turn(self, up: bool) -> None:
        self.upstream.up = up

    @rule(digest=digests)
    def remove(self, digest: Digest) -> None:
        """Somebody removes a stored blob by hand."""
        self.store._blobs.pop(digest, None)
        self.clock.advance(6)

    @precondition(lambda self: self.honest and self.upstream.up)
    @rule(digest=digests)
    def pull(self, digest: Digest) -> None:
        """A repository that has the blob gives it to clients, whatever happened before."""
        name = next((name for name, each in sorted(self.honest) if each == digest), None)
        if name is None:
            return
        for _ in range(3):
            self.get(name, digest)
            self.feed()
        assert bytes(self.store._blobs[digest]) == BODIES[digest]

    @invariant()
    def only_right_blobs_are_stored(self) -> None:
        for digest, body in self.store._blobs.items():
            assert bytes(body) == BODIES[digest]


class SlowStore(MemoryStore):
    """Removes blobs when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.removing: list[Deferred[None]] = []

    async def delete_blob(self, digest: Digest) -> None:
        self.removing.append(Deferred())
        await self.removing[-1]
        await super().delete_blob(digest)


class BlobsTests(SynchronousTestCase):
    def test_blob_on_its_way_is_sought_in_no_model_that_was_only_asked_for(self) -> None:
        """
        Every name that a client made up was kept, written beside the spool, and asked for upstream
        once the blob was refused there.
        """
        machine = Blobs()
        self.addCleanup(machine.teardown)
        ((digest, body),) = BODIES.items()
        for name in NAMES:
            machine.library.blobs.learn(name, [Descriptor(digest, len(body), "text/plain")])
        fill = machine.asked(machine.library.blob(NAMES[0], digest))
        fill.start()
        for _, _, source in machine.upstream.sources:
            source.open[0].answer()
            source.open[0].send(10)
        made_up = [Repository(DEFAULT, "library", f"x{at}") for at in range(20)]
        for name in (*made_up, NAMES[1]):
            self.assertIs(machine.asked(machine.library.blob(name, digest)), fill)
        self.assertEqual(list(fill.models), NAMES)

    def test_blob_that_is_removed_twice_at_a_time_keeps_nobody_waiting(self) -> None:
        """An admin's removal beside the sweep: whoever asked meanwhile waited for ever."""
        machine = Blobs()
        self.addCleanup(machine.teardown)
        blobs, store = machine.library.blobs, SlowStore()
        blobs._store = store
        ((digest, body),) = BODIES.items()
        store._blobs[digest] = bytearray(body)
        first, second = [Deferred.fromCoroutine(blobs.remove(digest)) for _ in range(2)]
        asked = Deferred.fromCoroutine(blobs.stored_size(NAMES[0], digest))
        while store.removing:
            store.removing.pop(0).callback(None)
        self.assertIs(self.successResultOf(first), True)
        self.assertIs(self.successResultOf(second), False)
        self.assertIsNone(self.successResultOf(asked))

    def test_no_model_harms_another_in_any_order_of_events(self) -> None:
        run_state_machine_as_test(
            Blobs, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
        )
