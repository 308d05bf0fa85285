"""Resident memory: with a thousand slow readers, and while ever larger blobs come in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from bench import peers
from bench.hits import MODEL
from bench.models import sparse_blob, write_blob
from bench.readers import Reader
from bench.scale import GB, MB, Scale, workplace
from bench.tables import Table


def _slow(scale: Scale) -> Iterator[Table]:
    table = Table(
        "slow-readers",
        "Resident memory with slow readers of one stored blob",
        ["readers", "MB at rest", "MB with them", "KB a reader", "CPU %"],
    )
    size = scale.of(200 * MB, 20 * MB)
    seconds = scale.of(6.0, 1.0)
    for readers in scale.of([1, 100, 1000, 4000], [20]):
        with workplace() as place:
            blob = write_blob(place / "store" / "blobs", size)
            flags = ("http://127.0.0.1:9", "--offline")
            with peers.yukari(place, *flags, store=place / "store") as peer:
                assert peer.process is not None
                url = f"{peer.url}/v2/{MODEL}/blobs/{blob.digest}"
                Reader(url).read(0, MB)
                rest, used = peer.process.resident(), peer.process.cpu()
                opened: list[Reader] = []
                try:
                    for _ in range(readers):
                        opened.append(Reader(url))
                        opened[-1].ask(0, size)
                    began = time.monotonic()
                    while time.monotonic() - began < seconds:
                        for reader in opened:
                            reader.socket.recv(65536)
                        time.sleep(0.2)
                    took = time.monotonic() - began
                    most = peer.process.peak()
                    share = 100 * (peer.process.cpu() - used) / took
                except OSError as error:
                    table.note(f"{readers} readers: {error}")
                    continue
                finally:
                    for reader in opened:
                        reader.socket.close()
                a_reader = (most - rest) / readers / 1000
                table.add(readers, rest / MB, most / MB, a_reader, share)
    yield table


def _large(scale: Scale) -> Iterator[Table]:
    table = Table(
        "fill-memory",
        "What a fill adds to resident memory, upstream as fast as the machine",
        ["GB", "MB before", "MB at its peak", "added", "MB/s", "CPU s/GB"],
    )
    if peers.nginx_missing():
        table.note(str(peers.nginx_missing()))
        yield table
        return
    for size in scale.of([100 * MB, GB, 4 * GB], [50 * MB], [100 * MB, GB, 4 * GB, 10 * GB]):
        with workplace(size) as place, ExitStack() as stack:
            blob = sparse_blob(place / "blobs", size)
            config = write_blob(place / "blobs", 100)
            upstream = stack.enter_context(peers.nginx_upstream(place, {MODEL: [blob, config]}))
            ours = stack.enter_context(peers.yukari(place, upstream.url))
            assert ours.process is not None
            peers.get(f"{ours.url}/fills")
            before, used = ours.process.resident(), ours.process.cpu()
            ours.process.forget_peak()
            began = time.monotonic()
            peers.get(f"{ours.url}/v2/{MODEL}/manifests/latest")
            stored = place / "yukari" / "blobs" / blob.file_name
            ours.process.until(stored.exists, 600.0)
            seconds = time.monotonic() - began
            peak = ours.process.peak()
            spent = (ours.process.cpu() - used) / (size / GB)
            table.add(
                *(size / GB, before / MB, peak / MB, (peak - before) / MB),
                *(size / seconds / MB, spent),
            )
    yield table


def run(scale: Scale) -> Iterator[Table]:
    """The readers, then the fills."""
    yield from _slow(scale)
    yield from _large(scale)
