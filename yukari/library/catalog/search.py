"""Finding stored models for people: by words, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice

from attrs import frozen

from yukari.config.patterns import ModelRules
from yukari.library.catalog.catalog import Catalog
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Entry
from yukari.names import Repository

ORDERS = ("name", "size", "pulled")
MAX_WORDS = 8
MAX_PAGE = 200
"""Pages that can be turned to: whoever looks further has a word to search for."""


@frozen
class FoundModels:
    """A page of models, whether there is another one, and how many tags are stored in all."""

    entries: tuple[Entry, ...]
    more: bool
    count: int


@frozen
class Search:
    """Searches the models that ``rules`` allow."""

    _catalog: Catalog
    _rules: ModelRules

    async def find(
        self,
        words: str,
        order: str,
        page: int,
        size: int,
        begin: Sequence[str] = (),
        but: Sequence[str] = (),
    ) -> FoundModels:
        """
        Return the page, counted from 1, of models that have all ``words`` in their name or details.

        ``order`` is one of `ORDERS`; ``begin`` and ``but`` are as in `CatalogReads.search`.
        `CatalogUnusable`.
        """
        start = (min(page, MAX_PAGE) - 1) * size

        def find(file: CatalogFile) -> tuple[list[Entry], int]:
            rows = file.search(words.split()[:MAX_WORDS], order, begin, but)
            entries = list(islice(self._allowed(rows), start, start + size + 1))
            return entries, file.count_tags()

        entries, count = await self._catalog.run(find)
        return FoundModels(tuple(entries[:size]), len(entries) > size and page < MAX_PAGE, count)

    def _allowed(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        allow = cache(lambda repository: self._rules.allow(Repository.parse(repository)))
        for entry in entries:
            if allow(entry.repository):
                yield entry
