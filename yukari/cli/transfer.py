"""The verbs of the air gap: `export` and `import`."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from queue import Queue
from threading import Thread
from typing import Any, BinaryIO, Optional

import click
from attrs import define

from yukari.cli.client import IMPORTED_WITHIN, MAX_REPLY, Cache, CacheError
from yukari.cli.output import Progress, counted, size
from yukari.cli.store import model_argument, talks
from yukari.descriptors import Descriptor
from yukari.library.models.archive import (
    CHUNK,
    ArchiveWriter,
    BadArchive,
    Packed,
    contents,
    read_archive,
)
from yukari.manifest import (
    DOCKER_MANIFEST,
    MANIFEST_LIST,
    AnyManifest,
    InvalidManifest,
    Manifest,
    parse_manifest,
)
from yukari.names import Digest

_PLAIN = {"Accept": f"{DOCKER_MANIFEST}, application/vnd.oci.image.manifest.v1+json"}
_LISTS = {"Accept": f"{MANIFEST_LIST}, {DOCKER_MANIFEST}"}


@click.command()
@model_argument(nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="FILE", help="The archive; - is stdout.")
@talks()
def export(cache: Cache, model: Sequence[str], output: str) -> None:
    """
    Write stored MODELs into one file.

    It is a tar that is an OCI image layout, in which blobs that several models share are once.
    `yukari import` reads it, and tools for OCI images do: skopeo inspect oci-archive:FILE
    """
    if output in ("-", "/dev/stdout"):
        _export(cache, model, sys.stdout.buffer)
        return
    if os.path.exists(output) and not os.path.isfile(output):  # Such as a FIFO, or a tape.
        with open(output, "wb") as device:
            _export(cache, model, device)
        return
    output = os.path.realpath(output)
    made = f"{output}.part"
    try:
        with open(made, "wb") as file:
            _export(cache, model, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, output)
    except BaseException:
        if os.path.exists(made):
            os.unlink(made)
        raise


def _export(cache: Cache, models: Sequence[str], file: BinaryIO) -> None:
    try:
        _write(cache, models, file)
    except BadArchive as error:
        raise CacheError(str(error)) from None


def _write(cache: Cache, models: Sequence[str], file: BinaryIO) -> None:
    found = [_Exported.of(cache, model) for model in dict.fromkeys(models)]
    writer = ArchiveWriter(file)
    writer.begin([(each.packed, each.blobs) for each in found])
    sizes = {blob.digest: blob.size for each in found for blob in each.blobs}
    progress, written, total = Progress("exporting"), 0, sum(sizes.values())
    for each in found:
        for blob in each.blobs:
            if blob.digest in writer:
                continue
            path = f"/v2/{each.repository}/blobs/{blob.digest}"
            stream: Any = (
                io.BytesIO(each.bodies[blob.digest])
                if blob.digest in each.bodies
                else cache.open("GET", path)
            )
            with stream:

                def read(count: int, stream: Any = stream, digest: Digest = blob.digest) -> bytes:
                    nonlocal written
                    body = cache.read(stream, count)
                    if len(body) < count:
                        raise CacheError(f"{digest}: the cache broke off: export again")
                    written += len(body)
                    progress.show(written, total)
                    return body

                writer.add(blob.digest, blob.size, read)
            progress.show(written, total)
    writer.end()
    if file is not sys.stdout.buffer:
        progress.end(f"{counted(len(found), 'model')}, {size(total)} exported")


@define(eq=False, repr=False)
class _Exported:
    """A model to write: its name, its manifests' bytes and all of its blobs."""

    packed: Packed
    repository: str
    bodies: dict[Digest, bytes]
    blobs: list[Descriptor]

    @classmethod
    def of(cls, cache: Cache, model: str) -> _Exported:
        facts = cache.ask("POST", "/store/model", {"model": model})
        repository, tag = facts["repository"], facts["tag"]
        path = "/".join(repository.split("/")[-2:])
        name = f"{facts['registry']}/{path}:{tag}"
        plain = _manifest(cache, repository, tag, _PLAIN)
        listed = _manifest(cache, repository, tag, _LISTS)
        if plain is None and listed is None:
            raise CacheError(f"{model}: its manifest is not stored")
        same = plain is not None and listed is not None and plain.digest == listed.digest
        listed = None if same else listed
        packed = Packed(
            name,
            None if plain is None else plain.digest,
            None if listed is None else listed.digest,
        )
        manifests = [each for each in (plain, listed) if each is not None]
        if listed is not None and not isinstance(listed, Manifest):
            for child in listed.children:
                found = _manifest(cache, repository, str(child.digest), _PLAIN)
                manifests += [] if found is None else [found]
        bodies = {each.digest: bytes(each.body) for each in manifests}
        return cls(packed, repository, bodies, contents(manifests))


