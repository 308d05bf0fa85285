"""
The blobs: each digest that is asked for has one owner, whether it is stored, on its way or absent.

If what is known of sizes differs, upstream is asked; if a stored blob is in doubt and upstream does
not confirm its size, its digest decides. Bytes that arrive confirm a size until their digest turns
out wrong. A stored blob that the disk cannot read is fetched again, and replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from errno import EACCES
from functools import partial
from typing import Any, Optional, Union

from attrs import define, field, frozen
from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from yukari.descriptors import Descriptor
from yukari.errors import RegistryError, blob_unknown
from yukari.fills.fill import Fill
from yukari.fills.manager import FillManager, confirms
from yukari.fills.spooler import HASH_STEP
from yukari.fills.verifier import Verifier
from yukari.library.blob_facts import BlobFacts
from yukari.library.in_use import InUse
from yukari.manifest import SIZE_UNKNOWN
from yukari.names import Digest, Repository
from yukari.sources.upstreams import AnyUpstream
from yukari.storage.capabilities import RemoteBlobs
from yukari.storage.open_files import OpenBlobs
from yukari.storage.ports import SHORT, BlobFile, Store
from yukari.storage.readable import Readable, StoredBlob
from yukari.tasks import Coalescer, Slices, Waiters

log = Logger()

MAX_ENTRIES = 25_000
"""Blobs of which something is remembered."""
FIRST_WORD_WITHIN = 2.0
"""Seconds for which a request waits for upstream's first word about a blob."""
LEAST_REDIRECTED = 16 * 1024 * 1024
"""Bytes from which on a blob is redirected: Ollama refuses redirects of small blobs."""
UNREADABLE_FOR = 10.0
"""Seconds in which another copy of a stored blob is sought that the disk cannot read."""
MAX_LOOKS = 3
"""The maximum number of looks for a blob that appears and disappears."""


@frozen
class Elsewhere:
    """A blob that the client gets from the store itself, at a URL that works for hours."""

    url: str


