"""When a client is sent to S3 itself, and for how long what it is given works."""

from __future__ import annotations

from typing import Optional
from urllib.parse import urlsplit

from yukari.s3.location import is_public

LONGEST = 24 * 3600
"""Seconds; one URL serves all parts of a blob on a slow line."""
SHORTEST = 3600


def redirects(mode: str, url: str, request_host: str) -> bool:
    """
    Whether a GET of a blob is answered by a redirect to ``url``.

    ``mode`` is ``auto``, ``on`` or ``off``; ``request_host`` the request's Host
    header. Never to the name that the client came by, for Ollama follows such
    a redirect and expects another behind it; ``auto`` only where anybody can
    resolve the name, by https.
    """
    parts = urlsplit(url)
    name = _bare(parts.hostname or "")
    if mode == "off" or not name or name == host_of(request_host):
        return False
    return mode == "on" or (parts.scheme == "https" and is_public(name))


def host_of(host: str) -> str:
    """The name or address in a Host header, without its port; "" where it holds none."""
    try:
        return _bare(urlsplit(f"//{host.strip()}").hostname or "")
    except ValueError:
        return ""


def _bare(name: str) -> str:
    return name.lower().rstrip(".")


def presign_lifetime(credentials_left: Optional[float]) -> Optional[int]:
    """
    Seconds that a presigned URL is made for; None where it must not be made.

    ``credentials_left`` is how long what signs it lasts, None for ever: a URL
    dies with the credentials that signed it, and one that dies within the hour
    would break large pulls in the middle.
    """
    if credentials_left is None:
        return LONGEST
    if credentials_left < SHORTEST:
        return None
    return int(min(LONGEST, credentials_left))
