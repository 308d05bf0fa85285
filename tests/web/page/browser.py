"""
A headless Chromium that looks at a daemon's pages.

It is Debian's, driven by Playwright, which works in a thread: the daemon has the reactor.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.threads import blockingCallFromThread, deferToThread

from tests.running import RunningCase, reactor

try:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import Page, sync_playwright
except ImportError:
    sync_playwright = None  # type: ignore[assignment]

T = TypeVar("T")

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@define(eq=False)
class Look:
    """A page that is open, and what it did."""

    page: Page
    url: str
    complaints: list[str] = field(factory=list)
    """What it wrote to the console as a warning or an error, and scripts that failed."""
    requests: list[str] = field(factory=list)

    def open(self, path: str = "/") -> None:
        """Go to a path of the cache."""
        self.page.goto(self.url + path)

    def do(self, work: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the reactor's thread, and wait for what it returns."""
        return blockingCallFromThread(reactor, work, *args)

    def until(self, holds: str) -> None:
        """Return when a JavaScript expression is true; a test's own timeout is the bound."""
        # Playwright's own way to wait evaluates texts in the page, which our pages forbid.
        while not self.page.evaluate(holds):
            self.page.wait_for_timeout(20)

    @property
    def foreign(self) -> list[str]:
        """The requests that went elsewhere than to the cache."""
        return [each for each in self.requests if not each.startswith(self.url + "/")]

    def barriers(self) -> list[str]:
        """What axe-core finds serious or worse on the page."""
        violations = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {node['html']}"
            for each in violations
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]

    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        wider: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wider


class BrowserCase(RunningCase):
    """Tests that look at pages; they are skipped where there is no browser."""

    if sync_playwright is None:
        skip = "no playwright: pip install '.[test]'"
    elif CHROMIUM is None:
        skip = "no chromium: apt-get install chromium"

    async def look(self, url: str, work: Callable[[Look], T], *flags: str, **context: Any) -> T:
        """
        Call ``work`` in a thread with a page of a new browser.

        ``flags`` are the browser's own, ``context`` is Playwright's. What the page complains of,
        and requests that go elsewhere, fail the test.
        """

        def run() -> T:
            with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
                browser = playwright.chromium.launch_persistent_context(
                    profile, executable_path=CHROMIUM, args=[*FLAGS, *flags], **context
                )
                browser.set_default_timeout(60_000)
                try:
                    look = Look(browser.pages[0], url)
                    browser.on("request", lambda request: look.requests.append(request.url))
                    look.page.on("console", lambda said: _note(look, said))
                    look.page.on("pageerror", lambda error: look.complaints.append(str(error)))
                    result = work(look)
                    self.assertEqual(look.complaints, [])
                    self.assertEqual(look.foreign, [])
                    return result
                finally:
                    browser.close()

        found: T = await deferToThread(run)
        return found


def _note(look: Look, said: Any) -> None:
    if said.type in ("error", "warning"):
        look.complaints.append(said.text)
