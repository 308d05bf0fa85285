"""``/metrics`` agrees with the counts of the emulated upstream and of the clients."""

from __future__ import annotations

import math
import re
from typing import Optional

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.emulator import Fault
from tests.processes import CHECKOUT
from tests.running import GENERATIONS, MODEL, Daemon, RunningCase, until
from yukari.daemon.prometheus import _KINDS, PrometheusMetrics, kind_of
from yukari.daemon.watched import Watched
from yukari.library.upkeep import usage as stock
from yukari.metrics import RESULTS, Metrics
from yukari.sources.host_facts import BOUNDS, THE_LINE, HostFacts
from yukari.storage.ports import Holdings

DIGEST = "sha256:" + "0" * 64
BY_DEFAULT = {"registry": "default"}


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> Optional[float]:
    """Return one sample's value, None if there is no such sample."""
    return samples(text).get((f"yukari_{name}", frozenset(labels.items())))


IDLE_HOST = HostFacts("registry", 1, 0.0, 0.3, None, None)
BUSY_HOST = HostFacts("blobs", 4, 1e7, 0.02, 0.05, THE_LINE)


class KindTests(SynchronousTestCase):
    def test_a_path_is_one_of_a_few_kinds(self) -> None:
        for path, kind in {
            b"/": "front",
            b"/healthz": "healthz",
            b"/readyz": "readyz",
            b"/metrics": "metrics",
            b"/fills": "fills",
            b"/fills/sha256:aa": "fills",
            b"/v2/": "v2",
            b"/v2": "v2",
            b"/v2/_catalog": "catalog",
            b"/v2/library/m/manifests/latest": "manifest",
            b"/v2/library/m/blobs/sha256:aa": "blob",
            b"/v2/library/m/tags/list": "tag",
            b"/v2/library/m/chunksums/sha256:aa": "other",
            b"/favicon.ico": "other",
        }.items():
            self.assertEqual(kind_of(path), kind)

    @given(
        st.binary(),
        st.sampled_from([b"GET", b"HEAD", b"BREW"]),
        st.sampled_from([200, 404]),
        st.text(),
    )
    def test_no_request_makes_a_label_of_its_own(
        self, path: bytes, method: bytes, status: int, result: str
    ) -> None:
        metrics = PrometheusMetrics(Clock())
        replies = metrics.replies(path=path, method=method, status=status, result=result)
        replies.count(1, None)
        (labels,) = (
            dict(labels)
            for name, labels in samples(metrics.text())
            if name == "yukari_requests_total"
        )
        self.assertIn(labels["kind"], ("front", "other", "v2", *_KINDS))
        self.assertIn(labels["method"], ("GET", "HEAD", "other"))
        self.assertIn(labels["result"], (*RESULTS, "none", "error"))


