"""Listings take turns, so that a crowd of them leaves the disk to what is pulled."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.patterns import ModelRules
from yukari.library.listing import PAGE, Listing
from yukari.names import Repository, Tag
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
