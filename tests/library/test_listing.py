"""Listings take turns, so that a crowd of them leaves the disk to what is pulled."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.memory import MemoryStore
from tests.storage.strategies import manifest_of, result_of
from tests.strategies import model_names
from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Indexed, Version
from yukari.library.listing import PAGE, Listing
from yukari.names import AS_LLAMA_CPP, DEFAULT, Digest, Repository, Tag
from yukari.storage.ports import ManifestEntry


@define(eq=False)
class SlowStore:
    """Lists when the test says so."""

    reading: list[tuple[Any, Deferred[Any]]] = field(factory=list)
    most: int = 0
    """Listings that were read at once."""
    pages: int = 0

    async def manifests(
        self, after: Optional[tuple[Repository, Tag]] = None, most: int = 500
    ) -> list[ManifestEntry]:
        return await self._read(after, most)

    async def tags(self, name: Repository) -> list[Tag]:
        return await self._read(name, 0)

    async def _read(self, what: Any, most: int) -> Any:
        answer: Deferred[Any] = Deferred()
        self.reading.append((what, answer))
        self.most = max(self.most, len(self.reading))
        self.pages += 1
        return await answer

    def work(self) -> None:
        what, answer = self.reading.pop(0)
        if isinstance(what, Repository):
            answer.callback([Tag("latest")])
            return
        first = 0 if what is None else int(what[0].model) + 1
        numbers = range(first, min(1000, first + PAGE))
        answer.callback(
            [ManifestEntry(Repository.parse(f"n/{at:04}"), Tag("t"), 1.0) for at in numbers]
        )


@define(eq=False)
class FileIndex:
    """The catalog's tables as an index, that knows all models or not yet."""

    names: set[Repository] = field(factory=set)
    knows_all: bool = True
    file: CatalogFile = field(factory=lambda: CatalogFile(":memory:"))

    def __attrs_post_init__(self) -> None:
        versions = [Version(name, Tag("latest"), Digest.of(b"x"), ()) for name in self.names]
        self.file.put([Indexed(each, 1.0, 1.0, False, "{}") for each in versions], 1.0)

    async def models(
        self, registry: str, after: Optional[Repository], most: int
    ) -> Optional[list[Repository]]:
        return self.file.models(registry, after, most) if self.knows_all else None


class ListingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = SlowStore()
        self.listing = Listing(self.store, ModelRules())  # type: ignore[arg-type]

    def begin(self, most: int) -> Deferred[list[Repository]]:
        return Deferred.fromCoroutine(self.listing.models("", most))

    def test_crowd_of_listings_is_read_one_page_at_a_time_in_turn(self) -> None:
        asked = [self.begin(600) for _ in range(32)]
        tags = Deferred.fromCoroutine(self.listing.tags(Repository.parse("n/0000")))
        while self.store.reading:
            self.store.work()
        self.assertEqual(self.store.most, 1)
        self.assertEqual(self.successResultOf(tags), [Tag("latest")])
        for each in asked:
            found = self.successResultOf(each)
            self.assertEqual([name.model for name in found], [f"{at:04}" for at in range(600)])

    def test_short_listing_does_not_wait_for_the_end_of_a_long_one(self) -> None:
        long, short = self.begin(1000), self.begin(1)
        self.store.work()
        self.store.work()
        self.assertEqual(len(self.successResultOf(short)), 1)
        self.assertNoResult(long)
        while self.store.reading:
            self.store.work()
        self.successResultOf(long)

    def test_listings_whose_clients_left_are_not_read(self) -> None:
        """Else thousands who hang up at once would keep the lane busy for everybody."""
        asked = [self.begin(1) for _ in range(100)]
        for each in asked[1:]:
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.store.work()
        self.successResultOf(asked[0])
        self.assertEqual((self.store.reading, self.store.pages), ([], 1))

    def test_store_is_read_only_until_the_index_knows_all_models(self) -> None:
        """Else each client that lists has thousands of files read, over and over."""
        index = FileIndex({Repository.parse(f"n/{at:04}") for at in range(600)}, knows_all=False)
        self.addCleanup(index.file.close)
        self.listing.index = index
        first = self.begin(1)
        self.store.work()
        self.assertEqual(len(self.successResultOf(first)), 1)
        index.knows_all = True
        self.assertEqual(len(self.successResultOf(self.begin(599))), 599)
        self.assertEqual(len(self.successResultOf(self.begin(1000))), 600)
        self.assertEqual(self.store.pages, 1)


class RegistryTests(SynchronousTestCase):
    """One registry's models are listed, whatever is stored of others beside it."""

    @given(
        st.sets(model_names(DEFAULT, "0.example", "hf.co", f"hf.co{AS_LLAMA_CPP}"), max_size=8),
        st.integers(1, 3),
        st.booleans(),
    )
    @example({Repository("hf.co", "0", "0"), Repository(DEFAULT, "z" * 80, "z" * 80)}, 1, False)
    @example({Repository("0.example", "z" * 96, "z" * 96), Repository("hf.co", "0", "0")}, 1, True)
    @example({Repository(DEFAULT, "a", "b"), Repository(DEFAULT, "a-b", "b")}, 1, True)
    def test_all_of_it_is_listed_in_pages_and_nothing_else(
        self, names: set[Repository], most: int, from_index: bool
    ) -> None:
        store = MemoryStore()
        for name in names:
            result_of(store.put_manifest(name, Tag("latest"), manifest_of(b"x"), 1.0))
        # "0.example" is no longer mirrored; a bucket lists it all the same.
        others = {"hf.co": None, f"hf.co{AS_LLAMA_CPP}": None}
        listing = Listing(store, ModelRules("registry.test", others=others), tuple(others))
        index = FileIndex(names, knows_all=from_index)
        listing.index = index
        for registry in (DEFAULT, *others):
            found: list[Repository] = []
            last = ""
            while page := result_of(listing.models(last, most, registry)):
                self.assertLessEqual(len(page), most)
                found += page
                last = page[-1].path
            self.assertEqual(found, sorted(each for each in names if each.registry == registry))
        index.file.close()

    def test_a_name_of_another_registry_is_no_place_to_go_on(self) -> None:
        listing = Listing(MemoryStore(), ModelRules(), ("hf.co",))
        for registry in (DEFAULT, "hf.co"):
            for last in ("0.example/a/b", "a", "a/b/c/d", "/"):
                with self.assertRaises(RegistryError):
                    result_of(listing.models(last, 1, registry))
