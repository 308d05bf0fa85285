"""The blobs of a manifest, in little memory."""

from __future__ import annotations

import gc
from typing import Optional

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import descriptors, manifest_body
from yukari.descriptors import (
    PACKED_FROM,
    Descriptor,
    PackedBlobs,
    among,
    of_types,
    packed,
    typed,
)
from yukari.manifest import Manifest
from yukari.names import Digest

places = st.none() | st.integers(-10, 10)


class PackedBlobsTests(SynchronousTestCase):
    @given(st.lists(descriptors(), max_size=9), places, places, st.sampled_from((None, 1, 2, -1)))
    def test_they_are_the_blobs_in_their_order(
        self,
        blobs: list[Descriptor],
        start: Optional[int],
        stop: Optional[int],
        step: Optional[int],
    ) -> None:
        made = PackedBlobs.of(blobs)
        self.assertEqual(list(made), blobs)
        self.assertEqual(made[start:stop:step], blobs[start:stop:step])
        self.assertEqual([made[at] for at in range(-len(made), len(made))], 2 * blobs)
        self.assertRaises(IndexError, lambda: made[len(blobs)])
        same = PackedBlobs.of(list(blobs))
        self.assertEqual((made, hash(made)), (same, hash(same)))
        self.assertNotEqual(made, PackedBlobs.of([*blobs, Descriptor(Digest("0" * 64), 1, "a/b")]))

    @given(st.lists(descriptors(), max_size=9), st.lists(descriptors(), max_size=3), st.data())
    def test_those_of_some_digests_are_found(
        self, blobs: list[Descriptor], others: list[Descriptor], data: st.DataObject
    ) -> None:
        some = data.draw(st.lists(st.sampled_from(blobs), max_size=3)) if blobs else []
        known = [{blob.digest for blob in some}, [blob.digest for blob in others]]
        wanted = [blob for blob in blobs if any(blob.digest in digests for digests in known)]
        for each in (tuple(blobs), PackedBlobs.of(blobs)):
            self.assertEqual(among(each, *known), wanted)

    @given(st.lists(descriptors(), max_size=9), st.data())
    def test_those_of_some_types_are_found(
        self, blobs: list[Descriptor], data: st.DataObject
    ) -> None:
        types = {"x/none", *(blob.media_type for blob in blobs if data.draw(st.booleans()))}
        for each in (tuple(blobs), PackedBlobs.of(blobs)):
            found = [blob for blob in blobs if blob.media_type in types]
            self.assertEqual(list(of_types(each, types)), found)
            pairs = [(blob.digest.raw, blob.media_type) for blob in blobs]
            self.assertEqual(list(typed(each)), pairs)

    def test_manifest_of_many_layers_holds_no_object_for_each(self) -> None:
        """Thirty of 12,000 layers each, on their way to their clients, were a hundred megabytes."""
        count = 2 * PACKED_FROM
        layers = [Descriptor(Digest(f"{at:064x}"), at + 1, "a/b") for at in range(count)]
        body = manifest_body(layers, None, None)
        manifest = Manifest.parse(body)
        self.assertLess(len(held_by(manifest)), 20)
        self.assertEqual(list(manifest.blobs), layers)

    def test_few_are_kept_as_they_are(self) -> None:
        blobs = [Descriptor(Digest(f"{at:064x}"), 1, "a/b") for at in range(PACKED_FROM - 1)]
        self.assertEqual(packed(blobs), tuple(blobs))


def held_by(value: object) -> dict[int, object]:
    """All objects that it holds, but for classes, by their identity."""
    held, looked = {id(value): value}, [value]
    while looked:
        for each in gc.get_referents(looked.pop()):
            if not isinstance(each, type) and id(each) not in held:
                held[id(each)] = each
                looked.append(each)
    return held
