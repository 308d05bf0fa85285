"""Which models and tags are stored, as OCI clients ask for them."""

from __future__ import annotations

from typing import Optional

from attrs import frozen

from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError, name_invalid
from yukari.names import InvalidName, Repository, Tag
from yukari.storage.ports import Store

_LAST_TAG = Tag("z" * 80)
"""No tag sorts behind it."""


@frozen
class Listing:
    """The stored models that ``rules`` allow."""

    _store: Store
    _rules: ModelRules

    async def tags(self, name: Repository) -> list[Tag]:
        """Return the stored tags of a model, sorted; `RegistryError` if there are none."""
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
            page = await self._store.manifests(after)
            if not page:
                break
            found.update((entry.name, None) for entry in page if self._rules.allow(entry.name))
            after = page[-1].name, page[-1].tag
        return list(found)[:most]
