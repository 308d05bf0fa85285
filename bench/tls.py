"""Hits over TLS, against nginx with the same certificate; and who waits beside its readers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

from bench import peers
from bench.hits import MODEL, measure_of
from bench.models import Blob, many_models, write_blob
from bench.peers import Peer
from bench.processes import CHECKOUT, environment
from bench.readers import Reader
from bench.scale import GB, MB, Scale, workplace
from bench.tables import Table, in_turns, median, quantile, ratio

HOST = "127.0.0.1:9"
BESIDE = 4
"""Readers beside which a manifest hit is waited for."""


def run(scale: Scale) -> Iterator[Table]:
    """Bytes a second with 1 to 16 readers that decrypt; then manifest hits beside four of them."""
    table = Table(
        "tls",
        "Hits over TLS 1.3: readers of one stored blob",
        ["readers", "peer", "GB/s", "÷ nginx", "CPU s/GB"],
    )
    rounds = scale.of(15, 1, 25)
    size = scale.of(500 * MB, 50 * MB)
    with workplace(2 * size) as place, ExitStack() as stack:
        store = place / "store"
        (name,) = many_models(store, HOST, 1)
        blob = write_blob(store / "blobs", size)
        pem = peers.certificate(place)
        flags = (f"http://{HOST}", "--offline")
        ours = stack.enter_context(peers.yukari(place, *flags, store=store, pem=pem))
        found = [ours]
        if peers.nginx_missing():
            table.note(str(peers.nginx_missing()))
        else:
            found.append(stack.enter_context(peers.nginx_static(place, store, pem=pem)))
        for readers in scale.of([1, 4, 16], [4]):
            part = Blob(blob.hex, size // max(1, readers // 4))
            used = {peer.name: 0.0 for peer in found}
            rates = in_turns(
                {peer.name: measure_of(peer, part, readers, 1, used) for peer in found}, rounds
            )
            total = rounds * readers * part.size / GB
            for peer in found:
                against = rates.get("nginx static")
                table.add(
                    readers,
                    peer.name,
                    median(rates[peer.name]) / GB,
                    ratio(rates[peer.name], against) if against else None,
                    used[peer.name] / total,
                )
        yield table
        yield _beside(ours, name, blob, scale.of(8, 1))


def _beside(peer: Peer, name: str, blob: Blob, repeat: int) -> Table:
    """A manifest hit over TLS on a connection that stays open, while others read a blob."""
    table = Table(
        "tls-latency",
        f"Manifest hits over TLS beside {BESIDE} readers over TLS, ms",
        ["GB/s of the readers", "hit p50", "p99", "max"],
    )
    hits = Reader("{}/v2/{}/manifests/{}".format(peer.url, *name.split(":")))
    command = [
        *(sys.executable, "-m", "bench.readers", "--readers", str(BESIDE)),
        *("--end", str(blob.size), "--repeat", str(repeat)),
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
    table.add(
        told["bytes"] / told["seconds"] / GB,
        *(1000 * quantile(waits, part) for part in (0.5, 0.99, 1.0)),
    )
    return table
