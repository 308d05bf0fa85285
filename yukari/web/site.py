"""
The site behind a port: what requests need of it, and the log line that each leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any, Optional, Protocol
from urllib.parse import unquote_to_bytes

from cachetools import TTLCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from yukari.config.networks import NOBODY, Address, Networks
from yukari.errors import RegistryError
from yukari.metrics import RESULTS, Metrics
from yukari.names import DEFAULT
from yukari.sending.stall import STALL
from yukari.sending.transports import flush, holds, plain_socket
from yukari.web import clients
from yukari.web.ahead import BEGUN_IN_A_TURN, Crowds, InTurn
from yukari.web.channel import RegistryChannel
from yukari.web.client_limit import ClientLimit
from yukari.web.deadlines import IDLE, ChannelDeadlines, Deadlines
from yukari.web.drain import Drain
from yukari.web.heads import BUSY, TOO_LARGE, Dates
from yukari.web.repeats import Repeats, Source, new_id
from yukari.web.replies import reply_error
from yukari.web.sharing import REQUEST, share_names
from yukari.web.upload import NOWHERE

if TYPE_CHECKING:
    from yukari.web.htpasswd import Passwords

log = Logger()

WITH_BODIES = (b"/api/", b"/store/", b"/page/")
"""The beginnings of paths at which a request's body is read; elsewhere it is thrown away."""
LARGEST_BODY = 64 * 1024
"""Bytes of a request's body that are read at most."""
MAX_HELD = 8 * 1024 * 1024
"""Bytes of the bodies that are read, and of unusually many headers, of all requests together."""
STORE_ERROR_AGAIN = 60.0
"""Seconds for which the same error of the store is not logged again, whoever meets it."""
FOUND = ("hit", "stale", "redirect")
"""Those of `RESULTS` that say that something is in the store."""


class Uploads(Protocol):
    """Takes the bodies that are read while they arrive."""

    def takes(self, method: bytes, path: bytes) -> bool:
        """Whether it is for this request's body."""

    def begin(self, request: Any) -> Any:
        """Return the file-like object that the body is written to."""


