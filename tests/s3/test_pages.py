"""Listings of an S3 that does not answer as S3 does."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.s3 import client as client_module
from yukari.s3.client import S3Client
from yukari.s3.errors import S3Error
from yukari.s3.pages import MAX_EMPTY, each_page
from yukari.s3.replies import ListedObject, ListedPage

Page = tuple[str, Optional[str]]
"""The keys of a page, a letter each, and the token of the next one."""


@define
class Odd:
    """An S3 whose pages are these, by the token that is asked for; the last one is repeated."""

    pages: dict[Optional[str], Page]
    endpoint: str = "http://odd"
    asked: int = 0

    async def list_objects(
        self, prefix: str = "", *, token: Optional[str] = None, most: int = 1000
    ) -> ListedPage:
        self.asked += 1
        keys, following = self.pages[token]
        return ListedPage(tuple(ListedObject(key, 1, "", 0.0) for key in keys), following)


class PageTests(SynchronousTestCase):
    def listed(self, client: Odd) -> Deferred[str]:
        async def read() -> str:
            pages = [page async for page in each_page(client, "", 300)]
            return "".join(row.key for page in pages for row in page.objects)

        return Deferred.fromCoroutine(read())

    def test_all_pages_are_read_empty_ones_too(self) -> None:
        for pages in (
            {None: ("ab", "1"), "1": ("cd", None)},
            {None: ("ab", "1"), "1": ("", "2"), "2": ("cd", None)},
            {None: ("", "1"), "1": ("abcd", None)},
        ):
            self.assertEqual(self.successResultOf(self.listed(Odd(pages))), "abcd")

    def test_listing_that_goes_round_is_an_error(self) -> None:
        """The daemon asked for its pages for ever, and its memory grew."""
        for pages in (
            {None: ("ab", "1"), "1": ("ab", "1")},
            {None: ("ab", "1"), "1": ("cd", "2"), "2": ("ab", "1")},
            {None: ("ab", "1"), "1": ("ba", "1")},
            {None: ("ca", "1"), "1": ("ba", "1")},
            {None: ("", "1"), "1": ("", "1")},
            {None: ("", "1"), "1": ("", "2"), "2": ("", "1")},
        ):
            odd = Odd(pages)
            self.failureResultOf(self.listed(odd), S3Error)
            self.assertLessEqual(odd.asked, MAX_EMPTY)


@define
class Answering(S3Client):
    """A client whose requests are answered by these in turn, and then by them again."""

    answers: list[dict[str, Any]] = field(factory=list)
    calls: int = 0

    @property
    def endpoint(self) -> str:
        return "http://odd"

    async def _call(self, operation: str, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        self.calls += 1
        return self.answers[(self.calls - 1) % len(self.answers)]


class ClientTests(SynchronousTestCase):
    def answering(self, *answers: dict[str, Any]) -> Answering:
        nothing: Any = None
        return Answering(nothing, nothing, nothing, nothing, answers=list(answers))

    def test_uploads_whose_markers_go_round_are_listed_once(self) -> None:
        for markers in (("a", "a"), ("a", "b"), ("a", "b", "c"), ("",), (None,)):
            client = self.answering(
                *(
                    {"IsTruncated": True, "NextKeyMarker": each, "NextUploadIdMarker": each}
                    for each in markers
                )
            )
            listed = self.successResultOf(Deferred.fromCoroutine(client.list_multipart_uploads()))
            self.assertEqual(listed, [])
            self.assertLessEqual(client.calls, len(markers) + 1)

    def test_uploads_without_end_are_not_listed_on(self) -> None:
        self.patch(client_module, "MAX_PAGES_OF_UPLOADS", 5)
        client = self.answering(
            *({"IsTruncated": True, "NextKeyMarker": str(each)} for each in range(100))
        )
        self.successResultOf(Deferred.fromCoroutine(client.list_multipart_uploads()))
        self.assertEqual(client.calls, 5)

    def test_page_that_does_not_begin_where_it_should_is_an_error(self) -> None:
        """Looks at a bucket go on behind the last key: they would never end."""
        row = {"Key": "b", "Size": 1, "LastModified": datetime.now(timezone.utc)}
        for after in ("b", "c"):
            client = self.answering({"Contents": [row]})
            asked = Deferred.fromCoroutine(client.list_objects(after=after))
            self.failureResultOf(asked, S3Error)
