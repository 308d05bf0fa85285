"""
The daemon's metrics, in Prometheus's text format.

Every label has few values: never the name of a model, a digest, or the address of a client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Optional, TypeVar

from attrs import frozen
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from yukari import __version__
from yukari.config.registries import DEFAULT_NAME
from yukari.daemon.watched import Watched
from yukari.library.traffic import Moved
from yukari.metrics import EVICTED, RESULTS, STATES, Metrics, Replies
from yukari.sources.host_facts import BOUNDS
from yukari.storage.ports import Holdings

disable_created_metrics()  # A series beside each counter and histogram that says the start.

LAG_PERIOD = 0.5
"""Seconds between two measurements of the reactor's lag."""

M = TypeVar("M", Counter, Gauge, Histogram)

_KINDS = ("healthz", "readyz", "metrics", "fills")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_FILL_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)


def kind_of(path: bytes) -> str:
    """Return the kind of a request as a label, by its path; ``other`` for unknown paths."""
    parts = path.strip(b"/").split(b"/")
    if parts[0] != b"v2":
        name = parts[0].decode("latin-1")
        return name if name in _KINDS else "other" if name else "front"
    if len(parts) == 1:
        return "v2"
    if parts[1:] == [b"_catalog"]:
        return "catalog"
    if len(parts) in (5, 6) and parts[-2] in (b"manifests", b"blobs", b"tags"):
        return parts[-2].rstrip(b"s").decode()
    return "other"


def _method(method: bytes) -> str:
    return method.decode() if method in (b"GET", b"HEAD", b"DELETE") else "other"


def _result(result: str, status: int) -> str:
    if status >= 400:
        return "error"
    return result if result in RESULTS else "none"


@frozen(eq=False, repr=False)
class _OfRegistry(Metrics):
    """Counts what arrives from one registry."""

    _received: Counter

    def received(self, count: int) -> None:
        self._received.inc(count)


@frozen(eq=False, repr=False)
class PrometheusReplies(Replies):
    """Counts the replies that have the same labels."""

    _requests: Counter
    _client_bytes: Optional[Counter]
    """None for replies that bring nothing of a model."""
    _first_byte: Histogram

    def count(self, sent: int, first_byte: Optional[float]) -> None:
        self._requests.inc()
        if self._client_bytes is not None:
            self._client_bytes.inc(sent)
        if first_byte is not None:
            self._first_byte.observe(first_byte)


