"""A whole pull, from the manifest to the last sha256."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from tests.clients.classic import Classic
from tests.clients.generations import ACCEPT, CLASSIC16, LIST, MANIFEST, Generation
from tests.clients.lists import Child, chosen, needs_newer
from tests.clients.results import ClientError, Pulled, PullFailed
from tests.clients.session import Session
from tests.clients.signing import Key
from tests.clients.spool import Spool
from tests.clients.transfer import Transfer


class Client:
    """One pull of one model."""

    def __init__(self, session: Session, have: Collection[str]) -> None:
        self._session = session
        self._generation = session.generation
        self._have = set(have)
        self.pulled = session.pulled

    async def run(self) -> None:
        """Pull all, then verify all; raises a `ClientError`."""
        reactor = self._session.reactor
        begun = reactor.seconds()
        try:
            try:
                await self._get_blobs(await self._get_manifest())
            finally:
                self.pulled.seconds = reactor.seconds() - begun
            await self._verify(dict.fromkeys(self.pulled.blobs))
        finally:
            await self._session.http.close()

    async def _get_manifest(self) -> bytes:
        """The manifest that is to be pulled; of a list, the chosen child."""
        session = self._session
        url = f"{session.base}/v2/{session.name}/manifests/{session.tag}"
        accept = f"{LIST}, {MANIFEST}" if self._generation.lists else ACCEPT
        reply = await session.ask("GET", url, Accept=accept)
        self.pulled.manifest = await reply.body()
        if not self._generation.lists:
            return self.pulled.manifest
        child = chosen(self.pulled.manifest, self._generation.runner)
        if child is None:
            return self.pulled.manifest
        self.pulled.child = child.body or await self._get_child(child)
        await self._check_requires(self.pulled.child)
        return self.pulled.child

    async def _get_child(self, child: Child) -> bytes:
        """A list's child, as a blob whose size a HEAD tells."""
        reply = await self._session.ask("HEAD", self._session.blob_url(child.digest), gzip=False)
        if reply.length is None:
            raise ClientError("HEAD of a child without Content-Length")
        return await self._get_small(child.digest, reply.length)

    async def _check_requires(self, manifest: bytes) -> None:
        """Pull the config, the first of all blobs; raises where it wants a newer Ollama."""
        blobs = _blobs(manifest)
        if not blobs or blobs[-1][0] in self._have:
            return
        digest, size = blobs[-1]
        config = await self._get_small(digest, size)
        newer = needs_newer(config, self._generation.version)
        if newer:
            raise ClientError(f"this model needs Ollama {newer} or newer")

    async def _get_small(self, digest: str, size: int) -> bytes:
        """A blob that is looked into: by the transfer client, verified at once."""
        await Transfer(self._session).fetch([(digest, size)])
        self._have.add(digest)
        await self._verify([digest])
        spool = self._session.spool
        if spool is None:
            raise ClientError("a list needs a client that keeps what it pulls")
        return spool.read(digest, size)

    async def _get_blobs(self, manifest: bytes) -> None:
        wanted = [blob for blob in _blobs(manifest) if blob[0] not in self._have]
        if not self._generation.parts:
            await Transfer(self._session).fetch(wanted)
            return
        classic = Classic(self._session)
        for digest, _ in wanted:
            await classic.fetch(digest)

    async def _verify(self, digests: Collection[str]) -> None:
        spool, reactor = self._session.spool, self._session.reactor
        if spool is None:
            return
        begun = reactor.seconds()
        for digest in digests:
            blob = self.pulled.blobs[digest]
            if not blob.ok:
                blob.ok = await spool.verify(digest, blob.size)
        self.pulled.verify_seconds += reactor.seconds() - begun
        wrong = [digest for digest in digests if not self.pulled.blobs[digest].ok]
        if wrong:
            raise ClientError(f"digest mismatch, file must be downloaded again: {wrong[0]}")


def _blobs(manifest: bytes) -> list[tuple[str, int]]:
    """
    Layers, then config, as (digest, size), each digest once; raises a `ClientError`.

    As for Go, what is missing or null is empty: a list has no blobs at all.
    """
    try:
        found = json.loads(manifest)
        named = [*(found.get("layers") or ()), found.get("config") or {}]
        return list({blob["digest"]: int(blob["size"]) for blob in named if blob}.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClientError(f"pull model manifest: {error}") from None


async def pull(
    reactor: Any,
    base: str,
    model: str,
    generation: Generation = CLASSIC16,
    *,
    verify: bool = True,
    have: Collection[str] = (),
    directory: str | None = None,
    key: Key | None = None,
) -> Pulled:
    """
    Pull ``NAMESPACE/MODEL:TAG`` from ``base`` (``http://HOST:PORT``).

    Blobs in ``have`` are on the client's disk already. Without ``verify`` the
    bytes are counted and thrown away, and no list can be pulled; else they go to
    a temporary file in ``directory``. A registry's challenge is answered with ``key``, a new one if
    none is given. Raises `PullFailed`. Cancelling is a user's ctrl-c.
    """
    spool = Spool(reactor, directory) if verify else None
    try:
        session = Session(reactor, base, model, generation, spool, key or Key())
        try:
            await Client(session, have).run()
        except ClientError as error:
            session.pulled.error = str(error)
            raise PullFailed(str(error), session.pulled) from None
        return session.pulled
    finally:
        if spool is not None:
            spool.close()
