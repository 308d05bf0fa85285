"""Importing into a store that no daemon has open."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from yukari.cli.client import CacheError
from yukari.cli.output import complain
from yukari.config.proxies import Proxies
from yukari.config.registry_names import RegistryNames
from yukari.config.settings import SettingError, Settings
from yukari.large import LargeManifests
from yukari.library.models.archive import Archived, BadArchive
from yukari.library.models.importing import Importer
from yukari.library.models.shown_names import ShownNames
from yukari.memory import Memory
from yukari.metrics import Metrics
from yukari.storage.disk.store import DirectoryStore
from yukari.storage.opening import open_store
from yukari.storage.ports import NoRoom, StoreUnusable
from yukari.threads import DISK_THREADS, Threads

CHECKED_WITHIN = 30.0
"""Seconds within which a bucket must answer before anything is imported into it."""


def import_without_daemon(
    flags: Mapping[str, object], archive: Iterator[Archived], progress: Callable[[int], None]
) -> dict[str, Any]:
    """
    Import an archive into the store that ``flags`` name; return what the daemon would answer.

    ``progress`` is told of the bytes that were read, from any thread. `CacheError`.
    """
    try:
        settings = Settings.read(flags, os.environ)
    except SettingError as error:
        raise CacheError(str(error)) from None
    results: list[Any] = []

    async def main(reactor: Any) -> None:
        # By then the reactor has set its own signal handlers, which these replace.
        reactor.callLater(0, _end_when_interrupted)
        try:
            results.append(await _import(reactor, settings, archive, progress))
        except TimeoutError:
            results.append(CacheError(f"the store does not answer in {CHECKED_WITHIN:g} s"))
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


def _end_when_interrupted() -> None:
    """
    End at once on Ctrl-C and SIGTERM.

    Otherwise the reactor would wait for the importing thread, which may wait for its input or S3.
    """

    def end(number: int, _: object) -> None:
        complain("interrupted: import again, blobs that are stored are skipped")
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


async def _import(
    reactor: Any,
    settings: Settings,
    archive: Iterator[Archived],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    threads = Threads(reactor, "disk", DISK_THREADS)
    threads.start()
    try:
        proxies, large = Proxies.read(os.environ), LargeManifests()
        store, _ = open_store(
            reactor, settings, os.environ, threads, Metrics(), proxies, large, Memory()
        )
        await store.start()
        try:
            # Without this check the import would wait forever for a bucket that does not answer.
            await Deferred.fromCoroutine(store.check()).addTimeout(CHECKED_WITHIN, reactor)
            names = ShownNames(RegistryNames.of(settings.registries))
            link = store.inventory.link if isinstance(store, DirectoryStore) else None
            importer = Importer(store, names, reactor, link=link, progress=progress)
            await deferToThread(importer.take, archive)
        finally:
            await store.stop()
    finally:
        threads.stop()
    return {
        "models": importer.models,
        "written": importer.written,
        "skipped": importer.skipped,
    }
