"""A network in memory: every host that an upstream registry may send the cache to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.ending import begin
from tests.sending.doubles import Wire
from tests.strategies import manifest_body
from yukari.config.urls import RegistryUrl
from yukari.descriptors import Descriptor
from yukari.errors import RegistryError
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.sources.registry import Registry
from yukari.sources.upstream import Upstream

NAME = Repository(DEFAULT, "library", "m")
OTHER = Repository(DEFAULT, "library", "other")
TAG = Tag("latest")
DIGEST = Digest("ab" * 32)
BODY = manifest_body([Descriptor(DIGEST, 7, "application/vnd.ollama.image.model")], None, 3)
HTML = b"<!DOCTYPE html>\n<html><title>502 Bad gateway</title></html>"


@define(eq=False)
class Exchange:
    """One connection to a host upstream, and the one request on it."""

    url: str
    wire: Wire

    @property
    def asked(self) -> tuple[str, dict[str, str]]:
        """The request's line, without the version, and its headers, named in lower case."""
        first, *lines = self.wire.value().decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")
        headers = (line.partition(": ") for line in lines)
        return first[:-9], {name.lower(): value for name, _, value in headers}

    @property
    def target(self) -> str:
        """The host, then the request's line."""
        return f"{self.asked[1]['host']} {self.asked[0]}"

    @property
    def open(self) -> bool:
        """Whether nobody has hung up."""
        return bool(self.wire.connected) and not self.wire.disconnecting

    def send(self, data: bytes) -> None:
        """These bytes come from the host."""
        self.wire.protocol.dataReceived(data)

    def head(self, status: int, **headers: object) -> None:
        """The reply's header; a name's _ stands for -."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode("latin-1"))

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        """A whole reply with its length."""
        self.head(status, content_length=len(body), **headers)
        if body:
            self.send(body)

    def close(self) -> None:
        """The host hangs up."""
        self.wire.leave()


@implementer(IAgentEndpointFactory)
@define(eq=False)
class Internet:
    """Every host there is; ``exchanges`` are the connections to them, in their order."""

    clock: Clock = field(factory=Clock)
    exchanges: list[Exchange] = field(factory=list)
    failing: Optional[Exception] = None

    def endpointForURI(self, uri: URI) -> Any:
        return _Endpoint(self, uri)

    def stop(self) -> None:
        """Hang up on everybody."""
        for each in self.open:
            each.close()

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]

    @property
    def open(self) -> list[Exchange]:
        """The connections that are under way."""
        return [each for each in self.exchanges if each.open]


@implementer(IStreamClientEndpoint)
@define(eq=False)
class _Endpoint:
    internet: Internet
    uri: URI

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.internet.failing is not None:
            return fail(self.internet.failing)
        wire = Wire(self.internet.clock)
        wire.protocol = factory.buildProtocol(None)
        self.internet.exchanges.append(Exchange(self.uri.toBytes().decode(), wire))
        wire.protocol.makeConnection(wire)
        return succeed(wire.protocol)


HEADERS_WITHIN = 30.0
"""Seconds that a reply's headers may take unless a setting says so."""


class Kept(Protocol):
    """A body, kept."""

    def __init__(self) -> None:
        self.got = b""

    def dataReceived(self, data: bytes) -> None:
        self.got += data


class UpstreamCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.internet = Internet()
        self.clock = self.internet.clock
        agent = Agent.usingEndpointFactory(self.clock, self.internet)
        url = RegistryUrl.parse("http://registry.test/")
        self.registry = Registry(url, agent, self.clock)
        self.upstream = Upstream(self.registry)
        self.addCleanup(self.internet.stop)

    def begin(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        return begin(self, work)

    def refused(self, work: Deferred[Any]) -> RegistryError:
        """What a client is told."""
        return self.failureResultOf(work, RegistryError).value  # type: ignore[no-any-return]

    def without_reply(self) -> list[tuple[str, Callable[[Exchange], None]]]:
        """How a host that was connected to may leave a request without a reply of use."""
        return [
            ("hung up", Exchange.close),
            ("silent", lambda _: self.clock.advance(HEADERS_WITHIN)),
            ("broken off", lambda each: (each.send(b"HTTP/1.1 200 OK\r\nX-"), each.close())[0]),
            ("no HTTP", lambda each: each.send(b"SSH-2.0-x\r\n\r\n")),
            ("sent nowhere", lambda each: each.answer(307, b"", location="ftp://cdn.test/x")),
        ]

    def manifest(self, reference: Any = TAG, user_agent: str = "ollama/0.34") -> Deferred[Any]:
        return self.begin(self.upstream.manifest(NAME, reference, user_agent))