@define(eq=False, repr=False)
class Blobs:
    """All blobs, wherever they are."""

    _store: Store
    _upstream: AnyUpstream
    _fills: FillManager
    _in_thread: Callable[..., Deferred[Any]]
    _clock: IReactorTime
    _redirects: Callable[[str, str], bool]
    """Whether a client that came by a Host header may be sent to a presigned URL."""
    _in_use: InUse
    removed: int = field(default=0, init=False)
    """The number of stored blobs that were removed or lost; once it changes, others may be gone."""
    _opened: OpenBlobs = field(init=False)
    _entries: LRUCache[Digest, BlobFacts] = field(factory=lambda: LRUCache(MAX_ENTRIES), init=False)
    _once: Coalescer = field(init=False)
    """Looks into the store; they end by themselves when the cache stops."""
    _asking: Coalescer = field(init=False)
    """Questions to upstream."""
    _removing: dict[Digest, Waiters] = field(factory=dict, init=False)
    _sending: dict[Digest, dict[StoredBlob, None]] = field(factory=dict, init=False)
    """The stored blobs that replies in progress read."""
    _stopping: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        slices = Slices(self._clock)
        self._once, self._asking = Coalescer(slices), Coalescer(slices)
        self._opened = OpenBlobs(self._store.open_blob, self._clock)

    def stop(self) -> None:
        """Close the files that are kept open, and give up checks and questions upstream."""
        self._stopping = True
        self._asking.stop()
        self._opened.close()

    def learn(
        self, name: Repository, blobs: Iterable[Descriptor], config: Optional[Descriptor] = None
    ) -> None:
        """Remember the sizes of blobs as a manifest of ``name`` has them, and its config."""
        for blob in blobs:
            entry = self._entry(blob.digest)
            if blob.size != SIZE_UNKNOWN:
                entry.learn(name, blob.size)
        if config is not None:
            self._entry(config.digest).is_config = True

    def is_known(self, digest: Digest) -> bool:
        """Whether a manifest has named the blob, or it is on its way."""
        return digest in self._entries or digest in self._fills.fills

    def _entry(self, digest: Digest) -> BlobFacts:
        entry = self._entries.get(digest)
        if entry is None:
            entry = self._entries[digest] = BlobFacts(digest)
        return entry

    # what clients ask

    async def size(self, name: Repository, digest: Digest) -> int:
        """Return a blob's size in bytes without fetching it. `RegistryError`."""
        if digest not in self._fills.fills:
            stored = await self.stored_size(name, digest)
            if stored is not None:
                return stored
        if self._fills.refusal(digest) is not None:
            await self._check_again(name, digest)
        return await self._size_to_fetch(name, self._entry(digest))

    async def _check_again(self, name: Repository, digest: Digest) -> None:
        """Ask for a blob again that could not be had; `RegistryError` if it still cannot."""
        before = self._fills.refusal(digest)
        found = await self.fetch(name, digest)
        if isinstance(found, Fill):
            found.start()
            word = Deferred.fromCoroutine(self._fills.first_word(found))
            word.addTimeout(FIRST_WORD_WITHIN, self._clock, lambda *_: before)
            refused = await word
            if refused is not None:
                raise refused.with_traceback(None)

    async def open(
        self, name: Repository, digest: Digest, host: str = ""
    ) -> Union[Readable, Fill, Elsewhere]:
        """
        Open a blob for one reader.

        Return it opened if it is stored here, `Elsewhere` if the client can read it from the store
        itself, or else the fill that fetches it, which gives out readers. ``host`` is the client's
        Host header. `RegistryError` if there is none of these.
        """
        self._in_use.ask([digest])
        for look in range(MAX_LOOKS):
            stored = await self._open_stored(name, digest)
            if stored is not None:
                return stored
            found = await self.fetch(name, digest)
            if isinstance(found, Fill):
                return found
            if isinstance(self._store, RemoteBlobs):
                break
            if look:  # It is there, and cannot be opened: it has not just appeared.
                self.found_unreadable(digest, PermissionError(EACCES, "it may not be opened"))
        else:
            raise blob_unknown(digest)
        if found >= LEAST_REDIRECTED and not self._entry(digest).is_config:
            url = await self._store.presigned(digest)
            if url is not None and self._redirects(url, host):
                return Elsewhere(url)
        return self._fills.begin(digest, found, name)

    def find_open(self, digest: Digest) -> Optional[BlobFile]:
        """Return a stored blob that is open, for use in this turn; None if it is not."""
        return None if digest in self._fills.fills else self._opened.find(digest)

    async def _open_stored(self, name: Repository, digest: Digest) -> Optional[StoredBlob]:
        """Open a blob that is stored here; None if it is not, or is damaged or unreadable."""
        if digest in self._fills.fills or self._is_unreadable(digest):
            return None
        await self._removed(digest)
        try:
            file = await self._opened.open(digest)
        except OSError as error:
            if self.found_unreadable(digest, error):
                return None
            message = f"this cache cannot read blob {digest}: {error.strerror}"
            raise RegistryError("UNAVAILABLE", message, 503) from None
        if file is None:
            return None
        kept: Optional[BlobFile] = file
        try:
            if not await self._is_sound(name, digest, file.size):
                return None
            kept = None
            stored = StoredBlob(file, partial(self._sent, digest))
            self._sending.setdefault(digest, {})[stored] = None
            return stored
        finally:
            if kept is not None:
                kept.close()

    def _sent(self, digest: Digest, stored: StoredBlob) -> None:
        sending = self._sending.get(digest, {})
        sending.pop(stored, None)
        if not sending:
            self._sending.pop(digest, None)

    # what is stored

    async def stored_size(self, name: Repository, digest: Digest) -> Optional[int]:
        """Return the size of a stored blob; None if it is not stored, or damaged or unreadable."""
        await self._removed(digest)
        if self._is_unreadable(digest):
            return None
        size = self._opened.size(digest)
        if size is None:
            try:
                size = await self._store.blob_size(digest)
            except OSError as error:
                if not self.found_unreadable(digest, error):
                    raise
        return size if size is not None and await self._is_sound(name, digest, size) else None

    async def _is_sound(self, name: Repository, digest: Digest, stored: int) -> bool:
        """
        Whether a blob of which ``stored`` bytes are stored is whole; a damaged one is removed.

        A size that is not the manifest's is reason for doubt, no more: the manifest may be wrong.
        So are no bytes at all, whatever is known.
        """
        entry = self._entry(digest)
        expected = entry.claims.get(name) if entry.size is None else entry.size
        if stored and expected in (None, stored):
            return True
        return await self._once.run(("check", digest), self._check, name, entry, stored)

    async def _check(self, name: Repository, entry: BlobFacts, stored: int) -> bool:
        if entry.size is None:
            asking: Deferred[Optional[int]] = Deferred.fromCoroutine(
                self._upstream.blob_size(name, entry.digest)
            )
            asking.addTimeout(FIRST_WORD_WITHIN, self._clock, lambda *_: None)
            try:
                size = await asking
            except RegistryError:
                size = None
            if size == stored:
                entry.size = stored
                return True
        whole = await self._is_whole(entry.digest)
        if whole:
            entry.size = stored
        elif whole is False:
            log.error(
                "{digest}: stored with {found} bytes, its manifest says {size}: fetched again",
                digest=str(entry.digest),
                found=stored,
                size=entry.size or entry.claims.get(name, "more"),
            )
            await self._store.delete_blob(entry.digest)
            self.found_wrong(entry.digest)
        return whole is not False

    async def _is_whole(self, digest: Digest) -> Optional[bool]:
        """Whether the stored bytes have their digest; None if they cannot be read now."""
        try:
            file = await self._store.open_blob(digest)
        except OSError:
            return None
        if file is None:
            return None
        verifier = Verifier(file)
        try:
            while verifier.position < file.size:
                if self._stopping:
                    return None
                step = min(file.size, verifier.position + HASH_STEP)
                await self._in_thread(verifier.advance, step)
        except OSError:
            return None
        finally:
            verifier.close()
        return verifier.digest() == digest

    async def remove(self, digest: Digest) -> bool:
        """
        Remove a stored blob. OSError.

        Return False if it stays because it is being fetched, or if another call removes it. Readers
        that have it open keep it; those that ask for it meanwhile find it absent.
        """
        if digest in self._fills.fills:
            return False
        if digest in self._removing:
            await self._removed(digest)
            return False
        removing = self._removing[digest] = Waiters()
        self.invalidate()
        try:
            await self._store.delete_blob(digest)
        finally:
            self.invalidate()
            del self._removing[digest]
            removing.fire()
        return True

    async def _removed(self, digest: Digest) -> None:
        while (removing := self._removing.get(digest)) is not None:
            await removing.wait()

    def invalidate(self) -> None:
        """Forget what is open and what was found stored: a stored blob is damaged or was lost."""
        self.removed += 1
        self._opened.close()

    def found_wrong(self, digest: Digest) -> None:
        """Cut the replies that send a blob whose stored bytes turned out to be wrong."""
        self.invalidate()
        for stored in self._sending.get(digest, ()):
            stored.is_wrong = True

    def found_unreadable(self, digest: Digest, error: OSError) -> bool:
        """
        Note that the disk cannot read a stored blob: another copy is fetched when it is asked for
        next, and takes its place. Return whether this is the blob's fault, and logged.
        """
        if error.errno in SHORT:
            return False
        if digest not in self._fills.fills and not self._is_unreadable(digest):
            self.invalidate()
            self._entry(digest).unreadable_until = self._clock.seconds() + UNREADABLE_FOR
            log.error(
                "{digest}: cannot be read: {error}: fetched again",
                digest=str(digest),
                error=str(error),
            )
        return True

    def _is_unreadable(self, digest: Digest) -> bool:
        entry = self._entries.get(digest)
        return entry is not None and self._clock.seconds() < entry.unreadable_until

    # what is absent

    async def fetch(self, name: Repository, digest: Digest) -> Union[Fill, int]:
        """
        Return the blob's fill, begun if need be, or the blob's size if it is stored.

        A new fill is not started. `RegistryError`.
        """
        entry = self._entry(digest)
        size = self._known_size(name, entry)
        if size is None:
            stored = await self.stored_size(name, digest)
            if stored is not None and digest not in self._fills.fills:
                return stored
            size = await self._size_to_fetch(name, entry)
        return await self._once.run(("begin", digest), self._begin, name, digest, size)

    async def _begin(self, name: Repository, digest: Digest, size: int) -> Union[Fill, int]:
        """
        Look into the store and begin the fill of what is not there.

        One at a time for each digest: between the look and the new fill no other fill can begin,
        and so none can end that the look has missed.
        """
        fill = self._fills.fills.get(digest)
        if fill is not None and fill.size != size and not confirms(fill):
            error = RegistryError("SIZE_INVALID", f"blob {digest} has {size} bytes upstream", 502)
            await self._fills.discard(fill, error)
            fill = None
        if fill is None:
            stored = await self.stored_size(name, digest)
            if stored is not None:
                return stored
        entry = self._entry(digest)
        entry.unreadable_until = 0.0
        if fill is not None and not entry.is_of(name):
            return fill  # Only a client says that the model has it, and clients can make up names.
        return self._fills.begin(digest, size, name)

    def _known_size(self, name: Repository, entry: BlobFacts) -> Optional[int]:
        """Return the size of a blob on its way or absent; None if upstream has to be asked."""
        fill = self._fills.fills.get(entry.digest)
        if fill is not None and confirms(fill):
            return fill.size
        refused = self._fills.refused.get(entry.digest)
        if entry.size is None and refused is not None and refused.code == "SIZE_INVALID":
            return None
        return entry.agreed(name)

    async def _size_to_fetch(self, name: Repository, entry: BlobFacts) -> int:
        size = self._known_size(name, entry)
        if size is None:
            key = ("size", name, entry.digest)
            size = await self._asking.run(key, self._upstream.blob_size, name, entry.digest)
            entry.tell(name, size)
        return size
