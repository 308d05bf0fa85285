"""
Manifests that S3 could not take: served from memory, and put again until it does.

Each lies in a file too, for the next process: a line of JSON (name, reference,
time of check), and the manifest's bytes.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.config.files import read_file
from yukari.manifest import MAX_BYTES, AnyManifest, Variant, parse_manifest
from yukari.names import Digest, Reference, Repository, parse_reference
from yukari.s3.errors import S3Error
from yukari.storage.disk.atomic import remove, replace_file
from yukari.storage.manifest_cache import MAX_CACHED_BYTES, Key
from yukari.storage.ports import StoredManifest
from yukari.tasks import jittered
from yukari.threads import InThread

MAX_PENDING = 1000
"""
Manifests that may wait, of `MAX_CACHED_BYTES` together. Beyond that the oldest is dropped, and
fetched from upstream again.
"""
HEADER = 4096
"""Bytes of the line before a manifest in its file, at most."""
AGAIN = (1.0, 30.0)
"""Seconds between two tries, doubling from the first to the second."""

log = Logger()


def header(key: Key, stored: StoredManifest) -> bytes:
    """Return the line that stands before a manifest in its file."""
    name, reference, variant = key
    told = {
        "name": str(name),
        "reference": str(reference),
        "variant": variant.value,
        "checked_at": stored.checked_at,
    }
    return json.dumps(told).encode() + b"\n"


def decode(content: bytes) -> tuple[Key, StoredManifest]:
    """Return the manifest in a file, and its key; ValueError if this is no such file."""
    first, _, body = content.partition(b"\n")
    try:
        told = json.loads(first)
        name, reference = Repository.parse(told["name"]), parse_reference(told["reference"])
        key = name, reference, Variant(told.get("variant", Variant.PLAIN.value))
        return key, StoredManifest(parse_manifest(body), float(told["checked_at"]))
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"first line: {error}") from None


@define(eq=False, repr=False)
class PendingManifests:
    """
    The newest manifest of each key; ``put`` raises `S3Error`.

    Their files are in ``directory``, and are made in ``through``.
    """

    _put: Callable[[Repository, Reference, Variant, AnyManifest, float], Awaitable[None]]
    _clock: IReactorTime
    directory: str
    _through: str
    _in_thread: InThread
    _waiting: OrderedDict[Key, StoredManifest] = field(factory=OrderedDict, init=False)
    _task: Optional[Deferred[None]] = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _writing: DeferredLock = field(factory=DeferredLock, init=False)

    def read(self) -> list[tuple[Key, StoredManifest]]:
        """Return what an earlier process left, the oldest first. Blocks; OSError."""
        found = []
        for entry in os.scandir(self.directory):
            try:
                content = read_file(entry.path, MAX_BYTES + HEADER)
                found.append((entry.stat().st_mtime, *decode(content)))
            except (OSError, ValueError) as error:
                log.warn("{path} is thrown away: {error}", path=entry.path, error=str(error))
                remove(entry.path)
        return [(key, stored) for _, key, stored in sorted(found, key=lambda each: each[0])]

    async def restore(self, found: list[tuple[Key, StoredManifest]]) -> None:
        """Put what `read` has found."""
        for key, stored in found:
            await self._take(key, stored)
        if found:
            log.info("{count} manifests wait for the bucket", count=len(self._waiting))

    async def add(self, key: Key, stored: StoredManifest) -> None:
        """Take a manifest that S3 could not take for now, and return when it has its file."""
        if self.newest(key, stored) is stored:
            await self._take(key, stored)
            await self._file(key)

    async def drop(self, key: Key) -> None:
        """Forget the manifest of a key, so that it is not put any more."""
        if self._waiting.pop(key, None) is not None:
            await self._file(key)

    async def _take(self, key: Key, stored: StoredManifest) -> None:
        self._waiting[key] = stored
        self._waiting.move_to_end(key)
        if self._task is None and not self._stopped:
            self._task = Deferred.fromCoroutine(self._put_all())
            self._task.addBoth(self._ended)
        while len(self._waiting) > MAX_PENDING or self._held() > MAX_CACHED_BYTES:
            await self._file(self._waiting.popitem(last=False)[0])

    async def _file(self, key: Key) -> None:
        """Write the manifest that waits under a key to its file, or remove the file."""
        told = f"{key[0]}:{key[1]}" if key[2] is Variant.PLAIN else f"{key[0]}:{key[1]}:list"
        named = Digest.of(told.encode()).hex
        path = os.path.join(self.directory, named)
        async with self._writing:
            stored = self._waiting.get(key)
            try:
                if stored is None:
                    await self._in_thread(remove, path)
                    return
                await self._in_thread(self._write, path, key, stored)
            except OSError as error:
                log.warn("{path}: {error}", path=path, error=error.strerror)

    def _write(self, path: str, key: Key, stored: StoredManifest) -> None:
        """Blocks; OSError."""
        body = stored.manifest.body
        replace_file(path, body, time.time_ns(), self._through, header(key, stored))

    def _held(self) -> int:
        return sum(len(stored.manifest.body) for stored in self._waiting.values())

    def newest(self, key: Key, found: Optional[StoredManifest]) -> Optional[StoredManifest]:
        """Return what was ``found`` in S3 under a key, or what waits to replace it."""
        if isinstance(key[1], Digest):
            if found is None:
                for stored in self._waiting.values():
                    if stored.manifest.digest == key[1]:
                        return stored
            return found
        waiting = self._waiting.get(key)
        if waiting is None or (found is not None and found.checked_at > waiting.checked_at):
            return found
        return waiting

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    async def _put_all(self) -> None:
        wait, longest = AGAIN
        while self._waiting:
            await deferLater(self._clock, jittered(wait))
            wait = min(longest, 2 * wait)
            for key, stored in list(self._waiting.items()):
                try:
                    await self._put(*key, stored.manifest, stored.checked_at)
                except S3Error as error:
                    if error.passing:
                        # The others come before it the next time: it may be alone in this.
                        if key in self._waiting:
                            self._waiting.move_to_end(key)
                        break
                    log.error(
                        "{name}:{reference}: manifest not stored: {error}",
                        name=str(key[0]),
                        reference=str(key[1]),
                        error=str(error),
                    )
                except CancelledError:
                    raise
                except Exception:
                    log.failure("{name}: manifest not stored", name=str(key[0]))
                if self._waiting.get(key) is stored:
                    del self._waiting[key]
                    await self._file(key)

    def _ended(self, result: Any) -> None:
        self._task = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            log.failure("putting manifests late", result)
