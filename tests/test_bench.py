"""The benches run: a smoke run, whose numbers nobody reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench import peers
from bench.plot import svg
from bench.tables import Table, in_turns, quantile, ratio
from tests.processes import CHECKOUT, bare_environment

TABLES = (
    *("hits", "tls", "manifests", "startup", "cold-cpu", "cold", "herd", "slow-readers"),
    *("page", "watchers", "evicting", "first seconds", "cores"),
)


class SmokeTests(SynchronousTestCase):
    """``python -m bench --quick`` with whatever peers are installed."""

    def test_a_quick_run_prints_every_table_and_draws_it(self) -> None:
        directory = os.path.abspath(self.mktemp())
        os.makedirs(directory)
        report, picture = (os.path.join(directory, name) for name in ("b.json", "b.svg"))
        command = [
            *(sys.executable, "-m", "bench", "--quick"),
            *(f"--json={report}", f"--plot={picture}"),
        ]
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=bare_environment(),
            capture_output=True,
            text=True,
            timeout=900,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(report) as opened:
            tables = {table["name"]: table for table in json.load(opened)["tables"]}
        for name in TABLES:
            self.assertIn(tables[name]["title"], done.stdout)
            if not peers.nginx_missing():
                self.assertTrue(tables[name]["rows"], name)
        ElementTree.parse(picture)


class TableTests(SynchronousTestCase):
    """Numbers as people and programs get them."""

    def test_a_table_is_valid_restructuredtext(self) -> None:
        table = Table("t", "A title", ["peer", "GB/s"])
        table.add("yukari", 2.349)
        table.add("nobody", None)
        table.note("said once")
        table.note("said once")
        self.assertEqual(
            table.text().splitlines(),
            [
                *("A title", "", "======  ====", "peer    GB/s", "======  ===="),
                *("yukari  2.35", "nobody    --"),
                *("======  ====", "(said once)"),
            ],
        )

    def test_compared_peers_are_measured_in_turns(self) -> None:
        order: list[str] = []

        def measure(name: str) -> float:
            order.append(name)
            return float(len(order))

        found = in_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2)
        self.assertEqual((order, found), (["a", "b", "a", "b"], {"a": [1, 3], "b": [2, 4]}))
        self.assertEqual(ratio([1, 9, 4], [2, 3, 4]), 1)
        self.assertEqual([quantile([3, 1, 2], part) for part in (0, 0.5, 1)], [1, 2, 3])

    def test_a_report_without_tables_is_an_empty_picture(self) -> None:
        self.assertEqual(ElementTree.fromstring(svg({"tables": []})).findall("*")[1:], [])
