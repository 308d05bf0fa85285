"""
The pages as a browser shows them.

With ``PICTURES=DIRECTORY`` in the environment the picture in README.rst is made anew there.
"""

from __future__ import annotations

import os
import time
from math import inf
from typing import Any, Optional

from tests.emulator import Emulator, Fault
from tests.running import Daemon, stored_at, until
from tests.web.page.browser import BrowserCase, Look
from tests.web.page.models import MARKUP, STRANGER, add_model
from yukari.library.catalog.file import CatalogFile
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.web.page import forms

LICENCE = "MIT License\n\nCopyright (c) the authors\n"
MODELS = (
    ("library/gemma3:4b", "4.3B", "Q4_K_M", 3_338_801_804),
    ("library/llama3.2:latest", "3.2B", "Q4_K_M", 2_019_377_376),
    ("library/llama3.2:1b", "1.2B", "Q8_0", 1_321_082_688),
    ("library/nomic-embed-text:latest", "137M", "F16", 274_290_656),
    ("library/qwen3:8b", "8.2B", "Q4_K_M", 5_225_374_336),
    ("someone/mistral-tuned:v2", "7.2B", "Q5_K_M", 5_131_000_000),
)
"""Names, parameters, quantisations, and the sizes of the real ones."""


class PageCase(BrowserCase):
    async def stocked(
        self, upstream: Optional[Emulator] = None, **flags: Any
    ) -> tuple[Emulator, Daemon]:
        """A cache of several models."""
        upstream = upstream or await self.upstream("library/empty:latest=10")
        for at, (name, parameters, quantisation, _) in enumerate(MODELS):
            add_model(
                upstream,
                name,
                bytes([at]) * 200_000,
                parameters=parameters,
                quantisation=quantisation,
                license=LICENCE,
                template="{{ .System }} {{ .Prompt }}",
            )
        daemon = await self.daemon(upstream, **flags)
        for name, *_ in MODELS:
            await self.pull(daemon, name)
        await daemon.idle()
        await daemon.service.parts.management.index.settled()
        return upstream, daemon

    async def coming(self, upstream: Emulator, daemon: Daemon, size: int = 4_000_000) -> str:
        """Begin a pull that takes its time, with one blob on its way; return the model's name."""
        model = upstream.add_model("library/gemma3:12b", [size])
        held = upstream.faults.add(Fault("store", "silence", digest=model.layers[0][0]))
        daemon.service.parts.pulls.start(Repository(DEFAULT, "library", "gemma3"), Tag("12b"), "")
        await until(lambda: os.path.exists(stored_at(daemon, model.config[0])))
        await until(lambda: [each.size for each in daemon.library.fills.values()] == [size])
        upstream.settings.line = size / 100  # A browser may take long to start.
        upstream.faults.remove(held)
        upstream.release()
        return "library/gemma3"

    def let_come(self, look: Look, upstream: Emulator, daemon: Daemon) -> None:
        """Begin it while the page is shown, and return when the page shows its one blob."""
        look.do(lambda: self.begin(self.coming(upstream, daemon)))
        look.until("document.querySelectorAll('[data-fill] progress').length === 1")

    def stop_fill(self, look: Look) -> None:
        """Stop what `coming` began; it takes two steps."""
        stop = look.page.get_by_role("button", name="Stop and delete what has arrived")
        self.assertFalse(stop.is_visible())
        look.page.locator("summary[aria-label^='Stop library/gemma3']").click()
        stop.click()
        look.page.get_by_text("Nothing is being fetched.").wait_for()


