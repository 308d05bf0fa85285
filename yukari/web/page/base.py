"""The base of all pages."""

from __future__ import annotations

import re
from collections.abc import Coroutine, Mapping, Sequence
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Any

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from yukari.errors import RegistryError
from yukari.library.catalog.catalog import CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Entry, Need
from yukari.library.catalog.search import Search
from yukari.library.models.shown_names import ShownNames
from yukari.library.pulls import Pulls
from yukari.library.status import StatusReader
from yukari.library.upkeep.management import Management
from yukari.names import Repository
from yukari.storage.ports import NoRoom
from yukari.web.access import check_may_pull, check_own_name
from yukari.web.ollama_api import OllamaApi
from yukari.web.page.render import Pages, duration
from yukari.web.page.rows import Row, Rows
from yukari.web.page.viewer import Viewer, viewer_of
from yukari.web.replies import ReadOnly, add_advice

log = Logger()

MAX_FILLS = 40
"""Blobs on their way that a page shows; of more, their number."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN = ("digest", "model", "size", "covered", "percent", "rate")
"""The facts of a fill that everybody may see, beside a note on how it goes."""
_STATES = {
    "queued": "waits for its turn",
    "publishing": "is being checked",
    "direct": "goes straight into the bucket",
    "suspended": "waits to be tried again",
}
"""The note on a fill in one of these states, instead of the time that is left."""
DONE = {
    "stopped": "Stopped; what had arrived of it is deleted.",
    "coming": "It is on its way.",
    "pulled": "This is upstream’s newest version.",
    "kept": "Kept as it is: upstream cannot be asked now, has it no more, or is never asked.",
    "pinned": "Pinned: it is never evicted.",
    "unpinned": "No longer pinned: it may be evicted.",
    "copied": "Frozen: upstream is never asked about this copy.",
    "deleted": "Deleted.",
}
"""The text that a page shows once a form has done its work."""


@frozen
class FormToken:
    """
    The proof that a form was filled in on a page of this process.

    A page of another site can make a browser send a form here, with the password that it remembers;
    it cannot read the token that our forms carry.
    """

    text: str = field(factory=lambda: token_urlsafe(24), repr=False)

    def check(self, sent: str) -> None:
        """Raise `RegistryError` unless ``sent`` is the token."""
        if not _TOKEN.fullmatch(sent) or not compare_digest(sent, self.text):
            raise RegistryError("DENIED", "this page is too old: reload it and try again", 403)


@define(eq=False, repr=False)
class PageParts:
    """The parts that pages are made from."""

    pages: Pages
    status: StatusReader
    management: Management
    pulls: Pulls
    api: OllamaApi
    names: ShownNames
    clock: IReactorTime
    token: FormToken = field(factory=FormToken)

    @property
    def search(self) -> Search:
        """Finds stored models."""
        return Search(self.management.catalog, self.management.library.rules)

    async def rows(self, entries: Sequence[Entry]) -> list[Row]:
        """Return what the catalog has as it is shown. `CatalogUnusable`."""
        revalidator = self.management.library.revalidator
        newer = (lambda *_: None) if revalidator is None else revalidator.newer
        rows = Rows(self.names, self.management.marks, newer)
        incomplete = [(entry.repository, entry.tag) for entry in entries if entry.missing]
        missing: dict[tuple[str, str], list[Need]] = {}
        fills: dict[str, Any] = {}
        if incomplete:
            missing = await self.management.catalog.run(CatalogFile.missing, incomplete)
            fills = {fill["digest"]: fill for fill in self.status.fills()}
        return [
            rows.of(entry, missing.get((entry.repository, entry.tag), ()), fills)
            for entry in entries
        ]

    async def refresh(self) -> None:
        """Learn of pins, pulls and changes made by hand, as far as possible."""
        try:
            await self.management.marks.refresh()
        except OSError as error:
            # Not worth a page that does not show the rest.
            log.warn("pins are not shown: {error}", error=str(error))
        await self.management.index.refresh()
        await self.management.catalog.flush()

    def fills(self) -> dict[str, Any]:
        """Return what is on its way, as everybody may see it."""
        rules = self.management.library.rules
        found = [
            {**{key: fill[key] for key in _SHOWN}, "note": _note(fill)}
            for fill in self.status.fills()
            if rules.allow(Repository.parse(fill["model"]))
        ]
        return {"fills": found[:MAX_FILLS], "count": len(found)}

    async def answer(self, request: Any, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``, which replies; an error becomes a page."""
        try:
            await work
        except RegistryError as error:
            await self.refuse(request, error)
        except (CatalogUnusable, NoRoom, OSError) as error:
            log.error("{path}: {error}", path=request.shown_path, error=str(error))
            await self.refuse(request, RegistryError("UNAVAILABLE", str(error), 503))

    async def refuse(self, request: Any, error: RegistryError) -> None:
        """Send an error as a page."""
        request.told = error.message
        add_advice(request, error)
        await self.pages.reply(request, "error.html", {"error": error}, error.status)


def _note(fill: Mapping[str, Any]) -> str:
    left = fill["seconds_left"]
    return _STATES.get(fill["state"]) or ("" if left is None else f"{duration(left)} left")


class Page(ReadOnly):
    """A page for those who may pull, made by `show`."""

    isLeaf = True
    is_for_any_name = False
    """Whether browsers get it even by a name that may be another site's."""

    def __init__(self, parts: PageParts) -> None:
        super().__init__()
        self.parts = parts

    async def reply_to(self, request: Request) -> None:
        await self.parts.answer(request, self._reply_to(request))

    async def _reply_to(self, request: Request) -> None:
        check_may_pull(request)
        viewer = await viewer_of(request)
        if not viewer.sees_models and not self.is_for_any_name:
            check_own_name(request)
        await self.show(request, viewer)

    async def show(self, request: Request, viewer: Viewer) -> None:
        """Send the page. `RegistryError`, `CatalogUnusable`, OSError."""
        raise NotImplementedError


def for_admins(viewer: Viewer) -> None:
    """Raise `RegistryError` unless the viewer is an admin."""
    if viewer.may_sign_in:
        raise RegistryError("UNAUTHORIZED", "this needs a user of ADMIN_AUTH_FILE", 401)
    if not viewer.is_admin:
        raise RegistryError("DENIED", "this is for the cache's own machine and its ADMIN_BIND", 403)


@frozen
class Query:
    """The fields of a URL's query; of several with one name the last."""

    _args: dict[bytes, list[bytes]]

    @classmethod
    def of(cls, request: Any) -> Query:
        """Return the query of a request."""
        return cls(request.args or {})

    def text(self, name: str, most: int = 200) -> str:
        """Return a field's text, cut to ``most`` characters; "" if it is absent."""
        found = self._args.get(name.encode())
        return found[-1].decode("utf-8", "replace")[:most].strip() if found else ""

    def number(self, name: str, default: int) -> int:
        """Return a field's number from 1 on, or ``default`` if it is none."""
        text = self.text(name, 9)
        return int(text) if text.isdecimal() and text.isascii() and int(text) else default
