"""Imports into a store that no daemon has open."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.storage.memory import MemoryStore
from yukari.cli import direct
from yukari.config.settings import Settings
from yukari.library.models.archive import ArchiveIndex


class Silent(MemoryStore):
    """A store whose bucket does not answer."""

    async def check(self) -> None:
        raise OSError("S3: connection refused")


class UnreachableStoreTests(TestCase):
    async def test_nothing_is_imported_into_a_store_that_does_not_answer(self) -> None:
        """The import waited for the bucket, as a daemon does, but forever and without a word."""
        read: list[None] = []

        def archive() -> Iterator[ArchiveIndex]:
            read.append(None)
            yield ArchiveIndex(())

        self.patch(direct, "open_store", lambda *_: (Silent(), None))
        settings = Settings.read({"storage": self.mktemp()}, {})
        try:
            await direct._import(reactor, settings, archive(), lambda _: None)
        except OSError as error:
            self.assertEqual((str(error), read), ("S3: connection refused", []))
        else:
            self.fail("it was imported")


class InterruptTests(SynchronousTestCase):
    def test_an_import_ends_at_once(self) -> None:
        """The reactor stopped, and then waited for the thread that waited for its input."""
        handlers: dict[int, Any] = {}
        ended: list[int] = []
        self.patch(signal, "signal", handlers.__setitem__)
        self.patch(os, "_exit", ended.append)
        direct._end_when_interrupted()
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number](number, None)
        self.assertEqual(ended, [130, 143])