class PrometheusMetrics(Metrics):
    """
    Counts events and renders the counts.

    What `watch` is given is called when the metrics are read.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._registry = CollectorRegistry()
        self._lag_due = 0.0
        self._replies: dict[tuple[str, ...], PrometheusReplies] = {}
        """By their labels."""

        def make(kind: type[M], name: str, help: str, *labels: str, **more: Any) -> M:
            return kind(f"yukari_{name}", help, labels, registry=self._registry, **more)

        ProcessCollector(registry=self._registry)
        make(Gauge, "build_info", "The version that runs.", "version").labels(__version__).set(1)
        self._requests = make(
            Counter,
            "requests",
            "Finished replies, by kind of request, method, status and result.",
            *("kind", "method", "status", "result"),
        )
        self._first_byte = make(
            Histogram,
            "first_byte_seconds",
            "Seconds from a request to the first byte of its reply, by kind.",
            "kind",
            buckets=_SECONDS,
        )
        self._client_bytes = make(
            Counter,
            "client_bytes",
            "Bytes of manifests and blobs sent to clients, counted when a reply ends.",
        )
        self._upstream_bytes = make(
            Counter, "upstream_bytes", "Bytes of blobs received, by registry.", "registry"
        )
        self._store_bytes = make(
            Counter, "store_bytes", "Bytes of bodies to and from the bucket.", "direction"
        )
        for direction in ("to", "from"):
            self._store_bytes.labels(direction)
        self._stored = {
            what: make(Gauge, f"stored_{what}", help)
            for what, help in {
                "models": "Tagged manifests stored; NaN until counted.",
                "blobs": "Blobs stored; NaN until counted.",
                "bytes": "Bytes of stored blobs; NaN until counted.",
            }.items()
        }
        self._fills = make(Gauge, "fills", "Blobs being fetched, by state.", "state")
        self._started = make(Counter, "fills_started", "Blobs whose fetching began.")
        self._completed = make(Counter, "fills_completed", "Blobs fetched, verified and stored.")
        self._failed = make(Counter, "fills_failed", "Times that a fill was suspended.")
        self._fill_seconds = make(
            Histogram,
            "fill_seconds",
            "Seconds from the start of a fill to its stored blob.",
            buckets=_FILL_SECONDS,
        )
        self._retries = make(
            Counter, "fill_retries", "Requests for parts of blobs that failed and were repeated."
        )
        self._mismatches = make(
            Counter, "digest_mismatches", "Blobs that arrived with a wrong digest."
        )
        self._scrubbed = make(
            Counter, "scrubbed_bytes", "Bytes of stored blobs that were read again and hashed."
        )
        self._damaged = make(
            Counter,
            "damaged_blobs",
            "Stored copies that were found wrong or unreadable, by place.",
            "place",
        )
        for place in ("disk", "bucket"):
            self._damaged.labels(place)
        self._circuit = make(
            Gauge,
            "upstream_circuit_open",
            "1 while a registry is assumed to be down, by registry.",
            "registry",
        )
        self._allowed = make(
            Gauge,
            "upstream_connections_allowed",
            "Requests for blobs that a registry's most reluctant host gets at once, by registry.",
            "registry",
        )
        self._connections = make(
            Gauge,
            "upstream_connections",
            "Requests for blobs under way, by registry.",
            "registry",
        )
        self._round_trip = make(
            Gauge,
            "upstream_round_trip_seconds",
            "The round trip to a registry's busiest host, with the queue (present) and without"
            " (base); NaN if it is not known.",
            *("registry", "kind"),
        )
        self._bound = make(
            Gauge,
            "upstream_bound",
            "1 for what bounds how fast blobs come from a registry's busiest host.",
            *("registry", "by"),
        )
        self._revalidations = make(
            Counter, "revalidations", "Checks of stored manifests, by result.", "result"
        )
        self._lag = make(
            Histogram,
            "reactor_lag_seconds",
            "Seconds that the reactor is late, measured twice a second.",
            buckets=_SECONDS,
        )
        self._evicted_models = make(
            Counter, "evicted_models", "Versions of models evicted, by reason.", "reason"
        )
        self._evicted_bytes = make(
            Counter, "evicted_bytes", "Bytes freed by evicting, by reason.", "reason"
        )
        self._collections = make(
            Counter, "collections", "Searches for blobs that nothing needs, by result.", "result"
        )
        self._collected_blobs = make(
            Counter, "collected_blobs", "Blobs removed that nothing needed."
        )
        self._collected_bytes = make(
            Counter, "collected_bytes", "Bytes of blobs removed that nothing needed."
        )
        for result in ("same", "replaced", "failed"):
            self._revalidations.labels(result)
        for reason in EVICTED:
            self._evicted_models.labels(reason)
            self._evicted_bytes.labels(reason)
        for result in ("done", "failed"):
            self._collections.labels(result)
        self._loop = LoopingCall(self._look)
        self._loop.clock = self._clock

    def watch(
        self,
        fills: Callable[[str], int],
        registries: Mapping[str, Watched],
        holdings: Callable[[], Optional[Holdings]],
    ) -> None:
        """
        Set the callbacks for the number of fills in each state, for what is known of each registry
        by its name, and for what is stored (None if not counted yet).
        """

        def stored(what: str) -> float:
            found = holdings()
            return float("nan") if found is None else float(getattr(found, what))

        for what, gauge in self._stored.items():
            gauge.set_function(partial(stored, what))
        for state in STATES:
            self._fills.labels(state).set_function(partial(fills, state))
        for name, each in registries.items():
            self._upstream_bytes.labels(name)
            self._circuit.labels(name).set_function(each.is_down)
            self._allowed.labels(name).set_function(each.allowed)
            self._connections.labels(name).set_function(each.connections)
            for kind in ("base", "present"):
                found = partial(each.round_trip, present=kind == "present")
                self._round_trip.labels(name, kind).set_function(found)
            for by in BOUNDS:
                self._bound.labels(name, by).set_function(partial(each.is_bound_by, by))

    def of_registry(self, name: str) -> Metrics:
        """Return the metrics that one registry's bytes are counted in."""
        return _OfRegistry(self._upstream_bytes.labels(name))

    def start(self) -> None:
        """Start measuring the reactor's lag."""
        self._lag_due = self._clock.seconds() + LAG_PERIOD
        self._loop.start(LAG_PERIOD, now=False)

    def stop(self) -> None:
        """Stop measuring the reactor's lag."""
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        now = self._clock.seconds()
        self._lag.observe(max(0.0, now - self._lag_due))
        # The loop keeps its beat: after a long pause it skips the calls that it has missed.
        self._lag_due += LAG_PERIOD * max(1, int((now - self._lag_due) / LAG_PERIOD) + 1)

    def moved(self) -> Moved:
        """Return how many bytes were sent to clients and received from upstream."""
        sent, received = (
            sum(
                sample.value
                for sample in next(iter(counter.collect())).samples
                if sample.name.endswith("_total")
            )
            for counter in (self._client_bytes, self._upstream_bytes)
        )
        return Moved(int(sent), int(received))

    def text(self) -> bytes:
        """Render all metrics in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def replies(self, *, path: bytes, method: bytes, status: int, result: str) -> Replies:
        kind, shown = kind_of(path), _result(result, status)
        labels = kind, _method(method), str(status), shown
        found = self._replies.get(labels)
        if found is None:
            found = self._replies[labels] = PrometheusReplies(
                self._requests.labels(*labels),
                self._client_bytes if shown in RESULTS else None,
                self._first_byte.labels(kind),
            )
        return found

    def received(self, count: int) -> None:
        self.of_registry(DEFAULT_NAME).received(count)

    def from_store(self, count: int) -> None:
        self._store_bytes.labels("from").inc(count)

    def to_store(self, count: int) -> None:
        self._store_bytes.labels("to").inc(count)

    def fill_began(self) -> None:
        self._started.inc()

    def fill_ended(self, seconds: float, *, well: bool) -> None:
        if well:
            self._completed.inc()
            self._fill_seconds.observe(seconds)
        else:
            self._failed.inc()

    def retried(self) -> None:
        self._retries.inc()

    def mismatched(self) -> None:
        self._mismatches.inc()

    def scrubbed(self, count: int) -> None:
        self._scrubbed.inc(count)

    def damaged(self, place: str) -> None:
        self._damaged.labels(place).inc()

    def revalidated(self, result: str) -> None:
        self._revalidations.labels(result).inc()

    def evicted(self, reason: str, *, models: int = 0, freed: int = 0) -> None:
        self._evicted_models.labels(reason).inc(models)
        self._evicted_bytes.labels(reason).inc(freed)

    def collected(self, blobs: int, freed: int) -> None:
        self._collections.labels("done").inc()
        self._collected_blobs.inc(blobs)
        self._collected_bytes.inc(freed)

    def not_collected(self) -> None:
        self._collections.labels("failed").inc()
