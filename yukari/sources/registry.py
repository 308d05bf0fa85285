"""Requests to a registry, with credentials if it wants them, and to the hosts of its blobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from math import inf
from typing import Optional, Union
from urllib.parse import urlsplit

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from yukari.config.urls import RegistryUrl
from yukari.errors import RegistryError, denied, denied_by, upstream_unreachable
from yukari.large import LargeManifests
from yukari.metrics import Metrics
from yukari.names import Repository
from yukari.net.bodies import discard
from yukari.net.budget import ConnectionBudget, HostLimit
from yukari.net.host_line import HostLines
from yukari.net.http import BadRedirect, as_cancelled, follow, place_in, why, without_user
from yukari.net.perimeter import Outside
from yukari.net.throttle import Line
from yukari.net.useful import LEAST, Useful
from yukari.sources.authorizer import Authorizer, Keys, Send, failed
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.sources.host_facts import HostFacts
from yukari.sources.own_key import KeyUnusable
from yukari.sources.pace import HostPace
from yukari.sources.questions import MAX_QUESTIONS
from yukari.sources.tokens import RealmFailed, Tokens
from yukari.sources.ways import USER_AGENT
from yukari.spans import Span
from yukari.threads import InThread

MAX_HOSTS = 256
"""Hosts whose measurements are kept; those that were used last."""
TOLD_BEFORE = 2.0
"""Seconds by which a blob's request is given up sooner than a client gives up its own."""


