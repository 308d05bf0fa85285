"""Large manifests take turns, whoever reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.large import PARSED, LargeManifests
from yukari.memory import Memory


@define
class Threads:
    """Work that ends when it is told to."""

    running: list[tuple[str, Deferred[Any]]] = field(factory=list)

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.running.append((work(*arguments), done))
        return done

    def end(self, result: object) -> None:
        self.running.pop(0)[1].callback(result)


class LargeManifestsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.threads = Threads()
        self.memory = Memory()
        self.large = LargeManifests(memory=self.memory)

    def begin(self, name: str) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.large.alone(self.threads, lambda: name))

    @property
    def running(self) -> list[str]:
        return [name for name, _ in self.threads.running]

    def test_one_is_parsed_at_a_time(self) -> None:
        """Six at once took half a gigabyte; with a lock in the threads no other had one left."""
        first, second = self.begin("first"), self.begin("second")
        self.assertEqual(self.running, ["first"])
        self.threads.end(1)
        self.assertEqual(self.successResultOf(first), 1)
        self.assertEqual(self.running, ["second"])
        self.threads.end(OSError("gone"))
        self.assertIsInstance(self.successResultOf(second), OSError)

    def test_what_nobody_waits_for_any_more_ends_before_the_next_begins(self) -> None:
        """Of hundreds of clients that left, as many threads would parse at the same time."""
        first, second, third = map(self.begin, ("first", "second", "third"))
        first.cancel()
        second.cancel()
        for each in (first, second):
            self.failureResultOf(each, CancelledError)
        self.assertEqual(self.running, ["first"])
        self.threads.running.pop(0)[1].errback(OSError("gone"))
        self.assertEqual(self.running, ["third"])
        self.threads.end(3)
        self.assertEqual(self.successResultOf(third), 3)

    def test_what_is_parsed_counts_among_what_goes_past_the_disk(self) -> None:
        """A flood of them came on top of the relays and the uploads, which had all of theirs."""
        first, second = self.begin("first"), self.begin("second")
        self.assertEqual(self.memory.used, PARSED)
        self.threads.end(1)
        self.assertEqual(self.memory.used, PARSED)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.threads.end(2)
        self.assertEqual((self.successResultOf(first), self.memory.used), (1, 0))
        self.begin("third")
        self.assertEqual(self.memory.used, PARSED)
        self.threads.end(3)
        self.assertEqual(self.memory.used, 0)