class RegistryRequest(Request):
    """A request that counts what it sends, and logs its outcome at its end."""

    __slots__ = (
        *("_began", "_first_byte", "_is_open", "_user_agent"),
        *("client_name", "id", "result", "work"),
    )
    """The attributes of every request, beside those of `sharing.REQUEST`."""
    channel: Any
    content: Any
    site: Any
    result: str
    """One of `yukari.metrics.RESULTS`, ``-`` if it is for neither a manifest nor a blob."""
    sent_directly: int = 0
    """Bytes of body that left by ``sendfile``, past `write`."""
    id: str
    """Its id in the log and in the reply: a trusted proxy's, if that sent one."""
    client_name: str
    """The client's address as text."""
    told: Optional[str] = None
    """The error that the client got."""
    gone: bool = False
    """Whether the client has left."""
    work: Optional[Deferred[None]]
    """What replies, if that takes longer than a turn of the reactor."""
    refusal: Optional[RegistryError] = None
    """The error that is replied because ``work`` was given up."""
    _began: float
    _first_byte: Optional[float]
    _body: int = 0
    _held: int = 0
    """Bytes of its body and its headers that are in memory and counted."""
    _is_upload: bool = False
    _is_open: bool
    """Whether the line in the log is still to come."""
    imported: Any = None
    """The import that the body goes into."""
    _counted: Optional[Address] = None
    """The client that a proxy named, while the request counts as one of its own."""
    _user_agent: Optional[bytes]
    """All that is kept of the headers once the reply's have left."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.result, self.id, self.client_name = "-", "", "-"
        self._began, self._is_open = 0.0, False
        self._parsePOSTFormSubmission = False  # 64 KB of fields would take 5 MB; the page has few.
        self._first_byte = self._user_agent = self.work = None

    def gotLength(self, length: Optional[int]) -> None:
        # Twisted has the path there from the request's first line on.
        path = getattr(self.channel, "_path", b"")
        uploads = self.channel.site.uploads
        if uploads is not None and uploads.takes(getattr(self.channel, "_command", b""), path):
            self._is_upload = True
            self.site = self.channel.site
            self.content = uploads.begin(self)
            self.channel.expect_upload()
            return
        self.content = BytesIO() if path.startswith(WITH_BODIES) else NOWHERE
        if length is not None and length > LARGEST_BODY:
            self.channel.refuse(TOO_LARGE)

    def handleContentChunk(self, data: bytes) -> None:
        self._body += len(data)
        if self._is_upload:
            self.content.write(data)
            self.channel.expect_upload()
        elif self._body > LARGEST_BODY:
            self.channel.refuse(TOO_LARGE)
        elif self.content is not NOWHERE and not self.hold(len(data)):
            self.channel.refuse(BUSY)
        else:
            self.content.write(data)

    def hold(self, count: int) -> bool:
        """Whether there is memory for so many more bytes of the request, from now on its own."""
        site = self.channel.site
        if site.held + count > MAX_HELD:
            return False
        site.held += count
        self._held += count
        return True

    def parseCookies(self) -> None:
        """Do nothing: no page sets cookies, and a client's would take many times their bytes."""

    def _release(self) -> None:
        self.channel.site.held -= self._held
        self._held = 0

    def process(self) -> None:
        if self.channel.refused:
            return
        self._begin()
        # As Twisted's own, but for headers that `reply_head` adds.
        self.prepath: list[bytes] = []
        parts = self.path[1:].split(b"/")
        self.postpath = list(map(unquote_to_bytes, parts)) if b"%" in self.path else parts
        if self.path == b"*":
            self._handleStar()
            return
        try:
            self._count()
            self.render(self.site.getResourceFor(self))
        except RegistryError as error:
            reply_error(self, error)
        except BaseException:
            self.processingFailed(Failure())

    def _count(self) -> None:
        """Count the request as its client's if a proxy named that one; see `ClientLimit.begins`."""
        if self.channel.is_proxy:
            client = clients.address(self)
            if self.site.clients.begins(client, self._began):
                self._counted = client

    def repeat(self, source: Source, start: int, end: int, *, any_range: bool = False) -> None:
        """Let the reply, whose headers are all set, be given again; see `Repeats.keep`."""
        self.site.repeats.keep(self, self.channel.head, source, start, end, any_range=any_range)

    @property
    def can_repeat(self) -> bool:
        """Whether the reply may be given again."""
        return self.channel.head is not None

    @property
    def waits(self) -> bool:
        """Whether it waits for a model or a blob of which nothing has been sent."""
        return self.work is not None and not self.startedWriting and self.path.startswith(b"/v2/")

    def refuse(self, error: RegistryError) -> None:
        """Reply with an error instead of what it waits for, and close the connection."""
        assert self.work is not None
        self.refusal = error
        self.channel.persistent = False
        self.setHeader(b"connection", b"close")
        self.work.cancel()

    def count_sent(self, sent: int) -> None:
        """Note how many bytes of the body were sent in all; `write` counts its own."""
        self.sent_directly = max(0, sent - self.sentLength)

    def cut(self) -> None:
        """Drop the connection: the reply cannot be completed."""
        if not self.gone:
            self.channel.forceAbortClient()

    def _begin(self) -> None:
        self.site = self.channel.site
        self.site.drain.asked += 1
        self._began = self.site.clock.seconds()
        self.id = clients.said_id(self) or new_id()
        self.client_name = clients.name(self)
        self._is_open = True

    def refused(self, status: int, method: bytes, uri: bytes) -> None:
        """Log a request that is refused before a resource sees it; parts of it may be ``-``."""
        self._begin()
        self.code, self.method, self.path = status, method, uri.partition(b"?")[0]
        self._log_end(left=False)

    @property
    def shown_path(self) -> str:
        """Its path for the log, without the user that an absolute URL may have."""
        return re.sub("//[^/]*@", "//***@", self.path.decode("latin-1"))

    def connectionLost(self, reason: Any) -> None:
        self.gone = True
        if self._is_upload:
            self.content.finish(broken=True)
        self._release()
        super().connectionLost(reason)
        if self.work is not None:
            self.work.cancel()
        self._log_end(left=True)

    def write(self, data: bytes) -> None:
        begins = self._first_byte is None
        if begins:
            self._first_byte = self.site.clock.seconds() - self._began
        super().write(data)
        self.channel.end_head()
        if begins:
            self._let_go_of_headers()

    def _let_go_of_headers(self) -> None:
        """Forget the headers once those of the reply have left: its body may take hours."""
        self.responseHeaders = Headers()
        if not self.channel.is_proxy:  # A proxy's say who the client is.
            self._user_agent = self.getHeader(b"user-agent")
            self.requestHeaders = self.responseHeaders
            if self.content is NOWHERE:
                self._release()

    def end_with(self, body: bytes) -> None:
        """
        Send a whole reply whose headers are all set, Content-Type and Content-Length among them.

        As `write` and `finish`, without looking for what else Twisted might add.
        """
        if not (self.startedWriting or self.gone):
            self.startedWriting = 1
            self._first_byte = self.site.clock.seconds() - self._began
            code = b"%d" % self.code
            self.channel.writeHeaders(
                self.clientproto, code, self.code_message, self.responseHeaders
            )
            sent = b"" if self.method == b"HEAD" else body
            self.sentLength = len(sent)
            self.channel.write(sent)
        self.finish()

    def finish(self) -> None:
        transport = plain_socket(self)
        self._release()
        super().finish()
        if transport is not None and holds(transport):
            flush(transport)
        self._log_end(left=False)

    def _log_end(self, *, left: bool) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._counted is not None:
            self.site.clients.ended(self._counted)
        if self.result in FOUND or (self.code == 200 and self.method == b"HEAD"):
            self.site.crowds.found(self.path)
        sent = self.sentLength + self.sent_directly
        self.site.metrics.replies(
            path=self.path, method=self.method, status=self.code, result=self.result
        ).count(sent, self._first_byte)
        if self.result in RESULTS:
            self.site.sent_to(self.client_name, sent)
        if not self.site.log_requests:
            return
        user_agent = self._user_agent or self.getHeader(b"user-agent") or b""
        log.info(
            "{method} {path} {status} {bytes} bytes in {seconds} s: {told}"
            if self.told
            else "{method} {path} {status} {bytes} bytes in {seconds} s: {result}",
            method=self.method.decode("latin-1"),
            path=self.shown_path,
            status=self.code,
            bytes=sent,
            seconds=round(self.site.clock.seconds() - self._began, 4),
            result=self.result,
            told=self.told,
            client=self.client_name,
            user_agent=user_agent.decode("latin-1")[:200],
            left=left,
            request=self.id,
        )