@define(eq=False, repr=False)
class Registry:
    """
    The registry at ``url``; all that leaves goes by ``agent``, which has the pool and the timeouts
    to connect.
    """

    url: RegistryUrl
    agent: IAgent
    clock: IReactorTime
    metrics: Metrics = field(factory=Metrics)
    _pseudonym: Optional[str] = None
    """The name of this cache in the Via header of its requests."""
    line: Optional[Line] = None
    """The bound on the rate of all blobs together."""
    proxy: Optional[object] = None
    """The proxy whose own answers look like the registry's, None if there is none."""
    budget: Optional[ConnectionBudget] = None
    """The budget of requests for blobs, whichever host they are redirected to."""
    keys: Keys = field(factory=Keys)
    """Answers the registry's challenges."""
    headers_within: float = 30.0
    """Seconds within which a reply must begin; a blob's until its host is known."""
    by_agent: bool = False
    """Whether manifests differ by User-Agent, as those of hf.co do."""
    challenge: str = "auto"
    """As `Authorizer.kind`."""
    is_default: bool = True
    """Whether UPSTREAM_REGISTRY names it, and UPSTREAM_KEY the key for it."""
    lines: HostLines = field(factory=HostLines)
    """What is known of the way to each host."""
    in_thread: InThread = execute
    """Where large manifests are parsed."""
    large: LargeManifests = field(factory=LargeManifests)
    questions: int = MAX_QUESTIONS
    """Questions at once at most."""
    has_answered: bool = field(default=False, init=False)
    """Whether it has answered a request for a blob, whatever it said."""
    authorizer: Authorizer = field(init=False)
    _paces: dict[str, HostPace] = field(factory=dict, init=False)
    _last: Optional[HostPace] = field(default=None, init=False)
    """Those of the host that was looked up last."""
    _last_url: str = field(default="", init=False, repr=False)
    """The URL by which it was looked up, which may be a signed one."""
    _likely: Optional[HostPace] = field(default=None, init=False)
    """The measurements of the host that the last blob came from."""

    def __attrs_post_init__(self) -> None:
        tokens = Tokens(self.agent, self.clock, self._via())
        self.authorizer = Authorizer(
            self.url, tokens, self.clock, self.keys, self.challenge, self.by_agent
        )

    def denied(self, what: object, said: str = "") -> RegistryError:
        """
        Return the error that a client gets if the registry refuses all of our keys.

        ``said`` is what the registry said.
        """
        if not self.is_default:
            return denied_by(self.url.host, what, said, has_key=self.keys.has_operators)
        return denied(what, self.proxy, has_key=self.keys.has_operators)

    async def get(
        self, url: str, span: Optional[Span], moved: Callable[[str], None] = lambda url: None
    ) -> tuple[IResponse, str]:
        """
        Ask for a blob's bytes, and follow redirects; return the reply and the URL that gave it.

        `SourceFailed`, `SourceRefused`.

        ``moved`` is told where each redirect leads to, before that has answered.
        """

        async def send(url: str, user_agent: str, token: Optional[str]) -> IResponse:
            headers = self.headers(user_agent, token)
            if span is not None:
                headers.setRawHeaders("Range", [span.as_range])
            response = await as_cancelled(self.request("GET", url, headers))
            self.has_answered = True
            return response

        try:
            authorized = self.authorized(send, url, USER_AGENT)
            return await follow(authorized, url, self.clock, moved)
        except CancelledError:
            raise
        except RegistryError as error:
            raise SourceRefused(error) from None
        except KeyUnusable as error:
            raise SourceRefused(failed(error, self.url.host)) from None
        except RealmFailed as error:
            busy = error.status == 429
            raise SourceFailed(str(error), error.retry_after, busy=busy) from None
        except Outside as error:
            raise SourceRefused(
                upstream_unreachable(f"upstream {self.url.host}: {error}")
            ) from None
        except BadRedirect as error:
            raise SourceFailed(str(error)) from None
        except Exception as error:
            raise SourceFailed(why(error)) from None

    def pace(self, url: str) -> HostPace:
        """Return the measurements of the host of ``url``."""
        if self._last is not None and url == self._last_url:  # Each request asks a dozen times.
            self._last.bound = self._bound()
            return self._last
        place = place_in(url)
        pace = self._paces.pop(place, None)
        if pace is None:
            if len(self._paces) >= MAX_HOSTS:
                del self._paces[next(iter(self._paces))]
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            pace = HostPace(
                self._bound(),
                self.budget,
                patience=self.headers_within - TOLD_BEFORE,
                limit=HostLimit(Useful(LEAST)),
                line=self.lines.of((parts.hostname or "", port)),
            )
        self._paces[place] = pace  # The last one now.
        self._last, self._last_url = pace, url
        pace.bound = self._bound()  # It may differ by the hour.
        return pace

    def rate_changed(self) -> None:
        """The rate of `line` is another one."""
        for pace in self._paces.values():
            pace.bound = self._bound()

    def _bound(self) -> float:
        """Bytes a second that one connection has of the line while all are at work."""
        return inf if self.line is None else self.line.rate / self.line.most

    def hosts(self) -> tuple[HostFacts, ...]:
        """The hosts that blobs have come from."""
        now = self.clock.seconds()
        return tuple(pace.facts(host, now, self.line) for host, pace in self._paces.items())

    def allowed(self, most: int) -> int:
        """How many of ``most`` requests at once the host gets that bears the fewest."""
        return min((pace.limit.at_most(most) for pace in self._paces.values()), default=most)

    def likely_pace(self) -> HostPace:
        """The measurements of the host that the last blob came from."""
        return self._likely or self.pace(self.url.url)

    def comes_from(self, url: str) -> HostPace:
        """Return the measurements of the host of ``url``, which answers for a blob."""
        # `pace` alone would not do: it also serves other blobs between a choice and its request.
        self._likely = self.pace(url)
        return self._likely

    def authorized(
        self, send: Send, url: str, user_agent: str
    ) -> Callable[[str], Awaitable[IResponse]]:
        """Return ``send`` with the credentials that the registry wants for ``url``."""
        path = urlsplit(url).path
        return lambda at: self.authorizer.send(send, at, path, user_agent)

    def request(self, method: str, url: str, headers: Headers) -> Deferred[IResponse]:
        """
        Send a request; a user and a password in its URL are sent as Go's client does, if there is
        no other Authorization. What is not to be had without gzip is asked for with it.
        """
        url, authorization = without_user(url)
        if authorization is not None and not headers.hasHeader("Authorization"):
            headers.setRawHeaders("Authorization", [authorization])
        asked = method.encode("ascii"), url.encode("ascii")
        return self.agent.request(*asked, headers).addCallback(self._with_gzip, *asked, headers)

    def _with_gzip(
        self, response: IResponse, method: bytes, url: bytes, headers: Headers
    ) -> Union[IResponse, Deferred[IResponse]]:
        if response.code != 406:
            return response
        discard(response, self.clock)
        headers = headers.copy()
        headers.setRawHeaders("Accept-Encoding", ["gzip"])
        return self.agent.request(method, url, headers)

    def headers(self, user_agent: str, token: Optional[str]) -> Headers:
        """A request's headers; ``token`` is the registry's."""
        headers = Headers(
            {"User-Agent": [user_agent], "Accept-Encoding": ["identity"], **self._via()}
        )
        if token is not None:
            headers.setRawHeaders("Authorization", [f"Bearer {token}"])
        return headers

    def _via(self) -> dict[str, list[str]]:
        return {"Via": [f"1.1 {self._pseudonym}"]} if self._pseudonym else {}

    def url_of(self, name: Repository, kind: str, reference: object) -> str:
        """The URL of a manifest or a blob; ``kind`` is ``manifests`` or ``blobs``."""
        return f"{self.url.url}v2/{name.path}/{kind}/{reference}"

    def now(self) -> float:
        """The time of day, in seconds of the epoch."""
        return datetime.now(timezone.utc).timestamp()
