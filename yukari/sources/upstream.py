"""
The registry being mirrored, as a client sees it: manifests whole, blobs by Range.

What real ones do: a manifest comes chunked and without a length; a blob is a
307 to a signed URL on another host, which expires; errors are JSON, HTML or a
line of text. Nothing here carries a client's credentials.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from math import inf
from typing import Any, Optional, TypeVar
from urllib.parse import urljoin, urlsplit

from attrs import define, field
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectionDone, ConnectionRefusedError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import stringToDatetime
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IResponse

from yukari import __version__
from yukari.config.urls import RegistryUrl
from yukari.errors import (
    RegistryError,
    blob_unknown,
    denied,
    looped,
    manifest_unknown,
    upstream_silent,
    upstream_unreachable,
)
from yukari.manifest import DOCKER_MANIFEST, MAX_BYTES, InvalidManifest, Manifest
from yukari.metrics import Metrics
from yukari.names import Digest, InvalidName, ModelName, Reference
from yukari.net.paced import Paced
from yukari.net.throttle import Line
from yukari.sources.base import Answer, SourceFailed, SourceRefused
from yukari.sources.circuit import Circuit
from yukari.sources.pace import HostPace
from yukari.spans import Span

USER_AGENT = f"yukari/{__version__}"
ACCEPT_MANIFEST = f"{DOCKER_MANIFEST}, application/vnd.oci.image.manifest.v1+json;q=0.9"
HOPS = 5
"""Redirects that are followed before giving up."""
HEADERS_WITHIN = 10.0
"""Seconds within which a manifest's or a HEAD's reply must begin."""
SMALL_BODY = 64 * 1024
"""Bytes of a body that are read though nobody wants them."""
BODY_WITHIN = 30.0
"""Seconds within which a manifest's or an error's body must be here."""
LONGEST_RETRY_AFTER = 3600.0
LOOP_DETECTED = 508
"""What a cache answers to a request of its own."""

T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class UpstreamFailed(Exception):
    """No reply, or none to be understood; ``error`` is what a client is told."""

    def __init__(self, error: RegistryError) -> None:
        super().__init__(str(error))
        self.error = error


def why(failure: Optional[BaseException]) -> str:
    """A network failure in a few words for people."""
    reasons = getattr(failure, "reasons", None)
    if reasons:
        inner = reasons[0]
        return why(inner.value if isinstance(inner, Failure) else inner)
    if isinstance(failure, ConnectionRefusedError):
        return "connection refused"
    if isinstance(failure, DNSLookupError):
        return "its name cannot be resolved"
    if isinstance(failure, (TimeoutError, ConnectTimeout)):
        return "no answer in time"
    if isinstance(failure, VerificationError):
        return "its certificate is for another name"
    if isinstance(failure, TLSError) and "certificate verify failed" in str(failure):
        return "its certificate has expired, or is signed by nobody that this cache trusts"
    if isinstance(failure, ConnectionDone):
        return "the connection was closed"
    if isinstance(failure, ValueError):
        return "a URL that cannot be asked"  # which may be a signed one
    return " ".join(str(failure).split())[:200] or type(failure).__name__


def header(response: IResponse, name: bytes) -> str:
    """A reply's header, "" where it has none."""
    values = response.headers.getRawHeaders(name)
    return values[0].decode("latin-1").strip() if values else ""


def retry_after(response: IResponse, now: float) -> Optional[float]:
    """Seconds that a reply asks to wait; ``now`` is in seconds of the epoch."""
    text = header(response, b"retry-after")
    if not text:
        return None
    try:
        seconds = float(text) if text.isdigit() else stringToDatetime(text.encode()) - now
    except (ValueError, OverflowError):
        return None
    return min(LONGEST_RETRY_AFTER, max(0.0, seconds))


def within(seconds: float, waited_for: Deferred[T], clock: IReactorTime) -> Deferred[T]:
    """
    What is waited for, or TimeoutError, whatever it says of having been cancelled for it.

    An agent tells a cancelled request as one that failed.
    """
    late = Failure(TimeoutError(seconds, "no answer in time"))
    return waited_for.addTimeout(seconds, clock, onTimeoutCancel=lambda *_: late)


