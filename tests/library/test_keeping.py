"""What the log says of manifests that the store does not take."""

from __future__ import annotations

import errno
import json
from collections.abc import Coroutine
from typing import Any, Optional

from attrs import define
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.strategies import result_of
from yukari.library.keeping import MENDED_AFTER, Keeper
from yukari.manifest import Manifest
from yukari.names import DEFAULT, Repository, Tag
from yukari.storage.ports import NoRoom

NAME = Repository(DEFAULT, "library", "m")
LAYER = {"digest": f"sha256:{1:064x}", "size": 5}
MANIFEST = Manifest.parse(json.dumps({"schemaVersion": 2, "layers": [LAYER]}).encode())


@define
class Full:
    """A store that takes no manifest while there is an error."""

    error: Optional[Exception] = None

    async def put_manifest(self, *_: object) -> None:
        if self.error is not None:
            raise self.error


class KeeperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.store = Clock(), Full()
        store: Any = self.store
        self.keeper = Keeper(store, self.clock.seconds)

    def said(self, error: Optional[Exception], times: int = 1) -> list[LogLevel]:
        """The levels of what is logged, but for debugging, if so many manifests are put."""
        self.store.error = error
        with capturedLogs() as events:
            for _ in range(times):
                putting: Coroutine[Any, Any, None] = self.keeper.put(NAME, Tag("t"), MANIFEST)
                result_of(putting)
        return [each["log_level"] for each in events if each["log_level"] is not LogLevel.debug]

    def test_a_full_disk_is_logged_once_and_not_for_each_manifest(self) -> None:
        self.assertEqual(self.said(NoRoom("100 bytes are free"), 3), [LogLevel.error])
        self.assertEqual(self.said(NoRoom("90 bytes are free"), 3), [])

    def test_an_error_keeps_no_manifest_in_memory(self) -> None:
        """On a full disk, large ones that nobody read any more had others refused for a minute."""
        error = NoRoom("100 bytes are free")
        self.said(error)
        trace, kept = error.__traceback__, []
        while trace is not None:
            kept.append(dict(trace.tb_frame.f_locals))
            trace = trace.tb_next
        self.assertEqual(kept[1:], [{}])

    def test_another_reason_is_logged_too(self) -> None:
        self.said(NoRoom("100 bytes are free"))
        read_only = OSError(errno.EROFS, "read-only")
        self.assertEqual(self.said(read_only, 3), [LogLevel.error])
        self.assertEqual(self.said(OSError(errno.EIO, "I/O error")), [LogLevel.error])

    def test_it_is_logged_again_once_it_has_ended_for_a_while(self) -> None:
        full = NoRoom("100 bytes are free")
        self.said(full)
        self.assertEqual(self.said(None), [])
        self.assertEqual(self.said(full), [])
        self.clock.advance(MENDED_AFTER)
        self.assertEqual(self.said(None, 3), [LogLevel.info])
        self.assertEqual(self.said(full, 3), [LogLevel.error])
