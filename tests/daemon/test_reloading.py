"""SIGHUP: settings that have changed in the configuration file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.emulator import HUB
from tests.processes import CHECKOUT, ProcessCase, YukariProcess
from tests.running import RunningCase
from yukari.config.hours import DailyHours, DailyRate
from yukari.config.keys import BearerToken
from yukari.config.networks import Networks
from yukari.config.patterns import Patterns
from yukari.config.registries import KEYS
from yukari.config.settings import SettingError, Settings
from yukari.daemon.reloading import Reloader, changes, takes
from yukari.errors import RegistryError
from yukari.names import Repository


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


class ChangesTests(SynchronousTestCase):
    """What differs between two settings."""

    def changes(self, old: str, new: str) -> list[tuple[str, str]]:
        """Return the names and keys of what differs, and check that made in turn it makes new."""
        before, after = self.read(old), self.read(new)
        found, made = list(changes(before, after)), before
        for each in found:
            made = each.made_in(made)
        if [each.name for each in before.registries] == [each.name for each in after.registries]:
            self.assertEqual(made, after)
        return [(each.name, each.what) for each in found]

    def read(self, text: str) -> Settings:
        path = os.path.abspath("reloading.toml")
        Path(path).write_text(text)
        return Settings.read({"config": path}, {"HOME": "/"})

    def test_a_setting_that_the_default_registry_has_too_is_one_change(self) -> None:
        self.assertEqual(
            self.changes("", 'upstream_registry = "http://h/"'),
            [("UPSTREAM_REGISTRY", "upstream_registry")],
        )
        self.assertEqual(
            self.changes("", 'upstream_address = "192.0.2.1"\ngrace = "1s"'),
            [("UPSTREAM_ADDRESS", "upstream_address"), ("GRACE", "grace")],
        )

    def test_a_key_of_a_table_is_a_change_of_its_own(self) -> None:
        self.assertEqual(
            self.changes("", '[registries.hf]\nrate = "1MB/s"\nlifetime = "1h"'),
            [
                ("registries.hf.rate", "registries.rate"),
                ("registries.hf.lifetime", "registries.lifetime"),
            ],
        )

    def test_other_registries_are_one_change(self) -> None:
        lab = '[registries.lab]\nurl = "http://h/"\n'
        self.assertEqual(self.changes("", lab), [("registries", "registries")])
        self.assertEqual(self.changes("", 'upstreams = "none"'), [("UPSTREAMS", "upstreams")])

    def test_a_token_that_was_written_into_the_same_file_is_a_change(self) -> None:
        token = os.path.abspath(self.mktemp())
        Path(token).write_text("one")
        before = self.read(f"[registries.hf]\ntoken_file = '{token}'")
        Path(token).write_text("two")
        after = self.read(f"[registries.hf]\ntoken_file = '{token}'")
        (change,) = changes(before, after)
        self.assertEqual(change.name, "registries.hf.token_file")
        self.assertNotIn("two", repr(after))


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
        for name in ("allow", "slog_level", "idle_timeout", "client_connections"):
            self.assertTrue(takers[name](settings))
        self.assertEqual((await self.ask(f"{daemon.url}/v2/"))[0].status, 403)
        self.assertEqual(levels, [LogLevel.debug])
        site = daemon.service.parts.sites["default"]
        self.assertEqual((site.log_requests, site.timeOut, site.clients.most), (True, 7.0, 3))
        self.assertFalse(takers["client_connections"](evolve(settings, client_connections=None)))

    async def test_the_page_for_operators_has_all_that_take_effect(self) -> None:
        """Catches a setting that can change and is not on the page, or the other way round."""
        daemon = await self.daemon(await self.upstream())
        page = (CHECKOUT / "docs" / "operating.rst").read_text(encoding="utf-8")
        (text,) = re.findall(r"Of\s+the settings in the file, (.*?too)\.", page, re.S)
        takers = {*takes(daemon.service.parts, lambda _: None), "grace", "shutdown_delay"}
        names = {row.field: row.name for row in KEYS}
        expected = [
            names[name.partition(".")[2]] if "." in name else name.upper() for name in takers
        ]
        self.assertEqual(sorted(re.findall("``([A-Za-z_]+)``", text)), sorted(expected))

    async def test_rules_of_models_change(self) -> None:
        daemon = await self.daemon(await self.upstream())
        url = f"{daemon.url}/v2/library/m/manifests/latest"
        self.assertEqual((await self.ask(url))[0].status, 200)
        settings = daemon.service._settings
        (default,) = settings.registries
        rules = takes(daemon.service.parts, lambda _: None)["models_deny"]
        for changed in (
            evolve(settings, models_deny=Patterns(("library/*",))),
            evolve(settings, models_allow=Patterns(("her/*",))),
            evolve(settings, registries=(evolve(default, deny=Patterns(("*/m",))),)),
        ):
            self.assertTrue(rules(changed))
            with self.assertRaises(RegistryError):
                daemon.library.rules.check(Repository("", "library", "m"))
        self.assertTrue(rules(settings))
        daemon.library.rules.check(Repository("", "library", "m"))

    async def test_a_token_opens_what_it_did_not_before(self) -> None:
        there = await self.upstream(
            "her/a:latest=3000",
            **{**HUB, "moved": False},
            gated={"her/a": ["secret"]},
        )
        daemon = await self.daemon(await self.upstream(), upstreams=f"hf={there.url}")
        settings = daemon.service._settings
        default, hf = settings.registries
        with_token = evolve(hf, token=BearerToken("/token", "secret"))
        settings = evolve(settings, registries=(default, with_token), private_models="everyone")
        self.assertTrue(takes(daemon.service.parts, lambda _: None)["registries.token"](settings))
        pulled = await self.pull(daemon, "hf--her/a:latest")
        self.assert_whole(pulled, there.models["her/a:latest"])

    async def test_rates_change_where_there_were_rates(self) -> None:
        daemon = await self.daemon(
            await self.upstream(), upstreams="hf=http://127.0.0.1:9/", upstream_rate="1MB/s"
        )
        settings = daemon.service._settings
        default, hf = settings.registries
        take = takes(daemon.service.parts, lambda _: None)["upstream_rate"]
        mirrors = daemon.service.parts.mirrors
        url = mirrors.asked["default"].url.url
        pace = mirrors.asked["default"].pace(url)
        before = pace.bound
        self.assertTrue(take(evolve(settings, upstream_rate=DailyRate(2_000_000))))
        line = mirrors.line
        assert line is not None
        self.assertEqual((line.rate, pace.bound), (2_000_000, 2 * before))
        self.assertFalse(take(evolve(settings, upstream_rate=None)))
        # A registry without a rate of its own does not change that of all.
        with_own = evolve(settings, registries=(default, evolve(hf, rate=DailyRate(70_000))))
        self.assertFalse(take(with_own))
        self.assertEqual(line.rate, 2_000_000)

    async def test_a_clients_rate_changes_where_there_was_one(self) -> None:
        daemon = await self.daemon(await self.upstream(), client_rate="1MB/s")
        settings = evolve(daemon.service._settings, client_rate=2_000_000)
        take = takes(daemon.service.parts, lambda _: None)["client_rate"]
        self.assertTrue(take(settings))
        lines = daemon.service.parts.client_lines
        assert lines is not None
        self.assertEqual(lines.rate, 2_000_000)
        self.assertFalse(take(evolve(settings, client_rate=None)))

    async def test_blobs_that_nobody_waits_for_have_other_hours(self) -> None:
        daemon = await self.daemon(await self.upstream(), prefetch_hours="00:00-24:00")
        settings, scheduler = daemon.service._settings, daemon.service.parts.scheduler
        take = takes(daemon.service.parts, lambda _: None)["prefetch_hours"]
        self.assertTrue(take(evolve(settings, prefetch_hours=DailyHours(()))))
        self.assertFalse(scheduler.may_fetch_ahead())
        self.assertTrue(take(evolve(settings, prefetch_hours=None)))
        self.assertTrue(scheduler.may_fetch_ahead())

    async def test_manifests_have_another_lifetime(self) -> None:
        daemon = await self.daemon(await self.upstream())
        settings = evolve(daemon.service._settings, manifest_lifetime=7.0, revalidate_after=8.0)
        takes(daemon.service.parts, lambda _: None)["manifest_lifetime"](settings)
        revalidator = daemon.library.revalidator
        assert revalidator is not None
        found = revalidator.freshness
        self.assertEqual((found.lifetime, found.refresh_after), (7.0, 8.0))


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
