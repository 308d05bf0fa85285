"""Importing into a store that no daemon has open."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from yukari.cli.client import CacheError
from yukari.config.proxies import Proxies
from yukari.config.registry_names import RegistryNames
from yukari.config.settings import SettingError, Settings
from yukari.large import LargeManifests
from yukari.library.models.archive import BadArchive
from yukari.library.models.importing import Found, Importer
from yukari.library.models.shown_names import ShownNames
from yukari.metrics import Metrics
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.opening import open_store
from yukari.storage.ports import NoRoom, StoreUnusable
from yukari.threads import DISK_THREADS, Threads


@define(eq=False)
class DirectImport:
    """Imports an archive into the store that settings name; `run` says what came of it."""

    _settings: Settings
    _archive: Iterator[Found]
    _progress: Any

    @classmethod
    def of(
        cls, flags: Mapping[str, object], archive: Iterator[Found], progress: Any
    ) -> DirectImport:
        """`CacheError` if a setting is wrong."""
        try:
            return cls(Settings.read(flags, os.environ), archive, progress)
        except SettingError as error:
            raise CacheError(str(error)) from None

    def run(self) -> dict[str, Any]:
        """Import it; return what the daemon would answer. `CacheError`."""
        results: list[Any] = []

        async def main(reactor: Any) -> None:
            try:
                results.append(await self._import(reactor))
            except (StoreUnusable, BadArchive, NoRoom, OSError, ValueError) as error:
                results.append(CacheError(str(error)))

        try:
            react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
        except SystemExit as ended:
            if ended.code:
                raise
        if isinstance(results[0], CacheError):
            raise results[0]
        found: dict[str, Any] = results[0]
        return found

    async def _import(self, reactor: Any) -> dict[str, Any]:
        threads = Threads(reactor, "disk", DISK_THREADS)
        threads.start()
        try:
            proxies = Proxies.read(os.environ)
            store, _ = open_store(
                reactor,
                self._settings,
                os.environ,
                threads,
                Metrics(),
                proxies,
                LargeManifests(),
            )
            await store.start()
            try:
                names = ShownNames(RegistryNames.of(self._settings.registries))
                link = store.inventory.link if isinstance(store, DirectoryStore) else None
                importer = Importer(store, names, reactor, link=link)
                importer.progress = self._progress
                await deferToThread(importer.take, self._archive)
            finally:
                await store.stop()
        finally:
            threads.stop()
        return {
            "models": importer.models,
            "written": importer.written,
            "skipped": importer.skipped,
        }
