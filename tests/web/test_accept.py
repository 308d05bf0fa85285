"""Which clients get lists of manifests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.manifest import DOCKER_MANIFEST, MANIFEST_LIST, Variant
from yukari.web.accept import variant_accepted


class AcceptTests(SynchronousTestCase):
    def test_clients_that_name_the_list_type_get_lists(self) -> None:
        for headers in (
            [MANIFEST_LIST],
            [f"{MANIFEST_LIST}, {DOCKER_MANIFEST}"],
            [f"{DOCKER_MANIFEST};q=0.5 , {MANIFEST_LIST.upper()} ; Q=0.1"],
            [DOCKER_MANIFEST, MANIFEST_LIST],
            [f"{MANIFEST_LIST};q=high"],
        ):
            self.assertIs(variant_accepted(headers), Variant.LIST, headers)

    def test_other_clients_get_plain_manifests(self) -> None:
        for headers in (
            [],
            [""],
            ["*/*"],
            ["application/*, */*;q=0.1"],
            [DOCKER_MANIFEST],
            [f"{MANIFEST_LIST};q=0"],
            [f"{MANIFEST_LIST}; q=0.000, {DOCKER_MANIFEST}"],
            [f"{MANIFEST_LIST}x"],
        ):
            self.assertIs(variant_accepted(headers), Variant.PLAIN, headers)

    @given(st.lists(st.text(st.characters(max_codepoint=255), max_size=50), max_size=4))
    def test_any_header_is_read(self, headers: list[str]) -> None:
        self.assertIsInstance(variant_accepted(headers), Variant)
