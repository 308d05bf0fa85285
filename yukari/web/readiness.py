"""
Whether the daemon can serve, and if not, why: what ``/readyz`` tells load balancers.

Upstream is no part of it: what is stored is served whether or not upstream
answers, and a daemon taken away for that would help nobody.
"""

from __future__ import annotations

from attrs import define
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from yukari.storage.ports import Store, StoreUnusable
from yukari.web.drain import Drain

STORE_WITHIN = 3.0
"""Seconds that the store has to answer; a probe waits little longer."""


@define(eq=False)
class Readiness:
    """Asks the store anew each time."""

    _store: Store
    _drain: Drain
    _clock: IReactorTime

    async def reasons(self) -> dict[str, str]:
        """Why it cannot serve, by what is wrong; empty where it can."""
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
