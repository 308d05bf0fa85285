"""What the steps of one pull share: connections, headers, redirects and the token."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterable
from typing import Any
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater

from tests.clients.generations import Generation
from tests.clients.http import Http
from tests.clients.results import ClientError, Pulled
from tests.clients.signing import Challenge, Key
from tests.clients.spool import Spool
from tests.clients.wire import Reply

REDIRECTS = (301, 302, 307, 308)
MAX_REDIRECTS = 10


async def together(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first failure ends the others and is raised when they have ended."""
    running = [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]
    try:
        await gatherResults(running, consumeErrors=True)
    except BaseException as error:
        for one in running:
            one.cancel()
        await DeferredList(running, consumeErrors=True)
        first = getattr(error, "subFailure", None)
        if first is not None:
            raise first.value from None
        raise


class Session:
    """One client that pulls one model from ``base`` (``http://HOST:PORT``)."""

    def __init__(
        self,
        reactor: Any,
        base: str,
        model: str,
        generation: Generation,
        spool: Spool | None,
        key: Key,
    ) -> None:
        self.reactor = reactor
        self.base = base.rstrip("/")
        self.name, _, tag = model.partition(":")
        self.tag = tag or "latest"
        self.generation = generation
        self.spool = spool
        self.http = Http(reactor, 2 if generation.parts else 100)
        self.pulled = Pulled(generation.name, model)
        self.token = ""
        self._key = key

    def headers(
        self, url: str, *, gzip: bool = True, agent: str = "", **more: str
    ) -> dict[str, str]:
        """As Go sends them: gzip is accepted of every GET that has no Range."""
        headers = {"User-Agent": agent or self.generation.user_agent, **more}
        if gzip:
            headers["Accept-Encoding"] = "gzip"
        if self.token and urlsplit(url).netloc == urlsplit(self.base).netloc:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def blob_url(self, digest: str) -> str:
        return f"{self.base}/v2/{self.name}/blobs/{digest}"

    async def ask(self, method: str, url: str, **more: Any) -> Reply:
        """
        The reply after up to ten redirects; a challenge is answered once.

        Raises a `ClientError` where there is none or its status is an error.
        """
        for _ in range(2):
            reply = await self._followed(method, url, more)
            if reply.status != 401:
                await raise_for(reply)
                return reply
            await self.sign_in(reply)
        raise ClientError("unauthorized: access denied")

    async def _followed(self, method: str, url: str, more: dict[str, Any]) -> Reply:
        first = url
        for _ in range(MAX_REDIRECTS + 1):
            reply = await self.http.open(method, url, self.headers(url, **more))
            if reply.status not in REDIRECTS:
                return reply
            reply.drop()
            url = urljoin(url, reply.headers.get("location", ""))
            if not may_follow(self.generation, first, url):
                raise ClientError(f'{method} "{url}": blocked redirect to a different host')
        raise ClientError(f"stopped after {MAX_REDIRECTS} redirects")

    async def sign_in(self, refused: Reply) -> None:
        """Get a token for a 401's challenge; raises a `ClientError`."""
        challenge = Challenge.parse(refused.headers.get("www-authenticate", ""))
        refused.drop()
        url = challenge.url()
        host, typed = urlsplit(url).netloc, urlsplit(self.base).netloc
        if self.generation.same_realm and host != typed:
            raise ClientError(f'realm host "{host}" does not match original host "{typed}"')
        signed = {
            "User-Agent": self.generation.user_agent,
            "Authorization": self._key.authorization(url),
            "Accept-Encoding": "gzip",
        }
        reply = await self.http.open("GET", url, signed)
        body = await reply.body()
        if reply.status >= 400:
            raise ClientError(f"{reply.status}: {body.decode(errors='replace')}")
        try:
            self.token = str(json.loads(body).get("token", ""))
        except (ValueError, AttributeError) as error:
            raise ClientError(str(error)) from None

    def sleep(self, seconds: float) -> Deferred[None]:
        """Wait, by the generation's scale."""
        return deferLater(self.reactor, seconds * self.generation.backoff, lambda: None)


async def raise_for(reply: Reply) -> None:
    """Read an error's body and raise what the user sees of it; else leave the reply alone."""
    if reply.status == 404:
        reply.drop()
        raise ClientError("file does not exist")
    if reply.status >= 400:
        body = await reply.body()
        raise ClientError(f"{reply.status}: {body.decode(errors='replace')}")


def may_follow(generation: Generation, first: str, target: str) -> bool:
    """Whether a manifest or a HEAD that was asked at ``first`` may be redirected there."""
    if not generation.same_host or generation.insecure:
        return True
    asked, found = urlsplit(first), urlsplit(target)
    if asked.netloc == found.netloc:
        return True
    return any(
        _is_of(asked.hostname or "", family) and _is_of(found.hostname or "", family)
        for family in generation.families
    )


def _is_of(host: str, family: frozenset[str]) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in family)
