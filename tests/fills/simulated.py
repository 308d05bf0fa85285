"""Pulls of large blobs over the real scheduler, in no time: a host, its line, a client's parts."""

from __future__ import annotations

from math import ceil, inf
from typing import Any, Optional

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.fills.doubles import Asked, Keeper, Scene, ScriptedDisk
from yukari.fills.fill import Fill
from yukari.names import Digest
from yukari.sources.base import SourceFailed
from yukari.spans import SpanSet

MB = 1_000_000
PART_LEAST, PARTS = 100 * MB, 16
"""Stock Ollama's: sixteen parts of at least so many bytes."""


class Zeros:
    """The content of a blob of ``size`` bytes that takes no memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        return bytes(max(0, min(part.stop, self.size) - part.start))


class NoFile:
    """What is read of a `NoSpool`."""

    def fileno(self) -> int:
        return -1

    def read(self, offset: int, count: int) -> bytes:
        return b""

    def close(self) -> None:
        pass


@define(eq=False)
class NoSpool:
    """A spool that keeps which bytes came, and not the bytes."""

    repositories: tuple[()] = ()
    _covered: SpanSet = field(factory=SpanSet)

    def write(self, pieces: Any) -> None:
        for start, buffers in pieces:
            self._covered.add(start, start + sum(map(len, buffers)))

    def covered(self) -> SpanSet:
        return SpanSet.of(self._covered)

    def open(self) -> NoFile:
        return NoFile()

    def close(self) -> None:
        pass

    discard = close


@define(eq=False, slots=False)
class NoStore(Keeper):
    """A keeper of such spools."""

    async def open_spool(self, fill: Fill) -> Any:
        return NoSpool()


@frozen
class Host:
    """A host of blobs; times in seconds, rates in bytes a second."""

    delay: float = 0.0
    """From a request to its reply's first byte."""
    each: float = inf
    """Of one connection."""
    line: float = inf
    """Of all together."""
    bears: float = inf
    """How many requests at once it serves; what it does with others is ``refuses``."""
    refuses: str = "503"
    """``hang``; ``mute``, behind a header; ``empty``, a header and no body; else an error."""
    jitter: float = 0.0
    """Up to so many seconds more, by request."""
    scans: float = 0.0
    """From a reply's header to the body's first byte."""
    gathers: bool = False
    """Whether it has all of a reply before it sends the first byte."""
    reads: float = inf
    """Bytes a second at which it reads a blob up to what was asked for, before it answers."""
    loses: float = inf
    """Each so many requests it never answers one."""

    def direct(self, size: int, connections: float = PARTS) -> float:
        """Seconds that a stock client needs for a blob of that size, on so many connections."""
        part = max(PART_LEAST, ceil(size / PARTS))
        parts = ceil(size / part)
        at_once = min(parts, self.bears, connections)
        rate = min(self.line, at_once * self.each)
        # One connection brings one part: with few parts the last one decides.
        rounds = ceil(parts / at_once)
        transfer = max(size / rate, rounds * min(part, size) / self.each)
        last = (parts - 1) * part
        late = last / self.reads + (size - last) / min(rate, self.each)
        return (self.delay + self.scans) * rounds + max(transfer, late)


@define(eq=False)
class Part:
    """A part that a client reads as fast as it comes."""

    scene: Scene
    at: int
    end: int
    stalled: float = field(default=0.0, init=False)
    """The longest that it had to wait between two bytes."""
    _moved_at: Optional[float] = field(default=None, init=False)
    _reader: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = self.scene.fill.open_reader(self.at, whole=False)
        ready = Deferred.fromCoroutine(self._reader.ready(self.at))
        ready.addCallbacks(self.go_on, self.fail)

    def go_on(self, _: object = None) -> None:
        now = self.scene.clock.seconds()
        while self.at < self.end:
            until = min(self._reader.available(self.at), self.end)
            if until > self.at:
                if self._moved_at is not None:
                    self.stalled = max(self.stalled, now - self._moved_at)
                self.at, self._moved_at = until, now
                continue
            self._reader.wait(self.at).addCallbacks(self.go_on, self.fail)
            return
        self._reader.close()

    def fail(self, failure: Failure) -> None:
        raise AssertionError(f"a part failed at byte {self.at}: {failure.value}")


@define(eq=False)
class Pull:
    """One blob of ``size`` bytes pulled by a client in ``parts`` parts."""

    host: Host
    size: int
    per_blob: int = 32
    in_all: int = 64
    parts: Optional[int] = None
    scene: Scene = field(init=False)
    seconds: float = field(default=0.0, init=False)
    stalled: float = field(default=0.0, init=False)
    refused: int = field(default=0, init=False)
    most: int = field(default=0, init=False)
    """Connections at once."""
    _began: dict[Asked, float] = field(factory=dict, init=False)
    _left: dict[Asked, float] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        content: Any = Zeros(self.size)
        self.scene = Scene(
            content,
            per_blob=self.per_blob,
            in_all=self.in_all,
            digest=Digest("0" * 64),
            clock=Clock(),
            disk=ScriptedDisk(held=frozenset({"advance"})),
            keeper=NoStore(),
        )

    def run(self) -> Pull:
        """Until every part has come."""
        scene, direct = self.scene, self.host.direct(self.size)
        part = max(PART_LEAST, ceil(self.size / PARTS))
        if self.parts is not None:
            part = ceil(self.size / self.parts)
        tick = min(0.1, max(0.02, direct / 500))
        scene.fill.start()
        starts = range(0, self.size, part)
        parts = [Part(scene, start, min(self.size, start + part)) for start in starts]
        while not all(each.at == each.end for each in parts):
            self._pass(tick)
            scene.clock.advance(tick)
            self.stalled = max(each.stalled for each in parts)
            if scene.clock.seconds() > 10 * direct + 120:
                left = sum(each.end - each.at for each in parts)
                raise AssertionError(f"{left} of {self.size} bytes are missing")
        self.seconds = scene.clock.seconds()
        return self

    def _delay(self, asked: Asked) -> float:
        at = self.scene.source.asked.index(asked)
        if (at + 1) % self.host.loses == 0:
            return inf
        more = self.host.jitter * (at * 37 % 101) / 100
        more += asked.span.start / self.host.reads
        return self.host.delay + more + (len(asked.span) / self.host.each) * self.host.gathers

    def _pass(self, tick: float) -> None:
        now, host = self.scene.clock.seconds(), self.host
        under_way = self.scene.source.open
        self.most = max(self.most, len(under_way))
        served = sum(asked in self._left for asked in under_way)
        for asked in under_way:
            if asked not in self._began:
                self._began[asked] = now
                if served < host.bears:
                    served += 1
                    self._left[asked] = 0.0
                else:
                    self.refused += 1
                    if host.refuses in ("empty", "mute"):
                        asked.answer()
                        if host.refuses == "empty":
                            asked.cut()
                    elif host.refuses != "hang":
                        asked.refuse(SourceFailed(host.refuses))
                        continue
            is_served = not asked.answered and asked in self._left
            if is_served and now - self._began[asked] >= self._delay(asked):
                asked.answer()
        sending = [
            asked
            for asked in under_way
            if asked.answered and not asked.ended and asked in self._left
        ]
        for asked in sending:
            if asked.transport.paused or not asked.open:
                continue
            if now - self._began[asked] < self._delay(asked) + host.scans:
                continue
            each = inf if host.gathers else host.each
            share = min(each, host.line / len(sending), 1e10) * tick + self._left[asked]
            self._left[asked] = share - int(share)
            if share >= 1:
                asked.send(int(share))
