"""
Listings, page by page, which come to an end whatever S3 answers.

An S3, or a proxy before it, that ignores where a page is to begin would give the same page for
ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Optional, Protocol

from yukari.s3.errors import UNREACHABLE, S3Error
from yukari.s3.replies import ListedPage

MAX_EMPTY = 100
"""Pages in a row that may have nothing."""


class Lists(Protocol):
    """A client, as far as it lists objects."""

    @property
    def endpoint(self) -> str: ...

    async def list_objects(
        self, prefix: str = "", *, token: Optional[str] = None, most: int = 1000
    ) -> ListedPage: ...


def goes_round(endpoint: str) -> S3Error:
    """Return the error of a listing that is not in the order of its keys."""
    return S3Error(UNREACHABLE, 0, f"{endpoint}: a listing does not go on to its end")


async def each_page(client: Lists, prefix: str, most: int) -> AsyncIterator[ListedPage]:
    """
    Yield the pages, of at most so many objects, of all whose keys begin with ``prefix``; `S3Error`.
    """
    token, last, empty = None, "", 0
    while True:
        page = await client.list_objects(prefix, token=token, most=most)
        if page.objects:
            keys = [row.key for row in page.objects]
            if min(keys) <= last:
                raise goes_round(client.endpoint)
            last, empty = max(keys), 0
        else:
            empty += 1
        yield page
        token = page.token
        if token is None:
            return
        if empty >= MAX_EMPTY:
            raise goes_round(client.endpoint)
