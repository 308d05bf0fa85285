"""A model's blobs, pulled one after the other from a host that serves one request at a time."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from twisted.internet.task import Clock

from tests.fills.doubles import Asked, Scene, ScriptedDisk
from tests.fills.simulated import MB, NoStore, Part, Zeros
from yukari.fills.scheduler import FetchScheduler
from yukari.names import Digest
from yukari.sources.base import SourceFailed
from yukari.sources.pace import HostPace

TICK = 0.02


@define(eq=False)
class OneByOne:
    """
    Blobs of some ``sizes``, each of one part; times in seconds, ``rate`` in bytes a second.

    While one request is served others wait for it, even those that are dropped meanwhile. If
    ``refuses`` is set they are refused: by a header without a body if it is ``empty``, by no reply
    ever if it is ``hang``, else by that error.
    """

    sizes: tuple[int, ...]
    delay: float
    refuses: Optional[str] = None
    rate: float = 20 * MB
    seconds: float = field(default=0.0, init=False)
    asked: list[Asked] = field(factory=list, init=False)
    _clock: Clock = field(factory=Clock, init=False)
    _scenes: list[Scene] = field(init=False)
    _served: Optional[Asked] = field(default=None, init=False)
    _done: set[Asked] = field(factory=set, init=False)
    _began: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        pace, scheduler = HostPace(), FetchScheduler(self._clock, 32, 64)
        self._scenes = [self._scene(*each, pace, scheduler) for each in enumerate(self.sizes)]

    def _scene(self, at: int, size: int, pace: HostPace, scheduler: FetchScheduler) -> Scene:
        content: Any = Zeros(size)
        scene = Scene(
            content,
            digest=Digest(f"{at:064}"),
            clock=self._clock,
            disk=ScriptedDisk(held=frozenset({"advance"})),
            keeper=NoStore(),
        )
        scene.source.pace_now, scene.scheduler = pace, scheduler
        scene.fill = scene.new_fill()
        return scene

    @property
    def direct(self) -> float:
        """Seconds that a stock client needs without a cache."""
        return sum(self.delay + size / self.rate for size in self.sizes)

    def run(self) -> OneByOne:
        """Until all have come; the cache begins with all of them at once."""
        for scene in self._scenes:
            scene.fill.start()
        for scene, size in zip(self._scenes, self.sizes):
            part = Part(scene, 0, size)
            while part.at < part.end:
                self._pass()
                if self._clock.seconds() > 10 * self.direct:
                    raise AssertionError(f"{part.end - part.at} of {size} bytes are missing")
        self.seconds = self._clock.seconds()
        return self

    def _pass(self) -> None:
        for scene in self._scenes:
            self.asked.extend(each for each in scene.source.asked if each not in self.asked)
        now = self._clock.seconds()
        for asked in [each for each in self.asked if each not in self._done]:
            if self._served is None:
                self._served, self._began = asked, now
            if asked is self._served:
                if self._serve(asked, now):
                    self._done.add(asked)
                    self._served = None
            elif self.refuses is not None:
                self._done.add(asked)
                if self.refuses == "empty":
                    asked.answer()
                    asked.cut()
                elif self.refuses != "hang":
                    asked.refuse(SourceFailed(self.refuses))
        self._clock.advance(TICK)

    def _serve(self, asked: Asked, now: float) -> bool:
        """Send a little; return whether that was the end."""
        if now < self._began + self.delay:
            return False
        if asked.open:
            if not asked.answered:
                asked.answer()
            asked.send(int(self.rate * TICK))
        return not asked.open
