"""Blobs in little memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import descriptors
from yukari.library.packed import PackedBlobs
from yukari.manifest import Descriptor


class PackedBlobsTests(SynchronousTestCase):
    @given(st.lists(descriptors(), max_size=9))
    def test_digests_and_sizes_come_back_in_their_order(self, blobs: list[Descriptor]) -> None:
        """Thirty manifests of 12,000 blobs took a hundred megabytes while fills were begun."""
        back = [(blob.digest, blob.size) for blob in PackedBlobs.of(blobs)]
        self.assertEqual(back, [(blob.digest, blob.size) for blob in blobs])