def _manifest(
    cache: Cache, repository: str, reference: str, headers: dict[str, str]
) -> Optional[AnyManifest]:
    """Return a manifest; None if the cache does not have it."""
    try:
        with cache.open("GET", f"/v2/{repository}/manifests/{reference}", None, headers) as reply:
            return parse_manifest(cache.read(reply, MAX_REPLY))
    except InvalidManifest as error:
        raise CacheError(f"{repository}:{reference}: {error}") from None
    except CacheError as error:
        if error.status == 404:
            return None
        raise


@click.command("import")
@click.argument("file", metavar="FILE|-|DIR")
@click.option(
    "--storage",
    metavar="DIR",
    help="Store there without a daemon; none may have it open. Other settings are read from the"
    " environment, as the daemon does.",
)
@talks()
def import_(cache: Cache, file: str, storage: Optional[str]) -> None:
    """
    Store the models of an archive or of an Ollama's directory.

    An archive is what `yukari export` wrote; - is stdin. What is stored already is skipped: an
    import that broke off is simply repeated. With --storage, blobs of an Ollama's directory on the
    same file system are linked, not copied.
    """
    progress = Progress("importing")
    if storage is None:
        found = _import_by(cache, file, progress)
    else:
        found = _import_into(storage, file, progress)
    progress.end(
        f"{counted(len(found['models']), 'model')}, {size(found['written'])} stored,"
        f" {size(found['skipped'])} were there already"
    )
    for name in found["models"]:
        click.echo(name)


def _import_into(storage: str, file: str, progress: Progress) -> Any:
    from yukari.cli.direct import import_without_daemon
    from yukari.cli.ollama_directory import read_directory

    read = 0

    def count(length: int) -> None:
        nonlocal read
        read += length
        progress.show(read, max(read, total))

    total = 0
    with ExitStack() as stack:
        if file != "-" and os.path.isdir(file):
            archive = read_directory(file)
        elif file == "-":
            archive = read_archive(sys.stdin.buffer)
        else:
            opened = stack.enter_context(open(file, "rb"))
            total = _length(opened) or 0
            archive = read_archive(opened)
        return import_without_daemon({"storage": storage}, archive, count)


def _import_by(cache: Cache, file: str, progress: Progress) -> Any:
    if file != "-" and os.path.isdir(file):
        from yukari.cli.ollama_directory import pack

        total, body = None, _piped(lambda pipe: pack(file, pipe))
    elif file == "-":
        total, body = None, _chunks(sys.stdin.buffer)
    else:
        opened = open(file, "rb")  # noqa: SIM115
        total, body = _length(opened), _chunks(opened)

    def counted() -> Iterator[bytes]:
        sent = 0
        for chunk in body:
            yield chunk
            sent += len(chunk)
            progress.show(sent, max(sent, total or 0))

    headers = {} if total is None else {"Content-Length": str(total)}
    return cache.ask("PUT", "/store/archive", counted(), headers, within=IMPORTED_WITHIN)


def _length(file: BinaryIO) -> Optional[int]:
    """Return the bytes of a regular file, None for a pipe and the like."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk


def _piped(write: Any) -> Iterator[bytes]:
    """Yield what ``write`` writes into a file, which it does in a thread of its own."""
    queue: Queue[Any] = Queue(8)

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            queue.put(bytes(data))
            return len(data)

    def run() -> None:
        try:
            write(Pipe())
            queue.put(None)
        except Exception as error:
            queue.put(error)

    Thread(target=run, daemon=True).start()
    while (found := queue.get()) is not None:
        if isinstance(found, (OSError, BadArchive, InvalidManifest)):
            raise CacheError(str(found))
        if isinstance(found, Exception):
            raise found
        yield found
