"""The page at ``/``, and what would be evicted next."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional
from urllib.parse import urlencode

from attrs import field, frozen
from twisted.web.server import Request

from yukari.config.registry_names import RegistryNames
from yukari.library.catalog.catalog import CatalogUnusable
from yukari.library.catalog.rows import Version
from yukari.library.catalog.search import MAX_WORDS, ORDERS
from yukari.library.status import Status
from yukari.library.upkeep.eviction import EvictionPlan
from yukari.names import AS_LLAMA_CPP, DEFAULT, Repository
from yukari.tasks import together
from yukari.web.page.base import DONE, Page, Query, for_admins
from yukari.web.page.plots import disk_bar, front_bar, plot
from yukari.web.page.rows import Row
from yukari.web.page.viewer import Viewer

PER_PAGE = 50
"""Models on a page."""
MAX_CANDIDATES = 1000
"""Versions that are looked at for what would go next: some 30 ms; all could take seconds."""
MAX_STEPS = 100
"""Models that are shown to go next, and as many that stay."""
_EXAMPLES = {
    "hf.co": ("bartowski", "Llama-3.2-1B-Instruct-GGUF", "Q4_K_M"),
    "huggingface.co": ("bartowski", "Llama-3.2-1B-Instruct-GGUF", "Q4_K_M"),
    "modelscope.cn": ("Qwen", "Qwen2.5-0.5B-Instruct-GGUF", "Q4_K_M"),
}
"""A model of each registry that is not Ollama's: namespace, model and tag."""


@frozen
class Shelf:
    """One of the registries, as people choose among them."""

    host: str
    registry: str
    """As `Repository` has it."""
    example: str
    """A model of it that people know, by the name that clients ask this cache for."""


def shelves(names: RegistryNames) -> list[Shelf]:
    """Return all registries, the default one first."""
    found = []
    for registry in (DEFAULT, *names.hosts_beside):
        host = names.host_of(registry)
        namespace, model, tag = _EXAMPLES.get(host, ("library", "llama3.2", "latest"))
        path = names.path_for_clients(Repository(registry, namespace, model))
        found.append(Shelf(host, registry, f"{path}:{tag}"))
    return found


@frozen
class _Listed:
    """A page of models, how many there are in all, and why they cannot be listed."""

    rows: list[Row] = field(factory=list)
    more: bool = False
    count: int = 0
    trouble: str = ""


class Overview(Page):
    """The first page: for everybody, with parts for admins."""

    is_for_any_name = True

    async def show(self, request: Request, viewer: Viewer) -> None:
        parts, query = self.parts, Query.of(request)
        words = " ".join(query.text("q").split()[:MAX_WORDS])
        order = query.text("sort") if query.text("sort") in ORDERS else "name"
        number = query.number("page", 1)
        registries = shelves(parts.names.registries)
        chosen = next((each for each in registries if each.host == query.text("registry")), None)
        link = partial(_link, words, "" if chosen is None else chosen.host)
        await parts.refresh()
        listed, status = await together(
            self._listed(words, order, number, chosen), self._status(viewer.is_admin)
        )
        context: dict[str, Any] = {
            "viewer": viewer,
            "token": parts.token.text if viewer.is_admin else "",
            "upstreams": [parts.status.upstream(each.registry) for each in registries],
            "registries": registries,
            "chosen": chosen,
            "choices": [(each, _link(words, each.host, order, 1)) for each in registries],
            "all_registries": _link(words, "", order, 1),
            "count": listed.count,
            "trouble": listed.trouble if viewer.is_admin else bool(listed.trouble),
            "complete": parts.management.index.looked,
            "coming": parts.fills(),
            "rows": listed.rows,
            "words": words,
            "order": order,
            "orders": {each: link(each, 1) for each in ORDERS},
            "number": number,
            "before": link(order, number - 1) if number > 1 else None,
            "behind": link(order, number + 1) if listed.more else None,
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

    async def _listed(
        self, words: str, order: str, number: int, chosen: Optional[Shelf]
    ) -> _Listed:
        parts, begin, but = self.parts, [], []
        others = [f"{each}/" for each in parts.names.registries.others]
        if chosen is not None and chosen.registry == DEFAULT:
            but = others
        elif chosen is not None:
            begin = [f"{chosen.registry}/", f"{chosen.registry}{AS_LLAMA_CPP}/"]
        try:
            found = await parts.search.find(words, order, number, PER_PAGE, begin, but)
            rows = await parts.rows(found.entries)
        except CatalogUnusable as error:
            return _Listed(trouble=str(error))
        return _Listed(rows, found.more, found.count)

    async def _status(self, is_admin: bool) -> Optional[Status]:
        return await self.parts.status.read() if is_admin else None


def _link(words: str, registry: str, order: str, number: int) -> str:
    sort = "" if order == "name" else order
    given = {"q": words, "registry": registry, "sort": sort, "page": number}
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
            "upstreams": [
                parts.status.upstream(each.registry) for each in shelves(parts.names.registries)
            ],
            "viewer": viewer,
            "evicts": parts.management.bounds.evict,
            "need": need,
            "frees": found.frees,
            "looked_at": MAX_CANDIDATES if found.frees < need and _are_all(found) else None,
            "goes": [
                (*self._named(step.candidate.version), step.candidate.version.size, step.reason)
                for step in found.steps[:MAX_STEPS]
            ],
            "stays": [(*self._named(kept.version), kept.reason) for kept in found.kept[:MAX_STEPS]],
        }
        await parts.pages.reply(request, "evictions.html", context)

    def _named(self, version: Version) -> tuple[str, str]:
        """Return a version's name as Ollama shows it, and the path of its tag's page."""
        name, tag = str(version.name), str(version.tag)
        return self.parts.names.show(name, tag), f"/models/{name}/{tag}"


def _are_all(found: EvictionPlan) -> bool:
    """Whether a plan ended because no more versions were to be looked at."""
    return len(found.steps) + len(found.kept) >= MAX_CANDIDATES
