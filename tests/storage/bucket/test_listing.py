"""Which of a bucket's keys are tagged manifests, and how many facts of blobs are remembered."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import blob_digests, model_names, tags
from yukari.manifest import Variant
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.storage.bucket.blobs import Known
from yukari.storage.bucket.keys import manifest_key
from yukari.storage.bucket.listing import listed


class KeyTests(SynchronousTestCase):
    @given(model_names(DEFAULT, "hf.co", "10.0.0.5:5000"), tags(), st.floats(0, 2**31))
    def test_a_tagged_manifests_key_is_read_back(
        self, name: Repository, tag: Tag, modified: float
    ) -> None:
        row = listed(manifest_key(name, tag, Variant.PLAIN), modified)
        self.assertEqual(row, (name.registry, name.namespace, name.model, tag.name, modified))

    @given(model_names(), blob_digests())
    def test_one_by_its_digest_is_not_listed(self, name: Repository, digest: Digest) -> None:
        self.assertIsNone(listed(f"v2/{name}/manifests/{digest}", 1.0))

    @given(st.text() | st.lists(st.sampled_from(["v2", "a", "", "manifests", "é"])).map("/".join))
    def test_any_other_key_is_passed_over_or_has_four_right_parts(self, key: str) -> None:
        row = listed(key, 1.0)
        if row is not None:
            name, tag = Repository(*row[:3]), Tag(row[3])
            keys = [manifest_key(name, tag, variant) for variant in Variant]
            self.assertIn(key, keys)

    def test_the_garbage_collector_keeps_no_account_of_rows(self) -> None:
        """A look at 100,000 manifests would hold the reactor for tens of milliseconds."""
        row = listed("v2/library/m/manifests/latest", 1.0)
        gc.collect()
        self.assertFalse(gc.is_tracked(row))


class KnownTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(0, 19), st.none() | st.integers())))
    def test_the_latest_are_remembered(self, told: list[tuple[int, int | None]]) -> None:
        """Those beyond the most go several at a time."""
        facts: Known[int] = Known(10)
        model: dict[Digest, int] = {}
        for number, fact in told:
            digest = Digest.of(b"%d" % number)
            model.pop(digest, None)
            if fact is None:
                facts.forget(digest)
            else:
                facts.remember(digest, fact)
                model[digest] = fact
                for old in list(model)[:2] if len(model) > 10 else ():
                    del model[old]
        for number in range(20):
            digest = Digest.of(b"%d" % number)
            self.assertEqual(facts.get(digest), model.get(digest))
            self.assertEqual(digest in facts, digest in model)
