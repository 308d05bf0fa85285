"""A record of requests and replies, without anything secret."""

from __future__ import annotations

from typing import Optional
from urllib.parse import urlsplit

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from yukari.sources.challenge import Challenge


@frozen
class Seen:
    """A request and its reply; neither a query nor a header's secret is kept."""

    host: str
    """With its port, if that is in the URL."""
    path: str
    shown: str
    """How the request identified itself: ``signed``, ``with a token`` or ``unsigned``."""
    code: int
    challenge: Optional[Challenge]


def _shown(headers: Optional[Headers]) -> str:
    values = headers.getRawHeaders(b"authorization") if headers is not None else None
    if not values:
        return "unsigned"
    return "with a token" if values[0].startswith(b"Bearer ") else "signed"


@implementer(IAgent)
@define(eq=False, repr=False)
class Recorder:
    """Sends requests by another agent, and keeps what was `Seen`."""

    _agent: IAgent
    seen: list[Seen] = field(factory=list, init=False)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Optional[Headers] = None,
        bodyProducer: Optional[IBodyProducer] = None,
    ) -> Deferred[IResponse]:
        parts = urlsplit(uri.decode("ascii"))

        def answered(response: IResponse) -> IResponse:
            challenge = Challenge.of(response) if response.code == 401 else None
            place = parts.netloc.rpartition("@")[2], parts.path
            self.seen.append(Seen(*place, _shown(headers), response.code, challenge))
            return response

        asked: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return asked.addCallback(answered)
