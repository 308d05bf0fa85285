"""
A blob on its way, on disk: a sparse file and a sidecar that tells what of it is there.

``sha256-HEX.spool`` has the blob's size from the start, if the file system can.
``sha256-HEX.cover`` is text: a line of JSON (version, digest, size, repositories) and then a line
for each thing that happened since, ``+ START END`` (these bytes are there) or
``r NAMESPACE/MODEL`` (this repository has it too). A line is appended in one write, after the bytes
that it claims: what a killed process had written counts only if its line is whole. Nothing is
fsynced before publishing; after a power cut the blob's digest tells.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from threading import Lock, RLock
from typing import Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.names import Digest, Repository
from yukari.spans import SpanSet
from yukari.storage.disk import sidecar
from yukari.storage.disk.atomic import make_way, remove, write_all
from yukari.storage.disk.files import FileBlob, Share
from yukari.storage.disk.space import Reservation
from yukari.storage.disk.tolerance import set_length, sync_file

DATA = ".spool"
COVER = ".cover"
COVER_MADE = ".cover.new"
"""A sidecar that is being rewritten."""

_LINES = 4096
"""The sidecar is rewritten when it has grown by this many lines and by twice its spans."""

_MAX_BUFFERS = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 16


def _write_at(number: int, offset: int, buffers: Sequence[bytes]) -> int:
    """Write all ``buffers`` from ``offset`` on; the end of what was written, or OSError."""
    left = [memoryview(buffer) for buffer in buffers if buffer]
    at = 0
    while at < len(left):
        count = os.pwritev(number, left[at : at + _MAX_BUFFERS], offset)
        if count <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        offset += count
        while at < len(left) and count >= len(left[at]):
            count -= len(left[at])
            at += 1
        if count:
            left[at] = left[at][count:]
    return offset


@define(eq=False, repr=False)
class SpoolFile:
    """
    `Spool` in a directory; make one with `create` or `reopen`.

    ``reserved`` is the room kept for the bytes that have not arrived, ``landing``
    that for the copy if publishing is not a rename.
    """

    _base: str
    """The two files' path without their ends."""
    digest: Digest
    size: int
    repositories: tuple[Repository, ...]
    _data: Share
    _cover: SpanSet
    _reserved: Optional[Reservation] = None
    _landing: Optional[Reservation] = None
    _sidecar: Optional[Share] = field(default=None, init=False)
    _length: int = field(default=0, init=False)
    """Bytes of the sidecar that are whole lines."""
    _torn: bool = field(default=False, init=False)
    """Whether there is more in the sidecar than that."""
    _lines: int = field(default=0, init=False)
    """Lines since the sidecar was rewritten, or since that failed."""
    _gone: bool = field(default=False, init=False)
    """Whether the files are no longer this spool's: published or discarded."""
    _closed: bool = field(default=False, init=False)
    _lock: RLock = field(factory=RLock, init=False)
    """Held by what changes the files; never taken in the reactor's thread."""
    _counting: Lock = field(factory=Lock, init=False)
    """Held for the moment in which the coverage changes or is copied."""

    _log = Logger()

    @classmethod
    def create(
        cls,
        directory: str,
        digest: Digest,
        size: int,
        repository: Repository,
        reserved: Optional[Reservation] = None,
        landing: Optional[Reservation] = None,
    ) -> SpoolFile:
        """Make an empty spool in ``directory``; OSError leaves nothing behind."""
        base = os.path.join(directory, digest.file_name)
        for end in (COVER, COVER_MADE, DATA):
            make_way(base + end)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        data = Share.of(os.open(base + DATA, flags, 0o666))
        try:
            with data.used() as number:
                set_length(number, size, directory)
            made = cls(base, digest, size, (repository,), data, SpanSet(), reserved, landing)
            made._rewrite()
        except OSError:
            data.close()
            remove(base + DATA)
            raise
        return made

    @classmethod
    def reopen(cls, directory: str, digest: Digest) -> Optional[SpoolFile]:
        """
        Open the spool that an earlier process left, without reservations (see `take_room`).

        None if it cannot be read. If one of its files is missing, or they contradict each other,
        they are removed too.
        """
        base = os.path.join(directory, digest.file_name)
        data: Optional[Share] = None
        try:
            data = Share.of(os.open(base + DATA, os.O_RDWR | os.O_NONBLOCK))
            with data.used() as number:
                found = os.fstat(number)
            number = os.open(base + COVER, os.O_RDONLY | os.O_NONBLOCK)
            try:
                text = _read_sidecar(number)
            finally:
                os.close(number)
            size, repositories, cover = sidecar.decode(text, digest)
            least = max((span.end for span in cover), default=0)
            if not stat.S_ISREG(found.st_mode) or not least <= found.st_size <= size:
                raise sidecar.Damaged(f"{found.st_size} bytes of data: expected {size}")
            made = cls(base, digest, size, tuple(repositories), data, cover)
            made._rewrite()
        except (OSError, sidecar.Damaged) as error:
            if data is not None:
                data.close()
            lost = isinstance(error, (sidecar.Damaged, FileNotFoundError))
            if lost:
                remove(base + COVER)
                remove(base + DATA)
            cls._log.warn(
                "spool {base} {what}: {error}",
                base=base,
                what="thrown away" if lost else "passed over",
                error=error,
            )
            return None
        return made

    def take_room(self, reserved: Reservation, landing: Optional[Reservation] = None) -> None:
        """Give a spool that was reopened its reservations."""
        self._reserved, self._landing = reserved, landing
        reserved.keep(self.missing)

    # what it holds

    @property
    def path(self) -> str:
        """The file with the bytes."""
        return self._base + DATA

    @property
    def gone(self) -> bool:
        """Whether its files are no longer its own: published or discarded."""
        return self._gone

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def missing(self) -> int:
        """The number of bytes that have not arrived."""
        return self.size - self._cover.total

    def covered(self) -> SpanSet:
        with self._counting:
            return SpanSet.of(self._cover)

    def open(self) -> FileBlob:
        return FileBlob(self.size, self._data.share())

    # changes

    def write(self, pieces: Sequence[tuple[int, Sequence[bytes]]]) -> None:
        wanted = []
        for offset, buffers in pieces:
            end = offset + sum(len(buffer) for buffer in buffers)
            if not 0 <= offset <= end <= self.size:
                raise ValueError(f"bytes {offset}-{end} of a blob of {self.size}")
            if offset < end:
                wanted.append((offset, end))
        if not wanted:
            return
        with self._lock:
            self._own()
            with self._data.used() as number:
                for offset, buffers in pieces:
                    _write_at(number, offset, buffers)
            self._append("".join(f"+ {start} {end}\n" for start, end in wanted))
            with self._counting:
                for start, end in wanted:
                    self._cover.add(start, end)
            if self._reserved is not None and not self._closed:
                self._reserved.keep(self.missing)
            self._tidy(len(wanted))

    def note_repository(self, name: Repository) -> None:
        with self._lock:
            if name not in self.repositories and not self._gone:
                self._append(f"r {name}\n")
                self.repositories = (*self.repositories, name)

    def discard(self) -> None:
        with self._lock:
            if not self._gone:
                remove(self._base + COVER)
                remove(self._base + DATA)
            self.let_go()
        self.close()

    def let_go(self) -> None:
        """Leave the files alone, which have other names or none by now; give the room back."""
        with self._lock:
            self._gone = True
            self._release()

    def close(self) -> None:
        self._closed = True
        self._data.close()
        if self._sidecar is not None:
            self._sidecar.close()
        self._release()

    # publishing: the store's side

    def seal(self) -> None:
        """Make the bytes durable; ValueError if some are missing."""
        with self._lock, self._data.used() as number:
            self._own()
            if self.missing:
                raise ValueError(f"{self.missing} bytes of {self.digest} are missing")
            sync_file(number, self.path)

    def published(self) -> None:
        """The bytes are stored as a blob: remove what is left of the two files."""
        with self._lock:
            remove(self._base + COVER)
            remove(self._base + DATA)
            self.let_go()

    # inside

    def _release(self) -> None:
        for reservation in (self._reserved, self._landing):
            if reservation is not None:
                reservation.release()

    def _own(self) -> None:
        """ValueError if the bytes may be a stored blob's by now, which nothing may change."""
        if self._gone:
            raise ValueError(f"the spool of {self.digest} was published or discarded")

    def _append(self, lines: str) -> None:
        """Add whole lines in one write; OSError with none of them added."""
        if self._torn or self._sidecar is None:
            self._rewrite()
        assert self._sidecar is not None
        text = lines.encode("ascii")
        with self._sidecar.used() as number:
            try:
                if (count := os.write(number, text)) != len(text):
                    raise OSError(errno.ENOSPC, f"{count} of {len(text)} bytes written")
            except OSError:
                self._torn = True
                os.ftruncate(number, self._length)
                self._torn = False
                raise
        self._length += len(text)

    def _tidy(self, lines: int) -> None:
        """Rewrite the sidecar once it has grown; a failure leaves it as it was."""
        self._lines += lines
        if self._lines < max(_LINES, 2 * len(self._cover)) or self._closed:
            return
        try:
            self._rewrite()
        except OSError as error:
            self._lines = 0
            self._log.warn("{base}: sidecar not rewritten: {error}", base=self._base, error=error)

    def _rewrite(self) -> None:
        """Replace the sidecar, in one step, by the shortest that tells the same."""
        text = sidecar.encode(self.digest, self.size, self.repositories, self._cover)
        path, made = self._base + COVER, self._base + COVER_MADE
        number = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        try:
            write_all(number, text)
            os.rename(made, path)
        except OSError:
            os.close(number)
            remove(made)
            raise
        if self._sidecar is not None:
            self._sidecar.close()
        self._sidecar = Share.of(number)
        self._length, self._lines, self._torn = len(text), 0, False


def _read_sidecar(number: int) -> bytes:
    """Return the whole of an open sidecar; `Damaged` if it is no file, or too large for one."""
    if not stat.S_ISREG(os.fstat(number).st_mode):
        raise sidecar.Damaged("the text beside it is no file")
    text = bytearray()
    while piece := os.read(number, 1 << 20):
        text += piece
        if len(text) > sidecar.MAX_BYTES:
            raise sidecar.Damaged(f"the text beside it has more than {sidecar.MAX_BYTES} bytes")
    return bytes(text)
