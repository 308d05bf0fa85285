"""docs/status.rst has every field of ``/status``, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from attrs import fields
from twisted.logger import Logger

from tests.running import MODEL, Daemon, RunningCase
from tests.s3.daemons import BucketCase
from yukari.library.status import FORMAT
from yukari.storage.inventory import FrontDisk

DOCS = Path(__file__).resolve().parents[3] / "docs"
FRONT = {f"store.front_disk.{each.name}" for each in fields(FrontDisk)}


def paths(found: Any, path: str = "") -> set[str]:
    """Return the paths of all values in a document: ``a.b[].c``, and those of its null objects."""
    if isinstance(found, dict):
        before = f"{path}." if path else ""
        return {each for key, value in found.items() for each in paths(value, before + key)}
    if isinstance(found, list):
        return {each for value in found for each in paths(value, f"{path}[]")}
    return {path}


class StatusCase(RunningCase):
    async def status(self, daemon: Daemon) -> Any:
        reply, body = await self.ask(f"{daemon.url}/status")
        self.assertEqual(reply.status, 200, body)
        return json.loads(body)


class DocumentedTests(StatusCase):
    async def test_the_page_has_every_field_and_no_other(self) -> None:
        text = (DOCS / "status.rst").read_text(encoding="utf-8")
        documented = re.findall(r"^   \* - ``([^`]+)``$", text, re.MULTILINE)
        self.assertEqual(len(documented), len(set(documented)))
        _, daemon = await self.under_way(scrub_period="24h", upstreams="lab=http://127.0.0.1:9/")
        daemon.service.parts.traffic.sent_to("192.0.2.1", 5)
        Logger(namespace="yukari.test").warn("something")
        found = await self.status(daemon)
        (other,) = found.pop("other_upstreams")
        self.assertEqual(set(other), set(found["upstream"]))
        for told in ("fills", "errors", "scrub"):
            self.assertTrue(found[told])
        self.assertTrue(found["traffic"]["clients"] and found["upstream"]["access"])
        # "store" itself can be null, and so can the disk in front of a bucket.
        self.assertEqual(paths(found) | FRONT | {"store", "other_upstreams[]"}, set(documented))

    def test_the_page_names_the_format(self) -> None:
        text = (DOCS / "status.rst").read_text(encoding="utf-8")
        self.assertIn(f"``format``\n     - {FORMAT};", text)


class BucketStatusTests(StatusCase, BucketCase):
    """With a bucket."""

    async def test_the_disk_in_front_and_the_bucket_are_shown_apart(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, spool_max="50MB")
        await self.pull(daemon)
        await daemon.idle()
        await daemon.service.parts.management.index.settled()
        size = sum(size for _, size in upstream.models[MODEL].blobs)
        store = (await self.status(daemon))["store"]
        self.assertEqual({f"store.front_disk.{key}" for key in store["front_disk"]}, FRONT)
        self.assertEqual(store["front_disk"]["kept"], size)
        self.assertEqual(store["front_disk"]["bound"], 50_000_000)
        self.assertLessEqual(store["front_disk"]["free"], 50_000_000 - size)
        self.assertGreaterEqual(store["stored"], size)
        self.assertIsNone(store["free"])
        await daemon.service.parts.management.index.look()
        reply, body = await self.ask(daemon.url, {"Accept": "text/html"})
        self.assertIn(b">Complete<", body)
        self.assertIn(b"The disk in front", body)
        self.assertNotIn(b"Free for more <strong>0 B", body)
