"""
The registry being mirrored, as a client sees it: manifests whole, blobs by Range.

What real ones do: a manifest comes chunked and without a length; a blob is a
307 to a signed URL on another host, which expires; errors are JSON, HTML or a
line of text. Nothing here carries a client's credentials.
"""

from __future__ import annotations

import errno
from math import inf
from typing import Optional

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from yukari.errors import (
    LOOP_DETECTED,
    RegistryError,
    blob_unknown,
    looped,
    manifest_unknown,
    too_many,
    upstream_unreachable,
)
from yukari.manifest import (
    AnyManifest,
    InvalidManifest,
    Manifest,
    Variant,
    parse_manifest,
)
from yukari.names import Digest, Reference, Repository
from yukari.net.bodies import (
    content_encoding,
    discard,
    is_encoded,
)
from yukari.net.http import BadRedirect, follow, header, place_in, retry_after, within
from yukari.net.tunnel import ProxyFailed
from yukari.sources.authorizer import failed
from yukari.sources.bodies import Bodies
from yukari.sources.circuit import Circuits, Reachability
from yukari.sources.host_facts import HostFacts
from yukari.sources.in_turn import in_turn
from yukari.sources.known_manifests import ACCEPT, HEAD_WITHIN, KnownManifests
from yukari.sources.no_reply import NoReply, without_reply
from yukari.sources.own_key import KeyUnusable
from yukari.sources.questions import Questions
from yukari.sources.range_reply import WHOLE, ContentRange
from yukari.sources.registry import Registry
from yukari.sources.tokens import RealmFailed
from yukari.sources.upstream_blob import UpstreamBlob
from yukari.sources.ways import USER_AGENT, Access, agent_for
from yukari.spans import Span

LONGEST_SIZE = 19
"""Digits from which on a size in bytes is one that no file can have."""


