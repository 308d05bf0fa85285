"""The bodies of a registry's replies: read whole, and within bounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, DeferredSemaphore, TimeoutError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from yukari.errors import RegistryError, upstream_silent, upstream_unreachable
from yukari.large import LargeManifests, turns_to_arrive
from yukari.manifest import MAX_BYTES, AnyManifest
from yukari.net.bodies import (
    BODY_WITHIN,
    SMALL_BODY,
    BadEncoding,
    Collector,
    InTurn,
    TooLarge,
    content_encoding,
    decoded,
)
from yukari.net.http import why, within
from yukari.texts import cut
from yukari.threads import InThread

T = TypeVar("T", bound=AnyManifest)

RETRY_AFTER = 10
"""Seconds after which a client may ask again for a large manifest that there was no room for."""


@define(eq=False, repr=False)
class Bodies:
    """The bodies of replies that the registry at ``host`` sends."""

    _host: str
    _clock: IReactorTime
    _in_thread: InThread
    _large: LargeManifests = field(factory=LargeManifests)
    _turns: DeferredSemaphore = field(factory=turns_to_arrive, init=False)

    async def parsed(self, response: IResponse, what: str, parse: Callable[[bytes], T]) -> T:
        """
        Return the manifest that ``parse`` makes of a body. `InvalidManifest`, `RegistryError`.

        A large one comes as from `LargeManifests.parsed`.
        """
        collector = InTurn(MAX_BYTES, self._turns, self._clock)
        try:
            bodies = [await self._whole(response, what, collector, MAX_BYTES)]
            return await self._large.parsed(self._in_thread, bodies, parse)
        except OSError as error:
            raise RegistryError(
                "UNAVAILABLE", f"no room for the {what}: {error.strerror}", 503, RETRY_AFTER
            ) from None
        finally:
            collector.release()

    async def _whole(
        self, response: IResponse, what: str, collector: Collector, limit: int
    ) -> bytes:
        collector.receive(response)
        try:
            body = await within(BODY_WITHIN, collector.done, self._clock)
            return decoded(body, content_encoding(response), limit)
        except (TimeoutError, ConnectTimeout):
            raise upstream_silent(f"upstream {self._host} stopped in the middle") from None
        except CancelledError:
            raise
        except (BadEncoding, TooLarge) as error:
            raise upstream_unreachable(
                f"upstream {self._host} sent a bad {what}: {error}"
            ) from None
        except Exception as error:
            raise upstream_unreachable(
                f"upstream {self._host} broke off in the middle: {why(error)}"
            ) from None

    async def text(self, response: IResponse) -> str:
        """Return the message in an error's body, "" if there is nothing to show."""
        collector = Collector(SMALL_BODY, checked=True)
        try:
            return error_text(await self._whole(response, "error", collector, SMALL_BODY))
        except RegistryError:
            return ""


def error_text(body: bytes) -> str:
    """Return the message in an error's body, on one line; "" if there is none to show people."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "" if "<" in text else " ".join(text.split())[:300]
    if isinstance(found, dict):
        errors = found.get("errors")
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            found = errors[0]
        for key in ("message", "error"):
            if isinstance(found.get(key), str):
                return cut(" ".join(found[key].split()), 300)
    return ""
