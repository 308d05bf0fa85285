"""
Requests that wait for a turn of the reactor, although they have been read.

Each turn begins few of those that clients send without waiting for the reply to the one before, and
not too many of any other kind, whichever connections they are on: a crowd does not delay the
others, and new connections are accepted meanwhile. Health, and what was found in the store lately,
waits only for others of its kind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

BEGUN_IN_A_TURN = 4
"""Requests sent ahead that begin in a turn."""
BLOBS_IN_A_TURN = 32
"""Requests for blobs that begin in a turn, which takes some 10 ms; of absent ones as many again."""
HITS_IN_A_TURN = 32
"""The same of requests for health, and for manifests and sizes that were found lately."""
NAMES_IN_A_TURN = 32
"""The same of requests for manifests that may not be stored, and for all that does not exist."""
PAGES_IN_A_TURN = 2
"""The same of lists, pages and metrics, some of which take 5 ms each."""
LEAVE_IN_A_TURN = 32
"""Requests that are given up in a turn because their clients have left."""
MAX_FOUND = 10_000
"""Paths that are remembered as found."""

AT_ONCE = frozenset((b"/healthz", b"/readyz", b"/v2/", b"/v2"))
"""Paths whose replies take no work."""
PAGES = (b"/metrics", b"/status", b"/fills", b"/api/", b"/store/")
"""The beginnings of other paths, below which a reply may take long."""
LISTS = (b"/_catalog", b"/tags/list")


@define(eq=False, repr=False)
class InTurn:
    """
    Connections that wait, of which ``most`` go on in a turn: in turn over the clients, of one
    client over the paths that it asks for, and of one path as they came.
    """

    _most: int
    _waiting: dict[str, dict[bytes, OrderedDict[Any, Callable[[], None]]]] = field(
        factory=dict, init=False
    )
    """By the client's name and the path, whose turn is next first."""
    _paths: dict[Any, bytes] = field(factory=dict, init=False)
    """The path of each connection that waits."""
    _begun: int = field(default=0, init=False)
    """
    Requests begun since one waited last. The reactor may have turned meanwhile: to be called in
    each turn only to learn that would cost more than it costs one of so many to wait for a turn.
    """
    _call: Optional[IDelayedCall] = field(default=None, init=False)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, channel: Any) -> bool:
        return channel in self._paths

    def may_begin(self, channel: Any) -> bool:
        """Whether a request may begin now, which counts it; otherwise it has to wait."""
        if self._waiting or self._begun >= self._most:
            return False
        self._begun += 1
        return True

    def wait(self, channel: Any, begin: Callable[[], None], path: bytes = b"") -> None:
        """Call ``begin`` when it is this connection's turn."""
        self._paths[channel] = path
        paths = self._waiting.setdefault(channel.name, {})
        paths.setdefault(path, OrderedDict())[channel] = begin
        self._call_later(channel)

    def leave(self, channel: Any) -> None:
        """Begin nothing for this connection any more; harmless if nothing waits."""
        path = self._paths.pop(channel, None)
        if path is not None:
            paths = self._waiting[channel.name]
            del paths[path][channel]
            if not paths[path]:
                del paths[path]
            if not paths:
                del self._waiting[channel.name]
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call, self._begun = None, 0

    def _call_later(self, channel: Any) -> None:
        if self._call is None:
            self._call = channel.callLater(0, self._begin_some)

    def _begin_some(self) -> None:
        self._call, self._begun = None, 0
        channel = None
        for _ in range(self._most):
            if not self._waiting:
                break
            client = next(iter(self._waiting))
            paths = self._waiting.pop(client)
            path = next(iter(paths))
            queue = paths.pop(path)
            channel, begin = queue.popitem(last=False)
            del self._paths[channel]
            if queue:
                paths[path] = queue  # behind the others now
            if paths:
                self._waiting[client] = paths
            begin()
        if self._waiting:
            self._call_later(channel)


@define(eq=False, repr=False)
class Crowds:
    """The queues of a site's requests, by their kind."""

    blobs: InTurn = field(factory=lambda: InTurn(BLOBS_IN_A_TURN))
    """For those that were found in the store lately."""
    others: InTurn = field(factory=lambda: InTurn(BLOBS_IN_A_TURN))
    """For other blobs."""
    hits: InTurn = field(factory=lambda: InTurn(HITS_IN_A_TURN))
    names: InTurn = field(factory=lambda: InTurn(NAMES_IN_A_TURN))
    pages: InTurn = field(factory=lambda: InTurn(PAGES_IN_A_TURN))
    leavers: InTurn = field(factory=lambda: InTurn(LEAVE_IN_A_TURN))
    """For connections that ended while their requests waited for something."""
    _found: dict[bytes, None] = field(factory=dict, init=False)
    """Paths of manifests and blobs that were found lately."""

    def of(self, data: bytes) -> tuple[InTurn, bytes]:
        """Return the queue of a request that begins so, and its path."""
        method, _, rest = data.lstrip(b"\r\n").partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if b"/blobs/" in path and method == b"GET":
            return self.blobs if path in self._found else self.others, path
        if path in AT_ONCE or path in self._found:
            return self.hits, path
        if path == b"/" or path.startswith(PAGES) or path.endswith(LISTS):
            return self.pages, path
        return self.names, path

    @property
    def want_blobs(self) -> bool:
        """Whether requests for blobs wait."""
        return bool(self.blobs or self.others)

    def found(self, path: bytes) -> None:
        """Note that what is at this path was found in the store."""
        if b"/manifests/" in path or b"/blobs/" in path:
            if len(self._found) >= MAX_FOUND and path not in self._found:
                del self._found[next(iter(self._found))]
            self._found[path] = None
