"""Archives of models: what is written is read, by others too; hostile ones are refused."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from typing import Any, Optional

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from yukari.descriptors import Descriptor
from yukari.library.models.archive import (
    MAX_EXTENSION,
    NAME,
    ArchivedBlob,
    ArchiveIndex,
    ArchiveWriter,
    BadArchive,
    Packed,
    read_archive,
)
from yukari.manifest import DOCKER_MANIFEST
from yukari.names import Digest

CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
).encode()
LAYER = b"weights" * 1000


def descriptor(body: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(body)), "size": len(body)}


MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(CONFIG, "application/vnd.docker.container.image.v1+json"),
        "layers": [descriptor(LAYER, "application/vnd.ollama.image.model")],
    }
).encode()
MODEL = "registry.example/library/m:latest"
BODIES = {Digest.of(body): body for body in (MANIFEST, CONFIG, LAYER)}
PACKED = Packed(MODEL, Digest.of(MANIFEST))


def archive(*models: Packed) -> bytes:
    """An archive of models that all have the same blobs."""
    made = io.BytesIO()
    writer = ArchiveWriter(made)
    blobs = [Descriptor(digest, len(body), "text/plain") for digest, body in BODIES.items()]
    writer.begin([(model, blobs) for model in models or (PACKED,)])
    for digest, body in BODIES.items():
        writer.add(digest, len(body), io.BytesIO(body).read)
    writer.end()
    return made.getvalue()


def tar(*members: tuple[Any, bytes]) -> bytes:
    """A tar of files by name, or of members as they are; with an index where there is none."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:", format=tarfile.PAX_FORMAT) as file:
        for member, body in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(body)
            file.addfile(member, io.BytesIO(body))
    return made.getvalue()


def read(body: bytes) -> tuple[Optional[ArchiveIndex], dict[Digest, bytes]]:
    index, blobs = None, {}
    for found in read_archive(io.BytesIO(body)):
        if isinstance(found, ArchivedBlob):
            blobs[found.digest] = b"".join(found.chunks())
        else:
            index = found
    return index, blobs


INDEX = ("index.json", json.dumps({"manifests": [PACKED.entry(MANIFEST)]}).encode())


class ArchiveTests(SynchronousTestCase):
    def test_what_is_written_is_read(self) -> None:
        models = (PACKED, Packed("other/x:y", None, Digest.of(LAYER)))
        index, blobs = read(archive(*models))
        self.assertEqual(index, ArchiveIndex(models))
        self.assertEqual(blobs, {**blobs, **BODIES})

    def test_archive_of_another_tool_is_read(self) -> None:
        entry = {"digest": str(Digest.of(MANIFEST)), "annotations": {NAME: "m"}}
        index, _ = read(tar(("index.json", json.dumps({"manifests": [entry]}).encode())))
        self.assertEqual(index, ArchiveIndex((Packed("m", Digest.of(MANIFEST)),)))

    def test_shared_blob_is_written_once(self) -> None:
        made = io.BytesIO()
        writer = ArchiveWriter(made)
        writer.begin([])
        for _ in range(2):
            writer.add(Digest.of(LAYER), len(LAYER), io.BytesIO(LAYER).read)
        writer.end()
        with tarfile.open(fileobj=io.BytesIO(made.getvalue())) as file:
            names = file.getnames()
        self.assertEqual(len(names), len(set(names)))

    def test_an_archive_that_is_given_up_is_closed_without_an_error(self) -> None:
        """Catches a traceback of tarfile's below Ctrl-C's one line."""
        made = io.BytesIO()
        writer = ArchiveWriter(made)
        writer.begin([])
        made.close()
        writer.end()

    def test_blob_that_is_another_is_not_written_as_it(self) -> None:
        writer = ArchiveWriter(io.BytesIO())
        writer.begin([])
        with self.assertRaises(BadArchive):
            writer.add(Digest.of(b"x"), 1, io.BytesIO(b"y").read)
        with self.assertRaises(OSError):
            writer.add(Digest.of(b"long"), 4, io.BytesIO(b"lo").read)

    def test_skopeo_reads_it(self) -> None:
        skopeo = shutil.which("skopeo")
        if skopeo is None:
            raise SkipTest("no skopeo here")
        path = self.mktemp()
        other = Packed("registry.example/library/n:latest", Digest.of(MANIFEST))
        for models, name in (((PACKED,), ""), ((other, PACKED), f":{MODEL}")):
            with open(path, "wb") as file:
                file.write(archive(*models))
            asked = subprocess.run(
                [skopeo, "inspect", f"oci-archive:{path}{name}"], capture_output=True
            )
            self.assertEqual(asked.returncode, 0, asked.stderr)
            layers = json.loads(asked.stdout)["Layers"]
            self.assertEqual(layers, list(map(str, BODIES)))


