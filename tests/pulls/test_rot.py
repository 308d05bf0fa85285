"""Stored blobs whose bytes change on the disk: they are found, and fetched again if they can be."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from twisted.logger import LogEvent, capturedLogs, formatEvent

from tests.emulator import Emulator, Fault, Model
from tests.running import MODEL, Daemon, Hurried, RunningCase, stored_at, until
from yukari.library.upkeep.scrubbing import Scrubber
from yukari.names import Digest, Repository
from yukari.storage.readable import FoundWrong, StoredBlob

MONTH = {"scrub_period": "720h"}


def rot(path: str, at: int) -> None:
    """Change a byte of a file, and nothing that a look at its name would show."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def errors_in(events: Sequence[LogEvent]) -> list[str]:
    return [str(formatEvent(each)) for each in events if each["log_level"].name == "error"]


class RotTests(RunningCase):
    async def pulled(self, **flags: Any) -> tuple[Emulator, Daemon, Model]:
        """A stored model of a large, a small and a tiny blob."""
        upstream = await self.upstream(f"{MODEL}=400KB,3000,10")
        daemon = await self.daemon(upstream, **MONTH, **flags)
        await self.pull(daemon)
        await daemon.idle()
        await daemon.service.parts.management.index.settled()
        upstream.counters.clear()
        return upstream, daemon, upstream.models[MODEL]

    def scrubber(self, daemon: Daemon) -> Scrubber:
        (scrubber,) = daemon.service.parts.management.scrubbers
        return scrubber

    async def scrub(self, daemon: Daemon, digest: str) -> list[str]:
        """Read a blob again; return the errors in the log."""
        with capturedLogs() as logs:
            await self.scrubber(daemon).scrub(Digest.parse(digest))
        return errors_in(logs)

    def aside(self, daemon: Daemon) -> list[str]:
        """What is kept of wrong blobs."""
        directory = os.path.join(daemon.service._settings.storage, "yukari", "damaged")
        return os.listdir(directory) if os.path.isdir(directory) else []

    async def test_wrong_byte_anywhere_is_found_and_the_blob_fetched_again(self) -> None:
        upstream, daemon, model = await self.pulled()
        for digest, size in model.blobs:
            for at in {0, size // 2, size - 1}:
                rot(stored_at(daemon, digest), at)
                (said,) = await self.scrub(daemon, digest)
                self.assertIn("the disk had sha256:", said)
                self.assertIn("it is fetched again", said)
                await daemon.idle()
        self.assert_stored(daemon, model)
        self.assertEqual(self.aside(daemon), [])
        self.assert_whole(await self.pull(daemon), model)
        damaged = self.scrubber(daemon).status().damaged
        self.assertIn(
            f'yukari_damaged_blobs_total{{place="disk"}} {damaged}.0'.encode(),
            daemon.service.parts.metrics.text(),
        )

    async def test_replies_in_progress_are_cut_when_their_blob_is_found_wrong(self) -> None:
        """Their clients took wrong bytes for a whole reply; a part of a blob has no digest."""
        _, daemon, model = await self.pulled()
        (wrong, size), (right, _) = model.layers[:2]
        name = Repository.parse("library/m")
        replies = []
        for each in (wrong, right):
            found = await daemon.library.blob(name, Digest.parse(each))
            assert isinstance(found, StoredBlob)
            self.addCleanup(found.close)
            replies.append(found)
        rot(stored_at(daemon, wrong), 5)
        await self.scrub(daemon, wrong)
        cut, other = replies
        self.assertEqual(cut.available(1), 1)
        with self.assertRaises(FoundWrong):
            await cut.wait(1)
        self.assertEqual(other.available(1), other.size)
        await daemon.idle()
        again = await daemon.library.blob(name, Digest.parse(wrong))
        self.addCleanup(again.close)  # type: ignore[union-attr]
        self.assertEqual(again.available(1), size)  # type: ignore[union-attr]

    async def test_right_blobs_stay_and_cost_upstream_nothing(self) -> None:
        upstream, daemon, model = await self.pulled()
        for digest, _ in model.blobs:
            self.assertEqual(await self.scrub(daemon, digest), [])
        self.assert_stored(daemon, model)
        self.assertEqual(sum(upstream.counters.requests.values()), 0)

    async def test_blob_is_served_no_more_if_upstream_is_gone(self) -> None:
        for flags in ({}, {"offline": True}):
            upstream, daemon, model = await self.pulled()
            daemon = await self.restarted(daemon, upstream, clock=Hurried(20), **MONTH, **flags)
            await upstream.down()
            digest, size = model.layers[0]
            url = f"{daemon.url}/v2/library/m/blobs/{digest}"
            self.assertEqual((await self.ask(url, method="HEAD"))[0].status, 200)
            rot(stored_at(daemon, digest), 1000)
            (said,) = await self.scrub(daemon, digest)
            self.assertIn("it is served no more", said)
            self.assertEqual(self.aside(daemon), [Digest.parse(digest).file_name])
            for headers in ({}, {"Range": "bytes=0-9"}):
                reply, body = await self.ask(url, headers)
                self.assertGreaterEqual(reply.status, 400)
            # Once upstream is back, a pull brings the right one, and nothing is kept any more.
            upstream.up()
            await daemon.stop()

    async def test_what_was_set_aside_goes_once_the_blob_is_stored_again(self) -> None:
        upstream, daemon, model = await self.pulled()
        digest, _ = model.layers[0]
        fault = upstream.faults.add(Fault("blob", "error", status=500))
        rot(stored_at(daemon, digest), 1000)
        (said,) = await self.scrub(daemon, digest)
        self.assertIn("kept in", said)
        self.assertEqual(len(self.aside(daemon)), 1)
        upstream.faults.remove(fault)
        self.assert_whole(await self.pull(daemon), model)
        await daemon.idle()
        self.assert_stored(daemon, model)
        await until(lambda: self.aside(daemon) == [])

    async def test_manifest_is_stored_again_by_its_digest_from_its_tag(self) -> None:
        upstream, daemon, model = await self.pulled()
        await upstream.down()
        digest = str(Digest.of(model.manifest_bytes))
        path = stored_at(daemon, digest)
        os.unlink(path)  # It may be a link to the tag's file.
        with open(path, "wb") as file:
            file.write(model.manifest_bytes)
        rot(path, 5)
        (said,) = await self.scrub(daemon, digest)
        self.assertIn("stored again from its tag", said)
        reply, body = await self.ask(f"{daemon.url}/v2/library/m/manifests/{digest}")
        self.assertEqual((reply.status, body), (200, model.manifest_bytes))

    async def test_blob_that_was_replaced_meanwhile_stays(self) -> None:
        """The right one must not go for the wrong one that was read."""
        _, daemon, model = await self.pulled()
        digest, _ = model.layers[0]
        path = stored_at(daemon, digest)
        with open(path, "rb") as file:
            right = file.read()
        rot(path, 7)
        copy = await self.scrubber(daemon).copies.open(Digest.parse(digest))
        assert copy is not None
        with open(f"{path}.new", "wb") as file:
            file.write(right)
        os.rename(f"{path}.new", path)
        self.assertIsNone(await copy.set_aside())
        copy.close()
        self.assert_stored(daemon, model)

    async def test_models_that_were_copied_in_are_the_first_to_be_read(self) -> None:
        upstream, daemon, model = await self.pulled()
        await daemon.stop()
        storage = daemon.service._settings.storage
        os.unlink(os.path.join(storage, "yukari", "catalog.sqlite3"))
        daemon = await self.daemon(upstream, storage=storage, **MONTH)
        await until(lambda: daemon.service.parts.management.index.looked)
        upstream.models["library/n:latest"] = upstream.models[MODEL]
        scrubber = self.scrubber(daemon)
        seen = set()
        for _ in range(len(model.blobs)):
            digest = await scrubber._next()
            assert digest is not None
            seen.add(digest)
            await scrubber.scrub(digest)
        self.assertEqual(len(seen), len(model.blobs))

    async def test_status_tells_what_was_read_and_found(self) -> None:
        _, daemon, model = await self.pulled()
        digest, size = model.layers[0]
        rot(stored_at(daemon, digest), 7)
        await self.scrub(daemon, digest)
        await daemon.idle()
        reply, body = await self.ask(f"{daemon.url}/status")
        (status,) = json.loads(body)["scrub"]
        # A wrong blob is read twice before it is called so.
        self.assertEqual((status["place"], status["read"]), ("disk", 2 * size))
        self.assertEqual((status["period"], status["damaged"]), (720 * 3600, 1))
        self.assertIn("it is fetched again", json.loads(body)["errors"][0]["text"])
