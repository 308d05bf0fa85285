"""What registries said of manifests, for checks that a HEAD cannot answer by a digest."""

from __future__ import annotations

from typing import Optional

from attrs import define, field, frozen
from cachetools import LRUCache, TTLCache
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from yukari.manifest import DOCKER_MANIFEST, MANIFEST_LIST, OCI_MANIFEST, Variant
from yukari.names import Digest, InvalidName, Reference, Repository
from yukari.net.http import header

MAX_MANIFESTS = 50_000
"""Manifests that are remembered."""
LONGEST_ETAG = 200
"""Characters of an ETag that is remembered; a longer one counts as none."""
MAX_REPOSITORIES = 10_000
"""Repositories that are remembered as not answering HEAD."""
HEAD_WITHIN = 10.0
"""Seconds within which a HEAD must be answered: a GET for the manifest itself costs little more."""
WITHOUT_HEAD = 3600.0
"""Seconds until a HEAD is tried again where none was answered."""
SILENT_HEADS = 3
"""HEADs in a row without a reply after which none is sent to the registry for a while."""
SELDOM = 3600.0
"""Seconds for which a manifest is taken as unchanged if its HEAD has neither digest nor ETag."""

_ACCEPT_PLAIN = f"{DOCKER_MANIFEST}, {OCI_MANIFEST};q=0.9"
ACCEPT = {Variant.PLAIN: _ACCEPT_PLAIN, Variant.LIST: f"{MANIFEST_LIST}, {_ACCEPT_PLAIN}"}
"""The Accept header by which each variant is asked for."""

Key = tuple[Repository, Reference, Variant]


@frozen
class _Known:
    digest: Digest
    is_misnamed: bool
    """Whether its reply announced another digest."""
    etag: str
    at: float


@define(eq=False, repr=False)
class UnansweredHeads:
    """
    Where a HEAD got no reply in time, while a GET may: some proxies let no other method pass.

    It is not sent again for `WITHOUT_HEAD` seconds, and to no repository of the registry while the
    last `SILENT_HEADS` got none.
    """

    _clock: IReactorTime
    _silent: TTLCache[Repository, None] = field(init=False)
    _in_a_row: int = field(default=0, init=False)
    _last_at: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._silent = TTLCache(MAX_REPOSITORIES, WITHOUT_HEAD, self._clock.seconds)

    def is_silent(self, name: Repository) -> bool:
        """Whether a HEAD for it is of no use now."""
        is_late = self._clock.seconds() - self._last_at >= WITHOUT_HEAD
        return name in self._silent or (self._in_a_row >= SILENT_HEADS and not is_late)

    def answered(self, name: Repository) -> None:
        """A HEAD got a reply."""
        self._silent.pop(name, None)
        self._in_a_row = 0

    def missed(self, name: Repository) -> None:
        """A HEAD got none in time."""
        self._silent[name] = None
        self._in_a_row += 1
        self._last_at = self._clock.seconds()


@define(eq=False, repr=False)
class KnownManifests:
    """
    The manifests that were fetched since the start.

    Some registries announce no digest (hf.co). If their HEAD has the ETag that the manifest came
    with, it is unchanged. ``is_patient`` says that one without an ETag is not fetched anew within
    `SELDOM` either.
    """

    _clock: IReactorTime
    _is_patient: bool
    heads: UnansweredHeads = field(init=False)
    _known: LRUCache[Key, _Known] = field(factory=lambda: LRUCache(MAX_MANIFESTS), init=False)

    def __attrs_post_init__(self) -> None:
        self.heads = UnansweredHeads(self._clock)

    def learn(self, key: Key, response: IResponse, digest: Digest) -> None:
        """Note what a GET brought."""
        is_misnamed = _announced(response) not in (None, digest)
        self._known[key] = _Known(digest, is_misnamed, _etag(response), self._clock.seconds())

    def digest(self, key: Key, response: IResponse) -> Optional[Digest]:
        """Return the digest of what the reply to a HEAD is about; None if nothing tells it."""
        told = _announced(response)
        known = self._known.get(key)
        if known is None or (told is not None and not known.is_misnamed):
            return told
        etag = _etag(response)
        if etag or known.etag:
            return known.digest if etag == known.etag else None
        is_recent = self._clock.seconds() - known.at < SELDOM
        return known.digest if self._is_patient and is_recent else None


def _announced(response: IResponse) -> Optional[Digest]:
    """Return the digest that a manifest's reply claims for its body."""
    text = header(response, b"ollama-content-digest") or header(response, b"docker-content-digest")
    try:
        return Digest.parse(text if ":" in text else f"sha256:{text}")
    except InvalidName:
        return None


def _etag(response: IResponse) -> str:
    text = header(response, b"etag")
    return text if len(text) <= LONGEST_ETAG else ""