class PrometheusTests(SynchronousTestCase):
    """Metrics without a daemon."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = PrometheusMetrics(self.clock)

    def test_every_event_of_the_null_object_is_counted(self) -> None:
        names = [name for name in vars(Metrics) if not name.startswith("_")]
        self.assertEqual([name for name in names if name not in vars(PrometheusMetrics)], [])

    def test_every_number_is_there_from_the_start(self) -> None:
        holdings: list[Optional[Holdings]] = [None]
        self.metrics.watch(
            lambda state: 3 if state == "filling" else 0,
            {
                "default": Watched(lambda: True, lambda: 16, lambda: (IDLE_HOST, BUSY_HOST)),
                "hf": Watched(lambda: False, lambda: 2, tuple),
            },
            lambda: holdings[0],
        )
        self.assertTrue(math.isnan(value(self.metrics.text(), "stored_blobs") or 0))
        holdings[0] = Holdings(models=1, blobs=2, bytes=30)
        text = self.metrics.text()
        for name in (
            *("client_bytes_total", "fills_started_total"),
            *("fills_completed_total", "fills_failed_total", "fill_retries_total"),
            *("digest_mismatches_total", "fill_seconds_count", "reactor_lag_seconds_count"),
        ):
            self.assertEqual(value(text, name), 0, name)
        for result in ("same", "replaced", "failed"):
            self.assertEqual(value(text, "revalidations_total", result=result), 0)
        self.assertEqual(value(text, "fills", state="filling"), 3)
        for registry, is_down, allowed in (("default", 1, 16), ("hf", 0, 2)):
            for name, expected in (
                ("upstream_bytes_total", 0),
                ("upstream_circuit_open", is_down),
                ("upstream_connections_allowed", allowed),
            ):
                self.assertEqual(value(text, name, registry=registry), expected, name)
        name = "upstream_round_trip_seconds"
        for kind, seconds in (("base", 0.02), ("present", 0.05)):
            self.assertEqual(value(text, name, registry="default", kind=kind), seconds)
            self.assertTrue(math.isnan(value(text, name, registry="hf", kind=kind) or 0))
        for registry, count in (("default", 5), ("hf", 0)):
            self.assertEqual(value(text, "upstream_connections", registry=registry), count)
        for by in BOUNDS:
            found = value(text, "upstream_bound", registry="default", by=by)
            self.assertEqual(found, by == THE_LINE, by)
        for direction in ("to", "from"):
            self.assertEqual(value(text, "store_bytes_total", direction=direction), 0)
        for what, count in {"models": 1, "blobs": 2, "bytes": 30}.items():
            self.assertEqual(value(text, f"stored_{what}"), count)

    def test_a_busy_reactor_lags(self) -> None:
        self.metrics.start()
        self.clock.pump([0.5] * 4)
        self.clock.advance(2.75)
        self.clock.advance(0.25)
        self.metrics.stop()
        text = self.metrics.text()
        self.assertEqual(value(text, "reactor_lag_seconds_count"), 6)
        self.assertEqual(value(text, "reactor_lag_seconds_sum"), 2.25)
        self.assertFalse(self.clock.getDelayedCalls())

    def test_neither_registries_nor_daemons_share_counts(self) -> None:
        self.metrics.of_registry("hf").received(5)
        self.metrics.received(7)
        text = self.metrics.text()
        for registry, count in (("default", 7), ("hf", 5)):
            self.assertEqual(value(text, "upstream_bytes_total", registry=registry), count)
        self.assertEqual(self.metrics.moved().received, 12)
        another = PrometheusMetrics(self.clock)
        self.assertEqual(another.moved().received, 0)


class DocumentedTests(SynchronousTestCase):
    def test_the_page_names_what_is_counted_and_nothing_else(self) -> None:
        page = (CHECKOUT / "docs" / "metrics.rst").read_text(encoding="utf-8")
        documented = set(re.findall(r"``(yukari_\w+)``", page))
        metrics = PrometheusMetrics(Clock())
        counted = {
            family.name + ("_total" if family.type == "counter" else "")
            for family in text_string_to_metric_families(metrics.text().decode())
            if family.name.startswith("yukari_")
        }
        self.assertEqual(documented, counted)


class DaemonTests(RunningCase):
    async def scraped(self, daemon: Daemon) -> bytes:
        reply, body = await self.ask(f"{daemon.url}/metrics")
        self.assertEqual(reply.status, 200)
        self.assertTrue(reply.headers["content-type"].startswith("text/plain; version=0.0.4"))
        return body

    async def test_pulls_cold_and_warm_by_every_generation_to_the_byte(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB,70000,10", rate=3_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        for generation in GENERATIONS:
            self.assert_whole(await self.pull(daemon, MODEL, generation), model)
        await daemon.idle()
        text = await self.scraped(daemon)
        blobs = len(model.blobs)
        self.assertEqual(value(text, "upstream_bytes_total", **BY_DEFAULT), upstream.counters.sent)
        self.assertEqual(value(text, "upstream_bytes_total", **BY_DEFAULT), model.size)
        self.assertEqual(value(text, "fills_started_total"), blobs)
        self.assertEqual(value(text, "fills_completed_total"), blobs)
        self.assertEqual(value(text, "fill_seconds_count"), blobs)
        self.assertEqual(value(text, "fills", state="filling"), 0)
        self.assertEqual(value(text, "fills_failed_total"), 0)
        self.assertEqual(value(text, "fill_retries_total"), 0)
        one = {"kind": "manifest", "method": "GET", "status": "200"}
        # Upstream is asked for each variant once: the newest generation accepts lists.
        self.assertEqual(value(text, "requests_total", **one, result="miss"), 2)
        self.assertEqual(value(text, "requests_total", **one, result="hit"), len(GENERATIONS) - 2)
        self.assertEqual(value(text, "first_byte_seconds_count", kind="manifest"), len(GENERATIONS))
        sent = value(text, "client_bytes_total")
        assert sent is not None
        self.assertGreaterEqual(sent, len(GENERATIONS) * (model.size + len(model.manifest_bytes)))

    async def test_a_herd_cold_to_the_byte(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB,70000,10", line=4_000_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        pulls = [self.begin(self.pull(daemon, MODEL, each)) for each in GENERATIONS * 3]
        for pulled in await gatherResults(pulls):
            self.assert_whole(pulled, model)
        await daemon.idle()
        text = await self.scraped(daemon)
        self.assertEqual(value(text, "upstream_bytes_total", **BY_DEFAULT), upstream.counters.sent)
        self.assertEqual(value(text, "upstream_bytes_total", **BY_DEFAULT), model.size)
        self.assertEqual(value(text, "fills_completed_total"), len(model.blobs))

    async def test_pulls_that_are_interrupted_on_either_side_to_the_byte(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB", rate=2_000_000)
        model = upstream.models[MODEL]
        digest, size = model.blobs[0]
        upstream.faults.add(Fault("store", "cut", after=20_000, times=3, digest=digest))
        daemon = await self.daemon(upstream)
        leaving = self.begin(self.pull(daemon))
        await until(lambda: upstream.counters.sent >= size // 3)
        leaving.addErrback(lambda _: None)
        leaving.cancel()
        self.assert_whole(await self.pull(daemon), model)
        await daemon.idle()
        text = await self.scraped(daemon)
        self.assertEqual(value(text, "upstream_bytes_total", **BY_DEFAULT), upstream.counters.sent)
        self.assertEqual(value(text, "upstream_bytes_total", **BY_DEFAULT), model.size)
        self.assertGreaterEqual(value(text, "fill_retries_total") or 0, 1)

    async def test_a_sequential_stream_is_counted(self) -> None:
        upstream = await self.upstream(f"{MODEL}=600KB", ignore_range=True)
        daemon = await self.daemon(upstream)
        await self.pull(daemon)
        await daemon.idle()
        text = await self.scraped(daemon)
        counted = value(text, "upstream_bytes_total", **BY_DEFAULT)
        self.assertGreaterEqual(counted, upstream.models[MODEL].size)
        # On a busy machine the stream may be asked for again, and then comes from its beginning.
        self.assertLessEqual(counted, upstream.counters.sent)

    async def test_relayed_bytes_are_counted(self) -> None:
        upstream = await self.upstream(f"{MODEL}=600KB")
        daemon = await self.daemon(upstream, min_free="100%")
        model = upstream.models[MODEL]
        digest, size = model.blobs[0]
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        _, body = await self.ask(
            f"{daemon.url}/v2/library/m/blobs/{digest}", {"Range": f"bytes=0-{size - 1}"}
        )
        self.assertEqual(len(body), size)
        # What people look at is nothing of a model: it would count as saved.
        await self.ask(f"{daemon.url}/")
        text = await self.scraped(daemon)
        self.assertEqual(value(text, "upstream_bytes_total", **BY_DEFAULT), upstream.counters.sent)
        blob = {"kind": "blob", "method": "GET", "status": "206", "result": "relay"}
        self.assertEqual(value(text, "requests_total", **blob), 1)
        self.assertEqual(value(text, "client_bytes_total"), size + len(model.manifest_bytes))

    async def test_wrong_bytes_retries_and_errors(self) -> None:
        upstream = await self.upstream(f"{MODEL}=300KB")
        digest, _ = upstream.models[MODEL].blobs[0]
        upstream.faults.add(Fault("store", "cut", after=1000, times=2, digest=digest))
        upstream.faults.add(Fault("store", "flip", at=150_000, times=1, digest=digest))
        daemon = await self.daemon(upstream)
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        await self.ask(f"{daemon.url}/v2/library/other/manifests/latest")
        await daemon.idle()
        text = await self.scraped(daemon)
        self.assertGreaterEqual(value(text, "fill_retries_total") or 0, 1)
        self.assertEqual(value(text, "digest_mismatches_total"), 1)
        self.assertEqual(value(text, "fills_completed_total"), 2)
        error = {"kind": "manifest", "method": "GET", "status": "404", "result": "error"}
        self.assertEqual(value(text, "requests_total", **error), 1)

    async def test_checks_of_stored_manifests_are_counted(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000", "library/n:latest=100")
        daemon = await self.daemon(upstream, manifest_lifetime="0", invalidator_period="50ms")
        await self.pull(daemon)
        counted = daemon.service.parts.metrics

        def checked(result: str) -> float:
            return value(counted.text(), "revalidations_total", result=result) or 0

        await until(lambda: checked("same") >= 1)
        upstream.set_manifest(MODEL, upstream.models["library/n:latest"].manifest_bytes)
        await until(lambda: checked("replaced") == 1)
        await upstream.down()
        await until(lambda: checked("failed") >= 1)

    async def test_an_expired_manifest_that_cannot_be_checked_is_stale(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, manifest_lifetime="1ms", invalidator_period="10ms")
        counted = daemon.service.parts.metrics
        await self.pull(daemon)
        one = {"kind": "manifest", "method": "GET", "status": "200"}

        def replied(result: str) -> float:
            return value(counted.text(), "requests_total", **one, result=result) or 0

        await until(lambda: bool(value(counted.text(), "revalidations_total", result="same")))
        await self.pull(daemon)
        self.assertEqual((replied("miss"), replied("hit"), replied("stale")), (1, 1, 0))
        await upstream.down()
        await until(lambda: bool(value(counted.text(), "revalidations_total", result="failed")))
        await self.pull(daemon)
        self.assertEqual((replied("miss"), replied("hit"), replied("stale")), (1, 1, 1))

    async def test_stored_models_are_counted_after_the_pulls(self) -> None:
        self.patch(stock, "REST", 0.01)
        upstream = await self.upstream(f"{MODEL}=300KB,70000,10")
        daemon = await self.daemon(upstream)
        counted = daemon.service.parts.metrics
        await until(lambda: value(counted.text(), "stored_models") == 0)
        await self.pull(daemon)
        model = upstream.models[MODEL]
        in_all = model.size + len(model.manifest_bytes)  # a manifest is a blob as well
        await until(lambda: value(counted.text(), "stored_bytes") == in_all)
        text = counted.text()
        self.assertEqual(value(text, "stored_models"), 1)
        self.assertEqual(value(text, "stored_blobs"), len(model.blobs) + 1)

    async def test_an_unreachable_upstream_opens_the_circuit(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream)
        await upstream.down()
        self.assertEqual(
            value(await self.scraped(daemon), "upstream_circuit_open", **BY_DEFAULT), 0
        )
        for tag in range(3):
            await self.ask(f"{daemon.url}/v2/library/m/manifests/{tag}")
        self.assertEqual(
            value(await self.scraped(daemon), "upstream_circuit_open", **BY_DEFAULT), 1
        )

    async def test_offline_has_numbers_too(self) -> None:
        daemon = await self.daemon(await self.upstream(), offline="1")
        self.assertEqual(
            value(await self.scraped(daemon), "upstream_circuit_open", **BY_DEFAULT), 0
        )


class AdminTests(RunningCase):
    """``/metrics`` and what stops fills are for this machine and for ADMIN_BIND."""

    PROXIED = {"X-Forwarded-For": "192.0.2.1"}

    async def test_a_proxied_request_does_not_count_as_local(self) -> None:
        daemon = await self.daemon(await self.upstream())
        for method, path in (
            ("GET", "/metrics"),
            ("GET", "/fills"),
            ("GET", f"/fills/{DIGEST}"),
            ("DELETE", f"/fills/{DIGEST}"),
        ):
            reply, body = await self.ask(f"{daemon.url}{path}", self.PROXIED, method)
            self.assertEqual(reply.status, 403)
            self.assertIn(b"ADMIN_BIND", body)

    async def test_metrics_are_open_on_the_admin_port(self) -> None:
        daemon = await self.daemon(await self.upstream(), admin_bind="127.0.0.1:0")
        (port,) = daemon.service.admin_ports
        admin = f"http://127.0.0.1:{port.getHost().port}"
        reply, _ = await self.ask(f"{admin}/metrics", self.PROXIED)
        self.assertEqual(reply.status, 200)
        reply, _ = await self.ask(f"{admin}/fills/{DIGEST}", self.PROXIED, "DELETE")
        self.assertEqual(reply.status, 404)
