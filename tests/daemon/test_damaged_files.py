"""
Whatever has become of a file of ours, the daemon starts, serves what is stored and stores more.
"""

from __future__ import annotations

import os
import shutil

from tests.emulator import Emulator
from tests.running import MODEL, Daemon, RunningCase
from yukari.names import Digest
from yukari.spans import SpanSet
from yukari.storage.disk.sidecar import encode

OTHER = "library/other:latest"
ABSENT = Digest("a" * 64)

GARBAGE = {
    "nothing": b"",
    "zeros": bytes(5000),
    "no text": b"\xff\xfe\x00\x80" * 500,
    "JSON of another kind": b'[{"version": 1}]\n',
    "deep JSON": b"[" * 100_000,
}


def covered_of_nobody() -> bytes:
    """A sidecar with bytes that came, and no repository to fetch the rest from."""
    cover = SpanSet()
    cover.add(0, 1000)
    return encode(ABSENT, 5000, (), cover)


class DamagedFilesTests(RunningCase):
    async def pulled(self) -> tuple[Emulator, Daemon]:
        upstream = await self.upstream(f"{MODEL}=400KB,3000,10", f"{OTHER}=200KB")
        daemon = await self.daemon(upstream)
        await self.pull(daemon)
        await daemon.idle()
        return upstream, daemon

    async def goes_on(self, upstream: Emulator, daemon: Daemon, what: str) -> Daemon:
        """It starts on what is there, and clients notice nothing."""
        restarted = await self.restarted(daemon, upstream)
        for model in (MODEL, OTHER):
            pulled = await self.pull(restarted, model)
            self.assert_whole(pulled, upstream.models[model])
        await restarted.idle()
        for model in (MODEL, OTHER):
            self.assert_stored(restarted, upstream.models[model])
        errors = self.flushLoggedErrors()
        self.assertEqual(errors, [], what)
        return restarted

    def own(self, daemon: Daemon, *names: str) -> str:
        return os.path.join(daemon.service._settings.storage, "yukari", *names)

    def put(self, path: str, body: bytes) -> None:
        if os.path.isdir(path):
            shutil.rmtree(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(body)

    async def test_garbage_in_the_place_of_every_file_of_ours(self) -> None:
        upstream, daemon = await self.pulled()
        await daemon.stop()
        files = [
            "catalog.sqlite3",
            "catalog.sqlite3-wal",
            "lock",
            "marks.json",
            f"spool/{ABSENT.file_name}.cover",
            f"spool/{ABSENT.file_name}.spool",
            f"damaged/{ABSENT.file_name}",
            "manifests/library/m/latest",
            "tmp/1-1",
            "spool/yukari-spool.lock",
        ]
        for name in files:
            for what, body in GARBAGE.items():
                self.put(self.own(daemon, name), body)
                daemon = await self.goes_on(upstream, daemon, f"{name}: {what}")
                await daemon.stop()
                shutil.rmtree(self.own(daemon, "spool"))

    async def test_directory_in_the_place_of_a_file(self) -> None:
        upstream, daemon = await self.pulled()
        await daemon.stop()
        for name in (
            f"spool/{ABSENT.file_name}.cover",
            f"spool/{ABSENT.file_name}.spool",
            "tmp/1-1",
            "damaged",
        ):
            os.makedirs(self.own(daemon, name))
            daemon = await self.goes_on(upstream, daemon, name)
            await daemon.stop()

    async def test_whatever_is_in_the_way_of_ours_is_set_aside(self) -> None:
        upstream, daemon = await self.pulled()
        await daemon.stop()
        for name in ("lock", "tmp", "spool"):
            path = self.own(daemon, name)
            shutil.rmtree(path, ignore_errors=True)
            if os.path.exists(path):
                os.unlink(path)
        os.mkdir(self.own(daemon, "lock"))
        os.symlink("tmp", self.own(daemon, "tmp"))
        self.put(self.own(daemon, "spool"), b"no directory")
        await self.goes_on(upstream, daemon, "in the way")
        kept = {"lock.bad1", "tmp.bad1", "spool.bad1"}
        self.assertTrue(kept <= set(os.listdir(self.own(daemon))))

    async def test_spool_without_a_repository_is_no_end(self) -> None:
        upstream, daemon = await self.pulled()
        await daemon.stop()
        base = self.own(daemon, "spool", ABSENT.file_name)
        self.put(f"{base}.spool", bytes(5000))
        self.put(f"{base}.cover", covered_of_nobody())
        await self.goes_on(upstream, daemon, "no repository")

    async def test_spool_of_a_blob_that_is_stored(self) -> None:
        upstream, daemon = await self.pulled()
        digest, size = upstream.models[MODEL].layers[0]
        await daemon.stop()
        base = self.own(daemon, "spool", Digest.parse(digest).file_name)
        self.put(f"{base}.spool", bytes(size))
        self.put(f"{base}.cover", encode(Digest.parse(digest), size, (), SpanSet()))
        await self.goes_on(upstream, daemon, "stored already")
