"""Hits over TLS, against nginx with the same certificate; and who waits beside its readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from bench import peers
from bench.hits import compare, readers_table, waits_beside
from bench.models import Blob, many_models, write_blob
from bench.peers import Peer
from bench.scale import GB, MB, Scale, workplace
from bench.tables import Table, quantile

HOST = "127.0.0.1:9"
BESIDE = 4
"""Readers beside which a manifest hit is waited for."""


def run(scale: Scale) -> Iterator[Table]:
    """Bytes a second with 1 to 16 readers that decrypt; then manifest hits beside four of them."""
    table = readers_table("tls", "Hits over TLS 1.3: readers of one stored blob")
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
            compare(table, found, part, readers, 1, rounds)
        yield table
        yield _beside(ours, name, blob, scale.of(8, 1))


def _beside(peer: Peer, name: str, blob: Blob, repeat: int) -> Table:
    """A manifest hit over TLS on a connection that stays open, while others read a blob."""
    table = Table(
        "tls-latency",
        f"Manifest hits over TLS beside {BESIDE} readers over TLS, ms",
        ["GB/s of the readers", "hit p50", "p99", "max"],
    )
    flags = ("--readers", str(BESIDE), "--repeat", str(repeat))
    waits, rate = waits_beside(peer, name, blob, *flags)
    table.add(rate / GB, *(1000 * quantile(waits, part) for part in (0.5, 0.99, 1.0)))
    return table
