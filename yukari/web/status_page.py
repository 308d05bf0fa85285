"""
The pages and the JSON that show what the cache holds and does.

::

    /                        the page of this cache, in a browser; else a few lines of text
    /models/NS/MODEL/TAG     the page of one model
    /evictions               which models would be evicted next, for admins
    /status                  what the page shows, as JSON, for admins
    /status/events           what is on its way, as it changes
    /sign-in                 asks a browser for an admin's password
    /page/                   the stylesheet, the script, and the targets of the forms
"""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Request

from yukari.library.status import StatusReader
from yukari.web.access import check_admin, check_may_pull, check_own_name, check_same_site
from yukari.web.page.assets import put_assets
from yukari.web.page.base import Page, PageParts, for_admins
from yukari.web.page.forms import Form
from yukari.web.page.model import ModelPage
from yukari.web.page.overview import Evictions
from yukari.web.page.viewer import Viewer
from yukari.web.page.watchers import Watchers
from yukari.web.replies import ReadOnly, reply, reply_json


class StatusJson(ReadOnly):
    """``/status``, for admins."""

    def __init__(self, status: StatusReader) -> None:
        super().__init__()
        self._status = status

    async def reply_to(self, request: Request) -> None:
        await check_admin(request)
        request.setHeader(b"cache-control", b"no-store")
        reply_json(request, 200, (await self._status.read()).as_json())


class FillEvents(ReadOnly):
    """``/status/events``, for those who may pull."""

    isLeaf = True

    def __init__(self, parts: PageParts, watchers: Watchers) -> None:
        super().__init__()
        self._parts = parts
        self._watchers = watchers

    async def reply_to(self, request: Request) -> None:
        check_same_site(request)
        check_own_name(request)
        check_may_pull(request)
        if request.method == b"HEAD":
            reply(request, 200, "text/event-stream; charset=utf-8", b"")
            return
        self._watchers.add(request)


class SignIn(Page):
    """Asks for a password, if there is one to be had, and leads back to ``/``."""

    is_for_any_name = True

    async def show(self, request: Request, viewer: Viewer) -> None:
        for_admins(viewer)
        request.setHeader(b"location", b"/")
        reply(request, 303, "text/plain; charset=utf-8", b"")


def put_pages(root: Resource, parts: PageParts, watchers: Watchers) -> None:
    """Put everything but ``/`` below ``root``."""
    status = StatusJson(parts.status)
    status.putChild(b"events", FillEvents(parts, watchers))
    targets = Resource()
    put_assets(targets)
    form = Form(parts)
    for action in form.actions:
        targets.putChild(action, form)
    for name, child in (
        (b"status", status),
        (b"page", targets),
        (b"models", ModelPage(parts)),
        (b"evictions", Evictions(parts)),
        (b"sign-in", SignIn(parts)),
    ):
        root.putChild(name, child)
