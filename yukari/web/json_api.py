"""
An API of JSON in, JSON or lines of JSON out, for admins.

Errors are ``{"error": TEXT}``, as Ollama's are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from yukari.errors import RegistryError
from yukari.library.catalog.catalog import CatalogUnusable
from yukari.storage.ports import NoRoom
from yukari.web.access import check_admin
from yukari.web.replies import Paced, add_advice, answer, reply, reply_json

log = Logger()

Body = dict[str, Any]
Handler = Callable[[Request, Body], Coroutine[Any, Any, None]]


class JsonLines(Paced):
    """A reply that grows piece by piece, no faster than the client takes it."""

    def __init__(self, request: Any, content_type: str = "application/x-ndjson") -> None:
        super().__init__(request)
        request.setHeader(b"content-type", content_type.encode())

    async def line(self, content: object) -> None:
        """Send a line of JSON."""
        await self.write(json.dumps(content).encode() + b"\n")


class JsonApi(Resource):
    """Everything below one path, each handled by what ``routes`` has for the method and path."""

    isLeaf = True

    def __init__(self, routes: Mapping[tuple[bytes, bytes], Handler], unknown: str) -> None:
        """``unknown`` is the error, beside its path, for a client that asks for anything else."""
        super().__init__()
        self._routes = routes
        self._unknown = unknown

    def render(self, request: Request) -> int:
        answer(request, self._handle(request))
        return NOT_DONE_YET

    async def _handle(self, request: Any) -> None:
        try:
            await check_admin(request)
            method = b"GET" if request.method == b"HEAD" else request.method
            path = b"/".join(request.postpath or ())
            handler = self._routes.get((method, path))
            if handler is None:
                shown = request.shown_path[:200]
                raise RegistryError("UNSUPPORTED", f"{shown} not found: {self._unknown}", 404)
            await handler(request, _body(request))
        except RegistryError as error:
            _refuse(request, error)
        except (CatalogUnusable, NoRoom, OSError) as error:
            why = getattr(error, "strerror", None) or str(error)
            log.error("{path}: {error}", path=request.shown_path, error=why)
            _refuse(request, RegistryError("UNAVAILABLE", why, 503))


def _refuse(request: Any, error: RegistryError) -> None:
    request.told = error.message
    if request.gone:
        return
    if request.startedWriting:
        # As Ollama does in the middle of a stream.
        request.write(json.dumps({"error": error.message}).encode() + b"\n")
        request.unregisterProducer()
        request.finish()
        return
    add_advice(request, error)
    reply_json(request, error.status, {"error": error.message})


def _body(request: Any) -> Body:
    """A request's JSON object, {} if it has no body; `RegistryError`."""
    if request.imported is not None:
        return {}
    request.content.seek(0)
    body = request.content.read()
    if not body.strip():
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RegistryError("UNSUPPORTED", f"not JSON: {error}"[:200], 400) from None
    if not isinstance(found, dict):
        raise RegistryError("UNSUPPORTED", "expected a JSON object", 400)
    return found


def reply_nothing(request: Request) -> None:
    """Reply without content, as Ollama does."""
    reply(request, 200, "text/plain; charset=utf-8", b"")