class LookTests(PageCase):
    """What everybody sees."""

    async def test_pages_fit_wide_and_narrow_windows_and_have_no_barriers(self) -> None:
        upstream, daemon = await self.stocked()
        # The longest name, on the page of the model that it shares its config with.
        longest = f"library/{'a' * 80}:latest"
        add_model(upstream, longest, b"w", parameters="3.2B", quantisation="Q4_K_M")
        await self.pull(daemon, longest)
        await self.coming(upstream, daemon)

        def look(look: Look) -> None:
            look.page.wait_for_timeout(0)
            for scheme in ("light", "dark"):
                look.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                for width in (1400, 820, 390):
                    look.page.set_viewport_size({"width": width, "height": 900})
                    for path in ("/", "/models/library/llama3.2/latest", "/evictions"):
                        look.open(path)
                        self.assertLessEqual(look.overflow(), 0, (path, width))
                        self.assertEqual(look.barriers(), [], (path, width, scheme))

        await self.look(daemon.url, look)

    async def test_the_bar_of_a_pull_moves_without_a_reload(self) -> None:
        upstream, daemon = await self.stocked()

        def look(look: Look) -> None:
            look.open("/")
            look.page.evaluate("window.same = true")
            look.page.get_by_text("Nothing is being fetched.").wait_for()
            self.let_come(look, upstream, daemon)
            bar = look.page.locator("[data-fill] progress")
            bar.wait_for()
            first = bar.evaluate("each => each.value")
            look.until(f"document.querySelector('[data-fill] progress').value > {first}")
            self.assertIn("library/gemma3", look.page.locator("[data-fill]").inner_text())
            upstream.settings.line = None
            # At its end the bar goes, and the new model can be shown.
            look.until("document.querySelectorAll('[data-fill]').length === 0")
            look.page.get_by_text("Something new is here").wait_for()
            self.assertTrue(look.page.evaluate("window.same"))
            look.page.get_by_role("link", name="Something new is here: show it").click()
            look.page.get_by_role("link", name="gemma3:12b").wait_for()

        await self.look(daemon.url, look, extra_http_headers=STRANGER)

    async def test_a_models_own_page_says_how_far_it_is_without_a_reload(self) -> None:
        upstream, daemon = await self.stocked()
        await self.coming(upstream, daemon)
        upstream.settings.line = 100_000
        await daemon.service.parts.management.index.settled()

        def look(look: Look) -> None:
            look.open("/models/library/gemma3/12b")
            so_far = "[data-part='so-far']"
            first = float(look.page.locator(so_far).inner_text())
            look.until(f'parseFloat(document.querySelector("{so_far}").textContent) > {first}')
            upstream.settings.line = None
            look.page.get_by_role("link", name="Something new is here").click()
            look.page.get_by_text("Complete", exact=True).wait_for()

        await self.look(daemon.url, look, extra_http_headers=STRANGER)

    async def test_search_finds_while_typing_and_by_its_button(self) -> None:
        _, daemon = await self.stocked()

        def names(look: Look) -> list[str]:
            return look.page.locator("table.models tbody th a").all_inner_texts()

        def look(look: Look) -> None:
            look.open("/")
            self.assertEqual(len(names(look)), len(MODELS))
            look.page.get_by_role("searchbox").press_sequentially("llama q8")
            look.until("document.querySelectorAll('table.models tbody tr').length === 1")
            self.assertEqual(names(look), ["llama3.2:1b"])
            look.page.get_by_role("searchbox").fill(MARKUP)
            look.page.get_by_role("button", name="Search").click()
            look.page.get_by_text("No stored model matches").wait_for()
            self.assertEqual(look.page.get_by_role("searchbox").input_value(), MARKUP)

        await self.look(daemon.url, look)

    async def test_everything_is_there_without_javascript(self) -> None:
        upstream, daemon = await self.stocked()
        await self.coming(upstream, daemon)

        def look(look: Look) -> None:
            look.open("/")
            self.assertIn("ollama pull", look.page.locator("main").inner_text())
            self.assertEqual(look.page.locator("[data-fill] progress").count(), 1)
            look.page.get_by_role("searchbox").fill("qwen")
            look.page.get_by_role("button", name="Search").click()
            self.assertEqual(look.page.locator("table.models tbody tr").count(), 1)
            self.stop_fill(look)

        await self.look(daemon.url, look, java_script_enabled=False)
        self.assertFalse(daemon.library.fills)

    async def test_markup_in_a_models_texts_changes_nothing(self) -> None:
        upstream = await self.upstream("library/empty:latest=10")
        add_model(upstream, "library/odd:latest", b"x", quantisation=MARKUP, license=MARKUP)
        daemon = await self.daemon(upstream)
        await self.pull(daemon, "library/odd:latest")
        await daemon.idle()
        await daemon.service.parts.management.index.settled()

        def look(look: Look) -> None:
            for path in ("/", "/models/library/odd/latest"):
                look.open(path)
                self.assertIn(MARKUP, look.page.locator("main").inner_text())
                self.assertNotEqual(look.page.title(), "run")
                self.assertEqual(look.page.locator("main script, main img").count(), 0)

        await self.look(daemon.url, look)

    async def test_a_command_is_copied(self) -> None:
        _, daemon = await self.stocked()

        def look(look: Look) -> None:
            look.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
            look.open("/models/library/qwen3/8b")
            look.page.get_by_role("button", name="Copy").click()
            look.page.get_by_text("Copied").wait_for()
            copied = look.page.evaluate("navigator.clipboard.readText()")
            host = daemon.url.partition("://")[2]
            self.assertEqual(copied, f"ollama pull --insecure {host}/library/qwen3:8b")

        await self.look(daemon.url, look)


