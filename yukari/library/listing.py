"""
Which models and tags are stored, as OCI clients ask for them.

One page is read at a time, whoever asks, so that listings leave the disk threads to what is pulled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Optional

from attrs import field, frozen
from twisted.internet.defer import DeferredSemaphore

from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError, name_invalid
from yukari.names import InvalidName, Repository, Tag
from yukari.storage.ports import Store

_LAST_TAG = Tag("z" * 80)
"""No tag sorts behind it."""
PAGE = 250
"""Tags that are read in one turn: some 10 ms of a disk thread."""


@frozen(eq=False)
class Listing:
    """The stored models that ``rules`` allow."""

    _store: Store
    _rules: ModelRules
    _lane: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(1), init=False)

    async def tags(self, name: Repository) -> list[Tag]:
        """Return the stored tags of a model, sorted; `RegistryError` if there are none."""
        async with self._turn():
            found = await self._store.tags(name)
        if not found:
            raise RegistryError("NAME_UNKNOWN", f"no tag of {name} is stored here", 404)
        return found

    async def models(self, last: str, most: int) -> list[Repository]:
        """
        Return up to ``most`` stored models behind the one named ``last``, sorted.

        "" is before all. `RegistryError` if ``last`` is no name.
        """
        after: Optional[tuple[Repository, Tag]] = None
        if last:
            try:
                after = Repository.parse(last), _LAST_TAG
            except InvalidName as error:
                raise name_invalid(str(error)) from None
        found: dict[Repository, None] = {}
        while len(found) < most:
            async with self._turn():
                page = await self._store.manifests(after, PAGE)
            if not page:
                break
            found.update((entry.name, None) for entry in page if self._rules.allow(entry.name))
            after = page[-1].name, page[-1].tag
        return list(found)[:most]

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for the lane; whoever is cancelled meanwhile, because its client left, leaves it."""
        await self._lane.acquire()
        try:
            yield
        finally:
            self._lane.release()
