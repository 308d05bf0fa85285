"""
The keys that requests are signed with, from botocore's chain.

Environment, profile, web identity and instance metadata may all block, so a thread walks the chain
and renews keys that expire.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field, frozen
from botocore.exceptions import BotoCoreError
from botocore.session import Session
from twisted.internet.defer import Deferred

from yukari.s3.errors import NO_CREDENTIALS, S3Error
from yukari.tasks import Coalescer

LOOKED_AT_EVERY = 60.0
"""Seconds between two looks at keys that expire; botocore renews them well before their end."""


@frozen
class AccessKeys:
    """One set of keys; ``ends_at`` in seconds of the epoch, None for never."""

    access: str
    secret: str = field(repr=False)
    token: Optional[str] = field(repr=False)
    ends_at: Optional[float]

    @property
    def left(self) -> Optional[float]:
        """The seconds until these keys expire, None for never."""
        return None if self.ends_at is None else self.ends_at - time.time()


@define(eq=False, repr=False)
class Credentials:
    """The chain; ``in_thread`` calls a blocking function in a thread."""

    _session: Session
    _in_thread: Callable[..., Deferred[Any]]
    _found: Any = field(default=None, init=False)
    _keys: Optional[AccessKeys] = field(default=None, init=False)
    _looked_at: float = field(default=0.0, init=False)
    _finding: Coalescer = field(factory=Coalescer, init=False)

    async def keys(self) -> AccessKeys:
        """
        Return the current keys; `S3Error` if there are none. Concurrent callers share one look.
        """
        keys = self._keys
        if keys is not None and (
            keys.ends_at is None or time.monotonic() - self._looked_at < LOOKED_AT_EVERY
        ):
            return keys
        return await self._finding.run(None, self._find)

    async def _find(self) -> AccessKeys:
        found: AccessKeys = await self._in_thread(self._look)
        self._keys, self._looked_at = found, time.monotonic()
        return found

    def _look(self) -> AccessKeys:
        """Walk the chain, or renew the keys that it found. Blocks."""
        try:
            if self._found is None:
                self._found = self._session.get_credentials()
            if self._found is None:
                raise S3Error(
                    NO_CREDENTIALS,
                    0,
                    "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
            frozen_keys = self._found.get_frozen_credentials()
        except BotoCoreError as error:
            raise S3Error(NO_CREDENTIALS, 0, f"no credentials: {error}") from None
        ends = getattr(self._found, "_expiry_time", None)
        if ends is not None:
            ends_at: Optional[float] = ends.timestamp()
        else:
            # A token always expires; if its time is not known, it may be soon.
            ends_at = time.time() if frozen_keys.token else None
        return AccessKeys(
            frozen_keys.access_key, frozen_keys.secret_key, frozen_keys.token, ends_at
        )
