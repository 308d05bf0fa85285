"""
What many cores and a fast line would give: computed from the CPU that a gigabyte takes here.

Of one process the reactor's thread can use one core, those that send or write beside it one each.
Several processes, each with models of its own, bring as many of both, as long as there are cores
and the line is not full. Neither memory's speed nor what cores take from one another counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from attrs import frozen

from bench import peers
from bench.cold import quiet
from bench.hits import read
from bench.models import Blob, write_blob
from bench.peers import Peer
from bench.scale import GB, MB, Scale, workplace
from bench.tables import Table

CORES = 16
LINE = 12.5
"""GB/s: 100 Gbit/s."""
SENDING = 4
"""Threads of a process that send; see `yukari.sending.workers`."""
WRITING = 6
"""Threads of a process that write and hash; see `yukari.threads`."""
PROCESSES = (1, 2, 4)


@frozen
class Cost:
    """CPU seconds a gigabyte, of the reactor's thread and of all others, which are ``threads``."""

    name: str
    reactor: float
    others: float
    threads: int

    def rate(self, processes: int) -> float:
        """Return the GB/s of so many processes."""
        one = min(1 / self.reactor, self.threads / self.others)
        return min(processes * one, CORES / (self.reactor + self.others), LINE)

    def bound(self, processes: int) -> str:
        """Return what is at its limit."""
        rate = self.rate(processes)
        if rate == LINE:
            return "the line"
        if rate == CORES / (self.reactor + self.others):
            return "cores"
        return "reactor" if rate == processes / self.reactor else "threads"


def _cost(name: str, peer: Peer, count: int, threads: int, work: Callable[[], object]) -> Cost:
    """The cost of ``work``, by which ``count`` bytes are sent."""
    assert peer.process is not None
    own, all_of_it = peer.process.cpu_of_main(), peer.process.cpu()
    work()
    quiet(peer)
    reactor = peer.process.cpu_of_main() - own
    others = peer.process.cpu() - all_of_it - reactor
    # The smallest that can be told, in place of none.
    least = 0.01
    return Cost(name, max(least, reactor) * GB / count, max(least, others) * GB / count, threads)


def _hits(stack: ExitStack, place: Path, scale: Scale) -> Iterator[Cost]:
    size = scale.of(500 * MB, 50 * MB)
    blob = write_blob(place / "store" / "blobs", size)
    plain = stack.enter_context(
        peers.yukari(place, "http://127.0.0.1:9", "--offline", store=place / "store")
    )
    repeat = scale.of(4, 1)
    for readers in scale.of((1, 16), (4,)):
        part = Blob(blob.hex, size // readers)
        read(plain, part, readers)
        name, count = f"hits, {readers} reader{'s' * (readers > 1)}", readers * part.size * repeat
        yield _cost(name, plain, count, SENDING, partial(read, plain, part, readers, repeat))


def _hits_by_tls(stack: ExitStack, place: Path, scale: Scale) -> Iterator[Cost]:
    blob = write_blob(place / "secret" / "blobs", scale.of(500 * MB, 50 * MB))
    secure = stack.enter_context(
        peers.yukari(
            *(place, "http://127.0.0.1:9", "--offline"),
            store=place / "secret",
            pem=peers.certificate(place),
        )
    )
    repeat = scale.of(2, 1)
    count = 4 * repeat * blob.size
    work = partial(read, secure, blob, 4, repeat)
    yield _cost("hits over TLS, 4 readers", secure, count, SENDING, work)


def _fills(stack: ExitStack, place: Path, scale: Scale) -> Iterator[Cost]:
    if peers.nginx_missing():
        return
    blobs = [write_blob(place / "blobs", scale.of(500 * MB, 20 * MB), seed=at) for at in range(2)]
    upstream = stack.enter_context(peers.nginx_upstream(place, {"library/m": [*blobs, blobs[0]]}))
    cold = stack.enter_context(peers.yukari(place, upstream.url))
    read(cold, blobs[0], 4, split=True)
    work = partial(read, cold, blobs[1], 4, split=True)
    yield _cost("cold fill with its hash, 4 readers", cold, blobs[1].size, WRITING, work)


def run(scale: Scale) -> Iterator[Table]:
    """One row for each kind of work; rates are computed, not measured."""
    table = Table(
        "cores",
        f"Computed for {CORES} cores and {8 * LINE:.0f} Gbit/s: GB/s by so many processes",
        [
            *("work", "reactor's CPU s/GB", "others'"),
            *(f"{each} process{'es' * (each > 1)}" for each in PROCESSES),
            *("bound of one", f"of {PROCESSES[-1]}"),
        ],
    )
    for measured in scale.of((_hits, _hits_by_tls, _fills), (_hits,)):
        with workplace(3 * GB) as place, ExitStack() as stack:
            for cost in measured(stack, place, scale):
                rates = map(cost.rate, PROCESSES)
                bounds = cost.bound(1), cost.bound(PROCESSES[-1])
                table.add(cost.name, cost.reactor, cost.others, *rates, *bounds)
    yield table
