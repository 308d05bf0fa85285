"""Hits: what a stored blob's readers get, against nginx that sends the same file by sendfile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from bench import peers
from bench.models import Blob, write_blob
from bench.peers import Peer
from bench.processes import CHECKOUT, environment, python
from bench.readers import Reader
from bench.scale import GB, MB, Scale, workplace
from bench.tables import Table, in_turns, median, ratio

MODEL = "library/m"


def read(peer: Peer, blob: Blob, readers: int, repeat: int = 1, *, split: bool = False) -> float:
    """Bytes a second of all readers together."""
    arguments = [
        *("--url", f"{peer.url}/v2/{MODEL}/blobs/{blob.digest}", "--readers", str(readers)),
        *("--repeat", str(repeat), "--end", str(blob.size), *(["--split"] if split else [])),
    ]
    found = json.loads(python("-m", "bench.readers", *arguments, timeout=300))
    return float(found["bytes"] / found["seconds"])


def run(scale: Scale) -> Iterator[Table]:
    """Bytes a second and CPU a GB, 1 to 64 readers; short rounds, because other work goes on."""
    table = readers_table("hits", "Hits: readers of one stored blob")
    rounds = scale.of(15, 1, 25)
    size = scale.of(1000 * MB, 50 * MB)
    with workplace(2 * size) as place, ExitStack() as stack:
        blob = write_blob(place / "store" / "blobs", size)
        store = place / "store"
        found = [
            stack.enter_context(peers.yukari(place, "http://127.0.0.1:9", "--offline", store=store))
        ]
        if peers.nginx_missing():
            table.note(str(peers.nginx_missing()))
        else:
            found.append(stack.enter_context(peers.nginx_static(place, store)))
            alone = stack.enter_context(peers.nginx_static(place, store, "1"))
            alone.name = "nginx, 1 worker"
            found.append(alone)
        for readers in scale.of([1, 4, 16, 64], [4]):
            repeat = max(1, round(scale.of(GB, size) / readers / size))
            part = blob if readers <= 4 else Blob(blob.hex, size * 4 // readers)
            compare(table, found, part, readers, repeat, rounds)
    yield table


def readers_table(name: str, title: str) -> Table:
    """A table that `compare` fills."""
    return Table(name, title, ["readers", "peer", "GB/s", "÷ nginx", "CPU s/GB"])


def compare(
    table: Table, found: Sequence[Peer], blob: Blob, readers: int, repeat: int, rounds: int
) -> None:
    """Add a row for each peer: all read the blob in turns, ``rounds`` times."""
    used = {peer.name: 0.0 for peer in found}
    rates = in_turns(
        {peer.name: _measure_of(peer, blob, readers, repeat, used) for peer in found}, rounds
    )
    total = rounds * readers * repeat * blob.size / GB
    for peer in found:
        against = rates.get("nginx static")
        table.add(
            readers,
            peer.name,
            median(rates[peer.name]) / GB,
            ratio(rates[peer.name], against) if against else None,
            used[peer.name] / total,
        )


def _measure_of(
    peer: Peer, blob: Blob, readers: int, repeat: int, used: dict[str, float]
) -> Callable[[], float]:
    """A measure of bytes a second, which adds the peer's CPU seconds to what it has ``used``."""

    def measure() -> float:
        assert peer.process is not None
        before = peer.process.cpu()
        rate = read(peer, blob, readers, repeat)
        used[peer.name] += peer.process.cpu() - before
        return rate

    return measure


def waits_beside(peer: Peer, name: str, blob: Blob, *flags: str) -> tuple[list[float], float]:
    """
    Seconds of each manifest hit, on one connection, while ``bench.readers`` takes a blob.

    ``flags`` are for the readers; also returns their bytes a second, all together.
    """
    hits = Reader("{}/v2/{}/manifests/{}".format(peer.url, *name.split(":")))
    command = [
        *(sys.executable, "-m", "bench.readers", "--end", str(blob.size), *flags),
        *("--url", f"{peer.url}/v2/{MODEL}/blobs/{blob.digest}"),
    ]
    waits = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=CHECKOUT, env=environment()
    ) as readers:
        while readers.poll() is None:
            began = time.monotonic()
            hits.read()
            waits.append(time.monotonic() - began)
            time.sleep(0.002)
        assert readers.stdout is not None
        told = json.loads(readers.stdout.read())
    return waits, told["bytes"] / told["seconds"]
