"""Large manifests in a directory: read in turn, and never kept in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import manifest_body
from yukari.config.units import FreeSpace
from yukari.descriptors import Descriptor
from yukari.manifest import LARGE, Manifest, Variant
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.storage.disk.store import DirectoryStore

NAME = Repository(DEFAULT, "library", "m")
BODY = manifest_body([Descriptor(Digest("0" * 64), 7, "a/b")], None, 2)
SMALL = Manifest.parse(BODY)
FIRST, SECOND = (Manifest.parse(BODY + each * LARGE) for each in (b" ", b"\n"))


@define
class Threads:
    """Work that is done when it is told to."""

    waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = field(factory=list)

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, lambda: work(*arguments)))
        return done

    def work(self) -> int:
        """Do what waits now; returns how much it was."""
        waiting, self.waiting = self.waiting, []
        for done, work in waiting:
            maybeDeferred(work).addBoth(done.callback)
        return len(waiting)


class LargeManifestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()
        store = self.store(maybeDeferred)
        for tag, manifest in (("small", SMALL), ("first", FIRST), ("second", SECOND)):
            put = store.put_manifest(NAME, Tag(tag), manifest, 1000.0)
            self.successResultOf(Deferred.fromCoroutine(put))
        self.successResultOf(Deferred.fromCoroutine(store.stop()))
        self.threads = Threads()
        self.reader = self.store(self.threads)

    def store(self, in_thread: Callable[..., Deferred[Any]]) -> DirectoryStore:
        return DirectoryStore(
            self.path, "registry.test", in_thread, Clock(), min_free=FreeSpace(bytes=0)
        )

    def ask(self, tag: str) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.reader.get_manifest(NAME, Tag(tag), Variant.PLAIN))

    def found(self, asked: Deferred[Any]) -> Manifest:
        manifest: Manifest = self.successResultOf(asked).manifest
        return manifest

    def test_they_are_read_one_at_a_time_and_keep_no_thread_from_others(self) -> None:
        """Six at once took half a gigabyte, and meanwhile no small one was read."""
        first, second, small = map(self.ask, ("first", "second", "small"))
        self.assertEqual(self.threads.work(), 3)
        self.assertEqual(self.found(small), SMALL)
        self.assertEqual(self.threads.work(), 1)
        self.assertEqual(self.found(first), FIRST)
        self.assertNoResult(second)
        self.assertEqual(self.threads.work(), 1)
        self.assertEqual(self.found(second), SECOND)

    def test_it_is_read_once_for_all_who_ask(self) -> None:
        asked = [self.ask("first") for _ in range(3)]
        self.assertEqual(self.threads.work(), 3)
        self.assertEqual(self.threads.work(), 1)
        self.assertEqual([self.found(each) for each in asked], 3 * [FIRST])

    def test_each_of_those_that_are_read_anew_is_alone_in_memory(self) -> None:
        """Of tags that were indexed together, dozens of 12,000 layers were."""
        keys = [(NAME, Tag(each)) for each in ("small", "first", "second", "small")]
        wanted = [SMALL, FIRST, SECOND, SMALL]
        while keys:
            reading = Deferred.fromCoroutine(self.reader.read_anew(keys))
            while not reading.called:
                self.threads.work()
            (found,) = self.successResultOf(reading)
            self.assertEqual(found[Variant.PLAIN].manifest, wanted.pop(0))
            keys.pop(0)

    def test_what_is_asked_for_after_a_change_is_read_after_it(self) -> None:
        before = self.ask("first")
        self.threads.work()
        put = self.reader.put_manifest(NAME, Tag("first"), SECOND, 2000.0)
        putting = Deferred.fromCoroutine(put)
        while not putting.called:
            self.threads.work()
        self.successResultOf(putting)
        after = self.ask("first")
        while not after.called:
            self.threads.work()
        self.assertTrue(before.called)
        self.assertEqual(self.found(after), SECOND)

    def test_its_bytes_stay_in_its_file(self) -> None:
        """Slow readers of forty different ones held three hundred megabytes."""
        asked = self.ask("first")
        while not asked.called:
            self.threads.work()
        body = self.found(asked).body
        self.assertNotIsInstance(body, bytes)
        self.assertEqual(bytes(body), FIRST.body)

    def test_a_replaced_one_is_read_on_by_those_who_have_it(self) -> None:
        asked = self.ask("first")
        while not asked.called:
            self.threads.work()
        body = self.found(asked).body
        store = self.store(maybeDeferred)
        put = store.put_manifest(NAME, Tag("first"), SECOND, 2000.0)
        self.successResultOf(Deferred.fromCoroutine(put))
        os.unlink(os.path.join(self.path, "blobs", FIRST.digest.file_name))
        self.assertEqual(bytes(body), FIRST.body)
