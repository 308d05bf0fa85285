"""
Which models and tags are stored, as OCI clients ask for them.

Models are listed from the index, or from the store until the index knows them all. One page is read
at a time, whoever asks, so that listings leave the disk threads to what is pulled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Optional, Protocol

from attrs import define, field
from twisted.internet.defer import DeferredSemaphore

from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError, name_invalid
from yukari.names import DEFAULT, InvalidName, Repository, Tag
from yukari.storage.ports import Store

_LAST_TAG = Tag("z" * 80)
"""No tag sorts behind it."""
PAGE = 250
"""Tags that are read in one turn: some 10 ms of a disk thread."""


class Models(Protocol):
    """An index of the models that are stored."""

    async def models(
        self, registry: str, after: Optional[Repository], most: int
    ) -> Optional[list[Repository]]:
        """
        Return up to ``most`` models of a registry, sorted, from behind ``after``; None if some may
        be missing.
        """


@define(eq=False, repr=False)
class Listing:
    """The stored models that ``rules`` allow."""

    _store: Store
    _rules: ModelRules
    _registries: tuple[str, ...] = ()
    """The registries beside the default one, in their order."""
    index: Optional[Models] = None
    _lane: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(1), init=False)

    async def tags(self, name: Repository) -> list[Tag]:
        """Return the stored tags of a model, sorted; `RegistryError` if there are none."""
        async with self._turn():
            found = await self._store.tags(name)
        if not found:
            raise RegistryError("NAME_UNKNOWN", f"no tag of {name} is stored here", 404)
        return found

    async def models(self, last: str, most: int, registry: str = DEFAULT) -> list[Repository]:
        """
        Return up to ``most`` stored models of a registry behind the one named ``last``, sorted.

        "" is before all. `RegistryError` if ``last`` is no name.
        """
        after = self._before(registry)
        if last:
            try:
                after = Repository.parse(f"{registry}/{last}" if registry else last), _LAST_TAG
            except InvalidName as error:
                raise name_invalid(str(error)) from None
            if after[0].registry != registry:
                raise name_invalid(f"name {last[:100]!a}: expected NAMESPACE/MODEL")
        behind = after[0] if last and after is not None else None
        found: dict[Repository, None] = {}
        while self.index is not None and len(found) < most:
            async with self._turn():
                models = await self.index.models(registry, behind, max(PAGE, most))
            if models is None:
                break
            found.update((name, None) for name in models if self._rules.allow(name))
            if len(models) < max(PAGE, most):
                return list(found)[:most]
            behind = models[-1]
        if behind is not None:
            after = behind, _LAST_TAG
        while len(found) < most:
            async with self._turn():
                page = await self._store.manifests(after, PAGE)
            entries = [entry for entry in page if entry.name.registry == registry]
            found.update((entry.name, None) for entry in entries if self._rules.allow(entry.name))
            if not page or page[-1].name.registry > registry:
                break
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

    def _before(self, registry: str) -> Optional[tuple[Repository, Tag]]:
        """Return what sorts before a registry's models, and behind those of the one before it."""
        if registry == DEFAULT:
            return None
        before = max((each for each in self._registries if each < registry), default=DEFAULT)
        last = "z" * (80 if before == DEFAULT else 96)
        return Repository(before, last, last), _LAST_TAG