class _Collector(Protocol):
    """A body of at most ``limit`` bytes; what is beyond it is not read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self.done: Deferred[bytes] = Deferred(lambda _: self._stop())

    def _stop(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.stopProducing()

    def dataReceived(self, data: bytes) -> None:
        self._limit -= len(data)
        if self._limit < 0:
            self._stop()
            self._fire(Failure(ValueError("a body larger than any manifest")))
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        self._fire(b"".join(self._parts) if reason.check(ResponseDone) else reason)

    def _fire(self, result: Any) -> None:
        if not self.done.called:
            self.done.callback(result)


class _Discard(Protocol):
    """
    Reads a small body that nobody needs to its end, so that the connection can be used again; one
    that is large, or does not come, costs the connection.
    """

    def __init__(self, length: int, clock: IReactorTime) -> None:
        self._left = SMALL_BODY
        self._length = length
        self._late = clock.callLater(BODY_WITHIN, self._stop)

    def connectionMade(self) -> None:
        if self._length > SMALL_BODY:
            self._stop()

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._stop()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        if self._late.active():
            self._late.cancel()

    def _stop(self) -> None:
        if self._late.active():
            self._late.cancel()
        transport: Any = self.transport
        transport.stopProducing()


def discard(response: IResponse, clock: IReactorTime) -> None:
    """Let go of a reply whose body is not wanted."""
    length = 0 if response.length is UNKNOWN_LENGTH else int(response.length)
    response.deliverBody(_Discard(length, clock))


class _Counting(Protocol):
    """Stands before the protocol that takes a body and counts what comes."""

    def __init__(self, taker: Any, count: Callable[[int], None]) -> None:
        self._taker = taker
        self._count = count

    def makeConnection(self, transport: Any) -> None:
        self._taker.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._count(len(data))
        self._taker.dataReceived(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        self._taker.connectionLost(reason)


@define
class Counted:
    """A blob's body; ``count`` is told how many bytes of it come, whenever some do."""

    _response: IResponse
    _count: Callable[[int], None]

    def deliverBody(self, protocol: IProtocol) -> None:
        self._response.deliverBody(_Counting(protocol, self._count))


