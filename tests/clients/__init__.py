"""
Emulated Ollama clients: they ask what the real ones ask, in their order, with
their headers, patience and mistakes.

In a test::

    pulled = await pull(reactor, base, "library/m:latest", CLASSIC16.scaled(part_min=50_000))

As a process of its own, which prints one line of JSON and exits 1 if the pull failed::

    python -m tests.clients --base http://127.0.0.1:9200 --model library/m:latest

The client speaks plain HTTP/1.1 over its own small connection pool: what it
measures (the longest wait for a byte) is seen at the socket. A registry that
challenges gets what stock Ollama sends it: a signature of a key of the client's own.
"""

from tests.clients.classic import parts_of
from tests.clients.generations import (
    ACCEPT,
    CLASSIC3,
    CLASSIC16,
    CLASSIC64,
    CURRENT,
    GENERATIONS,
    LISTS,
    TRANSFER,
    Generation,
)
from tests.clients.http import Http
from tests.clients.pulling import pull
from tests.clients.results import ClientError, Cut, Lost, Pulled, PullFailed, Stalled
from tests.clients.signing import Challenge, Key
from tests.clients.wire import Chunks, Reply

__all__ = [
    "ACCEPT",
    "CLASSIC3",
    "CLASSIC16",
    "CLASSIC64",
    "CURRENT",
    "GENERATIONS",
    "LISTS",
    "TRANSFER",
    "Challenge",
    "Chunks",
    "ClientError",
    "Cut",
    "Generation",
    "Http",
    "Key",
    "Lost",
    "PullFailed",
    "Pulled",
    "Reply",
    "Stalled",
    "parts_of",
    "pull",
]
