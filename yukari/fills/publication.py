"""A verified spool on its way to being the stored blob."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from yukari.names import Digest
from yukari.tasks import Waiters

log = Logger()

RETRY_AFTER = 30.0
"""Seconds after which a store that did not take a blob is tried again."""


@define(eq=False, repr=False)
class Publication:
    """Calls ``publish`` until that succeeds, or this is stopped."""

    _digest: Digest
    _clock: IReactorTime
    _publish: Callable[[], Awaitable[None]]
    _stopped: Waiters = field(factory=Waiters, init=False)
    _is_stopped: bool = field(default=False, init=False)

    async def run(self) -> bool:
        """Return whether the blob is stored; FileNotFoundError if the spool's file is gone."""
        while True:
            try:
                await self._publish()
                return True
            except FileNotFoundError:
                raise
            except OSError as error:
                if self._is_stopped:
                    return False
                log.error(
                    "{digest}: cannot be published: {error}",
                    digest=str(self._digest),
                    error=str(error),
                )
            await self._stopped.wait_at_most(RETRY_AFTER, self._clock)
            if self._is_stopped:
                return False

    def stop(self) -> None:
        """Try no more."""
        self._is_stopped = True
        self._stopped.fire()