@define(eq=False)
class Upstream:
    """
    The upstream registry at ``url``; all that leaves goes by ``agent``, which has the pool and the
    timeouts to connect.
    """

    url: RegistryUrl
    _agent: IAgent
    _clock: IReactorTime
    _metrics: Metrics = field(factory=Metrics)
    _pseudonym: Optional[str] = None
    """By what name the requests' Via has this cache."""
    line: Optional[Line] = None
    """What bounds how fast blobs come, all of them together."""
    proxy: Optional[object] = None
    """The proxy whose own answers look like upstream's, None where there is none."""
    _paces: dict[str, HostPace] = field(factory=dict, init=False)
    _likely: Optional[str] = field(default=None, init=False)
    _treq: HTTPClient = field(init=False)
    _circuit: Circuit = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._circuit = Circuit(self._clock)
        self._treq = HTTPClient(self._agent)

    @property
    def circuit_open(self) -> bool:
        """Whether it is taken to be down, and questions are answered without asking it."""
        return self._circuit.is_open

    # manifests

    async def manifest(self, name: ModelName, reference: Reference, user_agent: str) -> Manifest:
        """
        A manifest, whole and checked; `RegistryError` where there is none to be had.

        ``user_agent`` is the client's: the registry refuses models that need a newer Ollama (412).
        """
        url = self._path(name, "manifests", reference)
        response, _ = await self._ask("GET", url, user_agent or USER_AGENT)
        if response.code != 200:
            raise await self._refusal(response, f"{name}:{reference}", name, reference)
        body = await self._body(response, MAX_BYTES)
        try:
            manifest = Manifest.parse(body)
        except InvalidManifest as error:
            raise upstream_unreachable(f"upstream sent no manifest for {name}: {error}") from None
        expected = reference if isinstance(reference, Digest) else announced(response)
        if expected is not None and expected != manifest.digest:
            raise upstream_unreachable(
                f"upstream sent another manifest for {name} than it announced"
            )
        return manifest

    async def manifest_digest(
        self, name: ModelName, tag: Reference, user_agent: str
    ) -> Optional[Digest]:
        """
        The digest of what upstream has under a tag, by HEAD; `RegistryError`.

        None where HEAD does not tell: older registries answer 405, others send no digest.
        """
        url = self._path(name, "manifests", tag)
        response, _ = await self._ask("HEAD", url, user_agent or USER_AGENT)
        if response.code in (200, 405, 501):
            discard(response, self._clock)
            return announced(response) if response.code == 200 else None
        raise await self._refusal(response, f"{name}:{tag}", name, tag)

    async def _ask(self, method: str, url: str, user_agent: str) -> tuple[IResponse, str]:
        """A request by treq, redirects followed; `RegistryError` where no reply comes."""
        headers = Headers({"Accept": [ACCEPT_MANIFEST], "User-Agent": [user_agent], **self._via()})

        async def send(url: str) -> IResponse:
            sent = self._treq.request(
                method, url, headers=headers, allow_redirects=False, unbuffered=True
            )
            return await within(HEADERS_WITHIN, sent, self._clock)

        self._circuit.enter()
        try:
            answered = await follow(send, url, self._clock)
        except CancelledError:
            self._circuit.left()
            raise
        except (TimeoutError, ConnectTimeout):
            failed = upstream_silent(f"upstream {self.url.host} does not answer")
        except SourceFailed as error:
            # It answered, though only with where not to go.
            self._circuit.succeeded()
            raise upstream_unreachable(f"upstream {self.url.host}: {error}") from None
        except Exception as error:
            failed = upstream_unreachable(
                f"upstream {self.url.host} cannot be reached: {why(error)}"
            )
        else:
            self._circuit.succeeded()
            return answered
        self._circuit.failed(failed)
        raise failed

    async def _body(self, response: IResponse, limit: int) -> bytes:
        collector = _Collector(limit)
        response.deliverBody(collector)
        try:
            return await within(BODY_WITHIN, collector.done, self._clock)
        except (TimeoutError, ConnectTimeout):
            raise upstream_silent(f"upstream {self.url.host} stopped in the middle") from None
        except CancelledError:
            raise
        except Exception as error:
            raise upstream_unreachable(
                f"upstream {self.url.host} broke off in the middle: {why(error)}"
            ) from None

    async def _refusal(
        self, response: IResponse, what: str, name: ModelName, reference: Reference
    ) -> RegistryError:
        """What a client is told of a reply that is not 200."""
        code = response.code
        if code in (412, 429):
            wait = retry_after(response, self._now())
            try:
                text = error_text(await self._body(response, 64 * 1024))
            except RegistryError:
                text = ""
            if code == 412:
                return RegistryError(
                    "UNSUPPORTED", text or f"{what} needs a newer version of Ollama", 412
                )
            return RegistryError(
                "TOOMANYREQUESTS",
                text or f"upstream {self.url.host} asks to wait",
                429,
                retry_after=None if wait is None else round(wait),
            )
        discard(response, self._clock)
        if code == LOOP_DETECTED:
            return looped()
        if code == 404:
            return manifest_unknown(name, reference)
        if code in (401, 403):
            return denied(what, self.proxy)
        who = f"upstream {self.url.host}"
        if self.proxy is not None:
            who += f", or the proxy {self.proxy} before it,"
        return upstream_unreachable(f"{who} answered {code} for {what}")

    # blobs

    async def blob_size(self, name: ModelName, digest: Digest) -> int:
        """The size of a blob that no known manifest names, in bytes; `RegistryError`."""
        url = self._path(name, "blobs", digest)
        response, _ = await self._ask("HEAD", url, USER_AGENT)
        length = header(response, b"content-length")
        if response.code in (200, 405, 501):
            discard(response, self._clock)
            if response.code == 200 and length.isdecimal() and len(length) < 20:
                return int(length)
            return await self._size_by_range(url, digest)
        error = await self._refusal(response, f"blob {digest}", name, digest)
        raise blob_unknown(digest) if error.status == 404 else error

    async def _size_by_range(self, url: str, digest: Digest) -> int:
        try:
            asking = Deferred.fromCoroutine(self.get(url, Span(0, 1)))
            response, _ = await within(HEADERS_WITHIN, asking, self._clock)
        except SourceFailed as error:
            raise upstream_unreachable(f"upstream {self.url.host}: {error}") from None
        except (TimeoutError, ConnectTimeout):
            raise upstream_silent(f"upstream {self.url.host} does not answer") from None
        found = _CONTENT_RANGE.fullmatch(header(response, b"content-range"))
        discard(response, self._clock)
        if response.code == 206 and found and found[3] != "*":
            return int(found[3])
        if response.code == 200 and response.length is not UNKNOWN_LENGTH:
            return int(response.length)
        raise upstream_unreachable(f"upstream {self.url.host} does not tell the size of {digest}")

    def blob(self, digest: Digest, size: int, *repositories: ModelName) -> UpstreamBlob:
        """A blob as a fill's source."""
        return UpstreamBlob(self, digest, size, list(repositories))

    async def get(self, url: str, span: Optional[Span]) -> tuple[IResponse, str]:
        """
        A blob's bytes, redirects followed: the reply and the URL that gave it; `SourceFailed`.
        """
        headers = {"User-Agent": [USER_AGENT], "Accept-Encoding": ["identity"], **self._via()}
        if span is not None:
            headers["Range"] = [f"bytes={span.start}-{span.end - 1}"]

        async def send(url: str) -> IResponse:
            return await self._agent.request(b"GET", url.encode("ascii"), Headers(headers))

        try:
            return await follow(send, url, self._clock)
        except (SourceFailed, CancelledError):
            raise
        except Exception as error:
            raise SourceFailed(why(error)) from None

    def pace(self, url: str) -> HostPace:
        """What was measured of the host of ``url``."""
        self._likely = urlsplit(url).netloc
        return self._paces.setdefault(self._likely, self._unknown())

    def likely_pace(self) -> HostPace:
        """What was measured of the host that blobs came from last."""
        return self._paces[self._likely] if self._likely is not None else self._unknown()

    def _unknown(self) -> HostPace:
        return HostPace(inf if self.line is None else self.line.rate / self.line.most)

    def _via(self) -> dict[str, list[str]]:
        return {"Via": [f"1.1 {self._pseudonym}"]} if self._pseudonym else {}

    def _path(self, name: ModelName, kind: str, reference: object) -> str:
        return f"{self.url.url}v2/{name}/{kind}/{reference}"

    def _now(self) -> float:
        return datetime.now(timezone.utc).timestamp()