share_names(RegistryRequest, REQUEST)


class RegistrySite(Site):
    """
    The site of a resource tree.

    ``clock`` is that of deadlines and of the log's seconds, ``drain`` has the connections and
    ``client_limit`` bounds each client's. If it ``is_admins``, its clients may do what elsewhere
    only this machine may, given one of ``passwords`` if there are any. A request whose Via has the
    ``pseudonym`` is the cache's own. ``trusted_proxies`` are believed when they name their client.
    ``idle`` is in seconds, as `IDLE`. ``sent_to`` is called with a client's address and how many
    bytes of body it got. ``registry`` is the one of clients that name none.
    """

    protocol = RegistryChannel  # type: ignore[assignment]
    displayTracebacks = False
    noisy = False

    def __init__(
        self,
        resource: IResource,
        clock: IReactorTime,
        *,
        drain: Optional[Drain] = None,
        metrics: Optional[Metrics] = None,
        is_admins: bool = False,
        pseudonym: Optional[str] = None,
        trusted_proxies: Networks = NOBODY,
        allow: Optional[Networks] = None,
        passwords: Optional[Passwords] = None,
        log_requests: bool = True,
        client_limit: Optional[ClientLimit] = None,
        idle: float = IDLE,
        uploads: Optional[Uploads] = None,
        sent_to: Callable[[str, int], None] = lambda *_: None,
        registry: str = DEFAULT,
    ) -> None:
        super().__init__(resource, requestFactory=RegistryRequest, timeout=idle)
        self.clock = clock
        self.drain = drain or Drain(clock)
        self.deadlines = ChannelDeadlines(clock, idle)
        self.stalls: Deadlines[Any] = Deadlines(clock, STALL, lambda sender: sender.stalled())
        """The deadlines of replies whose clients take nothing."""
        self.ahead = InTurn(BEGUN_IN_A_TURN)
        self.crowds = Crowds()
        self.metrics = metrics or Metrics()
        self.is_admins = is_admins
        self.pseudonym = pseudonym
        self.trusted_proxies = trusted_proxies
        self.allow = allow
        """The networks that may pull; None for everybody."""
        self.passwords = passwords
        self.log_requests = log_requests
        self.clients = client_limit or ClientLimit()
        self.uploads = uploads
        self.sent_to = sent_to
        self.registry = registry
        self.dates = Dates()
        self.held = 0
        """Bytes of requests that are in memory and counted, see `MAX_HELD`."""
        self.repeats = Repeats(clock, self.dates)
        self.store_errors: TTLCache[str, None] = TTLCache(100, STORE_ERROR_AGAIN, clock.seconds)
        """Errors of the store that were logged lately."""

    def log(self, request: Any) -> None:
        """Nothing: a request logs itself, and does so while the port is closing too."""