class AdminTests(PageCase):
    """What admins see and do."""

    async def test_a_stranger_has_no_admin_parts(self) -> None:
        upstream, daemon = await self.stocked()
        await self.coming(upstream, daemon)

        def look(look: Look) -> None:
            for path in ("/", "/models/library/llama3.2/latest"):
                look.open(path)
                self.assertEqual(look.page.locator("form[method=post]").count(), 0)
                for title in ("Manage", "Store", "Traffic", "Clients today", "Last errors"):
                    found = look.page.get_by_role("heading", name=title, exact=True)
                    self.assertEqual(found.count(), 0, title)

        await self.look(daemon.url, look, extra_http_headers=STRANGER)

    async def test_an_admin_pulls_pins_and_deletes(self) -> None:
        upstream, daemon = await self.stocked()
        upstream.add_model("library/phi4:latest", [5000])
        self.patch(forms, "FAILS_WITHIN", 3600.0)
        marks = daemon.service.parts.management.marks
        key = Repository(DEFAULT, "library", "phi4"), Tag("latest")

        def look(look: Look) -> None:
            look.open("/")
            look.page.get_by_label("Bring a model into the cache").fill("phi4")
            look.page.get_by_role("button", name="Pull", exact=True).click()
            look.page.get_by_role("heading", name="phi4:latest").wait_for()
            look.page.get_by_role("button", name="Pin").click()
            look.page.get_by_text("Pinned", exact=True).wait_for()
            self.assertIsNotNone(marks.pin(*key))
            # Deleting takes two steps, and the keyboard is enough for both.
            self.assertFalse(look.page.get_by_role("button", name="Delete phi4").is_visible())
            look.page.get_by_text("Delete…").focus()
            look.page.keyboard.press("Enter")
            look.page.keyboard.press("Tab")
            look.page.keyboard.press("Enter")
            look.page.get_by_role("heading", name="Models").wait_for()
            self.assertEqual(look.page.get_by_role("link", name="phi4:latest").count(), 0)

        await self.look(daemon.url, look)
        self.assertIsNone(await daemon.library.store.get_manifest(*key))

    async def test_a_fill_that_came_later_is_stopped_by_its_button(self) -> None:
        upstream, daemon = await self.stocked()

        def look(look: Look) -> None:
            look.open("/")
            look.page.get_by_text("Nothing is being fetched.").wait_for()
            self.let_come(look, upstream, daemon)
            self.stop_fill(look)
            look.page.get_by_text("Stopped").wait_for()
            look.until("!location.search")
            # It is said once, and not again when the page is loaded again.
            look.page.reload()
            self.assertEqual(look.page.get_by_text("Stopped").count(), 0)

        await self.look(daemon.url, look)
        self.assertFalse(daemon.library.fills)


class PictureTests(PageCase):
    """The picture in README.rst."""

    if "PICTURES" not in os.environ:
        skip = "PICTURES says where the picture goes"

    async def test_the_picture_is_made(self) -> None:
        upstream = await self.upstream("library/empty:latest=10")
        port = upstream.url.rpartition(":")[2].strip("/")
        _, daemon = await self.stocked(
            upstream,
            upstream_registry="http://registry.ollama.ai/",
            upstream_address=f"127.0.0.1:{port}",
            upstreams="hf=https://huggingface.co/",
            admin_bind="127.0.0.1:0",
        )
        await self.dress(upstream, daemon)
        (admin,) = daemon.service.admin_ports
        rules = f"MAP cache:9200 127.0.0.1:{admin.getHost().port}"

        def look(look: Look) -> None:
            look.page.set_viewport_size({"width": 1160, "height": 1080})
            look.open("/")
            look.until("document.querySelector('progress').value > 30")
            path = os.path.join(os.environ["PICTURES"], "status-page.jpg")
            look.page.screenshot(path=path, full_page=True, type="jpeg", quality=60)

        await self.look("http://cache:9200", look, f"--host-resolver-rules={rules}")

    async def dress(self, upstream: Emulator, daemon: Daemon) -> None:
        """Let the catalog tell what a cache in use would."""
        store, index = daemon.library.store, daemon.service.parts.management.index
        await until(lambda: index.looked)
        index._old_at = inf  # The files tell other sizes.
        self.patch(type(store), "describe", lambda _: "directory /var/cache/yukari")
        run = daemon.service.parts.management.catalog.run
        for name, _, _, size in MODELS:
            digest = Digest.parse(upstream.models[name].layers[0][0])
            await run(CatalogFile.blobs_stored, [(digest, size)])
        hour = int(time.time() // 3600) * 3600
        rows = [
            (hour - 3600 * at, (at * 37 % 23) * 10**9, (at * 7 % 5) * 10**9 // 2)
            for at in range(1, 24 * 29)
        ]
        await run(CatalogFile.add_traffic, rows, 0)
        await self.coming(upstream, daemon)
        upstream.settings.line = 200_000
