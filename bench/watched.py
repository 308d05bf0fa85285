"""
The daemon with a watch on its reactor: how long turns are, and what was held in the longest.

``python bench/watched.py FILE FLAGS...`` runs it; FILE is rewritten every second with JSON: the
number of turns, those longer than `LONG`, the longest in seconds, the same by the thread's CPU time
(``worked``: what remains when the machine's other work is taken off), and stacks seen in long ones.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from attrs import define, field

LONG = 0.02
"""Seconds of a turn that is too long."""


@define(eq=False)
class Watch:
    """Stands in for the epoll object of a reactor: what lies between two polls is a turn."""

    _poller: Any
    _told: Path
    _began: float = field(factory=time.monotonic, init=False)
    _busy: bool = field(default=True, init=False)
    turns: int = field(default=0, init=False)
    long: list[float] = field(factory=list, init=False)
    worked: list[float] = field(factory=list, init=False)
    _began_cpu: float = field(factory=time.thread_time, init=False)
    collected: float = field(default=0.0, init=False)
    _collecting: float = field(default=0.0, init=False)
    stacks: dict[str, int] = field(factory=dict, init=False)
    _tell_at: float = field(default=0.0, init=False)

    def poll(self, *arguments: Any) -> Any:
        now = time.monotonic()
        self.turns += 1
        if now - self._began > LONG:
            self.long.append(now - self._began)
        worked = time.thread_time() - self._began_cpu
        if worked > LONG:
            self.worked.append(worked)
        self._busy = False
        if now > self._tell_at:
            self._tell_at = now + 1.0
            self.tell()
        try:
            return self._poller.poll(*arguments)
        finally:
            self._began = time.monotonic()
            self._began_cpu = time.thread_time()
            self._busy = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)

    def tell(self) -> None:
        found = {
            "turns": self.turns,
            "long": len(self.long),
            "longest": max(self.long, default=0.0),
            "worked_long": len(self.worked),
            "worked_longest": max(self.worked, default=0.0),
            "collected_longest": self.collected,
            "stacks": dict(sorted(self.stacks.items(), key=lambda each: -each[1])[:20]),
        }
        self._told.write_text(json.dumps(found, indent=1))

    def collects(self, phase: str, _: object) -> None:
        """For `gc.callbacks`: how long the longest collection takes."""
        if phase == "start":
            self._collecting = time.monotonic()
        else:
            self.collected = max(self.collected, time.monotonic() - self._collecting)

    def look(self, number: int) -> None:
        """In a thread of its own: note where the reactor is when a turn has become too long."""
        while True:
            time.sleep(LONG / 2)
            if self._busy and time.monotonic() - self._began > LONG:
                frame = sys._current_frames().get(number)
                lines = traceback.extract_stack(frame)[-5:]
                where = " < ".join(f"{each.name}:{each.lineno}" for each in reversed(lines))
                self.stacks[where] = self.stacks.get(where, 0) + 1


def main() -> None:
    told = Path(sys.argv.pop(1))
    if interval := os.environ.get("BENCH_SWITCH_INTERVAL"):
        sys.setswitchinterval(float(interval))

    def watch() -> None:
        made: Any = Watch(reactor._poller, told)
        reactor._poller = made
        gc.callbacks.append(made.collects)
        number = threading.get_ident()
        threading.Thread(target=made.look, args=(number,), daemon=True).start()

    from twisted.internet import reactor as installed

    reactor: Any = installed
    if hasattr(reactor, "_poller"):
        # After the start-up, which nobody waits for.
        reactor.callWhenRunning(reactor.callLater, 1.0, watch)
    from yukari.tap import main as yukari

    yukari()


if __name__ == "__main__":
    main()
