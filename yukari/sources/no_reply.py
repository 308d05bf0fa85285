"""Requests that were answered by nothing of use."""

from __future__ import annotations

from twisted.internet.defer import TimeoutError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from yukari.errors import RegistryError
from yukari.net.http import why


class NoReply(RegistryError):
    """A host was reached and sent no reply of use; a request by another method may get one."""


def without_reply(host: str, error: Exception) -> NoReply:
    """Return what a client is told if a request to ``host`` failed with ``error``."""
    status, said = 502, f"cannot be reached: {why(error)}"
    if isinstance(error, (TimeoutError, ConnectTimeout)):
        status, said = 504, "does not answer"
    elif isinstance(error, ResponseFailed) and not isinstance(error, ResponseNeverReceived):
        said = f"sent a bad reply: {why(error)}"
    return NoReply("UNAVAILABLE", f"upstream {host} {said}", status)
