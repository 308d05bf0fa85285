"""Alert rules and dashboard use metrics that the daemon has, and Prometheus loads them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any, Optional
from urllib.parse import quote

import yaml
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from tests.deploy.test_deploy import run, tool
from tests.processes import CHECKOUT, Process, ProcessCase
from tests.running import MODEL, SMALL16, PullFailed, pull, reactor
from tests.s3.servers import answers, free_port
from yukari.daemon.prometheus import PrometheusMetrics

MONITORING = CHECKOUT / "deploy" / "monitoring"
ALERTS, DASHBOARD = MONITORING / "alerts.yaml", MONITORING / "dashboard.json"
OTHERS = re.compile(r"up|ALERTS|kubelet_volume_stats_\w+")
"""Metrics that Prometheus has from elsewhere."""
NOT_NAMES = re.compile(
    r"""
    "[^"]*" | \{[^}]*\} | \[[^]]*\]                            # values, matchers, ranges
    | \b(?:by|on|without|ignoring|group_left)\s*\([^)]*\)       # labels
    """,
    re.VERBOSE,
)
OPERATORS = {"and", "or", "unless"}


def metrics_in(expression: str) -> set[str]:
    """The names of the metrics in an expression of PromQL."""
    bare = NOT_NAMES.sub("", expression)
    return set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - OPERATORS


def labels_in(expression: str) -> Iterator[tuple[str, str, str]]:
    """The metric, label and value of each comparison by ``=`` or ``=~``, alternatives apart."""
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            for value in values.split("|"):
                yield name, label, value


def told() -> set[str]:
    """The names of all samples that a daemon can give."""
    names: set[str] = set()
    for family in text_string_to_metric_families(PrometheusMetrics(Clock()).text().decode()):
        kinds = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
        names.update(family.name + ending for ending in kinds[family.type])
    return names


def alerts() -> list[Any]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    rules: list[Any] = group["rules"]
    return rules


def panels() -> list[Any]:
    found: list[Any] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> list[tuple[str, str]]:
    """The title and expression of each query of the dashboard, with Grafana's variables set."""
    found = []
    for panel in panels():
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$instance", ".*")
            text = text.replace("$__rate_interval", "5s").replace("$__range", "1m")
            found.append((f"{panel['title']} {target['refId']}", text))
    return found


class NamesTests(SynchronousTestCase):
    """Every query is of something that exists."""

    def test_the_names_in_an_expression_are_found(self) -> None:
        self.assertEqual(
            metrics_in('sum by (a, le) (rate(x_total{k="v w"}[5m])) > 2e6 and on (job) y unless z'),
            {"x_total", "y", "z"},
        )

    def test_the_daemon_has_every_metric_of_the_rules(self) -> None:
        expressions = [rule["expr"] for rule in alerts()] + [text for _, text in queries()]
        seen = set().union(*map(metrics_in, expressions))
        self.assertGreater(len(seen), 15)
        self.assertEqual({name for name in seen - told() if not OTHERS.fullmatch(name)}, set())

    def test_the_page_has_every_metric_with_its_type(self) -> None:
        page = (CHECKOUT / "docs" / "metrics.rst").read_text(encoding="utf-8")
        rows = re.findall(r"^   \* - ``(yukari_\w+)``\n     - (\w+)$", page, re.MULTILINE)
        families = text_string_to_metric_families(PrometheusMetrics(Clock()).text().decode())
        known = {
            each.name + "_total" * (each.type == "counter"): each.type
            for each in families
            if each.name.startswith("yukari_")
        }
        self.assertEqual(dict(rows), known)

    def test_every_label_has_a_value_that_occurs(self) -> None:
        from yukari.daemon.prometheus import _KINDS
        from yukari.metrics import EVICTED, RESULTS, STATES

        known = {
            "kind": {"manifest", "blob", "tag", "catalog", *_KINDS},
            "result": {*RESULTS, "none", "error", "same", "replaced", "failed", "done"},
            "reason": set(EVICTED),
            "state": set(STATES),
            "status": {"503", "5.."},
            "job": {".*yukari.*"},
            "persistentvolumeclaim": {".*yukari.*"},
            "instance": {".*"},
        }
        expressions = [rule["expr"] for rule in alerts()] + [text for _, text in queries()]
        for expression in expressions:
            for _, label, value in labels_in(expression):
                self.assertIn(value, known[label], expression)


