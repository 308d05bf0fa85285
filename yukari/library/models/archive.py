"""
Models in one file: a tar of an OCI image layout, written and read as a stream.

::

    oci-layout
    index.json              the models, by their names
    blobs/sha256/HEX        manifests, lists, configs and layers, each once

https://github.com/opencontainers/image-spec/blob/main/image-layout.md. Tools for OCI images refuse
the media types of Ollama's manifests. So the index names, for each model, an OCI image whose layers
are all of the model's blobs, with its manifests among them; annotations tell which these are.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Optional, Union

from attrs import define, field, frozen

from yukari.descriptors import Descriptor
from yukari.manifest import OCI_MANIFEST, AnyManifest, Manifest
from yukari.names import Digest, InvalidName

NAME = "org.opencontainers.image.ref.name"
"""The annotation with a model's whole name, ``HOST/NAMESPACE/MODEL:TAG``."""
PLAIN = "dev.yukari.manifest"
"""The annotation with the digest of the manifest that the tag stands for."""
LIST = "dev.yukari.list"
"""The annotation with the digest of what clients get that accept lists, if that is another."""

_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"

MAX_INDEX = 64 * 1024 * 1024
"""Bytes of ``index.json`` at most."""
MAX_EXTENSION = 64 * 1024
"""Bytes of an extended tar header, which is read into memory."""
MAX_MEMBERS = 5_000_000
"""Files in an archive at most."""
CHUNK = 1024 * 1024
"""Bytes that are read or written at once."""

_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)


class BadArchive(Exception):
    """A file that is no archive of models, or one that is damaged; the text says why."""


