"""Replies over HTTP: their headers, why there is none, redirects and timeouts."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Optional, TypeVar
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit, urlunsplit

import idna
from OpenSSL.SSL import Error as TLSError
from service_identity import CertificateError, VerificationError
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ConnectionDone, ConnectionRefusedError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import stringToDatetime
from twisted.web.iweb import IResponse

from yukari.net.bodies import discard

HOPS = 20
"""
Requests at most, the first and one for each redirect: Ollama asks the registry for a blob's URL,
and then that, each by a client of Go's, which sends ten.
"""
LONGEST_RETRY_AFTER = 3600.0
"""Seconds: a reply that asks for a longer wait is asked again after this time."""

T = TypeVar("T")

IN_URLS = "!#$%&'()*+,/:;=?@[]~"
"""The marks that a URL may have (RFC 3986); a ``%`` begins what is encoded already."""
_ZONE = re.compile(r"%25[^]]*\]")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class BadRedirect(Exception):
    """A redirect that is not followed; the text names its target, without the query."""


def why(failure: Optional[BaseException]) -> str:
    """Describe a network failure in a few words for people."""
    reasons = getattr(failure, "reasons", None)
    if reasons:
        inner = reasons[0].value if isinstance(reasons[0], Failure) else reasons[0]
        # Twisted reads a Content-Length and a Transfer-Encoding so.
        return "a malformed header" if isinstance(inner, (ValueError, KeyError)) else why(inner)
    if isinstance(failure, ConnectionRefusedError):
        return "connection refused"
    if isinstance(failure, DNSLookupError):
        return "its name cannot be resolved"
    if isinstance(failure, (TimeoutError, ConnectTimeout)):
        return "no answer in time"
    if isinstance(failure, (CertificateError, VerificationError)):
        return "its certificate is for another name"
    if isinstance(failure, TLSError) and "certificate verify failed" in str(failure):
        return "its certificate has expired, or is signed by nobody that this cache trusts"
    if isinstance(failure, ConnectionDone):
        return "the connection was closed"
    if isinstance(failure, ValueError):
        return "a URL that cannot be asked"  # the URL may be a signed one
    return " ".join(str(failure).split())[:200] or type(failure).__name__


def header(response: IResponse, name: bytes) -> str:
    """Return a header of a reply, "" if it has none."""
    values = response.headers.getRawHeaders(name)
    return values[0].decode("latin-1").strip() if values else ""


def retry_after(response: IResponse, now: float) -> Optional[float]:
    """
    Return the seconds that a reply asks to wait; ``now`` is in seconds of the epoch.

    A time of day is compared with that of the reply, if it has one: its clock may be wrong.
    """
    text = header(response, b"retry-after")
    if not text:
        return None
    try:
        if text.isdigit():
            seconds = float(text)
        else:
            seconds = stringToDatetime(text.encode()) - _date(response, now)
    except (ValueError, OverflowError):
        return None
    return min(LONGEST_RETRY_AFTER, max(0.0, seconds))


def _date(response: IResponse, now: float) -> float:
    """Return when a reply was made, by its own clock; ``now`` if it does not say."""
    try:
        return float(stringToDatetime(header(response, b"date").encode()))
    except (ValueError, OverflowError, IndexError):
        return now


def as_cancelled(waited_for: Deferred[T]) -> Deferred[T]:
    """
    Return the result of ``waited_for``; CancelledError if it is cancelled, whatever that ends in.

    An agent reports a cancelled request as a failed one, as if the other end had hung up.
    """
    given_up = False

    def cancel(_: Deferred[T]) -> None:
        nonlocal given_up
        given_up = True
        waited_for.cancel()

    outcome: Deferred[T] = Deferred(cancel)
    waited_for.addBoth(lambda result: None if given_up else outcome.callback(result))
    return outcome


def within(seconds: float, waited_for: Deferred[T], clock: IReactorTime) -> Deferred[T]:
    """As `as_cancelled`; TimeoutError if it is late."""
    late = Failure(TimeoutError(seconds, "no answer in time"))
    outcome = as_cancelled(waited_for)
    return outcome.addTimeout(seconds, clock, onTimeoutCancel=lambda *_: late)


async def follow(
    send: Callable[[str], Awaitable[IResponse]],
    url: str,
    clock: IReactorTime,
    moved: Callable[[str], None] = lambda url: None,
) -> tuple[IResponse, str]:
    """
    Send to ``url`` and follow redirects, with at most `HOPS` requests; `BadRedirect`.

    Returns the last reply and its URL; ``moved`` is told each URL that a redirect leads to. Either
    may have a user and a password: see `without_user`.
    """
    for _ in range(HOPS):
        response = await send(url)
        location = _location(response)
        if response.code not in _REDIRECTS or not location:
            return response, url
        discard(response, clock)
        url = _as_asked(urljoin(url, location))
        if not _can_be_asked(url):
            parts = urlsplit(url)
            # The rest may be as secret as a password.
            shown = f"{parts.scheme}://{parts.hostname or ''}"[:80]
            raise BadRedirect(f"a redirect to {shown!a}: expected an http or https URL")
        moved(url)
    raise BadRedirect(f"{HOPS} redirects and no end")


def _location(response: IResponse) -> str:
    """
    Return where a redirect leads, "" if it does not say. Characters that no URL may have (a space,
    UTF-8) are percent-encoded, as clients do.
    """
    values = response.headers.getRawHeaders(b"location")
    return quote(values[0].strip(), safe=IN_URLS) if values else ""


def _as_asked(url: str) -> str:
    """
    Write a URL as clients ask for it: its host as DNS has it (RFC 5891) and small, no empty port,
    and a path without dots (RFC 3986, section 5.2.4). Without the dot behind an absolute name, too,
    as in certificates, and without the zone of an address, which is another machine's. ValueError.
    """
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    place = _ZONE.sub("]", place.lower())
    host = unquote(parts.hostname or "", errors="strict")
    if not host.isascii() or host.endswith("."):
        port = "" if parts.port is None else f":{parts.port}"
        host = host.removesuffix(".")
        place = (host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")) + port
    netloc = user + at + place.removesuffix(":")
    return urlunsplit(parts._replace(netloc=netloc, path=_without_dots(parts.path)))


def _without_dots(path: str) -> str:
    if "/." not in path:
        return path
    kept: list[str] = []
    first, *segments = path.split("/")
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join([first, *kept])


def place_in(url: str) -> str:
    """Return the host of a URL, with a port if it names one, and never a user or a password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def without_user(url: str) -> tuple[str, Optional[str]]:
    """
    Return a URL without its user and password, and the Authorization that they stand for, if any.
    """
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    if not at:
        return url, None
    name, _, password = user.partition(":")
    both = unquote_to_bytes(name) + b":" + unquote_to_bytes(password)
    return urlunsplit(parts._replace(netloc=place)), f"Basic {b64encode(both).decode()}"


def _can_be_asked(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    # Reading ``port`` raises ValueError if it is not a port number.
    return parts.scheme in ("http", "https") and bool(host) and parts.port != 0 and "%" not in host