class HostileTests(SynchronousTestCase):
    def test_archives_that_are_none_are_refused(self) -> None:
        digest = f"blobs/sha256/{Digest.of(LAYER).hex}"
        link = tarfile.TarInfo("blobs/sha256/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        hard = tarfile.TarInfo("index.json")
        hard.type, hard.linkname = tarfile.LNKTYPE, "oci-layout"
        device = tarfile.TarInfo("blobs/sha256/null")
        device.type = tarfile.CHRTYPE
        sparse = tarfile.TarInfo(digest)
        sparse.size = 512
        sparse.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": digest,
            "GNU.sparse.realsize": str(2**50),
        }
        for why, body in {
            "traversal": tar(INDEX, ("blobs/sha256/../../../etc/passwd", b"x")),
            "absolute": tar(INDEX, ("/blobs/sha256/x", b"x")),
            "no digest": tar(INDEX, ("blobs/sha256/x", b"x")),
            "another algorithm": tar(INDEX, ("blobs/sha512/" + "0" * 128, b"x")),
            "a symbolic link": tar(INDEX, (link, b"")),
            "a hard link": tar((hard, b"")),
            "a device": tar(INDEX, (device, b"")),
            "a sparse file": tar(INDEX, (sparse, bytes(512))),
            "a blob twice": tar(INDEX, (digest, LAYER), (digest, LAYER)),
            "two indexes": tar(INDEX, INDEX),
            "another blob": tar(INDEX, (digest, LAYER[:-1] + b"x")),
            "no index": tar((digest, LAYER)),
            "an index that is none": tar(("index.json", b"[]")),
            "an index of nonsense": tar(("index.json", b'{"manifests": [{"digest": "x"}]}')),
            "an index too deep": tar(("index.json", b"[" * 200_000)),
            "compressed": b"\x1f\x8b" + bytes(2000),
            "text": b"hello" * 1000,
            "nothing": b"",
        }.items():
            with self.assertRaises(BadArchive, msg=why):
                read(body)

    def test_header_that_wants_much_memory_is_refused_unread(self) -> None:
        huge = tarfile.TarInfo("x")
        huge.type, huge.size = tarfile.XHDTYPE, MAX_EXTENSION + 1
        with self.assertRaisesRegex(BadArchive, "a header of"):
            read(huge.tobuf(tarfile.GNU_FORMAT))

    def test_headers_of_headers_without_end_are_refused(self) -> None:
        one = tarfile.TarInfo("x")
        one.type, one.size = tarfile.GNUTYPE_LONGNAME, 1
        with self.assertRaises(BadArchive):
            read((one.tobuf(tarfile.GNU_FORMAT) + b"n" + bytes(511)) * 5000)

    def test_archive_cut_within_a_blob_is_refused(self) -> None:
        whole = archive()
        start = whole.index(b"weightsweights")
        for cut in range(start, start + len(LAYER), 509):
            with self.assertRaises(BadArchive):
                read(whole[:cut])

    @given(st.data())
    def test_damaged_archive_gives_right_blobs_or_is_refused(self, data: Any) -> None:
        body = bytearray(archive())
        for _ in range(data.draw(st.integers(1, 5))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        try:
            _, blobs = read(bytes(body))
        except BadArchive:
            return
        for digest, found in blobs.items():
            self.assertEqual(Digest.of(found), digest)
