"""SIGHUP: settings that have changed in the configuration file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.processes import CHECKOUT, ProcessCase, YukariProcess
from tests.running import RunningCase
from yukari.config.networks import Networks
from yukari.config.settings import SettingError, Settings
from yukari.daemon.reloading import Reloader, takes


class ReloaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.settings = Settings.read({}, {"HOME": "/"})
        self.new: Any = self.settings
        self.taken: list[float] = []
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "yukari.daemon.reloading":
            self.said.append(event["log_format"].format(**event))

    def read(self) -> Settings:
        if isinstance(self.new, Exception):
            raise self.new
        settings: Settings = self.new
        return settings

    def grace(self, settings: Settings) -> bool:
        self.taken.append(settings.grace)
        return settings.grace != 7.0

    def reloader(self) -> Reloader:
        return Reloader(self.settings, self.read, {"grace": self.grace})

    def test_what_has_not_changed_is_not_handed_over(self) -> None:
        self.reloader().reload()
        self.assertEqual((self.taken, self.said), ([], []))

    def test_what_has_changed_is_handed_over_once(self) -> None:
        reloader = self.reloader()
        self.new = evolve(self.settings, grace=2.0)
        reloader.reload()
        reloader.reload()
        self.assertEqual((self.taken, self.said), ([2.0], ["GRACE has changed"]))
        self.assertEqual(reloader.settings, self.new)

    def test_what_needs_a_restart_is_said_at_every_reload_until_then(self) -> None:
        reloader = self.reloader()
        for new in (evolve(self.settings, storage="/new"), evolve(self.settings, grace=7.0)):
            self.new = new
            name = "STORAGE" if new.storage == "/new" else "GRACE"
            text = f"{name} has changed: restart the daemon for it to take effect"
            reloader.reload()
            reloader.reload()
            self.assertEqual(self.said, [text, text])
            self.assertEqual(reloader.settings, self.settings)
            self.said.clear()

    def test_wrong_settings_change_nothing(self) -> None:
        reloader = self.reloader()
        self.new = SettingError("/f: grace", "x", "expected a duration")
        reloader.reload()
        self.assertEqual(reloader.settings, self.settings)
        self.assertEqual(
            self.said, ["/f: grace 'x': expected a duration: all settings stay as they were"]
        )


class TakesTests(RunningCase):
    async def test_sites_take_over_what_clients_may_do(self) -> None:
        daemon = await self.daemon(await self.upstream())
        levels: list[object] = []
        takers = takes(daemon.service.parts, levels.append)
        settings = evolve(
            daemon.service._settings,
            allow=Networks.parse("10.0.0.0/8"),
            slog_level=LogLevel.debug,
            idle_timeout=7.0,
            client_connections=3,
        )
        for take in takers.values():
            self.assertTrue(take(settings))
        self.assertEqual((await self.ask(f"{daemon.url}/v2/"))[0].status, 403)
        self.assertEqual(levels, [LogLevel.debug])
        site = daemon.service.parts.sites["default"]
        self.assertEqual((site.log_requests, site.timeOut, site.clients.most), (True, 7.0, 3))
        self.assertFalse(takers["client_connections"](evolve(settings, client_connections=None)))

    async def test_the_page_for_operators_has_all_that_take_effect(self) -> None:
        """Catches a setting that can change and is not on the page, or the other way round."""
        daemon = await self.daemon(await self.upstream())
        page = (CHECKOUT / "docs" / "operating.rst").read_text(encoding="utf-8")
        (text,) = re.findall(
            r"Of\s+the settings in the file, (.*?) take effect at once", page, re.S
        )
        takers = {*takes(daemon.service.parts, lambda _: None), "grace", "shutdown_delay"}
        self.assertEqual(re.findall("``([A-Z_]+)``", text), sorted(map(str.upper, takers)))


class HangupTests(ProcessCase):
    """The daemon as it runs."""

    async def said(self, daemon: YukariProcess, text: str) -> None:
        """Return when the log has a line with this text."""
        await daemon.until(lambda: any(text in line["msg"] for line in daemon.lines))

    async def test_a_changed_file_takes_effect(self) -> None:
        path = Path(self.directory()) / "yukari.toml"
        path.write_text("")
        daemon = await self.yukari("http://127.0.0.1:9/", f"--config={path}")
        self.assertEqual((await self.ask(f"{daemon.url}/v2/"))[0].status, 200)

        path.write_text('slog_level = "INFO"\nallow = ["10.0.0.0/8"]\nmin_free = "1GB"\n')
        daemon.signal("HUP")
        await self.said(daemon, "SLOG_LEVEL has changed")
        self.assertEqual((await self.ask(f"{daemon.url}/v2/"))[0].status, 403)
        await self.said(daemon, "/v2/ 403")
        # The flag wins over the file, so nothing of that has changed.
        self.assertFalse([line for line in daemon.lines if "MIN_FREE" in line["msg"]])

        path.write_text('grace = "long"\nprefetch = "some"\n')
        daemon.signal("HUP")
        await self.said(daemon, f"{path}: grace 'long': expected a duration")
        await self.said(daemon, f"{path}: prefetch 'some': expected all, asked or none")
        self.assertEqual((await self.ask(f"{daemon.url}/v2/"))[0].status, 403)

        path.write_text('prefetch = "none"\n')
        daemon.signal("HUP")
        await self.said(daemon, "PREFETCH has changed: restart the daemon")
        self.assertEqual((await self.ask(f"{daemon.url}/v2/"))[0].status, 200)
        self.assertEqual(await daemon.stop(), 0)
