"""Disks that are full, and stored files that somebody else has touched: clients get right bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define
from twisted.internet.defer import gatherResults
from twisted.logger import LogEvent, capturedLogs, formatEvent

from tests.clients import ClientError
from tests.emulator import Emulator, Fault
from tests.running import (
    GENERATIONS,
    MODEL,
    SMALL16,
    SMALL_TRANSFER,
    Daemon,
    Hurried,
    RunningCase,
    stored_at,
    until,
)
from tests.storage.memory import MemoryStore
from yukari.daemon.service import YukariService
from yukari.fills import fill
from yukari.sending import sendfile
from yukari.storage.disk.files import FileBlob
from yukari.storage.disk.spool import SpoolFile
from yukari.storage.opening import Opened

PROBE = 64 * 1024
"""What a client that drops its un-ranged GET at once may cost where nothing can be stored."""


@define(eq=False)
class InMemory(YukariService):
    """A daemon whose store is in memory, with room for half a megabyte."""

    open_store: Callable[..., Opened] = lambda *_: (MemoryStore(capacity=500_000), None)


def said(events: Sequence[LogEvent], level: str) -> list[str]:
    """What Yukari logged at a level."""
    ours = [each for each in events if str(each["log_namespace"]).startswith("yukari")]
    return [str(formatEvent(each)) for each in ours if each["log_level"].name == level]


class NoRoomTests(RunningCase):
    """Nothing can be stored: blobs are relayed."""

    async def full(self, **settings: Any) -> tuple[Emulator, Daemon]:
        """A daemon that is to keep all of the disk free."""
        upstream = await self.upstream(f"{MODEL}=1500KB,3000,10", **settings)
        return upstream, await self.daemon(upstream, min_free="100%")

    async def test_clients_of_every_generation_get_it_all(self) -> None:
        for generation in GENERATIONS:
            upstream, daemon = await self.full()
            pulled = await self.pull(daemon, MODEL, generation)
            self.assert_whole(pulled, upstream.models[MODEL])
            blobs = os.listdir(os.path.dirname(stored_at(daemon, "")))
            self.assertEqual(blobs, [])

    async def test_a_classic_pull_costs_each_byte_once_and_a_little_for_each_probe(self) -> None:
        upstream, daemon = await self.full(line=3_000_000)
        pulled = await self.pull(daemon)
        model = upstream.models[MODEL]
        self.assert_whole(pulled, model)
        self.assertLessEqual(upstream.counters.sent, model.size + len(model.blobs) * 2 * PROBE)

    async def test_a_part_is_relayed_as_that_part(self) -> None:
        upstream, daemon = await self.full()
        model = upstream.models[MODEL]
        digest, size = model.layers[0]
        url = f"{daemon.url}/v2/library/m/blobs/{digest}"
        for asked, (start, end) in (
            ("bytes=1000000-1000099", (1_000_000, 1_000_100)),
            ("bytes=-5", (size - 5, size)),
        ):
            reply, body = await self.ask(url, {"Range": asked})
            self.assertEqual((reply.status, body), (206, model.read(digest, start, end)))
        reply, body = await self.ask(url)
        self.assertEqual((reply.status, body == model.read(digest)), (200, True))

    async def test_an_upstream_that_ignores_range_is_relayed_too(self) -> None:
        upstream, daemon = await self.full(ignore_range=True)
        model = upstream.models[MODEL]
        digest, _ = model.layers[0]
        url = f"{daemon.url}/v2/library/m/blobs/{digest}"
        reply, body = await self.ask(url, {"Range": "bytes=1000000-1000099"})
        self.assertEqual((reply.status, body), (206, model.read(digest, 1_000_000, 1_000_100)))
        self.assert_whole(await self.pull(daemon, MODEL, SMALL_TRANSFER), model)

    async def test_a_relay_goes_on_where_upstream_broke_off(self) -> None:
        upstream, daemon = await self.full()
        model = upstream.models[MODEL]
        digest, _ = model.layers[0]
        cut = upstream.faults.add(Fault("store GET", "cut", after=40_000, times=5))
        reply, body = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}")
        self.assertEqual((reply.status, body == model.read(digest)), (200, True))
        self.assertEqual(cut.happened, 5)
        upstream.expire_urls()
        self.assert_whole(await self.pull(daemon), model)

    async def test_a_herd_shares_what_comes_and_the_connections(self) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB", line=20_000_000)
        daemon = await self.daemon(upstream, min_free="100%", upstream_connections="8/16")
        model = upstream.models[MODEL]
        generation = SMALL16.scaled(part_min=1_000_000)
        herd = [self.begin(self.pull(daemon, MODEL, generation)) for _ in range(20)]
        for pulled in await gatherResults(herd):
            self.assert_whole(pulled, model)
        self.assertLessEqual(upstream.counters.blob_requests_peak, 16)
        self.assertLessEqual(upstream.counters.sent, 2 * model.size)

    async def test_it_is_said_once_for_each_blob_and_plainly(self) -> None:
        with capturedLogs() as events:
            upstream, daemon = await self.full()
            await self.pull(daemon)
        warned = [line for line in said(events, "warn") if "cannot be stored" in line]
        for digest, _ in upstream.models[MODEL].blobs:
            (line,) = (line for line in warned if digest in line)
            self.assertIn("no room for", line)

    async def test_where_small_blobs_fit_they_are_stored(self) -> None:
        upstream = await self.upstream(f"{MODEL}=1500KB,3000,10")
        daemon = await self.daemon(upstream, service=InMemory)
        model = upstream.models[MODEL]
        large, *small = (digest for digest, _ in model.blobs)
        for generation in GENERATIONS:
            self.assert_whole(await self.pull(daemon, MODEL, generation), model)
        for digest in small:
            self.assertEqual(upstream.counters.sent_by_digest[digest], dict(model.blobs)[digest])
        self.assertGreater(upstream.counters.sent_by_digest[large], dict(model.blobs)[large])


class DiskFullTests(RunningCase):
    """The disk runs full, or breaks, in the middle of a fill."""

    async def filling(self, error: int) -> tuple[Emulator, Daemon, list[OSError]]:
        """An upstream, a daemon whose disk takes 500 kB, and the errors that are still to come."""
        upstream = await self.upstream(f"{MODEL}=1500KB", line=6_000_000)
        taken, failing = 0, [OSError(error, os.strerror(error))]
        write = SpoolFile.write

        def limited(spool: SpoolFile, pieces: Sequence[tuple[int, Sequence[bytes]]]) -> None:
            nonlocal taken
            taken += sum(len(buffer) for _, buffers in pieces for buffer in buffers)
            if failing and taken > 500_000:
                raise failing[0]
            write(spool, pieces)

        self.patch(SpoolFile, "write", limited)
        return upstream, await self.daemon(upstream), failing

    async def test_clients_of_every_generation_get_it_all(self) -> None:
        for generation in GENERATIONS:
            upstream, daemon, _ = await self.filling(errno.ENOSPC)
            pulled = await self.pull(daemon, MODEL, generation)
            self.assert_whole(pulled, upstream.models[MODEL])

    async def test_a_reader_of_the_whole_goes_on_where_it_stood(self) -> None:
        upstream, daemon, _ = await self.filling(errno.EIO)
        model = upstream.models[MODEL]
        digest, size = model.layers[0]
        with capturedLogs() as events:
            _, body = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}")
        self.assertEqual(body == model.read(digest), True)
        self.assertLessEqual(upstream.counters.sent, 2.5 * size)
        self.assertIn("cannot be stored", " ".join(said(events, "error")))

    async def test_it_is_stored_once_there_is_room_again(self) -> None:
        self.patch(fill, "DISK_RESTS", 0.0)
        upstream, daemon, failing = await self.filling(errno.ENOSPC)
        model = upstream.models[MODEL]
        await self.pull(daemon)
        failing.clear()
        upstream.settings.line = None
        self.assert_whole(await self.pull(daemon), model)
        await daemon.idle()
        self.assert_stored(daemon, model)

    async def test_a_disk_that_has_room_again_is_noticed_without_being_asked(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000")
        failing = [OSError(errno.ENOSPC, "No space left on device")]
        write = SpoolFile.write

        def limited(spool: SpoolFile, pieces: Sequence[tuple[int, Sequence[bytes]]]) -> None:
            if failing:
                raise failing.pop()
            write(spool, pieces)

        self.patch(SpoolFile, "write", limited)
        daemon = await self.daemon(upstream, clock=Hurried(300))
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        await daemon.idle()
        self.assert_stored(daemon, upstream.models[MODEL])


class DamageTests(RunningCase):
    """Stored blobs that somebody else has removed or cut."""

    async def stored(self, model: str = f"{MODEL}=400KB,3000") -> tuple[Emulator, Daemon, str]:
        """A stored model, and the path of its first layer."""
        upstream = await self.upstream(model)
        daemon = await self.daemon(upstream)
        await self.pull(daemon)
        await daemon.idle()
        # The pull's last request may have opened a blob again, which stays open for a moment.
        daemon.service.parts.library.blobs.invalidate()
        upstream.counters.clear()
        return upstream, daemon, stored_at(daemon, upstream.models[MODEL].layers[0][0])

    async def assert_repaired(self, upstream: Emulator, daemon: Daemon) -> None:
        """The next pull is right, and has cost the first layer."""
        model = upstream.models[MODEL]
        self.assert_whole(await self.pull(daemon), model)
        await daemon.idle()
        self.assert_stored(daemon, model)
        self.assertEqual(dict(upstream.counters.sent_by_digest), dict(model.layers[:1]))

    async def test_one_that_vanished_is_fetched_again(self) -> None:
        upstream, daemon, path = await self.stored()
        os.unlink(path)
        await self.assert_repaired(upstream, daemon)

    async def test_one_that_was_cut_is_fetched_again(self) -> None:
        upstream, daemon, path = await self.stored()
        os.truncate(path, 1000)
        await self.assert_repaired(upstream, daemon)

    async def test_one_that_was_cut_before_the_start_is_fetched_again(self) -> None:
        upstream, daemon, path = await self.stored()
        await daemon.stop()
        os.truncate(path, 0)
        await self.assert_repaired(upstream, await self.restarted(daemon, upstream))

    async def test_one_that_the_disk_cannot_open_is_fetched_again_and_replaced(self) -> None:
        """One bad sector failed every pull until somebody removed the file."""
        for number in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES):
            upstream, daemon, path = await self.stored()
            bad, at = os.stat(path).st_ino, FileBlob.at

            def broken(asked: str, bad: int = bad, number: int = number, at: Any = at) -> FileBlob:
                if os.path.exists(asked) and os.stat(asked).st_ino == bad:
                    raise OSError(number, os.strerror(number), asked)
                return at(asked)

            self.patch(FileBlob, "at", broken)
            await self.assert_repaired(upstream, daemon)
            self.assertNotEqual(os.stat(path).st_ino, bad)
            self.patch(FileBlob, "at", at)

    async def test_one_that_the_disk_cannot_read_is_fetched_again_and_replaced(self) -> None:
        # Of this size no part is little, and read without waiting for the disk.
        upstream, daemon, path = await self.stored(f"{MODEL}=2MB,3000")
        bad = os.stat(path).st_ino

        def read(readable: Any, *_: int) -> None:
            if os.fstat(readable.fileno()).st_ino == bad:
                raise OSError(errno.EIO, "Input/output error")

        self.patch(sendfile, "in_memory", lambda *_: False)
        self.patch(sendfile, "read_ahead", read)
        await self.assert_repaired(upstream, daemon)
        self.assertNotEqual(os.stat(path).st_ino, bad)

    async def test_a_manifest_that_the_disk_cannot_read_is_had_from_upstream(self) -> None:
        upstream, daemon, _ = await self.stored()
        url = f"{daemon.url}/v2/library/m/manifests/latest"
        for number, status in ((errno.EMFILE, 503), (errno.ESTALE, 200), (errno.EIO, 200)):

            async def broken(*_: object, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            self.patch(daemon.library.store, "get_manifest", broken)
            self.assertEqual((await self.ask(url))[0].status, status, number)
        await upstream.down()
        reply, body = await self.ask(url)
        self.assertEqual(reply.status, 503)
        self.assertIn(b"cannot read its store: Input/output error", body)

    async def test_one_that_was_cut_is_fetched_once_for_a_herd(self) -> None:
        upstream, daemon, path = await self.stored()
        os.truncate(path, 1000)
        herd = [
            self.begin(self.pull(daemon, MODEL, GENERATIONS[at % len(GENERATIONS)]))
            for at in range(12)
        ]
        for pulled in await gatherResults(herd):
            self.assert_whole(pulled, upstream.models[MODEL])
        await self.assert_repaired(upstream, daemon)

    async def test_one_that_vanished_while_upstream_is_gone_is_an_error_that_says_so(self) -> None:
        upstream, daemon, path = await self.stored()
        os.unlink(path)
        await upstream.down()
        again = await self.restarted(daemon, upstream, clock=Hurried(20))
        digest, size = upstream.models[MODEL].layers[0]
        await self.ask(f"{again.url}/v2/library/m/manifests/latest")
        url = f"{again.url}/v2/library/m/blobs/{digest}"
        self.assertEqual((await self.ask(url, method="HEAD"))[0].length, size)
        reply, body = await self.ask(url)
        self.assertEqual(reply.status, 502)
        self.assertIn(b"connection refused", body)

    async def test_one_that_is_cut_while_it_is_read_is_never_called_whole(self) -> None:
        upstream, daemon, path = await self.stored(f"{MODEL}=30MB")
        model = upstream.models[MODEL]
        digest, size = model.layers[0]
        reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/blobs/{digest}", {})
        self.assertEqual(reply.length, size)
        with capturedLogs() as events:
            os.truncate(path, 1000)
            with self.assertRaises(ClientError):
                await reply.body()
            await until(lambda: said(events, "error"))
        self.assertLess(reply.read, size)
        await self.assert_repaired(upstream, daemon)

    async def test_one_that_is_removed_while_it_is_read_is_read_to_its_end(self) -> None:
        upstream, daemon, path = await self.stored(f"{MODEL}=30MB")
        model = upstream.models[MODEL]
        digest, _ = model.layers[0]
        reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/blobs/{digest}", {})
        os.unlink(path)
        self.assertEqual(await reply.body() == model.read(digest), True)
