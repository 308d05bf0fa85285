"""Putting manifests into the store if it takes them; their clients get them all the same."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from traceback import clear_frames
from typing import Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.manifest import AnyManifest, Variant
from yukari.names import Reference, Repository
from yukari.storage.ports import NoRoom, Store

log = Logger()

MENDED_AFTER = 60.0
"""
Seconds without a failure after which a manifest that is stored shows that the cause has ended: on a
full disk some are small enough now and then.
"""


@define(eq=False, repr=False)
class Keeper:
    """Puts manifests; a failure is logged once, until it has ended or its reason is another."""

    _store: Store
    _now: Callable[[], float]
    _said: Optional[tuple[type[Exception], Optional[int]]] = field(default=None, init=False)
    """The reason that was logged: the kind of error, and its number if it has one."""
    _failed_at: float = field(default=-inf, init=False)

    async def put(
        self,
        name: Repository,
        reference: Reference,
        manifest: AnyManifest,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        """Store what upstream has just sent, if the store takes it."""
        now = self._now()
        try:
            await self._store.put_manifest(name, reference, manifest, now, variant)
        except (OSError, NoRoom) as error:
            # Failures of threads are in a cycle with these. They would keep the manifest, until
            # garbage is collected, and have no room for others.
            clear_frames(error.__traceback__)
            reason = type(error), getattr(error, "errno", None)
            say = log.debug if reason == self._said else log.error
            self._said, self._failed_at = reason, now
            say(
                "{name}:{reference}: manifest not stored: {error}; until that is mended each"
                " request for it goes upstream, and other manifests that cannot be stored are"
                " not logged",
                name=str(name),
                reference=str(reference),
                error=str(error),
            )
        else:
            if self._said is not None and now - self._failed_at >= MENDED_AFTER:
                self._said = None
                log.info("manifests are stored again")
