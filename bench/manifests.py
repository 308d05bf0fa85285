"""
Replies a second: manifest hits with few models stored and with 100,000, and little pieces of a
stored blob beside nginx.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import peers
from bench.models import many_models, write_blob
from bench.peers import Peer
from bench.readers import Reader
from bench.scale import MB, Scale, workplace
from bench.tables import Table, in_turns, median, ratio

HOST = "127.0.0.1:9"
"""The upstream that is never there: what is measured is stored."""
HOT = 10
"""Models that are asked for again and again."""


def script_of(place: Path, paths: list[str], extra: str = "") -> Path:
    """For wrk: a path chosen at random for each request; ``extra`` are more of its headers."""
    quoted = ",".join(f'"{path}"' for path in paths)
    script = place / f"paths-{len(paths)}.lua"
    script.write_text(
        f"local paths = {{{quoted}}}\n"
        "local headers = {['User-Agent'] = 'ollama/0.12.6 (amd64 linux) Go/go1.24.1'"
        f"{extra}}}\n"
        "function request()\n"
        "    return wrk.format('GET', paths[math.random(#paths)], headers)\n"
        "end\n"
    )
    return script


def rate(
    peer: Peer, script: Path, seconds: float, used: list[float], connections: int = 64
) -> float:
    """Replies a second, by wrk; ``used`` is told the replies for a second of the peer's CPU."""
    assert peers.WRK is not None and peer.process is not None
    before = peer.process.cpu()
    command = [
        peers.WRK,
        "-t1",
        f"-c{connections}",
        f"-d{seconds:.0f}",
        "-s",
        str(script),
        peer.url,
    ]
    text = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    wrong = re.search(r"(Non-2xx.*|Socket errors.*)", text)
    if wrong:
        raise RuntimeError(f"{peer.name}: {wrong[1]}")
    count = re.search(r"(\d+) requests in", text)
    found = re.search(r"Requests/sec: +([0-9.]+)", text)
    assert count is not None and found is not None, text
    used.append(int(count[1]) / (peer.process.cpu() - before))
    return float(found[1])


def rate_without_wrk(peer: Peer, paths: list[str], seconds: float) -> float:
    """Replies a second over one connection."""
    readers = [Reader(peer.url + path) for path in paths]
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for reader in readers:
            reader.read()
            count += 1
    return count / (time.monotonic() - began)


def run(scale: Scale) -> Iterator[Table]:
    """Hits a second on few hot models and on all of them alike; pieces of a blob."""
    yield _manifests(scale)
    yield _pieces(scale)


def _manifests(scale: Scale) -> Table:
    table = Table(
        "manifests",
        "Manifest hits a second, 64 connections on one core",
        ["stored", "asked for", "peer", "hits/s", "÷ the first row's", "hits/CPU s"],
    )
    seconds = scale.of(3.0, 1.0)
    counts = scale.of([10, 10_000, 100_000], [100])
    with workplace() as place, ExitStack() as stack:
        measures = {}
        used: dict[tuple[int, int], list[float]] = {}
        for count in counts:
            store = place / f"store-{count}"
            names = many_models(store, HOST, count)
            paths = ["/v2/{}/manifests/{}".format(*name.split(":")) for name in names]
            peer = stack.enter_context(
                peers.yukari(place, f"http://{HOST}", store=store, name=f"yukari-{count}")
            )
            for asked in sorted({HOT, count}):
                if peers.WRK:
                    script = script_of(place, paths[:asked])
                    used[count, asked] = []
                    measures[count, asked] = partial(
                        rate, peer, script, seconds, used[count, asked]
                    )
                elif asked == HOT:
                    measures[count, asked] = partial(rate_without_wrk, peer, paths[:HOT], seconds)
        if not peers.WRK:
            table.note("wrk is not installed: one connection at a time by Python")
        found = in_turns(measures, scale.of(3, 1))
        for (count, asked), rates in found.items():
            first = found[counts[0], HOT]
            per_cpu = used.get((count, asked))
            table.add(
                *(count, asked, "yukari", median(rates), ratio(rates, first)),
                None if per_cpu is None else median(per_cpu),
            )
    return table


def _pieces(scale: Scale) -> Table:
    """What clients ask for in large numbers: small blobs, and parts of a large one."""
    table = Table(
        "pieces",
        "Pieces of a stored blob, replies a second, 64 connections on one core",
        ["bytes", "peer", "replies/s", "÷ nginx, one worker", "replies/CPU s"],
    )
    missing = peers.nginx_missing() or (None if peers.WRK else "wrk is not installed")
    if missing:
        table.note(missing)
        return table
    with workplace() as place, ExitStack() as stack:
        store = place / "store"
        blob = write_blob(store / "blobs", 16 * MB)
        nginx = stack.enter_context(peers.nginx_static(place, store, "1"))
        yukari = stack.enter_context(peers.yukari(place, f"http://{HOST}", store=store))
        for size in scale.of((500, 64 * 1024, 1024 * 1024), (64 * 1024,)):
            script = script_of(
                place,
                [f"/v2/library/m/blobs/{blob.digest}"],
                f", ['Range'] = 'bytes=1000-{999 + size}'",
            )
            used: dict[Peer, list[float]] = {nginx: [], yukari: []}
            measures = {
                peer: partial(rate, peer, script, scale.of(2.0, 1.0), used[peer]) for peer in used
            }
            found = in_turns(measures, scale.of(5, 1))
            for peer, rates in found.items():
                against = ratio(rates, found[nginx])
                table.add(size, peer.name, median(rates), against, median(used[peer]))
    return table
