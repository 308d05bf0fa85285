"""Events for the pages that are open."""

from __future__ import annotations

import json
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.errors import RegistryError
from yukari.web.page.watchers import EVERY, HEARTBEAT, MAX_PAUSED, MAX_WATCHERS, Watchers


@define(eq=False)
class Viewer:
    """A request of a page that is open."""

    written: list[bytes] = field(factory=list)
    producer: Any = None
    finished: bool = False
    dropped: bool = False
    _end: Deferred[None] = field(factory=Deferred)

    @property
    def channel(self) -> Any:
        return self

    def setHeader(self, *_: bytes) -> None:
        pass

    def notifyFinish(self) -> Deferred[None]:
        return self._end

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def finish(self) -> None:
        self.finished = True
        self._end.callback(None)

    def forceAbortClient(self) -> None:
        self.dropped = True
        self._end.callback(None)

    leave = forceAbortClient


class WatchersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.looks = 0
        self.seen: Any = 0
        self.watchers = Watchers(self.look, self.clock)

    def look(self) -> Any:
        self.looks += 1
        return self.seen

    def watching(self) -> Viewer:
        viewer = Viewer()
        self.watchers.add(viewer)
        return viewer

    def events(self, viewer: Viewer) -> list[Any]:
        text = b"".join(viewer.written).decode()
        return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]

    def test_nothing_runs_while_nobody_looks(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])
        viewer = self.watching()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        viewer.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.watchers), 0)

    def test_everybody_is_told_at_once_and_of_each_change_by_one_look(self) -> None:
        first, second = self.watching(), self.watching()
        for self.seen in (1, 1, 2):
            self.clock.advance(EVERY)
        self.assertEqual(self.events(first), [0, 1, 2])
        self.assertEqual(self.events(second), [0, 1, 2])
        self.assertEqual(self.looks, 4)

    def test_a_heartbeat_finds_out_who_has_gone(self) -> None:
        viewer = self.watching()
        self.clock.pump([EVERY] * HEARTBEAT * 2)
        self.assertEqual(viewer.written[1:], [b":\n\n"] * 2)

    def test_who_is_behind_misses_events_and_is_dropped_in_the_end(self) -> None:
        slow, quick = self.watching(), self.watching()
        slow.producer.pauseProducing()
        for self.seen in range(1, 11):
            self.clock.advance(EVERY)
        self.assertEqual((self.events(slow), len(self.events(quick))), ([0], 11))
        slow.producer.resumeProducing()
        self.seen = "new"
        self.clock.advance(EVERY)
        self.assertEqual(self.events(slow), [0, "new"])
        slow.producer.pauseProducing()
        for self.seen in range(MAX_PAUSED + 1):
            self.clock.advance(EVERY)
        self.assertEqual((slow.dropped, quick.dropped, len(self.watchers)), (True, False, 1))

    def test_a_look_that_fails_lets_all_go_and_the_next_begin_anew(self) -> None:
        viewer = self.watching()
        self.seen = object()  # JSON does not take it.
        self.clock.advance(EVERY)
        self.assertTrue(viewer.dropped)
        self.flushLoggedErrors(TypeError)
        self.seen = 1
        self.assertEqual(self.events(self.watching()), [1])

    def test_too_many_are_refused(self) -> None:
        viewers = [self.watching() for _ in range(MAX_WATCHERS)]
        refused = self.assertRaises(RegistryError, self.watching)
        self.assertEqual((refused.status, refused.retry_after), (503, 60))
        viewers[0].leave()
        self.watching()

    def test_all_are_let_go_when_the_daemon_stops(self) -> None:
        viewers = [self.watching() for _ in range(3)]
        self.watchers.stop()
        self.assertTrue(all(viewer.finished for viewer in viewers))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertRaises(RegistryError, self.watching)
