"""``yukari check-config`` and a daemon that starts with a wrong file, as processes."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.processes import MAIN, Process, ProcessCase, bare_environment


class CheckConfigTests(ProcessCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(Path(self.directory()) / "yukari.toml")

    async def run_yukari(self, *arguments: str, **environment: str) -> Process:
        process = self.spawn(
            *(sys.executable, "-c", MAIN, *arguments), environment=bare_environment(**environment)
        )
        await process.ended
        return process

    async def test_settings_in_force_are_printed_with_status_0(self) -> None:
        Path(self.path).write_text('grace = "1s"\n')
        ran = await self.run_yukari(
            "check-config", "--config", self.path, "--bind", ":1", "--offline", EVICT="lru"
        )
        self.assertEqual((ran.status, ran.err), (0, b""))
        lines = ran.out.decode().splitlines()
        for line in (
            'bind = [":1"]  # --bind',
            "offline = true  # --offline",
            'evict = "lru"  # EVICT',
            f'grace = "1s"  # {self.path}',
        ):
            self.assertIn(line, lines)

    async def test_a_file_of_users_that_the_daemon_would_refuse_is_wrong(self) -> None:
        Path(self.path).write_text("me:plain\n")
        for verb in (["check-config"], []):
            ran = await self.run_yukari(*verb, f"--admin-auth-file={self.path}")
            self.assertEqual((ran.status, ran.err.count(b"\n")), (1, 1))
            self.assertIn("line 1: expected USER:HASH", ran.text)
            self.assertEqual(ran.text.count("expected"), 1)

    async def test_daemon_and_check_refuse_a_wrong_file_by_the_same_lines(self) -> None:
        Path(self.path).write_text("grce = 1\ngrace = 2\n")
        expected = (
            f"yukari: {self.path}: grce '1': expected the name of a setting: did you mean grace?\n"
            f"yukari: {self.path}: grace '2': expected a duration such as 30m, 1h30m or 240h, with"
            " a unit: ns, us, ms, s, m or h\n"
        )
        for verb in (["check-config"], []):
            ran = await self.run_yukari(*verb, "--config", self.path)
            self.assertEqual((ran.status, ran.out, ran.err.decode()), (1, b"", expected))