class AlertTests(SynchronousTestCase):
    """The alert rules."""

    def test_alerts_pass_their_own_tests(self) -> None:
        run(tool("promtool"), "check", "rules", str(ALERTS))
        run(tool("promtool"), "test", "rules", str(MONITORING / "alerts.test.yaml"))

    def test_every_alert_has_a_test(self) -> None:
        tests = (MONITORING / "alerts.test.yaml").read_text()
        for rule in alerts():
            self.assertIn(rule["alert"], tests)

    def test_every_alert_has_a_summary_and_a_description(self) -> None:
        for rule in alerts():
            self.assertEqual(set(rule["annotations"]), {"summary", "description"}, rule["alert"])
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))


class DashboardTests(SynchronousTestCase):
    """Mistakes that Grafana would not report but show."""

    def test_panels_have_numbers_of_their_own_and_do_not_overlap(self) -> None:
        found = panels()
        self.assertEqual(len({panel["id"] for panel in found}), len(found))
        places = [panel["gridPos"] for panel in found]
        for place in places:
            self.assertTrue(0 <= place["x"] < place["x"] + place["w"] <= 24, place)
        for one, other in combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            self.assertTrue(beside or above, (one, other))

    def test_every_query_goes_to_the_chosen_source_and_daemons(self) -> None:
        for panel in panels():
            if panel["type"] == "row":
                continue
            self.assertEqual(panel["datasource"]["uid"], "${datasource}")
            letters = [target["refId"] for target in panel["targets"]]
            self.assertEqual(len(set(letters)), len(letters))
            for target in panel["targets"]:
                self.assertEqual(target["datasource"]["uid"], "${datasource}")
                self.assertIn('instance=~"$instance"', target["expr"])

    def test_the_dashboard_has_its_variables(self) -> None:
        found = json.loads(DASHBOARD.read_text())["templating"]["list"]
        self.assertEqual([each["name"] for each in found], ["datasource", "instance"])


class PrometheusTests(ProcessCase):
    """A Prometheus that watches a daemon at work."""

    async def prometheus(self, daemon: str) -> str:
        """The URL of one that scrapes the daemon twice a second."""
        directory, port = self.directory(), free_port()
        with open(os.path.join(directory, "prometheus.yml"), "w") as file:
            json.dump(
                {
                    "global": {
                        "scrape_interval": "500ms",
                        "scrape_timeout": "500ms",
                        "evaluation_interval": "500ms",
                    },
                    "rule_files": [str(ALERTS)],
                    "scrape_configs": [
                        {"job_name": "yukari", "static_configs": [{"targets": [daemon]}]}
                    ],
                },
                file,
            )
        self.spawn(
            tool("prometheus"),
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            directory=directory,
            process=Process(),
        )
        self.assertTrue(answers(port, 60))
        return f"http://127.0.0.1:{port}"

    async def told(self, prometheus: str, path: str) -> Any:
        _, body = await self.ask(f"{prometheus}/api/v1/{path}")
        answer = json.loads(body)
        self.assertEqual(answer["status"], "success", answer)
        return answer["data"]

    async def value(self, prometheus: str, expression: str) -> Optional[float]:
        """Return the first sample of a query, None if there is none."""
        data = await self.told(prometheus, f"query?query={quote(expression)}")
        return float(data["result"][0]["value"][1]) if data["result"] else None

    async def test_prometheus_has_data_for_every_panel_and_loads_every_rule(self) -> None:
        tool("prometheus")
        upstream = await self.upstream(f"{MODEL}=400KB,3000,10", "library/n:latest=90KB,10")
        daemon = await self.yukari(upstream.url)
        prometheus = await self.prometheus(daemon.host)
        models = [MODEL, "library/n:latest"]
        lacking = {title for title, _ in queries()}
        while lacking:
            for model in [*models, "library/none:latest"]:
                try:
                    await pull(reactor, daemon.url, model, SMALL16, directory=os.getcwd())
                except PullFailed:
                    self.assertIn("none", model)
            await deferLater(reactor, 0.5, lambda: None)
            for title, text in queries():
                if title in lacking and await self.value(prometheus, text) is not None:
                    lacking.discard(title)
        # A scrape that took too long has the daemon down for a moment; nothing of it lasts.
        seen: set[tuple[str, str]] = set()
        while seen != {("ok", "inactive")}:
            groups = (await self.told(prometheus, "rules"))["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            self.assertEqual(len(rules), len(alerts()))
            seen = {(rule["health"], rule["state"]) for rule in rules}
            self.assertNotIn("err", {health for health, _ in seen})
            await deferLater(reactor, 0.1, lambda: None)
