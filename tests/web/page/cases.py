"""What the tests of pages stand on: a daemon with a model, its pages and its forms."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any, Optional
from urllib.parse import urlencode

from tests.clients import Reply
from tests.emulator import Emulator
from tests.running import Daemon, RunningCase
from yukari.names import DEFAULT, Repository, Tag
from yukari.web.page import forms

HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
NAME, TAG = Repository(DEFAULT, "library", "m"), Tag("latest")


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Optional[str]]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.found.append((tag, dict(attrs)))


class PageCase(RunningCase):
    def setUp(self) -> None:
        # A busy machine takes long for a pull whose end a form waits for.
        self.patch(forms, "FAILS_WITHIN", 3600.0)

    async def running(self, **flags: Any) -> tuple[Emulator, Daemon]:
        """A daemon that has pulled one model."""
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, **flags)
        await self.pull(daemon)
        await daemon.idle()
        await daemon.service.parts.management.index.settled()
        return upstream, daemon

    async def page(
        self, daemon: Daemon, path: str = "/", headers: Optional[dict[str, str]] = None
    ) -> str:
        reply, body = await self.ask(daemon.url + path, {**HTML, **(headers or {})})
        self.assertEqual(reply.status, 200, body)
        return body.decode()

    async def post(
        self,
        daemon: Daemon,
        action: str,
        fields: dict[str, str],
        headers: Optional[dict[str, str]] = None,
    ) -> tuple[Reply, str]:
        """Send a form as a browser does on the cache's own page."""
        given = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": daemon.url,
            **HTML,
            **(headers or {}),
        }
        http = self.http()
        url = f"{daemon.url}/page/{action}"
        reply = await http.open("POST", url, given, urlencode(fields).encode())
        return reply, (await reply.body()).decode()

    async def token(self, daemon: Daemon) -> str:
        found = re.search('name="token" value="([^"]+)"', await self.page(daemon))
        assert found is not None
        return found[1]
