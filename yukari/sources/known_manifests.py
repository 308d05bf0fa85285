"""What registries said of manifests, for checks that a HEAD cannot answer by a digest."""

from __future__ import annotations

from typing import Optional

from attrs import define, field, frozen
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from yukari.manifest import DOCKER_MANIFEST, MANIFEST_LIST, OCI_MANIFEST, Variant
from yukari.names import Digest, InvalidName, Reference, Repository
from yukari.net.http import header

MAX_MANIFESTS = 50_000
"""Manifests that are remembered."""
LONGEST_ETAG = 200
"""Characters of an ETag that is remembered; a longer one counts as none."""
SELDOM = 3600.0
"""Seconds for which a manifest is taken as unchanged if its HEAD has neither digest nor ETag."""

_ACCEPT_PLAIN = f"{DOCKER_MANIFEST}, {OCI_MANIFEST};q=0.9"
ACCEPT = {Variant.PLAIN: _ACCEPT_PLAIN, Variant.LIST: f"{MANIFEST_LIST}, {_ACCEPT_PLAIN}"}
"""The Accept header by which each variant is asked for."""

Key = tuple[Repository, Reference, Variant]


@frozen
class _Known:
    digest: Digest
    etag: str
    at: float


@define(eq=False)
class KnownManifests:
    """
    The manifests that were fetched since the start.

    Some registries announce no digest (hf.co). If their HEAD has the ETag that the manifest came
    with, it is unchanged. ``is_patient`` says that one without an ETag is not fetched anew within
    `SELDOM` either.
    """

    _clock: IReactorTime
    _is_patient: bool
    _known: LRUCache[Key, _Known] = field(factory=lambda: LRUCache(MAX_MANIFESTS), init=False)

    def learn(self, key: Key, response: IResponse, digest: Digest) -> None:
        """Note what a GET brought."""
        self._known[key] = _Known(digest, _etag(response), self._clock.seconds())

    def digest(self, key: Key, response: IResponse) -> Optional[Digest]:
        """Return the digest of what the reply to a HEAD is about; None if nothing tells it."""
        told = announced(response)
        known = self._known.get(key)
        if told is not None or known is None:
            return told
        etag = _etag(response)
        if etag or known.etag:
            return known.digest if etag == known.etag else None
        is_recent = self._clock.seconds() - known.at < SELDOM
        return known.digest if self._is_patient and is_recent else None


def announced(response: IResponse) -> Optional[Digest]:
    """Return the digest that a manifest's reply claims for its body."""
    text = header(response, b"ollama-content-digest") or header(response, b"docker-content-digest")
    try:
        return Digest.parse(text if ":" in text else f"sha256:{text}")
    except InvalidName:
        return None


def _etag(response: IResponse) -> str:
    text = header(response, b"etag")
    return text if len(text) <= LONGEST_ETAG else ""
