"""The page at ``/``, and what would be evicted next."""

from __future__ import annotations

from typing import Any, Optional
from urllib.parse import urlencode

from attrs import field, frozen
from twisted.web.server import Request

from yukari.library.catalog import CatalogUnusable
from yukari.library.catalog_file import CatalogFile
from yukari.library.catalog_rows import Version
from yukari.library.search import MAX_WORDS, ORDERS
from yukari.library.status import Status
from yukari.tasks import together
from yukari.web.page.base import DONE, Page, Query, for_admins
from yukari.web.page.plots import disk_bar, front_bar, plot
from yukari.web.page.rows import Row
from yukari.web.page.viewer import Viewer

PER_PAGE = 50
MAX_CANDIDATES = 5000
"""Versions that are looked at for what would go next: all of a large store would take seconds."""
MAX_STEPS = 100
"""Models that are shown to go next, and as many that stay."""
_EXAMPLES = {
    "hf.co": "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
    "huggingface.co": "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
}
"""A model of each registry that is not Ollama's."""


def example(registry: str) -> str:
    """Return a model that people know of a registry."""
    return _EXAMPLES.get(registry, "library/llama3.2:latest")


@frozen
class _Listed:
    """A page of models, how many there are in all, and why they cannot be listed."""

    rows: list[Row] = field(factory=list)
    more: bool = False
    count: int = 0
    trouble: str = ""


class Overview(Page):
    """What everybody sees, and the parts for admins."""

    is_for_any_name = True

    async def show(self, request: Request, viewer: Viewer) -> None:
        parts, query = self.parts, Query.of(request)
        parts.pages.prepare("overview.html")
        words = " ".join(query.text("q").split()[:MAX_WORDS])
        order = query.text("sort") if query.text("sort") in ORDERS else "name"
        number = query.number("page", 1)
        await parts.refresh()
        listed, status = await together(
            self._listed(words, order, number), self._status(viewer.is_admin)
        )
        context: dict[str, Any] = {
            "viewer": viewer,
            "token": parts.token.text if viewer.is_admin else "",
            "registry": parts.names.registry,
            "example": example(parts.names.registry),
            "upstream": parts.status.upstream(),
            "count": listed.count,
            "trouble": listed.trouble if viewer.is_admin else bool(listed.trouble),
            "complete": parts.management.index.looked,
            "coming": parts.fills(),
            "rows": listed.rows,
            "words": words,
            "order": order,
            "orders": {each: _link(words, each, 1) for each in ORDERS},
            "number": number,
            "before": _link(words, order, number - 1) if number > 1 else None,
            "behind": _link(words, order, number + 1) if listed.more else None,
            "pulls": (),
            "status": status,
            "done": DONE.get(query.text("done")) if viewer.is_admin else None,
        }
        if status is not None:
            context.update(
                bars=[disk_bar(status.store), front_bar(status.store)],
                last_day=plot(status.traffic.hours),
                last_days=plot(status.traffic.days),
                pulls=sorted(
                    parts.names.show(str(pull.name), str(pull.tag))
                    for pull in parts.pulls.running.values()
                ),
            )
        await parts.pages.reply(request, "overview.html", context)

    async def _listed(self, words: str, order: str, number: int) -> _Listed:
        parts = self.parts
        try:
            found = await parts.search.find(words, order, number, PER_PAGE)
            rows = await parts.rows(found.entries)
            count = await parts.management.catalog.run(CatalogFile.count_tags)
        except CatalogUnusable as error:
            return _Listed(trouble=str(error))
        return _Listed(rows, found.more, count)

    async def _status(self, is_admin: bool) -> Optional[Status]:
        return await self.parts.status.read() if is_admin else None


def _link(words: str, order: str, number: int) -> str:
    given = {"q": words, "sort": "" if order == "name" else order, "page": number}
    query = urlencode({key: value for key, value in given.items() if value and value != 1})
    return f"/?{query}#models" if query else "/#models"


class Evictions(Page):
    """What would go if a tenth of the store were needed, and why not the rest; for admins."""

    async def show(self, request: Request, viewer: Viewer) -> None:
        for_admins(viewer)
        parts = self.parts
        store = await parts.status.store()
        need = 0 if store is None else store.held.stored // 10
        found = await parts.management.collector.plan(need, most=MAX_CANDIDATES)
        context = {
            "registry": parts.names.registry,
            "upstream": parts.status.upstream(),
            "viewer": viewer,
            "evicts": parts.management.bounds.evict,
            "need": need,
            "frees": found.frees,
            "goes": [
                (
                    *self._named(step.candidate.version),
                    sum(blob.size for blob in step.candidate.version.needs),
                    step.reason,
                )
                for step in found.steps[:MAX_STEPS]
            ],
            "stays": [(*self._named(kept.version), kept.reason) for kept in found.kept[:MAX_STEPS]],
        }
        await parts.pages.reply(request, "evictions.html", context)

    def _named(self, version: Version) -> tuple[str, str]:
        """Return a version's name as Ollama shows it, and the path of its tag's page."""
        name, tag = str(version.name), str(version.tag)
        return self.parts.names.show(name, tag), f"/models/{name}/{tag}"
