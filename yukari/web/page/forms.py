"""
The forms by which admins change things; each leads back to a page.

``POST /page/ACTION`` with the fields of the form and the token of the page that it was on.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.defer import CancelledError, TimeoutError
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from yukari.errors import RegistryError, name_invalid
from yukari.library.models.shown_names import Wanted
from yukari.names import Digest, InvalidName
from yukari.web.access import check_admin, check_may_pull
from yukari.web.page.base import PageParts
from yukari.web.replies import answer, reply, reply_error

MAX_FIELDS = 10
"""Fields of a form at most."""
FAILS_WITHIN = 5.0
"""Seconds for which a pull that was asked for is watched, so that its failure is shown at once."""

Fields = dict[str, str]


class Form(Resource):
    """The target of all forms."""

    isLeaf = True

    def __init__(self, parts: PageParts) -> None:
        super().__init__()
        self._parts = parts
        self.actions: dict[bytes, Callable[[Fields], Coroutine[Any, Any, str]]] = {
            b"stop": self._stop,
            b"pull": self._pull,
            b"pin": self._pin,
            b"unpin": self._unpin,
            b"delete": self._delete,
            b"copy": self._copy,
        }

    def render(self, request: Any) -> int:
        if request.method != b"POST":
            request.setHeader(b"allow", b"POST")
            reply_error(request, RegistryError("UNSUPPORTED", "only POST: this is for forms", 405))
            return NOT_DONE_YET
        return answer(request, self._parts.answer(request, self._handle(request)))

    async def _handle(self, request: Any) -> None:
        check_may_pull(request)
        await check_admin(request, own_page=True)
        fields = _fields(request)
        self._parts.token.check(fields.get("token", ""))
        action = self.actions.get(b"/".join(request.prepath[1:]))
        if action is None:
            raise RegistryError("UNSUPPORTED", "there is nothing at this path", 404)
        where = await action(fields)
        request.setHeader(b"location", where.encode())
        reply(request, 303, "text/plain; charset=utf-8", b"")

    # each returns where to go from there, and a word of `DONE`

    async def _stop(self, fields: Fields) -> str:
        try:
            digest = Digest.parse(fields.get("digest", ""))
        except InvalidName as error:
            raise name_invalid(str(error)) from None
        stopping = self._parts.management.library.stop_fill(digest)
        if stopping is None:
            raise RegistryError("BLOB_UNKNOWN", "that has ended already", 404)
        await stopping
        return "/?done=stopped#coming"

    async def _pull(self, fields: Fields) -> str:
        wanted = self._parts.names.parse(fields.get("model"))
        pull = self._parts.api.pull(wanted)
        if not pull.is_done:
            try:
                await pull.ended.wait().addTimeout(FAILS_WITHIN, self._parts.clock)
            except (TimeoutError, CancelledError):
                return "/?done=coming#coming"
        if pull.error is not None:
            raise pull.error
        return _page_of(wanted, "pulled" if pull.note is None else "kept")

    async def _pin(self, fields: Fields) -> str:
        return await self._set_pin(fields, "the status page")

    async def _unpin(self, fields: Fields) -> str:
        return await self._set_pin(fields, None)

    async def _set_pin(self, fields: Fields, by: Any) -> str:
        wanted = self._parts.names.parse(fields.get("model"))
        management = self._parts.management
        if await management.library.store.get_manifest(wanted.name, wanted.tag) is None:
            raise RegistryError("NAME_UNKNOWN", f"{fields.get('model')} is not stored here", 404)
        await management.marks.set_pin(wanted.name, wanted.tag, by)
        return _page_of(wanted, "unpinned" if by is None else "pinned")

    async def _delete(self, fields: Fields) -> str:
        await self._parts.api.delete(fields.get("model"))
        return "/?done=deleted#models"

    async def _copy(self, fields: Fields) -> str:
        await self._parts.api.copy(fields.get("model"), fields.get("destination"))
        return _page_of(self._parts.names.parse(fields.get("destination")), "copied")


def _page_of(wanted: Wanted, done: str) -> str:
    """Return the path of a model's page, which will say what was ``done``."""
    return f"/models/{wanted.name}/{wanted.tag}?done={done}"


def _fields(request: Any) -> Fields:
    request.content.seek(0)
    text = request.content.read().decode("latin-1")
    try:
        found = parse_qs(text, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise RegistryError("UNSUPPORTED", "this form has too many fields", 400) from None
    return {name: values[-1].strip() for name, values in found.items()}