@define(eq=False, repr=False)
class Upstream:
    """The upstream registry, as the library asks it."""

    registry: Registry
    circuits: Circuits = field(init=False)
    questions: Questions = field(init=False)
    _bodies: Bodies = field(init=False)
    _known: KnownManifests = field(init=False)

    def __attrs_post_init__(self) -> None:
        clock = self.registry.clock
        self.circuits = Circuits(clock)
        self.questions = Questions(clock, self.registry.questions)
        self._bodies = Bodies(self._host, clock, self.registry.in_thread, self.registry.large)
        self._known = KnownManifests(clock, is_patient=self.registry.by_agent)

    @property
    def _host(self) -> str:
        return self.registry.url.host

    def is_down(self, _: Repository) -> bool:
        """Whether it is taken to be down, and questions are answered without asking it."""
        return self.circuits.whole.is_open

    def state_of(self, _: str) -> Reachability:
        """What is known of it now."""
        state = self.circuits.state
        return evolve(state, answered=True) if self.registry.has_answered else state

    def access_of(self, _: str) -> tuple[Access, ...]:
        """How requests get past its challenges."""
        return self.registry.authorizer.ways.access()

    def hosts_of(self, _: str) -> tuple[HostFacts, ...]:
        """The hosts that its blobs have come from."""
        return self.registry.hosts()

    # manifests

    @in_turn
    async def manifest(
        self,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
    ) -> AnyManifest:
        """
        Return a manifest or a list, whole and checked; `RegistryError` if there is none to be had.

        ``user_agent`` is the client's: the registry refuses models that need a newer Ollama (412).
        ``variant`` is what is asked for; some registries send a list to everybody all the same.
        """
        url = self.registry.url_of(name, "manifests", reference)
        response, _ = await self._ask(
            "GET", url, name, agent_for(name, user_agent, by_agent=self.registry.by_agent), variant
        )
        if response.code == 400:
            # hf.co says so of an unknown quantisation and of models in several files.
            text = await self._bodies.text(response)
            said = text or f"upstream {self._host} refuses {name}:{reference}"
            raise RegistryError("UNSUPPORTED", said, 400)
        if response.code >= 400:
            raise await self._refusal(response, f"{name}:{reference}", name, reference)
        try:
            manifest = await self._bodies.parsed(
                response, f"manifest of {name}:{reference}", parse_manifest
            )
        except InvalidManifest as error:
            if response.code not in WHOLE:
                raise self._answered(response.code, f"{name}:{reference}") from None
            raise upstream_unreachable(f"upstream sent no manifest for {name}: {error}") from None
        if isinstance(reference, Digest) and reference != manifest.digest:
            raise upstream_unreachable(f"upstream sent another manifest for {name}@{reference}")
        self._known.learn((name, reference, variant), response, manifest.digest)
        return manifest

    @in_turn
    async def child(self, name: Repository, digest: Digest) -> Manifest:
        """
        Return a list's child, which upstream has among the blobs; `RegistryError`.

        Lists do not tell their children's sizes, so it is fetched whole, by one request.
        """
        url = self.registry.url_of(name, "blobs", digest)
        response, _ = await self._ask("GET", url, name, USER_AGENT)
        if response.code >= 400:
            raise await self._blob_refusal(response, f"manifest {digest}", name, digest)

        def parse(body: bytes) -> Manifest:
            if Digest.of(body) != digest:
                raise upstream_unreachable(f"upstream sent wrong bytes for manifest {digest}")
            return Manifest.parse(body)

        try:
            return await self._bodies.parsed(response, f"manifest {digest}", parse)
        except InvalidManifest as error:
            raise upstream_unreachable(f"upstream sent no manifest {digest}: {error}") from None

    @in_turn
    async def manifest_digest(
        self,
        name: Repository,
        tag: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
    ) -> Optional[Digest]:
        """
        Return the digest of what upstream has under a tag, by HEAD; `RegistryError`.

        None if HEAD does not tell: some registries send no digest, and some answer 405, any other
        error or nothing to the HEAD of what a GET brings. Where none is answered it is sent seldom.
        """
        if self._known.heads.is_silent(name):
            return None
        url = self.registry.url_of(name, "manifests", tag)
        try:
            agent = agent_for(name, user_agent, by_agent=self.registry.by_agent)
            response, _ = await self._ask("HEAD", url, name, agent, variant, at_most=HEAD_WITHIN)
        except NoReply as error:
            if error.status == 504:
                self._known.heads.missed(name)
            return None
        except RegistryError as error:
            if error.status == 403:
                return None
            raise
        self._known.heads.answered(name)
        if response.code in (412, 429, LOOP_DETECTED):
            raise await self._refusal(response, f"{name}:{tag}", name, tag)
        discard(response, self.registry.clock)
        return (
            self._known.digest((name, tag, variant), response) if response.code in WHOLE else None
        )

    async def _ask(
        self,
        method: str,
        url: str,
        name: Repository,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
        span: Optional[Span] = None,
        at_most: float = inf,
    ) -> tuple[IResponse, str]:
        """Send a request, for a ``span`` if any, and follow redirects; `RegistryError`."""
        asked = [url]

        async def send(url: str, user_agent: str, token: Optional[str]) -> IResponse:
            headers = self.registry.headers(user_agent, token)
            if span is None:
                headers.setRawHeaders("Accept", [ACCEPT[variant]])
            else:
                headers.setRawHeaders("Range", [span.as_range])
            seconds = min(self.registry.headers_within, at_most)
            sent = self.registry.request(method, url, headers)
            return await within(seconds, sent, self.registry.clock)

        self.circuits.enter(name)
        try:
            authorized = self.registry.authorized(send, url, user_agent)
            answered = await follow(authorized, url, self.registry.clock, asked.append)
        except CancelledError:
            self.circuits.left(name)
            raise
        except Exception as error:
            raise self._failed(method, name, error, place_in(asked[-1]) == place_in(url)) from None
        self.circuits.succeeded(name)
        return answered

    def _failed(
        self, method: str, name: Repository, error: Exception, is_registry: bool
    ) -> RegistryError:
        """
        Return the error that a client gets for a request without a reply.

        ``is_registry`` is false if a redirect had led to another host, which is down for those
        alone who are sent there.
        """
        if isinstance(error, (RealmFailed, KeyUnusable, RegistryError, BadRedirect)):
            # It answered, though only with where not to go.
            self.circuits.succeeded(name)
            if isinstance(error, RegistryError):
                return error
            if isinstance(error, BadRedirect):
                return NoReply("UNAVAILABLE", f"upstream {self._host}: {error}", 502)
            return failed(error, self._host)
        if isinstance(error, ConnectError) and error.osError in (errno.EMFILE, errno.ENFILE):
            self.circuits.left(name)
            return RegistryError("UNAVAILABLE", "this cache has too many files open", 503)
        down = without_reply(self._host, error)
        if is_registry and isinstance(error, (ConnectError, DNSLookupError, ProxyFailed)):
            self.circuits.unreachable(name, down)
            return RegistryError(down.code, down.message, down.status)
        if method == "HEAD":
            self.circuits.left(name)  # A GET may be answered: that one counts.
        else:
            self.circuits.failed(name, down)
        return down

    async def _refusal(
        self, response: IResponse, what: str, name: Repository, reference: Reference
    ) -> RegistryError:
        """Return the error that a client gets for a reply that is an error."""
        code = response.code
        if code in (412, 429):
            wait = retry_after(response, self.registry.now())
            text = await self._bodies.text(response)
            if code == 412:
                return RegistryError(
                    "UNSUPPORTED", text or f"{what} needs a newer version of Ollama", 412
                )
            return too_many(text or f"upstream {self._host} asks to wait", wait)
        if code in (401, 403) and not self.registry.is_default:
            return self.registry.denied(what, await self._bodies.text(response))
        discard(response, self.registry.clock)
        if code == LOOP_DETECTED:
            return looped()
        if code == 404:
            return manifest_unknown(name, reference)
        if code in (401, 403):
            return self.registry.denied(what)
        return self._answered(code, what)

    async def _blob_refusal(
        self, response: IResponse, what: str, name: Repository, digest: Digest
    ) -> RegistryError:
        error = await self._refusal(response, what, name, digest)
        return blob_unknown(digest) if error.status == 404 else error

    def _answered(self, code: int, what: str) -> RegistryError:
        who = f"upstream {self._host}"
        if self.registry.proxy is not None:
            who += f", or the proxy {self.registry.proxy} before it,"
        return upstream_unreachable(f"{who} answered {code} for {what}")

    # blobs

    @in_turn
    async def blob_size(self, name: Repository, digest: Digest) -> int:
        """
        Return the size of a blob that no known manifest names, in bytes; `RegistryError`.

        If HEAD does not tell, as that of a URL that is signed for GET, the first byte's GET does.
        """
        url = self.registry.url_of(name, "blobs", digest)
        try:
            response, _ = await self._ask("HEAD", url, name, USER_AGENT)
        except NoReply:
            return await self._size_by_range(url, name, digest)
        length = header(response, b"content-length")
        if is_encoded(content_encoding(response)):
            length = ""  # that of the encoded bytes
        if response.code in (404, 429, LOOP_DETECTED):
            raise await self._blob_refusal(response, f"blob {digest}", name, digest)
        discard(response, self.registry.clock)
        if response.code in WHOLE and length.isdecimal() and len(length) < LONGEST_SIZE:
            return int(length)
        return await self._size_by_range(url, name, digest)

    async def _size_by_range(self, url: str, name: Repository, digest: Digest) -> int:
        response, _ = await self._ask("GET", url, name, USER_AGENT, span=Span(0, 1))
        if response.code >= 400:
            raise await self._blob_refusal(response, f"blob {digest}", name, digest)
        found = ContentRange.parse(header(response, b"content-range"))
        discard(response, self.registry.clock)
        if is_encoded(content_encoding(response)):
            raise upstream_unreachable(f"upstream {self._host} sends {digest} compressed")
        size = None
        if response.code == 206 and found is not None:
            size = found.total
        elif response.code in WHOLE and response.length is not UNKNOWN_LENGTH:
            size = int(response.length)
        if size is not None and size < 10 ** (LONGEST_SIZE - 1):
            return size
        raise upstream_unreachable(f"upstream {self._host} does not tell the size of {digest}")

    def blob(self, digest: Digest, size: int, *repositories: Repository) -> UpstreamBlob:
        """A blob as a fill's source."""
        return UpstreamBlob(self.registry, digest, size, list(repositories))
