"""
The page with a hundred thousand models, and what two hundred people cost who have it open.

Pages are asked for as a browser does it, on a connection of their own each time. Those who watch
read the events of a fill that is held to a rate; beside them one client asks as `bench.latency`'s
does.
"""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from bench import peers
from bench.latency import asked
from bench.models import many_models, write_blob
from bench.peers import Peer
from bench.processes import CHECKOUT, environment
from bench.readers import Reader
from bench.scale import MB, Scale, workplace
from bench.tables import Table, median, quantile

HOST = "127.0.0.1:9"
BROWSER = {"Accept": "text/html", "User-Agent": "Mozilla/5.0"}
STRANGER = {**BROWSER, "X-Forwarded-For": "192.0.2.7"}


def _page(peer: Peer, path: str, headers: dict[str, str]) -> tuple[float, int]:
    """Milliseconds from the request to the last byte, and how many bytes there were."""
    began = time.monotonic()
    body = peers.get(peer.url + path, **headers)
    return 1000 * (time.monotonic() - began), len(body)


def _until_looked(peer: Peer) -> None:
    """Return when the daemon has read all of the store into its catalog."""
    ends = time.monotonic() + 600
    while not json.loads(peers.get(f"{peer.url}/status"))["store"]["complete"]:
        if time.monotonic() > ends:
            raise RuntimeError("the store was not looked through within ten minutes")
        time.sleep(0.2)


def run(scale: Scale) -> Iterator[Table]:
    """The pages, then those who watch."""
    yield _pages(scale)
    yield _watched(scale)


def _pages(scale: Scale) -> Table:
    count, rounds = scale.of(100_000, 50), scale.of(9, 1)
    table = Table(
        "page",
        f"Pages of a cache of {count:,} models, ms",
        ["page", "for", "first since the start", "p50", "longest", "KB"],
    )
    with workplace() as place:
        store = place / "store"
        names = many_models(store, HOST, count)
        model, _, tag = names[count // 2].partition(":")
        asked_for = [
            ("/", "a stranger", STRANGER),
            ("/", "an admin", BROWSER),
            ("/?sort=size", "an admin", BROWSER),
            (f"/?q={model}+{tag}", "an admin", BROWSER),
            ("/?q=nothing+has+this", "an admin", BROWSER),
            ("/?page=200", "an admin", BROWSER),
            (f"/models/{model}/{tag}", "an admin", BROWSER),
            ("/evictions", "an admin", BROWSER),
            ("/status", "an admin", {}),
        ]
        if scale.quick:
            asked_for = asked_for[1:2]
        with peers.yukari(place, f"http://{HOST}", store=store) as peer:
            _until_looked(peer)
            found = [
                [_page(peer, path, headers) for _ in range(rounds)]
                for path, _, headers in asked_for
            ]
        for (path, whom, headers), pages in zip(asked_for, found):
            firsts = []
            for _ in range(scale.of(3, 1)):
                with peers.yukari(place, f"http://{HOST}", store=store) as peer:
                    firsts.append(_page(peer, path, headers)[0])
            times = [milliseconds for milliseconds, _ in pages]
            size = max(size for _, size in pages)
            table.add(path, whom, median(firsts), median(times), max(times), size / 1000)
    return table


# those who watch


def watch(url: str, count: int) -> None:
    """A process of its own: ``count`` read the events until it is ended."""
    parts, chosen = urlsplit(url), selectors.DefaultSelector()
    head = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n"
    for _ in range(count):
        socket = Reader(url).socket
        socket.sendall(head.encode())
        chosen.register(socket, selectors.EVENT_READ)
    told = 0
    while True:
        for key, _ in chosen.select():
            came: bytes = key.fileobj.recv(65536)  # type: ignore[union-attr]
            if not came or (told < count and not came.startswith(b"HTTP/1.1 200")):
                raise SystemExit(f"no events: {came!r}")
            told += 1
            if told == count:
                print("all", flush=True)


@contextmanager
def _watchers(peer: Peer, count: int) -> Iterator[None]:
    if not count:
        yield
        return
    code = f"from bench.page import watch; watch('{peer.url}/status/events', {count})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CHECKOUT, env=environment(), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        if process.poll() is not None:
            raise RuntimeError("those who watch are gone")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _watched(scale: Scale) -> Table:
    table = Table(
        "watchers",
        "Those who watch a fill of 4 MB/s: the daemon's CPU, and what others wait, ms",
        ["watch", "cores", "hit p50", "p99", "max", "first byte p50", "p99", "max"],
    )
    counts, rounds, seconds = scale.of((0, 200), (0, 5)), scale.of(3, 1), scale.of(15.0, 1.0)
    cores: dict[int, list[float]] = {count: [] for count in counts}
    hits: dict[int, list[float]] = {count: [] for count in counts}
    firsts: dict[int, list[float]] = {count: [] for count in counts}
    size = round(2 * rounds * seconds * 4) + 40
    with workplace() as place, ExitStack() as stack:
        model = f"library/coming:latest={size}MB"
        upstream = stack.enter_context(peers.emulator(place, model, line=4_000_000))
        store = place / "store"
        (name,) = many_models(store, upstream.address, 1)
        stored = write_blob(store / "blobs", 50 * MB)
        peer = stack.enter_context(
            peers.yukari(place, upstream.url, "--client-connections=1000", store=store)
        )
        peers.get(f"{peer.url}/v2/library/coming/manifests/latest")
        hit = "{}/v2/{}/manifests/{}".format(peer.url, *name.split(":"))
        blob = f"{peer.url}/v2/{name.split(':')[0]}/blobs/{stored.digest}"
        time.sleep(1.0)
        assert peer.process is not None
        for _ in range(rounds):
            for count in counts:
                with _watchers(peer, count):
                    began, spent = time.monotonic(), peer.process.cpu()
                    time.sleep(seconds / 2)
                    took = time.monotonic() - began
                    cores[count].append((peer.process.cpu() - spent) / took)
                    for kept, new in zip(
                        (hits[count], firsts[count]), asked(peer, hit, blob, seconds / 2)
                    ):
                        kept += new
    for count in counts:
        table.add(
            count,
            median(cores[count]),
            *(1000 * quantile(hits[count], part) for part in (0.5, 0.99, 1.0)),
            *(1000 * quantile(firsts[count], part) for part in (0.5, 0.99, 1.0)),
        )
    return table
