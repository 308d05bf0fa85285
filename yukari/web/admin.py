"""
Pages about the daemon itself: ``/``, ``/healthz``, ``/readyz``, ``/fills`` and ``/metrics``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Optional

from attrs import asdict
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from yukari import __version__
from yukari.errors import RegistryError
from yukari.library.library import Library
from yukari.web import clients
from yukari.web.access import check_admin
from yukari.web.readiness import Readiness
from yukari.web.replies import (
    READS,
    ReadOnly,
    answer,
    digest_in,
    reply,
    reply_error,
    reply_json,
    text_header,
)

_HTML = re.compile(r"(?i)\b(text/html|application/xhtml\+xml)\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")


def wants_html(request: Request) -> bool:
    """Whether a client says that it shows pages, as browsers do and curl does not."""
    return bool(_HTML.search(text_header(request, b"accept") or ""))


class Front(ReadOnly):
    """``/``: how to pull, in a few lines, or for browsers the ``page`` if there is one."""

    def __init__(self, upstream: str, page: Optional[ReadOnly] = None) -> None:
        super().__init__()
        self._upstream = upstream
        self._page = page

    async def reply_to(self, request: Request) -> None:
        if self._page is not None:
            request.setHeader(b"vary", b"Accept")
            if wants_html(request):
                await self._page.reply_to(request)
                return
        host = clients.host(request) or "this.host"
        insecure = "" if clients.is_secure(request) else "--insecure "
        page = (
            f"Yukari {__version__}: a pull-through cache for Ollama models"
            f" from {self._upstream}\n\n"
            "To pull through it, put its address before the model's name:\n\n"
            f"    ollama pull {insecure}{host}/library/llama3.2:latest\n\n"
            "/healthz says whether it is alive.\n"
        )
        reply(request, 200, "text/plain; charset=utf-8", page.encode())


class Health(ReadOnly):
    """``/healthz``: the process is alive."""

    async def reply_to(self, request: Request) -> None:
        reply(request, 200, "text/plain; charset=utf-8", b"OK\n")


class Ready(ReadOnly):
    """``/readyz``: 200 if the daemon can serve, else 503, either with the reasons in JSON."""

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self._readiness = readiness

    async def reply_to(self, request: Request) -> None:
        reasons = await self._readiness.reasons()
        reply_json(request, 503 if reasons else 200, {"ready": not reasons, "reasons": reasons})


class Numbers(ReadOnly):
    """``/metrics``, for admins."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        super().__init__()
        self._text = text

    async def reply_to(self, request: Request) -> None:
        await check_admin(request)
        reply(request, 200, "text/plain; version=0.0.4; charset=utf-8", self._text())


class Fills(Resource):
    """``/fills``, for admins: blobs being fetched; ``DELETE /fills/DIGEST`` stops one."""

    isLeaf = True

    def __init__(self, library: Library) -> None:
        super().__init__()
        self._library = library

    def render(self, request: Request) -> int:
        if request.method == b"DELETE":
            return answer(request, self._stop(request))
        if request.method not in READS:
            refused = RegistryError("UNSUPPORTED", "only GET, HEAD and DELETE", 405)
            request.setHeader(b"allow", b"GET, HEAD, DELETE")
            reply_error(request, refused)
            return NOT_DONE_YET
        return answer(request, self._list(request))

    async def _list(self, request: Request) -> None:
        await check_admin(request)
        if request.postpath and request.postpath != [b""]:
            fill = self._library.fills.get(digest_in(request.postpath))
            if fill is None:
                raise RegistryError("BLOB_UNKNOWN", "no such fill", 404)
            reply_json(request, 200, fill.facts())
            return
        fills = list(self._library.fills.values())
        registries = sorted({fill.name.registry for fill in fills})
        hosts = [host for each in registries for host in self._library.upstream.hosts_of(each)]
        told = {
            "fills": [fill.facts() for fill in fills],
            "hosts": [asdict(host) for host in hosts],
        }
        reply_json(request, 200, told)

    async def _stop(self, request: Request) -> None:
        await check_admin(request)
        stopping = self._library.stop_fill(digest_in(request.postpath))
        if stopping is None:
            raise RegistryError("BLOB_UNKNOWN", "no such fill", 404)
        await stopping
        reply_json(request, 200, {"stopped": str(digest_in(request.postpath))})
