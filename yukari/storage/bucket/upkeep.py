"""
The daemon's care for its bucket: whether it can be used, and what others left in it.

The store's disk is opened before the reactor runs; S3 can be asked only
afterwards.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from yukari.config.proxies import Proxies
from yukari.config.settings import Settings
from yukari.fatal import end
from yukari.large import LargeManifests
from yukari.memory import Memory
from yukari.metrics import Metrics
from yukari.names import spelled
from yukari.net.agent import Connections
from yukari.s3.connect import open_bucket
from yukari.storage.bucket.store import BucketStore
from yukari.storage.ports import StoreUnusable

log = Logger()

REGISTRY_DOCUMENT = "registry.json"
"""The document in a bucket that says of which default registry its models are."""

SWEEP_EVERY = 6 * 3600.0
"""Seconds between two looks for uploads that nobody goes on with."""


def end_running(reactor: Any, message: object) -> None:
    """As `end`, for a reactor that runs: stop everything in order, then exit status 1."""
    try:
        end(message)
    except SystemExit:
        pass
    atexit.register(_exit_in_failure)
    reactor.stop()


def _exit_in_failure() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os._exit(1)


@define(eq=False, repr=False)
class BucketKeeper:
    """Connects the store, sweeps its bucket, closes its connections."""

    store: BucketStore
    _connections: Connections
    _reactor: Any
    _registry: str
    """The host of the default registry."""
    end_running: Callable[[Any, object], None] = end_running
    compared: bool = field(default=False, init=False)
    """Whether the default registry was compared with that of the bucket's models."""
    _task: Optional[Deferred[None]] = field(default=None, init=False)

    def start(self) -> None:
        """Begin; a setting that is plainly wrong ends the daemon."""
        self._task = Deferred.fromCoroutine(self._keep())
        self._task.addErrback(self._ended)

    def _ended(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            log.failure("keeping the bucket", failure)

    async def _keep(self) -> None:
        # Before this the reactor does not run, and must not be stopped.
        await deferLater(self._reactor, 0)
        try:
            await self.store.connect()
        except StoreUnusable as error:
            self.end_running(self._reactor, error)
            return
        try:
            await self._compare_registry()
        except OSError as error:
            log.warn("the bucket's default registry is not known: {error}", error=str(error))
        except CancelledError:
            raise
        except Exception:
            log.failure("comparing the bucket's default registry")
        self.compared = True
        while True:
            try:
                await self.store.sweep()
            except OSError as error:
                log.warn("unfinished uploads were not swept: {error}", error=str(error))
            except CancelledError:
                raise
            except Exception:
                log.failure("sweeping unfinished uploads")
            await deferLater(self._reactor, SWEEP_EVERY * (0.5 + random.random()))

    async def _compare_registry(self) -> None:
        """Log it if the models in the bucket are those of another default registry. `S3Error`."""
        body = json.dumps({"registry": self._registry}).encode()
        found = await self.store.inventory.load(REGISTRY_DOCUMENT)
        if found is None and not await self.store.inventory.save(REGISTRY_DOCUMENT, body, None):
            found = await self.store.inventory.load(REGISTRY_DOCUMENT)  # Another was quicker.
        if found is None:
            return
        try:
            before = str(json.loads(found[0])["registry"])
        except (ValueError, LookupError, TypeError):
            before = "something else"
        if spelled(before) != spelled(self._registry):
            log.error(
                "{store} has the models of {before}, and UPSTREAM_REGISTRY here is {now}: the same"
                " names mean other models. Use another bucket, or name {now} in UPSTREAMS",
                store=self.store.describe(),
                before=before[:100],
                now=self._registry,
            )

    async def stop(self) -> None:
        """End the work and close the connections."""
        if self._task is not None:
            self._task.cancel()
        await self._connections.close()


def open_bucket_store(
    reactor: Any,
    settings: Settings,
    environment: Mapping[str, str],
    in_thread: Callable[..., Deferred[Any]],
    metrics: Metrics,
    proxies: Proxies,
    large: LargeManifests,
    memory: Memory,
) -> BucketKeeper:
    """Return the keeper of the store that the settings name; ValueError with a line of text."""
    opened = open_bucket(
        reactor,
        settings.tigris_bucket,
        environment,
        in_thread,
        connections=settings.upstream_connections.in_all,
        presign_endpoint=settings.presign_endpoint,
        metrics=metrics,
        proxies=proxies,
    )
    assert settings.spool_dir is not None
    store = BucketStore(
        client=opened.client,
        spool_dir=settings.spool_dir,
        in_thread=in_thread,
        clock=reactor,
        seen=opened.seen,
        min_free=settings.min_free,
        spool_max=settings.spool_max,
        line=opened.line,
        large=large,
        memory=memory,
    )
    return BucketKeeper(store, opened.connections, reactor, settings.registries[0].host)