def _shown(blob: Descriptor) -> dict[str, Any]:
    """Return a blob as an OCI manifest names it."""
    return {"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size}


def contents(manifests: Iterable[AnyManifest]) -> list[Descriptor]:
    """Return manifests and the blobs that they name, each once."""
    found: dict[Digest, Descriptor] = {}
    for each in manifests:
        found[each.digest] = Descriptor(each.digest, len(each.body), each.media_type)
        if isinstance(each, Manifest):
            found.update((blob.digest, blob) for blob in each.blobs)
    return list(found.values())


@frozen
class Packed:
    """A model in an archive: its whole name, and the digests of its manifests."""

    model: str
    plain: Optional[Digest]
    """None if there is only a list."""
    listed: Optional[Digest] = None

    def image(self, blobs: Iterable[Descriptor]) -> tuple[bytes, bytes]:
        """Return the manifest of an OCI image with these layers, and its config."""
        layers = [_shown(blob) for blob in blobs]
        config = json.dumps(
            {
                "architecture": "unknown",
                "os": "unknown",
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _shown(Descriptor(Digest.of(config), len(config), _OCI_CONFIG)),
                "layers": layers,
                "annotations": self._annotations(),
            }
        ).encode()
        return manifest, config

    def entry(self, image: bytes) -> dict[str, Any]:
        """Return what the index has of the model whose image's manifest is ``image``."""
        shown = _shown(Descriptor(Digest.of(image), len(image), OCI_MANIFEST))
        return {**shown, "annotations": self._annotations()}

    def _annotations(self) -> dict[str, str]:
        made = {NAME: self.model, PLAIN: self.plain, LIST: self.listed}
        return {key: str(value) for key, value in made.items() if value is not None}


@frozen
class ArchiveIndex:
    """The models of an archive."""

    models: tuple[Packed, ...]

    @classmethod
    def parse(cls, body: bytes) -> ArchiveIndex:
        """`BadArchive` unless it lists manifests with sha256 digests."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadArchive(f"index.json: not JSON: {error}") from None
        entries = content.get("manifests") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise BadArchive("index.json: expected a list of manifests")
        return cls(tuple(map(_packed, entries)))


def _packed(entry: dict[str, Any]) -> Packed:
    annotations = entry.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise BadArchive("index.json: annotations that are no object")
    model = annotations.get(NAME) or ""
    if not isinstance(model, str):
        raise BadArchive("index.json: a name that is no text")
    plain, listed = _digest(annotations.get(PLAIN)), _digest(annotations.get(LIST))
    if plain is None and listed is None:
        plain = _digest(entry.get("digest"))  # Written by another tool.
    return Packed(model, plain, listed)


def _digest(text: Any) -> Optional[Digest]:
    try:
        return None if text is None else Digest.parse(str(text))
    except InvalidName as error:
        raise BadArchive(f"index.json: {error}") from None


# writing


@define(eq=False, repr=False)
class ArchiveWriter:
    """Writes an archive into ``file``, which need not be seekable."""

    _file: BinaryIO
    _tar: tarfile.TarFile = field(init=False)
    _written: set[Digest] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        sink: Any = _Sink(self._file)
        self._tar = tarfile.open(  # noqa: SIM115
            fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK
        )

    def begin(self, models: Iterable[tuple[Packed, Iterable[Descriptor]]]) -> None:
        """Write what stands before the blobs: the models, each with all of its blobs."""
        self._add("oci-layout", len(_LAYOUT), io.BytesIO(_LAYOUT))
        entries: list[dict[str, Any]] = []
        made: dict[Digest, bytes] = {}
        for packed, blobs in models:
            manifest, config = packed.image(blobs)
            entries.append(packed.entry(manifest))
            made.update((Digest.of(body), body) for body in (manifest, config))
        index = {"schemaVersion": 2, "mediaType": _OCI_INDEX, "manifests": entries}
        body = json.dumps(index, indent=1).encode()
        self._add("index.json", len(body), io.BytesIO(body))
        for digest, body in made.items():
            self.add(digest, len(body), io.BytesIO(body).read)

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._written

    def add(self, digest: Digest, size: int, read: Callable[[int], bytes]) -> None:
        """
        Write a blob, unless it is written already; ``read`` is a file's method.

        `BadArchive` if it reads other bytes than that, OSError if it ends early.
        """
        if digest in self._written:
            return
        hashing = _Hashing(read)
        self._add(f"blobs/sha256/{digest.hex}", size, hashing)
        if hashing.hash.hexdigest() != digest.hex:
            raise BadArchive(f"{digest}: what was read has another digest")
        self._written.add(digest)

    def _add(self, name: str, size: int, stream: Any) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        self._tar.addfile(member, stream)

    def end(self) -> None:
        """Write the end of the tar; the file stays open."""
        self._tar.close()


@define(eq=False, repr=False)
class _Sink:
    """
    Writes into a file until that is closed.

    tarfile writes the end when an archive that was given up is destroyed, and would print a
    traceback then.
    """

    _file: BinaryIO

    def write(self, data: bytes) -> int:
        return len(data) if self._file.closed else self._file.write(data)


@define(eq=False, repr=False)
class _Hashing:
    _read: Callable[[int], bytes]
    hash: Any = field(factory=hashlib.sha256, init=False)

    def read(self, count: int = -1) -> bytes:
        found = self._read(count)
        self.hash.update(found)
        return found


# reading


class _Member(tarfile.TarInfo):
    """A header that is refused before anything of its size is read into memory."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Member:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _EXTENSIONS:
            if found.size > MAX_EXTENSION:
                raise BadArchive(f"a header of {found.size} bytes")
        elif found.type not in (*_FILES, tarfile.DIRTYPE):
            raise BadArchive(f"{found.name[:100]!a}: neither a file nor a directory")
        if found.size < 0:
            raise BadArchive(f"{found.name[:100]!a}: a size below 0")
        return found


@define(eq=False, repr=False)
class ArchivedBlob:
    """A blob in an archive: to be read to its end, or left, before the next one is asked for."""

    digest: Digest
    size: int
    """As the tar's header has it."""
    stream: Any
    path: Optional[str] = None
    """The file with exactly these bytes, if there is one on this machine."""
    _hash: Any = field(factory=hashlib.sha256, init=False)
    _left: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._left = self.size

    def chunks(self) -> Iterator[bytes]:
        """
        Yield its bytes.

        `BadArchive` if the archive ends within it and, at its end, if it has another digest.
        """
        while self._left:
            try:
                found = self.stream.read(min(CHUNK, self._left))
            except tarfile.TarError:
                found = b""
            if not found:
                raise BadArchive(f"{self.digest}: the archive ends within it")
            self._left -= len(found)
            self._hash.update(found)
            yield found
        if self._hash.hexdigest() != self.digest.hex:
            raise BadArchive(f"{self.digest}: its bytes have another digest")


Archived = Union[ArchiveIndex, ArchivedBlob]
"""An item of an archive."""


def read_archive(file: BinaryIO) -> Iterator[Archived]:
    """
    Yield the index and the blobs of an archive in the order in which it has them.

    ``file`` need not be seekable. `BadArchive`, OSError.
    """
    seen: set[Union[Digest, str]] = set()
    try:
        with tarfile.open(fileobj=file, mode="r|", tarinfo=_Member, bufsize=CHUNK) as tar:
            for count, member in enumerate(iter(tar.next, None)):
                # The tar file keeps every member that it has seen.
                tar.members = []  # type: ignore[attr-defined]
                if count >= MAX_MEMBERS:
                    raise BadArchive(f"more than {MAX_MEMBERS} files")
                found = _found(tar, member)
                if found is None:
                    continue
                key = found.digest if isinstance(found, ArchivedBlob) else "index.json"
                if key in seen:
                    raise BadArchive(f"{key}: twice in the archive")
                seen.add(key)
                yield found
    except (tarfile.TarError, RecursionError, ValueError) as error:
        raise BadArchive(f"not a tar file, or a damaged one: {error}") from None
    if "index.json" not in seen:
        raise BadArchive("no index.json: not an OCI image layout")


def _found(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Optional[Archived]:
    name = member.name.removeprefix("./")
    if name.startswith("/") or ".." in name.split("/") or member.issparse():
        raise BadArchive(f"{name[:100]!a}: no file of an OCI image layout")
    if not member.isfile():
        return None
    if name == "index.json":
        if member.size > MAX_INDEX:
            raise BadArchive(f"index.json has {member.size} bytes")
        return ArchiveIndex.parse(_stream(tar, member).read(member.size))
    if not name.startswith("blobs/"):
        return None
    try:
        digest = Digest.parse(name.removeprefix("blobs/").replace("/", ":", 1))
    except InvalidName:
        raise BadArchive(f"{name[:100]!a}: expected blobs/sha256/ and 64 hex digits") from None
    return ArchivedBlob(digest, member.size, _stream(tar, member))


def _stream(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    stream = tar.extractfile(member)
    assert stream is not None
    return stream
