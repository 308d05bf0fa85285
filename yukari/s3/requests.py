"""
Requests to one bucket: signed, sent, read, and repeated if S3 is busy.

Every request ends: silence is timed out. One that may be repeated is repeated a few times with
jitter, if S3 says that it is busy or does not answer.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any, Optional, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse

from yukari.metrics import Metrics
from yukari.net.bodies import Collector, discard
from yukari.net.http import header, retry_after, why
from yukari.s3.body import BytesBody
from yukari.s3.credentials import Credentials
from yukari.s3.errors import UNREACHABLE, S3Error
from yukari.s3.signing import Signed, Signing
from yukari.s3.timeout import SilenceTimeout

SILENT = 30.0
"""Seconds without a sign of life after which a request is given up."""
ATTEMPTS = 4
FIRST_WAIT = 0.2
LONGEST_WAIT = 10.0
"""Seconds between two attempts, doubling from the first to the longest, at random up to them."""
MAX_REQUESTS = 32
"""Requests in progress at most; the scheduler bounds what fills read."""
REPLY_LIMIT = 16 * 1024 * 1024
"""Bytes of a reply that is read whole, at most."""

T = TypeVar("T")


@define(eq=False, repr=False)
class Requests:
    """Sends requests to one bucket by ``agent``, which has the pool."""

    _signing: Signing
    _credentials: Credentials
    _agent: IAgent
    _clock: IReactorTime
    metrics: Metrics = field(factory=Metrics)
    _slots: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(MAX_REQUESTS), init=False)
    requests: dict[str, int] = field(factory=dict, init=False)
    """Requests sent so far, by operation."""

    def describe(self) -> str:
        """The bucket and its endpoint."""
        return str(self._signing.place)

    @property
    def bucket(self) -> str:
        return self._signing.place.bucket

    @property
    def endpoint(self) -> str:
        return self._signing.place.endpoint

    async def _call(
        self,
        operation: str,
        body: Optional[Callable[[Callable[[], None]], IBodyProducer]] = None,
        *,
        once: bool = False,
        silent: float = SILENT,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Send a request and return its reply, read whole."""

        async def call() -> dict[str, Any]:
            response = await self._send(operation, parameters, body, silent)
            return await self._read(operation, response, silent)

        return await self._repeat(lambda: self._in_turn(call), once=once)

    async def _open(
        self, operation: str, parameters: dict[str, Any], *, once: bool
    ) -> tuple[dict[str, Any], IResponse]:
        """Send a request and leave the body of its reply to the caller."""

        async def call() -> tuple[dict[str, Any], IResponse]:
            response = await self._send(operation, parameters, None, SILENT)
            if response.code >= 300:
                await self._read(operation, response, SILENT)
            try:
                return self._signing.parse(operation, 200, _headers(response), b""), response
            except BaseException:
                self.discard(response)
                raise

        return await (self._in_turn(call) if once else self._repeat(lambda: self._in_turn(call)))

    async def _in_turn(self, call: Callable[[], Awaitable[T]]) -> T:
        slot = await self._slots.acquire()
        try:
            return await call()
        finally:
            slot.release()

    async def _repeat(self, call: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await call()
            except S3Error as error:
                if attempt >= ATTEMPTS or not error.passing or (once and error.unanswered):
                    raise
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.random()
                if error.retry_after is not None:
                    if error.retry_after > LONGEST_WAIT:
                        raise
                    wait += error.retry_after
            await deferLater(self._clock, wait)

    async def _send(
        self,
        operation: str,
        parameters: dict[str, Any],
        body: Optional[Callable[[Callable[[], None]], IBodyProducer]],
        silent: float,
    ) -> IResponse:
        """Return the head of a reply; `S3Error` if none arrives."""
        keys = await self._credentials.keys()
        signed = self._signing.request(keys, operation, parameters, streamed=body is not None)
        self.requests[operation] = self.requests.get(operation, 0) + 1
        patience = SilenceTimeout(self._clock, silent)
        producer = _producer(signed, None if body is None else body(patience.heard))
        headers = Headers()
        for name, value in signed.headers:
            headers.addRawHeader(name, value)
        url = signed.url.encode("ascii")
        try:
            answered = await patience.watch(
                self._agent.request(signed.method.encode("ascii"), url, headers, producer)
            )
        except Exception as error:
            raise self._unanswered(error, patience) from None
        finally:
            patience.stop()
        if producer is not None:
            self.metrics.to_store(int(producer.length))
        return answered

    def discard(self, response: IResponse) -> None:
        """Dispose of a reply whose body is not wanted."""
        discard(response, self._clock)

    async def _read(self, operation: str, response: IResponse, silent: float) -> dict[str, Any]:
        """Read the rest of a reply; `S3Error` if it reports a failure."""
        body = b"" if operation.startswith("head_") else await self._body(response, silent=silent)
        if operation.startswith("head_"):
            self.discard(response)
        try:
            return self._signing.parse(operation, response.code, _headers(response), body)
        except S3Error as error:
            error.retry_after = retry_after(response, datetime.now(timezone.utc).timestamp())
            raise

    async def _body(
        self, response: IResponse, limit: int = REPLY_LIMIT, silent: float = SILENT
    ) -> bytes:
        patience = SilenceTimeout(self._clock, silent)
        collector = Collector(limit, patience.heard)
        response.deliverBody(collector)
        try:
            body = await patience.watch(collector.done)
        except Exception as error:
            raise self._unanswered(error, patience) from None
        finally:
            patience.stop()
        self.metrics.from_store(len(body))
        return body

    def _unanswered(self, error: Exception, patience: SilenceTimeout) -> Exception:
        """
        Turn a failure without a reply into an `S3Error`; a cancellation from outside stays one.
        """
        if isinstance(error, S3Error):
            return error
        if isinstance(error, CancelledError) and not patience.late:
            return error
        said = "does not answer" if patience.late else why(error)
        return S3Error(UNREACHABLE, 0, f"{self.endpoint}: {said}")


def _producer(signed: Signed, streamed: Optional[IBodyProducer]) -> Optional[IBodyProducer]:
    if streamed is not None:
        return streamed
    if signed.body is not None or signed.method in ("PUT", "POST"):
        return BytesBody(signed.body or b"")
    return None


def _headers(response: IResponse) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): header(response, name)
        for name, _ in response.headers.getAllRawHeaders()
    }
