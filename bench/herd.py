"""A herd: 1 to 64 clients at once pull the same cold model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from bench import peers
from bench.cold import MODEL, _sent_when_settled, pull
from bench.peers import Peer
from bench.processes import CHECKOUT, environment
from bench.scale import GB, MB, Scale, workplace
from bench.tables import Table


def herd(peer: Peer, clients: int) -> float:
    """Seconds that the slowest of them took, by its own clock."""
    command = [
        *(sys.executable, "-m", "tests.clients", "--base", peer.url, "--no-verify"),
        *("--model", f"{MODEL}:latest"),
    ]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CHECKOUT, env=environment())
        for _ in range(clients)
    ]
    told = [json.loads(each.communicate(timeout=600)[0]) for each in running]
    failed = [pulled["error"] for pulled in told if not pulled["ok"]]
    if failed:
        raise RuntimeError(f"{peer.name}: {len(failed)} of {clients} clients failed: {failed[0]}")
    return max(float(pulled["seconds"]) for pulled in told)


def run(scale: Scale) -> Iterator[Table]:
    """Their clients are processes of this machine too: with many of them these are what is slow."""
    table = Table(
        "herd",
        "Clients at once on one cold model (20 MB/s a connection, 100 ms)",
        ["clients", "peer", "time ÷ one direct pull", "bytes ÷ model"],
    )
    size = scale.of("100MB", "4MB")
    for clients in scale.of([1, 8, 24, 64], [2]):
        with workplace(2 * GB) as place, ExitStack() as stack:
            upstream = stack.enter_context(
                peers.emulator(place, f"{MODEL}:latest={size},1KB", rate=20 * MB, latency=0.1)
            )
            found: list[Peer] = [stack.enter_context(peers.yukari(place, upstream.url))]
            if peers.nginx_missing():
                table.note(str(peers.nginx_missing()))
            else:
                found.append(stack.enter_context(peers.nginx_slice(place, upstream.address)))
            (model,) = upstream.models.values()
            direct = pull(upstream, "classic16")["seconds"]
            for peer in found:
                upstream.order(clear_counters=True)
                seconds = herd(peer, clients)
                sent = _sent_when_settled(upstream)
                table.add(clients, peer.name, seconds / direct, sent / model["size"])
    yield table
