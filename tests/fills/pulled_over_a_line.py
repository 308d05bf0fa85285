"""Pulls of blobs over the real scheduler and a line with a queue, in no time."""

from __future__ import annotations

from math import ceil, inf
from typing import Any, Optional

from attrs import define, field
from twisted.internet.task import Clock

from tests.fills.doubles import Asked, Scene, ScriptedDisk
from tests.fills.lines import SEGMENT, Flow, Line
from tests.fills.simulated import NoStore, Part, Zeros
from yukari.fills.scheduler import FetchScheduler
from yukari.names import Digest
from yukari.net.budget import HostLimit
from yukari.net.tcp import UNBOUNDED, Reading
from yukari.net.useful import LEAST, Useful
from yukari.sources.pace import HostPace

TICK = 0.004
"""Seconds."""


@define(eq=False)
class FlowConnection:
    """A flow as the system tells of it."""

    flow: Flow
    tells: bool
    """Whether the system tells anything and bounds windows."""
    is_open: bool = True

    def read(self) -> Optional[Reading]:
        flow = self.flow
        if not self.tells:
            return None
        return Reading(
            int(flow.arrived),
            flow.round_trip,
            flow.asked,
            flow.least,
            SEGMENT,
            int(flow.out_of_order),
        )

    def bound(self, window: int) -> None:
        self.flow.window = inf if window == UNBOUNDED else window


@define(eq=False)
class Daemon:
    """
    One cache at the near end of a line, that fetches a blob of ``size`` bytes for a client in
    ``parts`` parts, or for nobody with 0.
    """

    line: Line
    size: int
    parts: int
    each: float = inf
    """Bytes a second that the host sends on one connection."""
    latency: float = 0.0
    """Seconds that the host needs before each answer."""
    tells: bool = True
    clock: Clock = field(factory=Clock)
    scene: Scene = field(init=False)
    most: int = field(default=0, init=False)
    """Connections at once."""
    _idle: list[Flow] = field(factory=list, init=False)
    _busy: dict[Asked, tuple[Flow, float]] = field(factory=dict, init=False)
    """Each request with its connection and what had arrived on that before."""

    def __attrs_post_init__(self) -> None:
        content: Any = Zeros(self.size)
        self.scene = Scene(
            content,
            per_blob=32,
            in_all=64,
            digest=Digest("0" * 64),
            clock=self.clock,
            disk=ScriptedDisk(held=frozenset({"advance"})),
            keeper=NoStore(),
        )
        self.scene.source.pace_now = HostPace(limit=HostLimit(Useful(LEAST)))

    @property
    def scheduler(self) -> FetchScheduler:
        """What begins its requests."""
        return self.scene.scheduler

    @property
    def got(self) -> int:
        """Bytes that have arrived."""
        return self.scene.fill.upstream_bytes

    def start(self) -> list[Part]:
        """Begin; returns the client's parts."""
        self.scene.fill.start()
        if not self.parts:
            return []
        part = ceil(self.size / self.parts)
        starts = range(0, self.size, part)
        return [Part(self.scene, at, min(self.size, at + part)) for at in starts]

    def _connection(self) -> Flow:
        if self._idle:
            return self._idle.pop()
        way = self.scene.source.pace_now.line
        way.begin()
        promised = way.promised if self.tells else None
        flow = self.line.join(Flow(self.each, inf if promised is None else promised))
        way.connected(FlowConnection(flow, self.tells))
        return flow

    def step(self) -> None:
        """Hand on what the line has brought; `Line.advance` is the caller's."""
        now = self.clock.seconds()
        source = self.scene.source
        under_way = source.asked[:]
        for asked in under_way:
            if not asked.open:
                source.asked.remove(asked)
                if asked in self._busy:
                    flow, _ = self._busy.pop(asked)
                    if flow.wanted < 1:
                        self._idle.append(flow)
                    flow.wanted = 0  # It was dropped, and its connection is not used again.
            elif asked not in self._busy:
                is_new = not self._idle
                flow = self._connection()
                self._busy[asked] = flow, flow.arrived
                heard = self.line.base * (0.5 + is_new)
                flow.asks(len(asked.span), now + heard + self.latency)
        self.most = max(self.most, len(self._busy))
        for asked, (flow, before) in list(self._busy.items()):
            came = int(flow.arrived - before + 0.01)
            if not asked.answered and came > 0:
                asked.answer()
            elif asked.answered and asked.open and not asked.transport.paused:
                there = asked.at - asked.span.start
                whole = len(asked.span) - came < 1
                count = len(asked.span) - there if whole else came - there
                if count > 0:
                    asked.send(count)

    @property
    def is_whole(self) -> bool:
        """Whether all of the blob has arrived."""
        return self.got >= self.size


def pass_time(line: Line, daemons: list[Daemon], until: float) -> None:
    """Let the line and its daemons, which have one clock, work until then or until all is there."""
    clock = daemons[0].clock
    while clock.seconds() < until and not all(each.is_whole for each in daemons):
        line.advance(TICK)
        for daemon in daemons:
            daemon.step()
        clock.advance(TICK)
