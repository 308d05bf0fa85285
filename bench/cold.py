"""
Cold pulls: time against a pull straight from upstream, bytes of upstream, and CPU a gigabyte.

Where each connection is slow, many of them are faster than the client's own
few; where the line is, nothing is, and nothing may be lost.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from bench import peers
from bench.models import Blob, write_blob
from bench.peers import Emulated, Peer
from bench.processes import python
from bench.scale import GB, MB, Ballast, Scale, workplace
from bench.tables import Table, in_turns, median, ratio

MODEL = "library/m"


def pull(peer: Peer, generation: str, *flags: str) -> dict[str, Any]:
    """What an emulated client says of its pull."""
    arguments = ["--base", peer.url, "--model", f"{MODEL}:latest", "--generation", generation]
    try:
        told = python("-m", "tests.clients", *arguments, "--no-verify", *flags, timeout=600)
    except subprocess.CalledProcessError as failed:
        told = failed.stdout
        raise RuntimeError(f"{peer.name}: {told.decode()[-500:]}") from None
    found: dict[str, Any] = json.loads(told)
    return found


def _throttled(scale: Scale) -> Iterator[Table]:
    table = Table(
        "cold",
        "Cold pulls through an empty cache",
        ["upstream", "ms", "model", "client", "peer", "time ÷ direct", "bytes ÷ model", "gap s"],
    )
    cases: list[tuple[dict[str, int], float, str, str, list[str]]] = scale.of(
        [
            ({"rate": 20 * MB}, 0.1, "350MB", "classic16", []),
            ({"rate": 20 * MB}, 0.1, "350MB", "classic64", []),
            ({"rate": 20 * MB}, 0.1, "350MB", "transfer", []),
            ({"rate": 5 * MB}, 0.1, "350MB", "classic16", ["--part-min", "20000000"]),
            ({"line": 20 * MB}, 0.1, "200MB", "classic16", ["--part-min", "12000000"]),
            ({"line": 20 * MB}, 0.02, "200MB", "classic16", []),
            ({"line": 2 * MB}, 0.1, "20MB", "classic64", ["--part-min", "300000"]),
        ],
        [({"rate": 10 * MB}, 0.02, "10MB", "classic16", ["--part-min", "2500000"])],
    )
    for limit, latency, size, generation, flags in cases:
        with workplace(2 * GB) as place, ExitStack() as stack:
            upstream = stack.enter_context(
                peers.emulator(place, f"{MODEL}:latest={size},1KB", latency=latency, **limit)
            )
            found: list[Peer] = [upstream, stack.enter_context(peers.yukari(place, upstream.url))]
            if peers.nginx_missing():
                table.note(str(peers.nginx_missing()))
            else:
                found.append(stack.enter_context(peers.nginx_slice(place, upstream.address)))
            (model,) = upstream.models.values()
            kind, most = next(iter(limit.items()))
            direct = 0.0
            for peer in found:
                upstream.order(clear_counters=True)
                pulled = pull(peer, generation, *flags)
                direct = direct or pulled["seconds"]
                table.add(
                    f"{most // MB} MB/s {'a connection' if kind == 'rate' else 'in all'}",
                    round(latency * 1000),
                    size,
                    _parts(generation, flags),
                    peer.name,
                    pulled["seconds"] / direct,
                    _sent_when_settled(upstream) / model["size"],
                    pulled["gap_wait"],
                )
    yield table


def _parts(generation: str, flags: list[str]) -> str:
    return f"{generation}, parts of {int(flags[1]) / MB:g} MB" if flags else generation


def _sent_when_settled(upstream: Emulated) -> int:
    """The blob bytes sent, once no more are."""
    sent = -1
    while sent != (now := int(upstream.counters()["sent"])):
        sent = now
        time.sleep(0.3)
    return sent


def _unthrottled(scale: Scale) -> Iterator[Table]:
    table = Table(
        "cold-cpu",
        "Cold through an empty cache, upstream as fast as the machine: one reader",
        ["peer", "readers", "MB/s", "CPU s/GB", "÷ nginx slice", "verified"],
    )
    if peers.nginx_missing():
        table.note(str(peers.nginx_missing()))
        yield table
        return
    size = scale.of(500 * MB, 50 * MB, 1000 * MB)
    rounds = scale.of(5, 1, 5)
    for readers in scale.of([1, 4], [1]):
        with workplace(size * rounds * 3 // 2) as place, ExitStack() as stack:
            blobs = [write_blob(place / "blobs", size, seed=at) for at in range(rounds)]
            upstream = stack.enter_context(
                peers.nginx_upstream(
                    place, {f"library/m{at}": [blob, blob] for at, blob in enumerate(blobs)}
                )
            )
            ballast = Ballast(place, 2 * size * rounds)
            ours = stack.enter_context(peers.yukari(place, upstream.url))
            theirs = stack.enter_context(peers.nginx_slice(place, upstream.address))
            cpus: dict[str, list[float]] = {ours.name: [], theirs.name: []}

            rates = in_turns(
                {
                    peer.name: _reading(
                        peer, readers, list(enumerate(blobs)), cpus[peer.name], ballast
                    )
                    for peer in (ours, theirs)
                },
                rounds,
            )
            for peer, verified in ((ours, "sha256"), (theirs, "no")):
                used = cpus[peer.name]
                against = ratio(used, cpus[theirs.name])
                table.add(
                    *(peer.name, readers, median(rates[peer.name]) / MB),
                    *(median(used), against, verified),
                )
    yield table


def _reading(
    peer: Peer,
    readers: int,
    left: list[tuple[int, Blob]],
    cpus: list[float],
    ballast: Ballast,
) -> Callable[[], float]:
    """Bytes a second of the next of the models ``left``; ``cpus`` is told the CPU s/GB."""

    def once() -> float:
        assert peer.process is not None
        at, blob = left.pop(0)
        ballast.release(blob.size)
        before = peer.process.cpu()
        url = f"{peer.url}/v2/library/m{at}/blobs/{blob.digest}"
        asked = ["--url", url, "--readers", str(readers), "--end", str(blob.size)]
        told = python("-m", "bench.readers", *asked, "--split", timeout=300)
        quiet(peer)
        cpus.append((peer.process.cpu() - before) / (blob.size / GB))
        return float(blob.size / json.loads(told)["seconds"])

    return once


def quiet(peer: Peer) -> None:
    """Returns when it has nothing left to do."""
    assert peer.process is not None
    used = -1.0
    while used != (now := peer.process.cpu()):
        used = now
        time.sleep(0.1)


def run(scale: Scale) -> Iterator[Table]:
    """Unthrottled first, then the grid of slow upstreams."""
    yield from _unthrottled(scale)
    yield from _throttled(scale)
