"""Pulling blobs as the transfer client does: whole, many at once."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from statistics import median_high
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import DeferredSemaphore

from tests.clients.classic import Part
from tests.clients.results import Blob, ClientError, Stalled
from tests.clients.session import Session, together
from tests.clients.wire import count_only

MIB = 1 << 20
RESUMED = 64 * MIB
"""A blob of at least this size is resumed; others begin again."""


def may_send(base: str, target: str, *, insecure: bool) -> bool:
    """
    Whether the transfer client follows a redirect from the registry ``base``.

    Never from https to http, and to no address that is not public unless
    ``insecure``. Names are not looked up: they pass for public.
    """
    asked, found = urlsplit(base), urlsplit(target)
    if found.scheme not in ("http", "https") or (asked.scheme, found.scheme) == ("https", "http"):
        return False
    if insecure or asked.netloc == found.netloc:
        return True
    try:
        return ipaddress.ip_address(found.hostname or "").is_global
    except ValueError:
        return True


class Transfer:
    """Pulls blobs, all at once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reactor = session.reactor
        self._generation = session.generation
        self._http = session.http
        self._spool = session.spool
        self._speeds: list[float] = []
        self.pulled = session.pulled

    async def fetch(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Pull blobs of (digest, size); raises a `ClientError`."""
        requests = DeferredSemaphore(self._generation.requests)
        bodies = DeferredSemaphore(self._generation.bodies)

        async def one(digest: str, size: int) -> None:
            self.pulled.blobs[digest] = Blob(size)
            if self._spool is not None:
                self._spool.place(digest, size)
            await requests.acquire()
            try:
                await self._transfer(digest, size, bodies)
            finally:
                requests.release()

        await together(one(digest, size) for digest, size in wanted)

    async def _transfer(self, digest: str, size: int, bodies: DeferredSemaphore) -> None:
        part, attempt, slow = Part(0, 0, size), 0, 0
        while True:
            try:
                await self._ask_whole(digest, part, bodies)
                return
            except ClientError as error:
                self.pulled.retries.append(f"blob {digest[7:19]}: {error}")
                if size < RESUMED:
                    part.done = 0
                slow += str(error) == "too slow"
                free = isinstance(error, Stalled) or (str(error) == "too slow" and slow < 3)
                attempt += not free
                if attempt >= self._generation.tries:
                    raise ClientError(f"max retries exceeded: {error}") from None
            if attempt:
                pause = min(attempt * attempt * 0.01, 2.0 ** (attempt - 1))
                await self._session.sleep(pause * (random.random() + 0.5))

    async def _ask_whole(self, digest: str, part: Part, bodies: DeferredSemaphore) -> None:
        patience = self._generation.stall
        agent = self._generation.transfer_agent
        url = await self._resolved(self._session.blob_url(digest), bodies)
        headers = self._session.headers(url, agent=agent)
        if part.done:
            headers = self._session.headers(
                url, agent=agent, gzip=False, Range=f"bytes={part.done}-"
            )
        await bodies.acquire()
        try:
            begun = self._reactor.seconds()
            reply = await self._http.open("GET", url, headers, seconds=patience)
            if reply.status != (206 if part.done else 200):
                if not part.done or reply.status != 200:
                    reply.drop()
                    raise ClientError(f"status {reply.status}")
                part.done = 0
            first = part.done
            writing = self._spool.sink(digest, first) if self._spool is not None else None
            try:
                await reply.copy(writing or count_only, stall=patience, slow=self._slow)
            finally:
                if writing is not None:
                    await writing.flush()
                self.pulled.bytes += reply.read
                self.pulled.waited(reply)
                part.done += reply.read
            if part.done != part.size:
                part.done = 0
                raise ClientError("size mismatch")
            if part.size >= 100 * 1024:
                taken = max(self._reactor.seconds() - begun, 1e-6)
                self._speeds = [*self._speeds[-29:], reply.read / taken]
        finally:
            bodies.release()

    async def _resolved(self, url: str, bodies: DeferredSemaphore) -> str:
        """Return the blob's URL; the body of a 200 that names it is read and thrown away."""
        for _ in range(10):
            headers = self._session.headers(url, agent=self._generation.transfer_agent)
            reply = await self._http.open("GET", url, headers, seconds=self._generation.stall)
            if reply.status == 200:
                await bodies.acquire()
                try:
                    await reply.copy(count_only, stall=self._generation.stall)
                finally:
                    bodies.release()
                    self.pulled.bytes += reply.read
                    self.pulled.waited(reply)
                return url
            if reply.status == 401:
                await self._session.sign_in(reply)
                continue
            reply.drop()
            location = reply.headers.get("location")
            if reply.status not in (301, 302, 307) or location is None:
                raise ClientError(f"status {reply.status}")
            found = urljoin(url, location)
            if not may_send(self._session.base, found, insecure=self._generation.insecure):
                raise ClientError("redirect target not allowed")
            if urlsplit(found).netloc != urlsplit(url).netloc:
                return found
            url = found
        raise ClientError("too many redirects")

    def _slow(self, seconds: float, read: int) -> bool:
        """Under a tenth of the median speed, after 5 s and once five blobs have come."""
        if seconds <= 5 or len(self._speeds) < 5:
            return False
        return read / seconds < 0.1 * median_high(self._speeds)
