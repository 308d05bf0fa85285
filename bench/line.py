"""
What a pull does to others on its line: time, ping and connections beside curl and stock Ollama.

The line is a link with a queue (`bench.network`), the ping is from the machine that pulls to the
registry's, as that of a person who works there meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from attrs import frozen

from bench import network, peers
from bench.cold import MODEL, pull
from bench.network import FAR, Link, Watch
from bench.peers import Emulated, Peer
from bench.processes import free_port, listens, running
from bench.scale import Scale, workplace
from bench.tables import Table, quantile
from tests.ollama import OLLAMA

SECONDS = 10.0
"""How long the line needs for the model."""
KINDS = ("cubic", "bbr")
"""The kinds of congestion control that registries' hosts have."""


@frozen
class Case:
    """A link, and the registry at its far end with one model of ``size`` bytes."""

    place: Path
    size: int
    upstream: Emulated

    @property
    def digest(self) -> str:
        """The digest of the model's only large blob."""
        (model,) = self.upstream.models.values()
        return str(model["layers"][0][0])


def _curl(case: Case) -> float:
    url = f"{case.upstream.url}/v2/{MODEL}/blobs/{case.digest}"
    began = time.monotonic()
    subprocess.run(["curl", "-sSfL", "-o", os.devnull, url], check=True)
    return time.monotonic() - began


def _stock(case: Case) -> float:
    """By ``ollama serve`` straight from upstream."""
    home = case.place / "ollama"
    address = f"127.0.0.1:{free_port()}"
    env = {"HOME": str(home), "OLLAMA_HOST": address, "PATH": os.environ["PATH"]}
    with running([OLLAMA, "serve"], case.place, "ollama", env) as process:
        process.until(lambda: listens(int(address.partition(":")[2])))
        name = f"{case.upstream.url}/{MODEL}:latest"
        order = json.dumps({"model": name, "insecure": True, "stream": False}).encode()
        began = time.monotonic()
        with urlopen(Request(f"http://{address}/api/pull", order), timeout=300) as reply:
            told = json.load(reply)
        seconds = time.monotonic() - began
    shutil.rmtree(home)
    if told.get("status") != "success":
        raise RuntimeError(f"stock Ollama: {told}")
    return seconds


@contextmanager
def _empty(case: Case, name: str) -> Iterator[Peer]:
    """Our daemon with nothing stored."""
    with peers.yukari(case.place, case.upstream.url, name=name) as peer:
        yield peer
    shutil.rmtree(case.place / name)


def _reader(case: Case) -> float:
    """An emulated client through our daemon."""
    with _empty(case, "yukari") as peer:
        seconds: float = pull(peer, "classic16")["seconds"]
    return seconds


def _fetched(peer: Peer, case: Case) -> float:
    """Seconds until a daemon has the model that nobody reads."""
    began = time.monotonic()
    peers.get(f"{peer.url}/v2/{MODEL}/manifests/latest")
    while True:
        time.sleep(0.05)
        if not json.loads(peers.get(f"{peer.url}/fills"))["fills"]:
            return time.monotonic() - began


def _nobody(case: Case) -> float:
    with _empty(case, "yukari") as peer:
        return _fetched(peer, case)


def _measured(case: Case, once: Callable[[Case], float]) -> tuple[float, float, float, float]:
    """Seconds, the ping's median and p95 in ms, and how many connections there were."""
    with Watch() as watch:
        seconds = once(case)
    busy = watch.busy()
    trips = [moment.round_trip * 1000 for moment in busy]
    connections = [moment.connections for moment in busy]
    return seconds, quantile(trips, 0.5), quantile(trips, 0.95), quantile(connections, 0.5)


def _larger_share(case: Case) -> float:
    """The larger share of the bytes that two daemons with a reader each get in the same time."""
    with _empty(case, "one") as one, _empty(case, "two") as two:
        pulled: dict[str, float] = {}

        def count(peer: Peer) -> float:
            fills = json.loads(peers.get(f"{peer.url}/fills"))["fills"]
            return float(sum(fill["upstream_bytes"] for fill in fills))

        def begin(peer: Peer) -> None:
            pulled[peer.name] = pull(peer, "classic16")["seconds"]

        readers = [threading.Thread(target=begin, args=(peer,)) for peer in (one, two)]
        for reader in readers:
            reader.start()
        time.sleep(SECONDS)  # Together they need twice that.
        counts = [count(peer) for peer in (one, two)]
        for reader in readers:
            reader.join()
    return max(counts) / sum(counts)


def run(scale: Scale) -> Iterator[Table]:
    """Every link with every way to pull over it."""
    table = Table(
        "line",
        "A pull over a line with a queue, and a ping beside it",
        ["line", "queue ms", "sender", "who", "s", "ping p50 ms", "p95", "connections"],
    )
    shared = Table(
        "line-shared",
        "Two daemons on one line, each with a reader",
        ["line", "queue ms", "sender", "larger share"],
    )
    why = network.missing() or (None if shutil.which("curl") else "curl is not installed")
    if why is not None:
        table.note(why)
        yield table
        return
    if not OLLAMA:
        table.note("no stock Ollama: YUKARI_TEST_OLLAMA does not name one")
    # With cells named, of all links that there are.
    rates = [20, 80, 400] if scale.cells else scale.of([20, 80], [80], [20, 80, 400])
    queues = scale.of([0.1, 0.4], [0.4])
    for link in [Link(rate * 10**6, queue) for rate in rates for queue in queues]:
        for kind in scale.of(KINDS, KINDS[:1]):
            _measure(scale, link, kind, table, shared)
    yield table
    yield shared


def _measure(scale: Scale, link: Link, kind: str, table: Table, shared: Table) -> None:
    """Add the rows of a link, as far as they are wanted."""
    who: dict[str, Callable[[Case], float]] = {"curl": _curl}
    if OLLAMA:
        who["stock Ollama"] = _stock
    who["Yukari, a reader"] = _reader
    if not scale.quick:
        who["Yukari, nobody waits"] = _nobody
    cell = f"{link.rate // 10**6}/{round(link.queue * 1000)}/{kind}"
    who = {name: once for name, once in who.items() if scale.wants(f"{cell}/{name}")}
    is_shared = not scale.quick and scale.wants(f"{cell}/two")
    if not (who or is_shared):
        return
    size = int(link.rate / 8 * scale.of(SECONDS, 1.0))
    with workplace(4 * size) as place, ExitStack() as stack:
        ends = stack.enter_context(network.linked(link, kind))
        with network.inside(ends.far):
            upstream = stack.enter_context(
                peers.emulator(place, f"{MODEL}:latest={size},1KB", hosts=FAR)
            )
        case = Case(place, size, upstream)
        with network.inside(ends.near):
            for name, once in who.items():
                table.add(*_link(link, kind), name, *_measured(case, once))
            if is_shared:
                shared.add(*_link(link, kind), _larger_share(case))


def _link(link: Link, kind: str) -> tuple[str, int, str]:
    return f"{link.rate // 10**6} Mbit/s", round(link.queue * 1000), kind
