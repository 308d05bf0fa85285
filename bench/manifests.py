"""Manifest hits a second: what a look-up costs, with few models stored and with 100,000."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import peers
from bench.models import many_models
from bench.peers import Peer
from bench.readers import Reader
from bench.scale import Scale, workplace
from bench.tables import Table, in_turns, median, ratio

HOST = "127.0.0.1:9"
"""The upstream that is never there: what is measured is stored."""
HOT = 10
"""Models that are asked for again and again."""


def _script(place: Path, names: list[str]) -> Path:
    paths = ",".join('"/v2/{}/manifests/{}"'.format(*name.split(":")) for name in names)
    script = place / f"paths-{len(names)}.lua"
    script.write_text(
        f"local paths = {{{paths}}}\n"
        "local headers = {['User-Agent'] = 'ollama/0.12.6 (amd64 linux) Go/go1.24.1'}\n"
        "function request()\n"
        "    return wrk.format('GET', paths[math.random(#paths)], headers)\n"
        "end\n"
    )
    return script


def rate(peer: Peer, script: Path, seconds: float, connections: int = 64) -> float:
    """Replies a second, by wrk."""
    assert peers.WRK is not None
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
    found = re.search(r"Requests/sec: +([0-9.]+)", text)
    assert found is not None, text
    return float(found[1])


def rate_without_wrk(peer: Peer, names: list[str], seconds: float) -> float:
    """Replies a second over one connection."""
    readers = [
        Reader("{}/v2/{}/manifests/{}".format(peer.url, *name.split(":"))) for name in names[:HOT]
    ]
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for reader in readers:
            reader.read()
            count += 1
    return count / (time.monotonic() - began)


def run(scale: Scale) -> Iterator[Table]:
    """Hits a second on few hot models and on all of them alike."""
    table = Table(
        "manifests",
        "Manifest hits a second, 64 connections on one core",
        ["stored", "asked for", "peer", "hits/s", "÷ the first row's"],
    )
    seconds = scale.of(3.0, 1.0)
    rounds = scale.of(3, 1)
    counts = scale.of([10, 10_000, 100_000], [100])
    with workplace() as place, ExitStack() as stack:
        measures = {}
        rows = {}
        for count in counts:
            store = place / f"store-{count}"
            names = many_models(store, HOST, count)
            peer = stack.enter_context(
                peers.yukari(place, f"http://{HOST}", store=store, name=f"yukari-{count}")
            )
            for asked in sorted({HOT, count}):
                rows[f"{count} {asked}"] = (count, asked, peer)
                if peers.WRK:
                    script = _script(place, names[:asked])
                    measures[f"{count} {asked}"] = lambda p=peer, s=script: rate(p, s, seconds)
                elif asked == HOT:
                    measures[f"{count} {asked}"] = lambda p=peer, n=names: rate_without_wrk(
                        p, n, seconds
                    )
        if not peers.WRK:
            table.note("wrk is not installed: one connection at a time by Python")
        found = in_turns(measures, rounds)
        first = found[f"{counts[0]} {HOT}"]
        for key, rates in found.items():
            count, asked, _ = rows[key]
            table.add(count, asked, "yukari", median(rates), ratio(rates, first))
    yield table
