"""A blob upstream, as a fill's source."""

from __future__ import annotations

from typing import Optional, Union
from urllib.parse import urlsplit

from attrs import define, field
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from yukari.errors import LOOP_DETECTED, RegistryError, blob_unknown, looped
from yukari.names import Digest, Repository
from yukari.net.bodies import Counted, content_encoding, discard
from yukari.net.http import header, place_in, retry_after
from yukari.net.throttle import Paced
from yukari.sources.base import Answer, SourceFailed, SourceRefused
from yukari.sources.pace import HostPace
from yukari.sources.range_reply import (
    WHOLE,
    ContentRange,
    WrongSize,
    check_encoding,
    is_part,
    span_around,
    span_of_part,
    span_of_whole,
    total_of,
)
from yukari.sources.registry import Registry
from yukari.spans import Span
from yukari.tasks import Waiters

_ANSWERS = frozenset({*range(200, 300), 416, 429})
"""Statuses below 500 that say something of the blob, not that the URL has expired."""
NO_PAGE = 64 * 1024
"""Bytes from which on a reply is too long for a page about an error."""
WITHOUT_RANGE_AFTER = 4
"""The last of so many replies in a row that are of no use is to a request without a Range."""


@define(eq=False, repr=False)
class UpstreamBlob:
    """
    One blob upstream (a `BlobSource`): the registry is asked once where the blob is, and then that
    host until it fails.
    """

    _registry: Registry
    _digest: Digest
    _size: int
    _repositories: list[Repository]
    _location: Optional[str] = field(default=None, init=False)
    _at: int = field(default=0, init=False)
    _left: int = field(default=0, init=False)
    """Repositories that had their time since the last `retry`."""
    _failures: int = field(default=0, init=False)
    """Replies in a row that were of no use."""
    _was_as_long: bool = field(default=False, init=False)
    """Whether the last reply under an error's status was as long as what was asked for."""
    _had_part: bool = field(default=False, init=False)
    """Whether a part has come as it was asked for."""
    _locating: Optional[Waiters] = field(default=None, init=False)

    @property
    def pace(self) -> HostPace:
        if self._location is None:
            return self._registry.likely_pace()
        return self._registry.pace(self._location)

    @property
    def ranges(self) -> bool:
        return self._location is not None and self._registry.pace(self._location).ranges

    def add_repository(self, name: Repository) -> None:
        if name not in self._repositories:
            self._repositories.append(name)

    def retry(self) -> None:
        self._at = self._left = 0

    def move_on(self, *, soon: bool = False) -> bool:
        if soon:
            return False
        self._left += 1
        self._at, self._location = (self._at + 1) % len(self._repositories), None
        return self._left < len(self._repositories)

    def describe(self) -> str:
        if self._location is None:
            return self._registry.url.host
        return place_in(self._location)

    async def set_aside(self, *, alone: bool) -> bool:
        self._location = None  # The registry may know of another place.
        return False

    async def fetch(self, span: Span) -> Answer:
        while True:
            if self._location is not None:
                url = self._location
                response, _ = await self._registry.get(url, self._asked(span))
                is_answer = response.code in _ANSWERS or response.code >= 500
                if is_answer or self._is_just_it(response, span):
                    return self._answer(response, url, span)
                discard(response, self._registry.clock)
                if self._location == url:
                    self._location = None
                message = f"{place_in(url)} answered {response.code}"
                raise SourceFailed(message, moved=True)
            if self._locating is None:
                return await self._locate(span)
            await self._locating.wait()

    async def _locate(self, span: Span) -> Answer:
        """
        Ask the registry itself; what it sends, or points to, is where the bytes are from now on.
        """
        self._locating = locating = Waiters()
        try:
            while True:
                name = self._repositories[self._at]
                asked = self._registry.url_of(name, "blobs", self._digest)
                refused = await self._locate_in(asked, span)
                if isinstance(refused, Answer):
                    return refused
                self._at += 1
                if self._at >= len(self._repositories):
                    self._at = 0
                    raise refused
        except BaseException:
            self._location = None
            raise
        finally:
            self._locating = None
            locating.fire()

    def _moved(self, url: str) -> None:
        """The registry points elsewhere: other requests need not wait for what that answers."""
        self._location = url
        if self._locating is not None:
            self._locating.fire()

    async def _locate_in(self, asked: str, span: Span) -> Union[Answer, SourceRefused]:
        """An answer from one repository, or its refusal: another repository may not refuse."""
        try:
            asking = self._registry.get(asked, self._asked(span), self._moved)
            response, url = await asking
        except SourceRefused as error:
            return error
        if 200 <= response.code < 300 or self._is_just_it(response, span):
            answer = self._answer(response, url, span)
            self._location = url
            return answer
        if response.code == LOOP_DETECTED:
            discard(response, self._registry.clock)
            raise SourceRefused(looped())
        if response.code in (416, 429) or response.code >= 500:
            return self._answer(response, url, span)
        discard(response, self._registry.clock)
        if not self._registry.authorizer.is_registrys(url, urlsplit(asked).path):
            raise SourceFailed(f"{place_in(url)} answered {response.code}", moved=True)
        if response.code in (401, 403):
            return SourceRefused(self._registry.denied(f"blob {self._digest}"))
        if response.code in (404, 410):
            return SourceRefused(blob_unknown(self._digest))
        raise SourceFailed(f"upstream answered {response.code}")

    def _answer(self, response: IResponse, url: str, span: Span) -> Answer:
        pace = self._registry.comes_from(url)
        try:
            found = self._span(response, span)
        except BaseException as error:
            discard(response, self._registry.clock)
            if isinstance(error, WrongSize) or (response.code == 206 and not self._had_part):
                # A part's label may be odd: the whole tells, unless other parts were right.
                was_whole = self._asked(span) is None
                self._failures = (
                    (self._failures + 1) % WITHOUT_RANGE_AFTER
                    if self._had_part or (was_whole and response.code == 206)
                    else WITHOUT_RANGE_AFTER - 1
                )
                if isinstance(error, WrongSize):
                    error = self._wrong_size(error.found)
                raise SourceFailed(str(error), moved=True) from None
            if isinstance(error, SourceFailed) and not error.busy:
                self._failures = (self._failures + 1) % WITHOUT_RANGE_AFTER
            raise
        if self._asked(span) is not None:
            self._failures = 0
        skipped = 0
        if found != Span(0, self._size):
            pace.blocks.sent(found, span, self._size)
            skipped = span.start - found.start
            found = Span(span.start, min(found.end, span.end))
        asked = span.start <= found.start and found.end <= span.end
        if asked and (response.code == 206 or found != Span(0, self._size)):
            pace.ranges = self._had_part = True
        has_length = response.length is not UNKNOWN_LENGTH
        counted = Counted(response, self._registry.metrics.received, skipped)
        if self._registry.line is None:
            return Answer(found, asked, pace, counted, has_length=has_length)
        paced = Paced(counted, self._registry.line)
        return Answer(found, asked, pace, paced, paced, has_length)

    def _asked(self, span: Span) -> Optional[Span]:
        """The Range to ask for, None for the whole blob: the last resort, once in a while."""
        return None if self._failures == WITHOUT_RANGE_AFTER - 1 else span

    def _is_just_it(self, response: IResponse, span: Span) -> bool:
        """
        Whether a reply under an error's status has just the bytes that were asked for. It has if
        its Content-Range says so. Without one it must be as long as they are, and too long for a
        page about an error or the second of its kind in a row. Clients do not look at the status.
        """
        content_range = header(response, b"content-range")
        if content_range:
            is_as_long = response.length in (len(span), UNKNOWN_LENGTH)
            return is_as_long and ContentRange.parse(content_range) == ContentRange(
                span, self._size
            )
        is_page = len(span) < NO_PAGE and not self._was_as_long
        self._was_as_long = response.length == len(span)
        return self._was_as_long and not is_page

    def _span(self, response: IResponse, span: Span) -> Span:
        if response.code >= 400 and self._is_just_it(response, span):
            return span
        if response.code in (429, 503):
            wait = retry_after(response, self._registry.now())
            busy = response.code == 429 or wait is not None
            raise SourceFailed(f"upstream answered {response.code}", wait, busy=busy)
        if response.code == 416:
            raise WrongSize("fewer")
        if response.code != 206 and response.code not in WHOLE:
            broken = response.code == 500
            raise SourceFailed(f"upstream answered {response.code}", broken=broken)
        length = None if response.length is UNKNOWN_LENGTH else int(response.length)
        encoding = content_encoding(response)
        content_range, asked = header(response, b"content-range"), self._asked(span)
        odd = asked is not None and is_part(content_range, asked, self._size, length)
        if response.code == 206 or odd:
            found = span_around(content_range, span, self._size, length)
            if found is None:
                found = span_of_part(content_range, span, self._size, length)
            elif not span.start and found.end == self._size:
                found = span  # From there to the end, whatever was asked for.
            check_encoding(encoding, length, len(found), total_of(content_range) == self._size)
            return found
        check_encoding(encoding, length, self._size)
        try:
            return span_of_whole(length, self._size)
        except WrongSize as error:
            raise SourceRefused(self._wrong_size(error.found)) from None

    def _wrong_size(self, found: str) -> RegistryError:
        return RegistryError(
            "SIZE_INVALID",
            f"blob {self._digest} has {found} bytes upstream, its manifest says {self._size}",
            502,
        )
