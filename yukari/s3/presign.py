"""When a client is redirected to S3, and for how long its URL works."""

from __future__ import annotations

from typing import Optional
from urllib.parse import urlsplit

from yukari.s3.location import is_public

LONGEST = 24 * 3600
"""Seconds; one URL serves all parts of a blob on a slow line."""
SHORTEST = 3600
"""Seconds; with keys that expire sooner, clients are not redirected."""


def redirects(mode: str, url: str, request_host: str) -> bool:
    """
    Whether a GET of a blob is answered by a redirect to ``url``.

    ``mode`` is ``auto``, ``on`` or ``off``; ``request_host`` is the request's Host header. Never to
    the name by which the client reached us, because Ollama follows such a redirect and expects
    another after it. ``auto`` redirects only to https and a name that anybody can resolve.
    """
    parts = urlsplit(url)
    name = _bare(parts.hostname or "")
    if mode == "off" or not name or name == host_of(request_host):
        return False
    return mode == "on" or (parts.scheme == "https" and is_public(name))


def host_of(host: str) -> str:
    """Return the name or address in a Host header, without its port; "" if there is none."""
    try:
        return _bare(urlsplit(f"//{host.strip()}").hostname or "")
    except ValueError:
        return ""


def _bare(name: str) -> str:
    return name.lower().rstrip(".")


def presign_lifetime(credentials_left: Optional[float]) -> Optional[int]:
    """
    Return the seconds that a presigned URL is made for; None if none should be made.

    ``credentials_left`` is how long the signing keys last, None for ever. A URL expires with the
    keys that signed it, and one that expires within the hour would break large pulls in the middle.
    """
    if credentials_left is None:
        return LONGEST
    if credentials_left < SHORTEST:
        return None
    return int(min(LONGEST, credentials_left))
