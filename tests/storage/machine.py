"""What every store promises, as a state machine: random calls, ends of the process, and clients."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.storage.contract import last_of
from tests.storage.memory import MemoryStore
from tests.storage.strategies import (
    BODIES,
    bodies,
    lists,
    manifests,
    model_names,
    result_of,
    tags,
    times,
    variants,
)
from yukari.manifest import AnyManifest, Manifest, ManifestList, Variant
from yukari.names import Digest, Repository, Tag
from yukari.spans import SpanSet
from yukari.storage.ports import (
    ManifestEntry,
    Spool,
    Store,
)


class StoreMachine(RuleBasedStateMachine):
    """A store beside the dictionaries that it should equal; restarts come at any time."""

    store: Store

    def make_store(self) -> Store:
        """An empty store."""
        raise NotImplementedError

    def after_a_stop(self) -> Store:
        """A store, not yet started, in the place of the one that was stopped."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.store = self.make_store()
        result_of(self.store.start())
        self.model = MemoryStore()
        self.blobs: dict[Digest, bytes] = {}
        self.spools: dict[Digest, Spool] = {}
        self.covered: dict[Digest, SpanSet] = {}
        self.repositories: dict[Digest, tuple[Repository, ...]] = {}

    def teardown(self) -> None:
        for spool in getattr(self, "spools", {}).values():
            spool.close()
        if hasattr(self, "store"):
            result_of(self.store.stop())

    # manifests

    @rule(name=model_names, tag=tags, manifest=manifests | lists, time=times, variant=variants)
    def put(
        self, name: Repository, tag: Tag, manifest: AnyManifest, time: float, variant: Variant
    ) -> None:
        if isinstance(manifest, ManifestList):
            variant = Variant.LIST
        for store in (self.store, self.model):
            result_of(store.put_manifest(name, tag, manifest, time, variant))

    @rule(name=model_names, manifest=manifests | lists, time=times)
    def put_by_digest(self, name: Repository, manifest: AnyManifest, time: float) -> None:
        for store in (self.store, self.model):
            result_of(store.put_manifest(name, manifest.digest, manifest, time))

    @rule(name=model_names, tag=tags, manifest=manifests | lists, time=times, variant=variants)
    def touch(
        self, name: Repository, tag: Tag, manifest: AnyManifest, time: float, variant: Variant
    ) -> None:
        for store in (self.store, self.model):
            result_of(store.touch_manifest(name, tag, manifest.digest, time, variant))

    @rule(name=model_names, tag=tags, variant=variants, time=times)
    def touch_what_is_there(
        self, name: Repository, tag: Tag, variant: Variant, time: float
    ) -> None:
        found = result_of(self.model.get_manifest(name, tag, variant))
        if found is not None:
            self.touch(name, tag, found.manifest, time, variant)

    @rule(name=model_names, tag=tags, manifest=manifests | lists, variant=variants)
    def get(self, name: Repository, tag: Tag, manifest: Manifest, variant: Variant) -> None:
        found = result_of(self.store.get_manifest(name, tag, variant))
        assert found == result_of(self.model.get_manifest(name, tag, variant))
        # The time of a digest is any at which some repository put it: models share it.
        stored = result_of(self.store.get_manifest(name, manifest.digest, variant))
        expected = result_of(self.model.get_manifest(name, manifest.digest, variant))
        assert (stored and stored.manifest) == (expected and expected.manifest)

    @rule(most=st.integers(1, 5), name=model_names)
    def list_all(self, most: int, name: Repository) -> None:
        listed: list[ManifestEntry] = []
        while page := result_of(self.store.manifests(last_of(listed), most)):
            listed += page
        assert listed == result_of(self.model.manifests())
        assert result_of(self.store.tags(name)) == result_of(self.model.tags(name))

    # blobs

    @rule(body=bodies, name=model_names)
    def new_spool(self, body: bytes, name: Repository) -> None:
        digest = Digest.of(body)
        if digest not in self.spools:
            self.spools[digest] = result_of(self.store.new_spool(digest, len(body), name))
            self.covered[digest] = SpanSet()
            self.repositories[digest] = (name,)

    @precondition(lambda self: self.spools)
    @rule(data=st.data(), name=model_names)
    def write(self, data: Any, name: Repository) -> None:
        digest = data.draw(st.sampled_from(sorted(self.spools)))
        body = _body(digest)
        ends = st.integers(0, len(body))
        pieces = []
        for first, second in data.draw(st.lists(st.tuples(ends, ends), max_size=3)):
            start, end = sorted((first, second))
            pieces.append((start, [body[start:end]]))
            self.covered[digest].add(start, end)
        self.spools[digest].write(pieces)
        if data.draw(st.booleans()):
            self.spools[digest].note_repository(name)
            if name not in self.repositories[digest]:
                self.repositories[digest] += (name,)

    @precondition(lambda self: self.spools)
    @rule(data=st.data(), fill=st.booleans())
    def publish(self, data: Any, fill: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.spools)))
        body, spool = _body(digest), self.spools[digest]
        if fill:
            spool.write([(0, [body])])
            self.covered[digest].add(0, len(body))
        if self.covered[digest].total < len(body):
            try:
                result_of(self.store.publish(spool))
            except ValueError:
                return
            raise AssertionError("a spool with gaps was published")
        result_of(self.store.publish(spool))
        spool.close()
        del self.spools[digest]
        self.blobs[digest] = body

    @precondition(lambda self: self.spools)
    @rule(data=st.data())
    def discard(self, data: Any) -> None:
        self.spools.pop(data.draw(st.sampled_from(sorted(self.spools)))).discard()

    @rule(body=bodies)
    def forget(self, body: bytes) -> None:
        result_of(self.store.delete_blob(Digest.of(body)))
        self.blobs.pop(Digest.of(body), None)

    @rule()
    def restart(self) -> None:
        for spool in self.spools.values():
            spool.close()
        result_of(self.store.stop())
        self.store = self.after_a_stop()
        result_of(self.store.start())
        found = {spool.digest: spool for spool in result_of(self.store.spools())}
        assert set(found) == set(self.spools)
        self.spools = found

    @invariant()
    def equals_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        for body in BODIES:
            digest = Digest.of(body)
            wanted = self.blobs.get(digest)
            size = result_of(self.store.blob_size(digest))
            assert size == (None if wanted is None else len(wanted))
            blob = result_of(self.store.open_blob(digest))
            assert (blob is None) == (wanted is None)
            if blob is not None:
                assert blob.read(0, 1000) == wanted
                blob.close()
        for digest, spool in self.spools.items():
            assert list(spool.covered()) == list(self.covered[digest])
            assert spool.repositories == self.repositories[digest]
            reader = spool.open()
            got = reader.read(0, 1000)
            reader.close()
            for span in self.covered[digest]:
                assert got[span.start : span.end] == _body(digest)[span.start : span.end]


def _body(digest: Digest) -> bytes:
    return next(body for body in BODIES if Digest.of(body) == digest)
