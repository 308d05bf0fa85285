"""The habits of each generation of clients."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

MB = 1_000_000
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.ollama.manifest.list.v2+json"
ACCEPT = MANIFEST
"""The Accept of clients that know no lists."""


@frozen
class Generation:
    """
    The habits of one generation of clients.

    ``parts``, ``part_min``, ``part_max`` (bytes) say how a blob is cut; 0 parts
    is whole blobs, many at once. ``direct`` is the step that learns the direct
    URL. ``stall`` (seconds without a byte) counts from the request's start or,
    if not ``stall_from_start``, from the first byte. The sleep before try n
    is ``2**n * backoff`` seconds.
    """

    name: str
    user_agent: str
    parts: int
    part_min: int = 100 * MB
    part_max: int = 1000 * MB
    direct: bool = True
    direct_seconds: float = 30.0
    stall: float | None = 30.0
    stall_from_start: bool = True
    tries: int = 6
    backoff: float = 1.0
    requests: int = 64
    """How many requests at once, of whole blobs."""
    bodies: int = 4
    """How many bodies at once, of whole blobs."""
    insecure: bool = True
    """Whether the user has typed ``--insecure``, which allows every redirect."""
    same_host: bool = False
    """Whether redirects of manifests and HEADs stay on the host asked (0.34.2 and later)."""
    families: tuple[frozenset[str], ...] = ()
    """Hosts that may redirect to each other all the same (0.34.4)."""
    same_realm: bool = False
    """Whether a realm must be on the host and port that were typed (0.14.3 and later)."""
    lists: bool = False
    """Whether manifest lists are accepted (0.40)."""
    runner: str | None = None
    """The child of a list that the user asked for (``--runner``)."""
    transfer_agent: str = "ollama-transfer/1.0"
    """The User-Agent of the transfer client."""

    @property
    def version(self) -> str:
        """The release, such as ``0.34.4``."""
        return self.user_agent.removeprefix("ollama/").partition(" ")[0]

    def scaled(self, **changes: Any) -> Generation:
        """The same habits with other numbers, such as ``part_min`` for small blobs."""
        return evolve(self, **changes)


FAMILIES = (frozenset({"ollama.com", "ollama.ai"}), frozenset({"hf.co", "huggingface.co"}))
"""Hosts that redirect among themselves."""

CLASSIC16 = Generation("classic16", "ollama/0.12.6 (amd64 linux) Go/go1.24.1", 16)
"""0.12 and later."""

CLASSIC64 = Generation(
    "classic64",
    "ollama/0.2.8 (amd64 linux) Go/go1.22.5",
    64,
    direct=False,
    stall=5.0,
    stall_from_start=False,
)
"""0.1.2x to 0.2: parts are asked from the registry's own URL, redirects followed each time."""

CLASSIC3 = Generation(
    "classic3",
    "ollama/0.3.14 (amd64 linux) Go/go1.22.5",
    64,
    stall=5.0,
    stall_from_start=False,
)
"""0.3: the first that learns the direct URL."""

CURRENT = CLASSIC16.scaled(
    name="current",
    user_agent="ollama/0.34.4 (amd64 linux) Go/go1.26.0",
    same_realm=True,
    same_host=True,
    families=FAMILIES,
)
"""0.34.4: realms and redirects stay on the host that was typed."""

TRANSFER = Generation(
    "transfer", "ollama/0.32.12 (amd64 linux) Go/go1.26.0", 0, stall=10.0, same_realm=True
)
"""Of tensor models (2026): whole blobs, by the transfer client."""

LISTS = CURRENT.scaled(
    name="lists", user_agent="ollama/0.40.0 (amd64 linux) Go/go1.26.0", lists=True
)
"""0.40: manifest lists, whose child and config come by the transfer client."""

GENERATIONS = {
    made.name: made for made in (CLASSIC16, CLASSIC64, CLASSIC3, CURRENT, TRANSFER, LISTS)
}
GENERATIONS["direct"] = CLASSIC16.scaled(name="direct")
"""``direct`` is classic16 under another name: for pulls past the cache, from upstream itself."""
