"""
Replies that are given again.

When a model is rolled out, hundreds of machines send the same requests, byte for byte. A reply
follows from the request's head, from who asks, and from what is stored. So a head that was answered
a moment ago is not parsed and checked once more: while nothing has changed it gets the same reply,
with a date and an id of its own.

This is a shortcut past the resources, never another way to decide: what is not exactly as it was is
answered by them.
"""

from __future__ import annotations

import re
from random import getrandbits
from typing import Any, Optional, Protocol, Union

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from yukari.metrics import Replies
from yukari.web.access import is_allowed
from yukari.web.heads import Dates, reply_head
from yukari.web.request_head import BODY, MAX_HEAD

GIVEN_FOR = 0.5
"""
Seconds for which a reply is given again. Then the resources see the request again, and so does
whatever depends on the time of the last request.
"""
MAX_ASKED = 10_000
"""Requests that are remembered as sent before, at most."""
MAX_BYTES = 8 * 1024 * 1024
"""About how many bytes of memory the remembered replies may take."""

_RANGE = re.compile(rb"\r\nRange: bytes=([0-9]{1,18})-([0-9]{1,18})\r\n")
_END = b"\r\n\r\n"
_DATE, _ID, _LENGTH, _PART = b"\0date", b"\0id", b"\0length", b"\0part"
"""Stand for gaps, for no header has a NUL."""

Key = Union[bytes, tuple[bytes, bytes]]
"""A request's head, or its parts before and after the two positions of a range."""


class Source(Protocol):
    """The source of the body of a reply that is given again."""

    @property
    def size(self) -> int:
        """Bytes of the whole content."""

    def read(self, client: Any, start: int, end: int) -> Optional[bytes]:
        """
        Return this part of the content for ``client``, a channel, and count that it is sent.

        None if the resources have to answer, because something has changed or the part is empty.
        """


def new_id() -> str:
    """Return an id for a request."""
    return f"{getrandbits(64):016x}"


def is_head(data: bytes) -> bool:
    """Whether this is one request's head, whole and alone, as far as can be told at a glance."""
    return len(data) <= MAX_HEAD and data.find(_END) == len(data) - 4 and data[:1].isalpha()


@frozen(eq=False, repr=False)
class Template:
    """A reply's head with gaps."""

    _format: bytes

    @classmethod
    def of(cls, request: Any, *, any_range: bool) -> Template:
        """
        Make one of a request's reply, whose headers are all set.

        The date and the id are gaps; with ``any_range`` also what tells the range.
        """
        headers = request.responseHeaders.copy()
        gaps = {_DATE: b"%(date)b", _ID: b"%(id)b"}
        if any_range:
            gaps |= {_LENGTH: b"%(length)d", _PART: b"bytes %(first)d-%(last)d/%(size)d"}
            headers.setRawHeaders(b"content-length", [_LENGTH])
            headers.setRawHeaders(b"content-range", [_PART])
        code = b"%d" % request.code
        format = reply_head(
            request.clientproto, code, request.code_message, headers, id=_ID, date=_DATE
        ).replace(b"%", b"%%")
        for mark, gap in gaps.items():
            format = format.replace(mark, gap)
        return cls(format)

    def fill(self, date: bytes, id: str, start: int, end: int, size: int) -> bytes:
        """Return the head of a reply with the bytes from ``start`` up to ``end`` of ``size``."""
        return self._format % {
            b"date": date,
            b"id": id.encode(),
            b"length": end - start,
            b"first": start,
            b"last": end - 1,
            b"size": size,
        }


@frozen(eq=False, repr=False)
class Repeat:
    """One reply: its body is the ``source``'s from ``start`` up to ``end``; of HEAD's none."""

    template: Template
    source: Source
    start: int
    end: int
    counter: Replies
    until: float
    cost: int


@define(eq=False, repr=False)
class Repeats:
    """The replies of a site that can be given again."""

    _clock: IReactorTime
    _dates: Dates
    _kept: dict[Key, Repeat] = field(factory=dict, init=False)
    _asked: dict[int, float] = field(factory=dict, init=False)
    """When a head of this hash, whatever its range, was last received."""
    held: int = field(default=0, init=False)
    """About how many bytes of memory they take."""

    def is_asked_again(self, head: bytes) -> bool:
        """
        Whether this was asked for so lately that a kept reply is likely to be given again.

        Most of what is asked for is not worth a copy. That what was kept has just ended is a
        reason to keep it anew, hence twice the time.
        """
        asked, now = hash(_cut(head)), self._clock.seconds()
        before = self._asked.get(asked)
        if before is None and len(self._asked) >= MAX_ASKED:
            self._asked.clear()
        self._asked[asked] = now
        return before is not None and now < before + 2 * GIVEN_FOR

    def keep(
        self, request: Any, head: bytes, source: Source, start: int, end: int, *, any_range: bool
    ) -> None:
        """
        Remember the reply to a request that had this ``head``.

        With ``any_range`` it holds for all requests that differ in their range alone.
        """
        if any(map(request.requestHeaders.hasHeader, BODY)) or not request.channel.persistent:
            return
        key = _cut(head) if any_range else head
        self._forget(key)
        cost = len(head) + 1024 + (0 if any_range else end - start)
        if cost > MAX_BYTES // 16:
            return
        metrics = request.site.metrics
        self._kept[key] = Repeat(
            Template.of(request, any_range=any_range),
            source,
            start,
            end,
            metrics.replies(
                path=request.path,
                method=request.method,
                status=request.code,
                result=request.result,
            ),
            self._clock.seconds() + GIVEN_FOR,
            cost,
        )
        self.held += cost
        while self.held > MAX_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.held -= found.cost

    def give(self, client: Any, head: bytes) -> Optional[bytes]:
        """
        Return the whole reply to a request of ``client``, a channel, and count it.

        None if the resources have to answer.
        """
        repeat = self._kept.get(head)
        if repeat is not None:
            start, end = repeat.start, repeat.end
        else:
            found = _RANGE.search(head) if self._kept else None
            if found is None:
                return None
            repeat = self._kept.get((head[: found.start(1)], head[found.end(2) :]))
            if repeat is None:
                return None
            start = int(found[1])
            end = min(int(found[2]) + 1, repeat.source.size)
        site = client.site
        if self._clock.seconds() >= repeat.until or not is_allowed(client.address, site.allow):
            return None
        body = repeat.source.read(client, start, end)
        if body is None:
            return None
        size = repeat.source.size
        reply = repeat.template.fill(self._dates.now(), new_id(), start, end, size) + body
        repeat.counter.count(len(body), self._clock.seconds() - client.quiet_since)
        site.drain.asked += 1
        site.sent_to(client.name, len(body))
        return reply


def _cut(head: bytes) -> Key:
    found = _RANGE.search(head)
    return head if found is None else (head[: found.start(1)], head[found.end(2) :])
