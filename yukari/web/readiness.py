"""
Readiness, for load balancers: whether the daemon can serve, and if not, why.

Upstream does not matter: stored models are served without it, and taking the daemon away would help
nobody.
"""

from __future__ import annotations

from attrs import define
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from yukari.storage.ports import Store, StoreUnusable
from yukari.web.drain import Drain

STORE_WITHIN = 3.0
"""Seconds that the store has to answer; probes wait little longer."""


@define(eq=False, repr=False)
class Readiness:
    """Asks the store each time."""

    _store: Store
    _drain: Drain
    _clock: IReactorTime

    async def reasons(self) -> dict[str, str]:
        """Return the reasons why it cannot serve, by kind; empty if it can."""
        found: dict[str, str] = {}
        if self._drain.stopping:
            found["stopping"] = "the daemon was told to stop"
        try:
            asked = Deferred.fromCoroutine(self._store.check())
            await asked.addTimeout(STORE_WITHIN, self._clock)
        except TimeoutError:
            found["store"] = f"{self._store.describe()} does not answer"
        except (StoreUnusable, OSError) as error:
            found["store"] = str(error)
        return found
