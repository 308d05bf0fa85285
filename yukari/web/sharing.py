"""
The names of the attributes that Twisted gives to connections and requests.

CPython shares up to 30 names between the objects of a class: those that the first few objects have
set. An object that is given another one later keeps all its names in a table of its own, of 1.2 KB.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

CHANNEL = (
    *("requests", "_handlingRequest", "_dataBuffer", "_transferDecoder", "factory", "callLater"),
    *("timeOut", "requestFactory", "site", "connected", "transport", "_networkProducer"),
    *("totalHeadersSize", "persistent", "paused", "length", "_receivedHeaderCount"),
    *("_receivedHeaderSize", "_HTTPChannel__first_line", "line_mode", "_waitingForTransport"),
    *("_buffer", "_busyReceiving", "_abortingCall", "_requestProducer"),
    "_requestProducerStreaming",
)
"""The attributes that `HTTPChannel` sets sooner or later."""
REQUEST = (
    *("notifications", "channel", "client", "host", "requestHeaders", "received_cookies"),
    *("responseHeaders", "cookies", "transport", "queued", "_parsePOSTFormSubmission"),
    *("_adapterCache", "content", "args", "method", "uri", "clientproto", "path", "site"),
    *("prepath", "postpath", "sitepath", "code", "code_message", "startedWriting"),
    *("sentLength", "finished", "producer", "streamingProducer"),
)
"""The attributes that `Request` sets."""


def share_names(kind: Any, names: Iterable[str]) -> None:
    """Let all objects of a class share these names, however late one sets each of them."""
    first = kind.__new__(kind)
    for name in names:
        setattr(first, name, None)
