"""
Replies: a text, JSON, or an error.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from yukari.demand import CLIENT
from yukari.errors import RegistryError
from yukari.names import Digest, InvalidName
from yukari.sending.stall import ReaderGone
from yukari.sending.transports import may_wait
from yukari.web.repeats import Source

log = Logger()

READS = (b"GET", b"HEAD")
PIECE = 64 * 1024
"""Bytes of a long body that are written at once."""


def text_header(request: Request, name: bytes) -> Optional[str]:
    """Return a request's header as text, None if it is absent."""
    value = request.getHeader(name)
    return None if value is None else value.decode("latin-1")


def reply(
    request: Any, status: int, content_type: str, body: bytes, source: Optional[Source] = None
) -> None:
    """Send a whole reply; HEAD gets its length too. It may be given again if it has a source."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", content_type.encode())
    request.setHeader(b"content-length", str(len(body)).encode())
    at_once = len(body) <= may_wait(request.site.drain.count())
    if source is not None and at_once:
        request.repeat(source, 0, len(body))
    if at_once or request.method == b"HEAD":
        request.end_with(body)
    else:
        sending = Deferred.fromCoroutine(_send_in_pieces(request, body))
        sending.addErrback(lambda failure: failure.trap(CancelledError))
        request.notifyFinish().addErrback(lambda _: sending.cancel())


async def _send_in_pieces(request: Any, body: bytes) -> None:
    """Send a long body. Clients that do not read share it: their transports have no copies."""
    paced, piece = Paced(request), min(PIECE, may_wait(request.site.drain.count()))
    for at in range(0, len(body), piece):
        await paced.write(body[at : at + piece])
    paced.end()


@implementer(IPushProducer)
@define(eq=False, repr=False)
class Paced:
    """Writes a reply's body in pieces, as the client takes them; one that takes none is dropped."""

    _request: Any
    _resumed: Optional[Deferred[None]] = field(default=None, init=False)
    _begun: bool = field(default=False, init=False)

    async def write(self, data: bytes) -> None:
        """Send a piece; returns once there is room for the next."""
        request = self._request
        if not self._begun:
            self._begun = True
            request.registerProducer(self, True)
        request.write(data)
        if self._resumed is not None:
            request.site.stalls.begin(self)
            try:
                await self._resumed
            finally:
                request.site.stalls.end(self)

    def stalled(self) -> None:
        """Drop a client that has taken nothing for too long."""
        self._request.channel.forceAbortClient()

    def end(self) -> None:
        """End the reply."""
        if self._begun:
            self._request.unregisterProducer()
        self._request.finish()

    def pauseProducing(self) -> None:
        if self._resumed is None:
            self._resumed = Deferred()

    def resumeProducing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:
        # The request's end cancels whoever writes.
        pass


def reply_json(request: Request, status: int, content: object) -> None:
    """Send a reply in JSON."""
    reply(request, status, "application/json; charset=utf-8", json.dumps(content).encode())


def reply_error(request: Any, error: RegistryError) -> None:
    """Send an error, without the headers of what was asked for."""
    request.told = error.message
    for name in (b"etag", b"location", b"docker-content-digest"):
        request.responseHeaders.removeHeader(name)
    if error.status != 416:
        request.responseHeaders.removeHeader(b"content-range")
    add_advice(request, error)
    if error.status == 405 and not request.responseHeaders.hasHeader(b"allow"):
        request.setHeader(b"allow", b"GET, HEAD")
    reply(request, error.status, "application/json; charset=utf-8", error.body())


def add_advice(request: Any, error: RegistryError) -> None:
    """Add the headers that say what a client may do about an error."""
    if error.retry_after is not None:
        request.setHeader(b"retry-after", str(error.retry_after).encode())
    if error.status == 401:
        request.setHeader(b"www-authenticate", b'Basic realm="yukari"')


def answer(request: Any, work: Coroutine[Any, Any, None]) -> int:
    """
    Run ``work``, which replies; an error becomes a reply or, if one has begun, a dropped
    connection.
    """
    token = CLIENT.set(request.client_name)
    running = Deferred.fromCoroutine(work)
    CLIENT.reset(token)
    if running.called and not isinstance(running.result, Failure):
        return NOT_DONE_YET
    if not running.called:
        request.work = running  # It is cancelled if the client leaves.
    running.addErrback(_failed, request)
    return NOT_DONE_YET


def _failed(failure: Failure, request: Any) -> None:
    error = failure.value
    if isinstance(error, RegistryError):
        # It may be remembered, or go to many clients: its traceback would keep alive what the
        # frames have, such as requests and manifests.
        error.__traceback__ = None
    if request.gone or failure.check(ReaderGone, CancelledError):
        if request.gone or request.refusal is None:
            return
        error = request.refusal
    if isinstance(error, OSError):
        why = error.strerror or str(error)
        if why not in request.site.store_errors:
            request.site.store_errors[why] = None
            log.error("{path}: {error}", path=request.shown_path, error=why, request=request.id)
        error = RegistryError("UNAVAILABLE", f"this cache cannot read its store: {why}", 503)
    elif not isinstance(error, RegistryError):
        log.failure("{path}", failure, path=request.shown_path, request=request.id)
        error = RegistryError("UNKNOWN", "an internal error; the log has more", 500)
    if request.startedWriting:
        request.channel.forceAbortClient()
    else:
        reply_error(request, error)


class ReadOnly(Resource):
    """Answers GET and HEAD by `reply_to`, and other methods with 405; it has no children."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self if path == b"" and not request.postpath else Unknown()

    def render(self, request: Request) -> int:
        if request.method not in READS:
            refused = RegistryError(
                "UNSUPPORTED", "only GET and HEAD: this is a cache, not a place to push to", 405
            )
            reply_error(request, refused)
            return NOT_DONE_YET
        return answer(request, self.reply_to(request))

    def reply_to(self, request: Request) -> Coroutine[Any, Any, None]:
        """Return the coroutine that replies. Either may raise `RegistryError`, which is replied."""
        raise NotImplementedError


class Unknown(ReadOnly):
    """A path that does not exist."""

    isLeaf = True

    async def reply_to(self, request: Request) -> None:
        raise RegistryError("UNSUPPORTED", "there is nothing at this path", 404)


def digest_in(path: Optional[list[bytes]]) -> Digest:
    """Return the digest in the last part of a path; `RegistryError` if it is not one."""
    return read_digest("/".join(part.decode("latin-1") for part in path or ()))


def read_digest(text: str) -> Digest:
    """Return the digest that a client names; `RegistryError` if it is not one."""
    try:
        return _parsed(text)
    except InvalidName as error:
        raise RegistryError("DIGEST_INVALID", str(error), 400) from None


_parsed = lru_cache(maxsize=4096)(Digest.parse)
"""Digests that clients asked for last, so that each is checked once and is one object."""
