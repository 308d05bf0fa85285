"""Whether S3 answers, and the log lines about an S3 that does not."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any, Optional, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from yukari.s3.client import S3Client
from yukari.s3.errors import NO_CREDENTIALS, UNREACHABLE, S3Error
from yukari.storage.ports import StoreUnusable

T = TypeVar("T")

CHECK_AGAIN = (1.0, 30.0)
"""Seconds between two tries to reach S3 at the start, doubling from the first to the second."""
CHECKED_EVERY = 5.0
"""Seconds for which the result of a check is used again."""
WITHIN = 5.0
"""Seconds that S3 may take to answer while a client waits; then upstream is asked."""
LEFT_ALONE = 2.0
"""Seconds for which an S3 that did not answer in time is not asked again."""
SAID_EVERY = 60.0
"""Seconds between two log lines about an S3 that does not answer."""


@define(eq=False, repr=False)
class Contact:
    """Checks the bucket of ``client``, and notes whether S3 answers the requests of others."""

    client: S3Client
    _clock: IReactorTime
    reachable: bool = field(default=True, init=False)
    """Whether S3 answered when it was last asked."""
    _stopped: bool = field(default=False, init=False)
    _waiting: Optional[Deferred[None]] = field(default=None, init=False)
    _left_alone_until: float = field(default=0.0, init=False)
    _checked_at: Optional[float] = field(default=None, init=False)
    _trouble: Optional[S3Error] = field(default=None, init=False)
    _said_at: Optional[float] = field(default=None, init=False)

    _log = Logger()

    async def check(self) -> None:
        """As `Store.check`."""
        now = self._clock.seconds()
        if self._checked_at is not None and now - self._checked_at < CHECKED_EVERY:
            if self._trouble is not None:
                raise self._trouble
            return
        self._checked_at = now
        try:
            await self.client.get_bucket()
        except S3Error as error:
            self._trouble = error
            self.complain(error)
            raise
        self.answered()

    async def connect(self) -> None:
        """
        Return when the bucket can be used; until then log what is wrong and try again.

        `StoreUnusable` if trying again would not help: its text has the setting and S3's message.
        """
        wait, longest = CHECK_AGAIN
        while not self._stopped:
            try:
                self._waiting = Deferred.fromCoroutine(self.client.get_bucket())
                await self._waiting
            except CancelledError:
                if not self._stopped:
                    raise
            except S3Error as error:
                if error.wrong_setting or not error.passing:
                    raise StoreUnusable(self._advice(error)) from None
                self.reachable = False
                self._log.error(
                    "{bucket} cannot be reached: {error}; trying again in {seconds} s,"
                    " until then models come from upstream",
                    bucket=self.client.describe(),
                    error=str(error),
                    seconds=round(wait),
                )
                self._waiting = deferLater(self._clock, wait, lambda: None)
                self._waiting.addErrback(lambda _: None)
                await self._waiting
                wait = min(longest, 2 * wait)
            else:
                if not self.reachable:
                    self._log.info("{bucket} answers again", bucket=self.client.describe())
                self.reachable = True
                return

    def _advice(self, error: S3Error) -> str:
        bucket, endpoint = self.client.bucket, self.client.endpoint
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if error.code == NO_CREDENTIALS:
            return f"{keys}: {error.message}"
        if error.code in ("NoSuchBucket", "NotFound", "InvalidBucketName"):
            return f"TIGRIS_BUCKET {bucket}: {endpoint} has no such bucket: {error}"
        if error.code == "RequestTimeTooSkewed":
            here = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            return f"the clock of this machine ({here}) is not that of {endpoint}: {error}"
        if error.code in ("AccessDenied", "AllAccessDisabled"):
            return f"{keys}: these keys may not list TIGRIS_BUCKET {bucket} at {endpoint}: {error}"
        if error.code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
            return f"AWS_REGION or AWS_ENDPOINT_URL_S3 {endpoint}: {error}"
        if error.status in (401, 403) or error.code in ("ExpiredToken", "InvalidToken"):
            return f"{keys}: {endpoint} does not take them: {error}"
        return f"AWS_ENDPOINT_URL_S3 {endpoint}, TIGRIS_BUCKET {bucket}: {error}"

    def stop(self) -> None:
        """End `connect`; harmless when repeated."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def in_time(self, asked: Coroutine[Any, Any, T]) -> T:
        """Return what S3 answers while a client waits; `S3Error` if that takes too long."""
        if not self.reachable and self._clock.seconds() < self._left_alone_until:
            asked.close()
            raise S3Error(UNREACHABLE, 0, f"{self.client.endpoint}: did not answer just now")
        try:
            return await Deferred.fromCoroutine(asked).addTimeout(WITHIN, self._clock)
        except TimeoutError:
            self._left_alone_until = self._clock.seconds() + LEFT_ALONE
            said = f"{self.client.endpoint}: no answer in {WITHIN:g} s"
            raise S3Error(UNREACHABLE, 0, said) from None
        except S3Error as error:
            if error.passing:
                self._left_alone_until = self._clock.seconds() + LEFT_ALONE
            raise

    async def heard(self, asked: Coroutine[Any, Any, T]) -> T:
        """Return what S3 answers, however long it takes, and note whether it did."""
        try:
            found = await asked
        except S3Error as error:
            self.complain(error)
            raise
        self.answered()
        return found

    def answered(self) -> None:
        """Note that S3 did what it was asked."""
        self._trouble = None
        if not self.reachable:
            self.reachable = True
            self._log.info("{bucket} answers again", bucket=self.client.describe())

    def complain(self, error: S3Error) -> None:
        """Note that a request failed, and log it, at most every `SAID_EVERY` seconds."""
        self.reachable = self.reachable and not error.passing
        now = self._clock.seconds()
        if self._said_at is None or now - self._said_at >= SAID_EVERY:
            self._said_at = now
            self._log.error("{bucket}: {error}", bucket=self.client.describe(), error=str(error))