async def follow(send: Any, url: str, clock: IReactorTime) -> tuple[IResponse, str]:
    """
    Send to ``url`` and wherever the replies point, at most `HOPS` times: the last reply and its
    URL.
    """
    for _ in range(HOPS):
        response = await send(url)
        location = header(response, b"location")
        if response.code not in _REDIRECTS or not location:
            return response, url
        discard(response, clock)
        url = urljoin(url, location)
        if not _can_be_asked(url):
            host = url.split("?")[0][:80]
            raise SourceFailed(f"a redirect to {host!a}: expected an http or https URL")
    raise SourceFailed(f"more than {HOPS} redirects")


def _can_be_asked(url: str) -> bool:
    parts = urlsplit(url)
    # Reading ``port`` raises ValueError where there can be no such port.
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and parts.port != 0
        and url.isascii()
    )


def announced(response: IResponse) -> Optional[Digest]:
    """The digest that a manifest's reply claims for its body."""
    text = header(response, b"ollama-content-digest") or header(response, b"docker-content-digest")
    try:
        return Digest.parse(text if ":" in text else f"sha256:{text}")
    except InvalidName:
        return None


def error_text(body: bytes) -> str:
    """The message in an error's body, on one line; "" where there is none to show."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "" if "<" in text else " ".join(text.split())[:300]
    if isinstance(found, dict):
        errors = found.get("errors")
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            found = errors[0]
        for key in ("message", "error"):
            if isinstance(found.get(key), str):
                return " ".join(found[key].split())[:300]
    return ""


@define(eq=False)
class UpstreamBlob:
    """
    One blob upstream (a `BlobSource`): asks the registry where it is once, and there until that
    fails.
    """

    _upstream: Upstream
    _digest: Digest
    _size: int
    _repositories: list[ModelName]
    _location: Optional[str] = field(default=None, init=False)
    _at: int = field(default=0, init=False)
    _locating: Optional[list[Deferred[None]]] = field(default=None, init=False)

    @property
    def pace(self) -> HostPace:
        if self._location is None:
            return self._upstream.likely_pace()
        return self._upstream.pace(self._location)

    @property
    def ranges(self) -> bool:
        return self._location is not None and self._upstream.pace(self._location).ranges

    def add_repository(self, name: ModelName) -> None:
        if name not in self._repositories:
            self._repositories.append(name)

    def retry(self) -> None:
        self._at = 0

    async def fetch(self, span: Span) -> Answer:
        while True:
            if self._location is not None:
                url = self._location
                response, _ = await self._upstream.get(url, span)
                if response.code in (200, 206, 416, 429) or response.code >= 500:
                    return self._answer(response, url, span)
                discard(response, self._upstream._clock)
                if self._location == url:
                    self._location = None
                raise SourceFailed(f"{urlsplit(url).netloc} answered {response.code}")
            if self._locating is None:
                return await self._locate(span)
            located: Deferred[None] = Deferred()
            self._locating.append(located)
            await located

    async def _locate(self, span: Span) -> Answer:
        """
        Ask the registry itself; what it sends, or points to, is where the bytes are from now on.
        """
        self._locating = []
        try:
            while True:
                name = self._repositories[self._at]
                asked = self._upstream._path(name, "blobs", self._digest)
                response, url = await self._upstream.get(asked, span)
                if response.code in (200, 206):
                    answer = self._answer(response, url, span)
                    self._location = url
                    return answer
                if response.code == LOOP_DETECTED:
                    discard(response, self._upstream._clock)
                    raise SourceRefused(looped())
                if response.code in (416, 429) or response.code >= 500:
                    return self._answer(response, url, span)
                discard(response, self._upstream._clock)
                if urlsplit(url).netloc != urlsplit(asked).netloc:
                    raise SourceFailed(f"{urlsplit(url).netloc} answered {response.code}")
                if response.code not in (401, 403, 404, 410):
                    raise SourceFailed(f"upstream answered {response.code}")
                self._at += 1
                if self._at >= len(self._repositories):
                    self._at = 0
                    if response.code in (401, 403):
                        blob = f"blob {self._digest}"
                        raise SourceRefused(denied(blob, self._upstream.proxy))
                    raise SourceRefused(blob_unknown(self._digest))
        finally:
            waiting, self._locating = self._locating, None
            for located in waiting:
                if not located.called:
                    located.callback(None)

    def _answer(self, response: IResponse, url: str, span: Span) -> Answer:
        pace = self._upstream.pace(url)
        try:
            found = self._span(response, span)
        except BaseException:
            discard(response, self._upstream._clock)
            raise
        asked = response.code == 206 or found == span
        if response.code == 206:
            pace.ranges = True
        counted = Counted(response, self._upstream._metrics.received)
        if self._upstream.line is None:
            return Answer(found, asked, pace, counted)
        paced = Paced(counted, self._upstream.line)
        return Answer(found, asked, pace, paced, paced)

    def _span(self, response: IResponse, span: Span) -> Span:
        if response.code in (429, 503):
            wait = retry_after(response, self._upstream._now())
            busy = response.code == 429 or wait is not None
            raise SourceFailed(f"upstream answered {response.code}", wait, busy=busy)
        if response.code == 416:
            raise SourceRefused(self._wrong_size("smaller"))
        if response.code not in (200, 206):
            raise SourceFailed(f"upstream answered {response.code}")
        if header(response, b"content-encoding") not in ("", "identity"):
            raise SourceFailed("upstream sent the blob compressed")
        if response.code == 200:
            if response.length is not UNKNOWN_LENGTH and response.length != self._size:
                raise SourceRefused(self._wrong_size(str(response.length)))
            return Span(0, self._size)
        found = _CONTENT_RANGE.fullmatch(header(response, b"content-range"))
        if found is None:
            raise SourceFailed("upstream sent a part without saying which")
        first, last, total = int(found[1]), int(found[2]), found[3]
        if total != "*" and int(total) != self._size:
            raise SourceRefused(self._wrong_size(total))
        if first != span.start or not first <= last < span.end:
            raise SourceFailed("upstream sent another part than was asked for")
        return Span(first, last + 1)

    def _wrong_size(self, found: str) -> RegistryError:
        return RegistryError(
            "SIZE_INVALID",
            f"blob {self._digest} has {found} bytes upstream, its manifest says {self._size}",
            502,
        )
