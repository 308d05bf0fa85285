"""Pulling blobs as Ollama 0.1 to today does: HEAD, the direct URL, parts."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from attrs import define
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.task import deferLater

from tests.clients.generations import Generation
from tests.clients.results import Blob, ClientError, Cut, Stalled
from tests.clients.session import MAX_REDIRECTS, REDIRECTS, Session, raise_for, together
from tests.clients.wire import Reply, count_only


@define
class Part:
    """A part of a blob: where it begins, how long it is and how much of it has come."""

    number: int
    start: int
    size: int
    done: int = 0


def parts_of(size: int, generation: Generation) -> list[Part]:
    """How the generation cuts a blob of this size."""
    share = min(max(size // generation.parts, generation.part_min), generation.part_max)
    return [
        Part(number, start, min(share, size - start))
        for number, start in enumerate(range(0, size, share))
    ]


class Classic:
    """Pulls blobs, one after the other, each in parts."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reactor = session.reactor
        self._generation = session.generation
        self._http = session.http
        self._spool = session.spool
        self.pulled = session.pulled

    async def fetch(self, digest: str) -> None:
        """Pull one blob; raises a `ClientError`."""
        url = self._session.blob_url(digest)
        reply = await self._session.ask("HEAD", url, gzip=False)
        if reply.length is None:
            raise ClientError("HEAD without Content-Length: digest mismatch, an empty file")
        size = reply.length
        self.pulled.blobs[digest] = Blob(size)
        if self._spool is not None:
            self._spool.place(digest, size)
        where = await self._direct_url(url) if self._generation.direct else url
        slots = DeferredSemaphore(self._generation.parts)

        async def one(part: Part) -> None:
            await slots.acquire()
            try:
                await self._part(digest, where, part)
            finally:
                slots.release()

        await together(one(part) for part in parts_of(size, self._generation))

    async def _direct_url(self, url: str) -> str:
        """Return the URL of parts: an un-ranged GET's Location. Its body is never read."""
        ends = self._reactor.seconds() + self._generation.direct_seconds
        asked, host, attempt = url, urlsplit(url).hostname, 0
        while True:
            attempt += 1
            left = ends - self._reactor.seconds()
            try:
                if left <= 0:
                    raise Stalled("context deadline exceeded")
                reply = await self._authorized(asked, left)
            except ClientError as error:
                pause = min(attempt * attempt * 0.01, 10.0) * self._generation.backoff
                if left <= pause:
                    raise
                self.pulled.retries.append(f"direct URL: {error}")
                asked = url
                await deferLater(self._reactor, pause, lambda: None)
                continue
            reply.drop()
            if reply.status not in (200, 302, 307):
                raise ClientError(f"unexpected status code {reply.status}")
            location = reply.headers.get("location")
            if location is None:
                raise ClientError("http: no Location header in response")
            found = urljoin(asked, location)
            if reply.status == 200 or urlsplit(found).hostname != host:
                return found
            asked = found

    async def _authorized(self, url: str, seconds: float) -> Reply:
        """An un-ranged GET's reply; a challenge is answered once."""
        for _ in range(2):
            headers = self._session.headers(url)
            reply = await self._http.open("GET", url, headers, seconds=seconds)
            if reply.status != 401:
                await raise_for(reply)
                return reply
            await self._session.sign_in(reply)
        raise ClientError("unauthorized: access denied")

    async def _part(self, digest: str, url: str, part: Part) -> None:
        attempt, error = 0, ClientError("no try")
        while attempt < self._generation.tries:
            try:
                await self._ask_part(digest, url, part)
                return
            except Stalled as stalled:
                self.pulled.retries.append(f"part {part.number}: {stalled}")
            except ClientError as failed:
                error = failed
                self.pulled.retries.append(f"part {part.number}: {failed}")
                await self._session.sleep(2.0**attempt)
                attempt += 1
        raise ClientError(f"max retries exceeded: {error}")

    async def _ask_part(self, digest: str, url: str, part: Part) -> None:
        """
        Ask for what is missing; what came counts if the part stalled or was cut short.

        The status is not looked at, as Ollama does not: an error's body is
        taken for the blob's bytes, and is too short.
        """
        patience = self._generation.stall
        from_start = self._generation.stall_from_start
        first, last = part.start + part.done, part.start + part.size - 1
        ranged = {"User-Agent": "Go-http-client/1.1", "Range": f"bytes={first}-{last}"}
        if not self._generation.direct:
            ranged = self._session.headers(url, gzip=False, Range=ranged["Range"])
        asked = self._reactor.seconds()
        try:
            for _ in range(MAX_REDIRECTS + 1):
                reply = await self._http.open(
                    "GET", url, ranged, seconds=patience if from_start else None
                )
                location = reply.headers.get("location")
                if reply.status not in REDIRECTS or location is None:
                    break
                reply.drop()
                url = urljoin(url, location)
                ranged.pop("Authorization", None)
        except Stalled:
            waited = self._reactor.seconds() - asked
            self.pulled.first_wait = max(self.pulled.first_wait, waited)
            raise
        before = reply.read
        missing = part.size - part.done
        writing = self._spool.sink(digest, first) if self._spool is not None else None
        kept = True
        try:
            await reply.copy(writing or count_only, missing, stall=patience, from_start=from_start)
        except (Stalled, Cut):
            kept = 200 <= reply.status < 300
            raise
        except ClientError:
            kept = False
            raise
        finally:
            if writing is not None:
                await writing.flush()
            self.pulled.bytes += reply.read - before
            self.pulled.waited(reply)
            if kept:
                part.done += reply.read
