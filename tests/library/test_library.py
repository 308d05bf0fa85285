"""The library's decision, over a store in memory and an upstream that does what the test says."""

from __future__ import annotations

import json
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import ScriptedDisk, ScriptedSource, content_of
from tests.storage.memory import MemoryStore
from tests.turning import Turning
from yukari.errors import RegistryError, manifest_unknown
from yukari.fills import manager
from yukari.fills.fill import Fill
from yukari.fills.machine import State
from yukari.fills.retries import TOLD_AFTER
from yukari.fills.scheduler import FetchScheduler
from yukari.library import prefetch
from yukari.library.blobs import FIRST_WORD_WITHIN, LEAST_REDIRECTED, Elsewhere
from yukari.library.library import Library
from yukari.library.manifests import UNKNOWN_FOR
from yukari.manifest import SIZE_UNKNOWN, AnyManifest, Manifest, Variant
from yukari.names import DEFAULT, Digest, Reference, Repository, Tag
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.spans import Span
from yukari.storage import open_files as openblobs
from yukari.storage.ports import NoRoom, Spool
from yukari.storage.readable import StoredBlob

NAME = Repository(DEFAULT, "library", "m")
OTHER = Repository(DEFAULT, "library", "other")
LATEST = Tag("latest")


def manifest_of(*bodies: bytes, sizes: Optional[dict[bytes, int]] = None) -> Manifest:
    """A manifest of these layers; ``sizes`` are what it says where it does not tell the truth."""
    layers = [
        {"digest": str(Digest.of(body)), "size": (sizes or {}).get(body, len(body))}
        for body in bodies
    ]
    return Manifest.parse(json.dumps({"schemaVersion": 2, "layers": layers}).encode())


@define(eq=False)
class ScriptedUpstream:
    """Answers when the test says so; its blobs' sources are scripted too."""

    bodies: dict[Digest, bytes] = field(factory=dict)
    asked: list[tuple[Any, ...]] = field(factory=list)
    waiting: list[Deferred[Any]] = field(factory=list)
    sources: dict[Digest, ScriptedSource] = field(factory=dict)

    def _ask(self, *question: Any) -> Deferred[Any]:
        self.asked.append(question)
        answer: Deferred[Any] = Deferred()
        self.waiting.append(answer)
        return answer

    async def manifest(
        self,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
    ) -> AnyManifest:
        found: AnyManifest = await self._ask("manifest", name, reference, user_agent, variant)
        return found

    async def child(self, name: Repository, digest: Digest) -> Manifest:
        found: Manifest = await self._ask("child", name, digest)
        return found

    async def blob_size(self, name: Repository, digest: Digest) -> int:
        size: int = await self._ask("size", name, digest)
        return size

    def blob(self, digest: Digest, size: int, *names: Repository) -> ScriptedSource:
        source = ScriptedSource(self.bodies.get(digest, b""), repositories=list(names))
        self.sources[digest] = source
        return source


@define(eq=False)
class KeptSource(ScriptedSource):
    """What a bucket has."""

    there: bool = True


@define(eq=False)
class RemoteStore(MemoryStore):
    """Has blobs of these sizes, in a bucket and not on this machine."""

    sizes: dict[Digest, int] = field(factory=dict)

    async def blob_size(self, digest: Digest) -> Optional[int]:
        return self.sizes.get(digest)

    def source(self, digest: Digest, size: int) -> Any:
        return KeptSource(b"")

    async def presigned(self, digest: Digest) -> Optional[str]:
        return f"https://s3.example.com/{digest}"


BODY = content_of(1000)


async def no_room(*_: object) -> Spool:
    raise NoRoom("no room")


class LibraryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store: Any = MemoryStore()
        self.upstream = ScriptedUpstream()
        self.library = self.new_library()

    def new_library(self) -> Library:
        return Library(
            store=self.store,
            upstream=self.upstream,  # type: ignore[arg-type]
            scheduler=FetchScheduler(self.clock, 4, 8),
            in_thread=ScriptedDisk(),
            clock=self.clock,
            now=self.clock.seconds,
            redirects=lambda *_: True,
        )

    def ask(
        self, name: Repository = NAME, agent: str = "a", prefetch: bool = True
    ) -> Deferred[Any]:
        asking = self.library.manifest(name, LATEST, agent, prefetch=prefetch)
        return Deferred.fromCoroutine(asking)

    def learn(self, manifest: Manifest, name: Repository = NAME, prefetch: bool = True) -> None:
        """A first pull of a manifest."""
        asked = self.ask(name, prefetch=prefetch)
        self.upstream.waiting.pop().callback(manifest)
        self.answer_of(asked)

    def answer_of(self, asked: Deferred[Any]) -> Any:
        """A manifest whose blobs upstream says nothing about."""
        if not asked.called:
            self.clock.advance(FIRST_WORD_WITHIN)
        return self.successResultOf(asked)

    def fill_all(self) -> None:
        """Every source answers all it is asked."""
        for _ in range(100):
            for source in self.upstream.sources.values():
                for asked in source.open:
                    asked.answer() if not asked.answered else asked.send(10**9)
            self.clock.advance(0.06)

    def has(self, digest: Digest) -> Optional[int]:
        return self.successResultOf(Deferred.fromCoroutine(self.store.blob_size(digest)))

    def test_many_who_ask_at_once_are_one_question(self) -> None:
        asked = [self.ask() for _ in range(5)]
        self.assertEqual(len(self.upstream.waiting), 1)
        self.upstream.waiting[0].callback(manifest_of(b"x"))
        self.assertEqual({self.answer_of(each).result for each in asked}, {"miss"})

    def test_clients_of_other_versions_ask_for_themselves(self) -> None:
        first, second = self.ask(agent="ollama/0.1"), self.ask(agent="ollama/0.9")
        old, new = self.upstream.waiting
        old.errback(RegistryError("UNSUPPORTED", "needs a newer Ollama", 412))
        self.assertEqual(self.failureResultOf(first, RegistryError).value.status, 412)
        self.assertNoResult(second)
        new.callback(manifest_of(b"x"))
        self.answer_of(second)

    def test_one_who_leaves_takes_the_answer_from_nobody(self) -> None:
        first, second = self.ask(), self.ask()
        first.addErrback(lambda _: None)
        first.cancel()
        self.upstream.waiting[0].callback(manifest_of(b"x"))
        self.answer_of(second)

    def test_a_manifest_that_is_got_starts_its_fills_and_one_that_is_headed_none(self) -> None:
        manifest = manifest_of(b"one", b"two")
        self.learn(manifest, prefetch=False)
        self.assertEqual(self.library.fills, {})
        self.answer_of(self.ask())
        self.assertEqual(set(self.library.fills), {blob.digest for blob in manifest.blobs})

    def given_up(self, number: int) -> Digest:
        """A blob whose fill has given up in its middle."""
        body = content_of(3000, number)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body), Repository(DEFAULT, "library", f"m{number}"))
        (asked,) = self.upstream.sources[digest].open
        asked.answer()
        asked.send(1000)
        self.clock.advance(0.06)
        asked.cut()
        self.library.fills[digest].give_up(RegistryError("UNAVAILABLE", "busy", 502))
        return digest

    def test_a_blob_whose_size_its_manifest_does_not_tell_is_asked_for_and_fetched(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        asked = self.ask()
        self.upstream.waiting.pop().callback(manifest_of(body, sizes={body: SIZE_UNKNOWN}))
        self.assertEqual(self.upstream.asked[-1], ("size", NAME, digest))
        self.upstream.waiting.pop().callback(1000)
        self.answer_of(asked)
        self.fill_all()
        self.assertEqual(self.has(digest), 1000)

    def test_few_that_gave_up_are_retried_and_the_others_go_on_where_they_stood(self) -> None:
        self.patch(manager, "MAX_RESTING", 2)
        digests = [self.given_up(number) for number in range(4)]
        self.assertEqual(set(self.library.fills), set(digests[2:]))
        source = self.upstream.sources[digests[0]]
        sent = len(source.sent)
        self.answer_of(self.ask(Repository(DEFAULT, "library", "m0")))
        self.fill_all()
        self.assertEqual(self.has(digests[0]), 3000)
        again = self.upstream.sources[digests[0]]
        self.assertEqual(sum(map(len, again.sent)), 2000)
        self.assertEqual(sent, 1)

    def test_one_that_gave_up_keeps_its_bytes_and_no_room_for_the_others(self) -> None:
        """16 KB of a blob that broke kept the room of 50 MB from all other models."""
        fill = self.library.fills[self.given_up(1)]
        self.assertEqual((fill.spool, fill.kept), (None, 1000))
        self.clock.advance(manager.RETRY_FIRST)
        self.assertIsNotNone(fill.spool)
        self.assertEqual((fill.kept, fill.coverage.plan.covered.total), (0, 1000))

    def test_one_that_gave_up_is_discarded_with_what_came(self) -> None:
        digest = self.given_up(1)
        stopped = self.library.filling.cancel(digest, RegistryError("UNAVAILABLE", "no more", 503))
        assert stopped is not None
        self.successResultOf(stopped)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.store.spools())), [])

    def test_one_that_gave_up_too_often_is_let_go_with_what_came(self) -> None:
        self.patch(manager, "MAX_RETRIES", 1)
        digest = self.given_up(1)
        self.clock.advance(manager.RETRY_FIRST)
        self.library.fills[digest].give_up(RegistryError("UNAVAILABLE", "busy", 502))
        self.assertEqual((self.library.fills, self.library.filling._retries), ({}, {}))
        (spool,) = self.successResultOf(Deferred.fromCoroutine(self.store.spools()))
        self.assertEqual(spool.covered().total, 1000)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def without_room(self, store: MemoryStore) -> Fill:
        """The fill of a blob that no disk has room for."""
        self.full = self.patch(MemoryStore, "new_spool", no_room)
        self.store = store
        self.library = self.new_library()
        self.learn(manifest_of(BODY), prefetch=False)
        found = Deferred.fromCoroutine(self.library.blob(NAME, Digest.of(BODY)))
        fill: Fill = self.successResultOf(found)
        fill.start()
        self.assertIs(fill.state, State.SUSPENDED)
        return fill

    def test_a_fill_of_a_stored_blob_without_room_ends_after_its_last_reader(self) -> None:
        """It was shown as not fetched yet, and tried again, for hours."""
        fill = self.without_room(RemoteStore(sizes={Digest.of(BODY): len(BODY)}))
        reader = fill.relay.download.open_reader(Span(0, 10), whole=False)
        for _ in range(3):
            self.clock.advance(manager.RETRY_FIRST)
            self.assertEqual(list(self.library.fills.values()), [fill])
        reader.close()
        self.clock.advance(manager.RETRY_FIRST)
        self.assertEqual((self.library.fills, self.library.filling._retries), ({}, {}))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_fill_of_a_stored_blob_that_has_found_room_goes_on(self) -> None:
        fill = self.without_room(RemoteStore(sizes={Digest.of(BODY): len(BODY)}))
        self.clock.advance(manager.RETRY_FIRST - 1)
        self.full.restore()
        fill.start()
        self.clock.advance(1)
        self.assertEqual(list(self.library.fills.values()), [fill])
        self.assertIs(fill.state, State.FILLING)

    def test_a_fill_is_shown_without_all_that_it_reaches(self) -> None:
        """Twisted shows a timer with its arguments: a test that was interrupted took minutes."""
        fill = self.without_room(self.store)
        for shown in (fill, fill.relay.download):
            self.assertLess(len(repr(shown)), 200)

    def test_many_readers_of_a_blob_without_room_share_one_download(self) -> None:
        """Each asks for room again; after the twelfth the next ones got a download of their own."""
        fill = self.without_room(self.store)
        fill.relay.download.open_reader(Span(0, 10), whole=False)
        for _ in range(2 * manager.MAX_RETRIES):
            fill.start()
        self.assertEqual(list(self.library.fills.values()), [fill])

    def test_what_vanished_is_filled_again_when_its_manifest_is_got(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body))
        self.fill_all()
        self.assertEqual(self.has(digest), 1000)
        self.successResultOf(Deferred.fromCoroutine(self.store.delete_blob(digest)))
        found = self.successResultOf(Deferred.fromCoroutine(self.library.blob(NAME, digest)))
        self.assertIsInstance(found, Fill)

    def test_who_opens_a_cut_blob_while_it_is_removed_leaves_nothing_of_it_open(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body), prefetch=False)
        self.store._blobs[digest] = bytearray(body[:10])
        removal: Deferred[None] = Deferred()
        forget = MemoryStore.delete_blob

        async def slowly(store: MemoryStore, digest: Digest) -> None:
            await removal
            await forget(store, digest)

        self.patch(MemoryStore, "delete_blob", slowly)
        self.patch(openblobs, "KEEP", 60.0)
        asked = [Deferred.fromCoroutine(self.library.blob(NAME, digest)) for _ in range(2)]
        self.upstream.waiting.pop().callback(1000)
        removal.callback(None)
        for each in asked:
            self.successResultOf(each)
        self.library.fills[digest].start()
        self.fill_all()
        found = self.successResultOf(Deferred.fromCoroutine(self.library.blob(NAME, digest)))
        self.assertEqual((found.result, found.size), ("hit", 1000))

    def test_a_blob_of_a_known_manifest_has_its_size_without_asking(self) -> None:
        body = content_of(1000)
        self.learn(manifest_of(body), prefetch=False)
        size = self.library.blob_size(NAME, Digest.of(body))
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(size)), 1000)
        self.assertEqual(len(self.upstream.asked), 1)

    def test_no_such_model_is_remembered_for_a_few_seconds(self) -> None:
        asked = self.ask()
        self.upstream.waiting.pop().errback(manifest_unknown(NAME, LATEST))
        self.failureResultOf(asked, RegistryError)
        self.failureResultOf(self.ask(), RegistryError)
        self.clock.advance(UNKNOWN_FOR)
        self.assertNoResult(self.ask())

    def test_a_manifest_that_lies_about_anothers_blob_removes_nothing(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body))
        self.fill_all()
        self.learn(manifest_of(body, sizes={body: 7}), OTHER)
        found = self.successResultOf(Deferred.fromCoroutine(self.library.blob(NAME, digest)))
        self.assertIsInstance(found, StoredBlob)
        self.assertEqual(self.has(digest), 1000)

    def head(self, name: Repository, digest: Digest) -> Deferred[int]:
        return Deferred.fromCoroutine(self.library.blob_size(name, digest))

    def asked_with_a_wrong_size(self) -> tuple[Digest, Deferred[int]]:
        """A stored blob of 1,000 bytes, and its size as asked for in a model that says 7."""
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body))
        self.fill_all()
        self.learn(manifest_of(body, sizes={body: 7}), OTHER, prefetch=False)
        return digest, self.head(OTHER, digest)

    def test_a_model_that_lies_about_a_size_delays_nobody_but_itself(self) -> None:
        """The stored blob is not read for it: upstream confirms its size."""
        digest, lied_to = self.asked_with_a_wrong_size()
        self.assertEqual(self.successResultOf(self.head(NAME, digest)), 1000)
        self.assertNoResult(lied_to)
        self.upstream.waiting.pop().callback(1000)
        self.assertEqual(self.successResultOf(lied_to), 1000)
        self.assertEqual(self.successResultOf(self.head(OTHER, digest)), 1000)

    def test_of_a_stored_blob_the_digest_decides_if_upstream_says_nothing(self) -> None:
        """Whoever asked for the model with the wrong size waited for a minute."""
        _, lied_to = self.asked_with_a_wrong_size()
        self.clock.advance(FIRST_WORD_WITHIN)
        self.assertEqual(self.successResultOf(lied_to), 1000)

    def test_blob_without_bytes_is_damaged_whatever_is_known_of_it(self) -> None:
        """After a restart a bucket's empty object was served, before its manifest was asked for."""
        body = content_of(1000)
        digest, empty = Digest.of(body), Digest.of(b"")
        self.store._blobs.update({digest: bytearray(), empty: bytearray()})
        for each, size in ((digest, 1000), (empty, 0)):
            told = self.head(NAME, each)
            while not told.called:
                self.upstream.waiting.pop().callback(size)
            self.assertEqual(self.successResultOf(told), size)
        self.assertEqual((self.has(digest), self.has(empty)), (None, 0))

    def test_of_two_sizes_of_an_absent_blob_upstream_says_which_is_right(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body, sizes={body: 7}), OTHER)
        self.learn(manifest_of(body), NAME, prefetch=False)
        right = self.head(NAME, digest)
        self.upstream.waiting.pop().callback(1000)
        self.assertEqual(self.successResultOf(right), 1000)
        found = self.successResultOf(Deferred.fromCoroutine(self.library.blob(NAME, digest)))
        self.assertEqual(found.size, 1000)
        found.start()
        self.fill_all()
        self.assertEqual(self.has(digest), 1000)

    def test_model_whose_registry_has_wrong_bytes_spoils_no_other(self) -> None:
        """Its fill came to the wrong digest again and again, for all who named the blob."""
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body[:7]
        self.learn(manifest_of(body, sizes={body: 7}), OTHER)
        self.fill_all()
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body), NAME, prefetch=False)
        told = self.head(NAME, digest)
        self.upstream.waiting.pop().callback(1000)
        self.fill_all()
        self.assertEqual(self.successResultOf(told), 1000)
        self.assertEqual(self.has(digest), 1000)

    def test_only_large_blobs_are_redirected(self) -> None:
        """Clients refuse redirects of manifests, configs and other small blobs."""
        self.store = RemoteStore()
        self.library = self.new_library()
        digests = [Digest.of(body) for body in (b"small", b"large", b"config")]
        small, large, config = digests
        self.store.sizes = {small: LEAST_REDIRECTED - 1, large: LEAST_REDIRECTED, config: 2**30}
        blobs = [{"digest": str(each), "size": self.store.sizes[each]} for each in digests]
        named = {"schemaVersion": 2, "layers": blobs[:2], "config": blobs[2]}
        self.learn(Manifest.parse(json.dumps(named).encode()), prefetch=False)
        for digest, kind in ((small, Fill), (large, Elsewhere), (config, Fill)):
            found = self.successResultOf(Deferred.fromCoroutine(self.library.blob(NAME, digest)))
            self.assertIsInstance(found, kind)

    def refuse(self, digest: Digest, status: int) -> None:
        error = RegistryError("DENIED", "upstream keeps it", status)
        self.upstream.sources[digest].open[-1].refuse(SourceRefused(error))

    def test_a_blob_that_is_refused_is_the_answer_to_its_manifest(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        for status, shown in ((403, 403), (404, 502), (429, 429)):
            self.setUp()
            self.upstream.bodies[digest] = body
            asked = self.ask()
            self.upstream.waiting.pop().callback(manifest_of(body, b"other"))
            self.assertNoResult(asked)
            self.refuse(digest, status)
            error = self.failureResultOf(asked, RegistryError).value
            self.assertEqual(error.status, shown)
            self.assertIn("upstream keeps it", error.message)

    def test_a_blob_that_keeps_failing_is_the_answer_to_its_manifest(self) -> None:
        """Clients waited 30 s for the blob and said "context deadline exceeded"."""
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        for error, shown in (
            (SourceFailed("upstream answered 500"), 502),
            (SourceFailed("upstream answered 429", busy=True), 429),
            (SourceFailed("connection refused"), 502),
        ):
            self.setUp()
            self.upstream.bodies[digest] = body
            asked = self.ask()
            self.upstream.waiting.pop().callback(manifest_of(body))
            for _ in range(40):
                for each in self.upstream.sources[digest].open:
                    each.refuse(error)
                self.clock.advance(FIRST_WORD_WITHIN / 40)
            told = self.failureResultOf(asked, RegistryError).value
            self.assertEqual(told.status, shown)
            self.assertIn(str(error), told.message)

    def test_upstream_that_asks_to_wait_again_and_again_is_the_answer_to_the_manifest(self) -> None:
        """
        The manifest was sent after two seconds, and its blobs were waited for without end; or a
        pause of a few seconds would have been the answer.
        """
        body = content_of(1000)
        digest = Digest.of(body)
        busy = SourceFailed("upstream answered 429", 3.0, busy=True)
        for refusals, well in ((TOLD_AFTER, False), (TOLD_AFTER - 1, True)):
            self.setUp()
            self.upstream.bodies[digest] = body
            asked = self.ask()
            self.upstream.waiting.pop().callback(manifest_of(body))
            for _ in range(refusals):
                self.assertNoResult(asked)
                self.upstream.sources[digest].open[-1].refuse(busy)
                self.clock.pump([1.0] * 4)
            if well:
                self.fill_all()
                self.successResultOf(asked)
            else:
                self.assertEqual(self.failureResultOf(asked, RegistryError).value.status, 429)

    def test_blob_that_fails_beside_one_that_is_waited_for_is_no_answer(self) -> None:
        """A host that serves one request at a time, after a second: no first pull went through."""
        bodies = content_of(1000), b"other"
        waited_for, refused = map(Digest.of, bodies)
        self.upstream.bodies.update({Digest.of(body): body for body in bodies})
        asked = self.ask()
        self.upstream.waiting.pop().callback(manifest_of(*bodies))
        sources = self.upstream.sources
        sources[refused].pace_now = sources[waited_for].pace_now
        for _ in range(40):
            for each in sources[refused].open:
                each.refuse(SourceFailed("upstream answered 503"))
            self.clock.advance(FIRST_WORD_WITHIN / 40)
        self.answer_of(asked)

    def test_a_blob_that_fails_once_or_twice_is_no_answer(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        asked = self.ask()
        self.upstream.waiting.pop().callback(manifest_of(body))
        for _ in range(2):
            self.upstream.sources[digest].open[-1].refuse(SourceFailed("upstream answered 500"))
            self.clock.advance(FIRST_WORD_WITHIN / 4)
        self.answer_of(asked)

    def ask_for_many(self) -> Deferred[Any]:
        """Ask for a manifest of a hundred blobs, of which ten are fetched ahead."""
        self.patch(prefetch, "MAX_AHEAD", 10)
        pulled = self.ask()
        bodies = [str(number).encode() for number in range(100)]
        self.upstream.waiting.pop().callback(manifest_of(*bodies))
        return pulled

    def test_of_a_model_whose_blobs_are_gone_upstream_few_are_asked_for(self) -> None:
        """Each once, of thousands."""
        pulled = self.ask_for_many()
        for _ in range(50):
            for digest, source in self.upstream.sources.items():
                if source.open:
                    self.refuse(digest, 404)
            self.clock.advance(60)
        self.failureResultOf(pulled, RegistryError)
        asked = [len(source.asked) for source in self.upstream.sources.values()]
        self.assertLess(sum(asked), 20)
        self.assertEqual(max(asked), 1)

    def test_of_a_model_whose_blobs_are_given_up_few_more_are_started(self) -> None:
        """Each of 20,000 layers that upstream answered with 500 became a fill, and stayed one."""
        pulled = self.ask_for_many()
        for _ in range(100):
            for source in list(self.upstream.sources.values()):
                for each in list(source.open):
                    each.refuse(SourceFailed("upstream answered 500"))
            self.clock.advance(10)
        self.failureResultOf(pulled, RegistryError)
        self.assertLess(len(self.upstream.sources), 10 + prefetch.MAX_GIVEN_UP + 5)

    def test_a_refusal_that_is_remembered_has_no_traceback(self) -> None:
        """Each had the frames that it went through, and they a manifest: of 12,000 layers 3 MB."""
        digest = Digest.of(b"gone")
        asked = self.ask()
        self.upstream.waiting.pop().callback(manifest_of(b"gone"))
        self.refuse(digest, 404)
        self.failureResultOf(asked, RegistryError)
        refused = self.library.filling.refused[digest]
        self.assertIsNone(refused.__traceback__)

    def test_manifests_of_many_blobs_share_what_is_started_ahead(self) -> None:
        """Forty of 12,000 layers each had 2000 fills at a time."""
        self.patch(prefetch, "MAX_AHEAD", 40)
        asked = []
        for each in range(4):
            asked.append(self.ask(Repository(DEFAULT, "library", f"m{each}")))
            bodies = [f"{each} {number}".encode() for number in range(100)]
            self.upstream.waiting.pop().callback(manifest_of(*bodies))
        started = [0, 0, 0, 0]
        for source in self.upstream.sources.values():
            started[int(source.repositories[0].model[1:])] += 1
        self.assertEqual(started, [40 // each + 1 for each in (1, 2, 3, 4)])
        self.library.prefetch.stop()
        self.clock.advance(FIRST_WORD_WITHIN)
        for asking in asked:
            self.answer_of(asking)

    def test_a_refused_blob_is_asked_for_again_with_its_manifest_and_its_head(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        asked = self.ask()
        self.upstream.waiting.pop().callback(manifest_of(body))
        self.refuse(digest, 404)
        self.failureResultOf(asked, RegistryError)
        for again in (self.ask, lambda: self.head(NAME, digest)):
            asked = again()
            self.assertNoResult(asked)
            self.refuse(digest, 404)
            self.failureResultOf(asked, RegistryError)
        silent = self.ask()
        self.clock.advance(FIRST_WORD_WITHIN)
        self.failureResultOf(silent, RegistryError)
        asked = self.ask()
        self.fill_all()
        self.successResultOf(asked)
        self.assertEqual(self.successResultOf(self.head(NAME, digest)), 1000)

    def test_a_manifest_whose_blobs_come_waits_for_no_more_than_their_first_bytes(self) -> None:
        body = content_of(300_000)
        self.upstream.bodies[Digest.of(body)] = body
        asked = self.ask()
        self.upstream.waiting.pop().callback(manifest_of(body))
        (first,) = self.upstream.sources[Digest.of(body)].open
        first.answer()
        self.assertNoResult(asked)
        first.send(1)
        self.successResultOf(asked)

    def test_a_size_that_upstream_contradicts_is_forgotten(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.learn(manifest_of(body, sizes={body: 7}))
        wrong = RegistryError("SIZE_INVALID", "it has 1000 bytes", 502)
        self.upstream.sources[digest].open[0].refuse(SourceRefused(wrong))
        self.assertEqual(self.library.fills, {})
        asked = Deferred.fromCoroutine(self.library.blob(OTHER, digest))
        self.upstream.waiting.pop().callback(1000)
        self.assertEqual(self.successResultOf(asked).size, 1000)

    def test_a_fill_that_gave_up_is_tried_again_by_itself(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body))
        away = RegistryError("UNAVAILABLE", "upstream is away", 502)
        self.upstream.sources[digest].open[0].refuse(SourceRefused(away))
        self.assertIs(self.library.fills[digest].state, State.SUSPENDED)
        self.clock.advance(31)
        self.fill_all()
        self.assertEqual(self.has(digest), 1000)

    def test_a_blob_that_upstream_does_not_have_is_not_asked_for_until_somebody_asks(self) -> None:
        body = content_of(1000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body))
        gone = RegistryError("BLOB_UNKNOWN", "no such blob", 404)
        source = self.upstream.sources[digest]
        source.open[0].refuse(SourceRefused(gone))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(source.asked), 1)
        found = self.successResultOf(Deferred.fromCoroutine(self.library.blob(NAME, digest)))
        found.start()
        self.fill_all()
        self.assertEqual(self.has(digest), 1000)

    def test_the_next_process_takes_up_what_was_on_its_way(self) -> None:
        body = content_of(300_000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body))
        first = self.upstream.sources[digest].open[0]
        first.answer()
        first.send(1000)
        self.successResultOf(Deferred.fromCoroutine(self.library.stop()))
        self.library = self.new_library()
        self.successResultOf(Deferred.fromCoroutine(self.library.restore()))
        self.library.resume()
        self.assertEqual(self.library.fills[digest].coverage.plan.covered.total, 1000)
        self.fill_all()
        self.assertEqual(self.has(digest), 300_000)

    def test_the_next_process_takes_up_what_had_not_begun_to_arrive(self) -> None:
        """Such blobs were forgotten, and the rest of their model fetched."""
        body = content_of(300_000)
        digest = Digest.of(body)
        self.upstream.bodies[digest] = body
        self.learn(manifest_of(body))
        self.successResultOf(Deferred.fromCoroutine(self.library.stop()))
        self.library = self.new_library()
        self.successResultOf(Deferred.fromCoroutine(self.library.restore()))
        self.library.resume()
        self.fill_all()
        self.assertEqual(self.has(digest), 300_000)

    def test_to_bring_a_manifest_whole_is_to_wait_for_its_blobs(self) -> None:
        body = content_of(1000)
        self.upstream.bodies[Digest.of(body)] = body
        bringing = Deferred.fromCoroutine(
            self.library.prefetch.ensure_stored(NAME, manifest_of(body))
        )
        self.assertNoResult(bringing)
        self.fill_all()
        self.successResultOf(bringing)

    def test_what_a_manifest_names_is_noted_once_and_not_for_each_client(self) -> None:
        """Of a list of 18,000 blobs each client's request took a tenth of a second."""
        noted, real = list[object](), prefetch.Prefetch._arm

        def arm(one: prefetch.Prefetch, *of: Any, **how: Any) -> None:
            noted.append(of)
            real(one, *of, **how)

        self.patch(prefetch.Prefetch, "_arm", arm)
        self.library.prefetch._mode = "asked"
        for count in (1, 2):
            for _ in range(3):
                self.library.prefetch.seen(NAME, manifest_of(b"one", b"two"))
            self.assertEqual(len(noted), count)
            self.clock.advance(prefetch.NOTED_EVERY)
        self.library.prefetch.seen(OTHER, manifest_of(b"one", b"two"))
        self.assertEqual(len(noted), 3)

    def test_blobs_of_a_manifest_of_many_layers_are_noted_some_in_a_turn(self) -> None:
        """For a list of 18,000 blobs everybody waited a tenth of a second."""
        self.patch(prefetch, "ARMED_IN_A_TURN", 1)
        self.library.prefetch._mode = "asked"
        clock = self.library.prefetch._clock = Turning()
        manifest = manifest_of(b"one", b"two", b"three")
        self.library.prefetch.seen(NAME, manifest)
        for count in range(1, len(manifest.blobs) + 1):
            self.assertLessEqual(len(self.library.prefetch._armed), count)
            clock.advance(1)
        self.library.prefetch.asked(NAME, Digest.of(b"three"))
        self.assertIn(Digest.of(b"one"), self.library.fills)

    def test_to_bring_one_of_many_blobs_starts_few_at_a_time(self) -> None:
        """A new version of 12,000 layers had as many fills at once, 75 MB."""
        self.patch(prefetch, "MAX_AHEAD", 10)
        bodies = [str(number).encode() for number in range(40)]
        self.upstream.bodies = {Digest.of(body): body for body in bodies}
        manifest = manifest_of(*bodies)
        bringing = Deferred.fromCoroutine(
            self.library.prefetch.ensure_stored(NAME, manifest, at_any_hour=True)
        )
        for _ in range(20):
            self.assertLessEqual(len(self.library.fills), 11)
            for fill in self.library.fills.values():
                self.assertTrue(fill.is_waited_for)
            self.fill_all()
        self.successResultOf(bringing)

    def test_to_stop_a_fill_is_the_end_of_waiting_for_it(self) -> None:
        body = content_of(1000)
        bringing = Deferred.fromCoroutine(
            self.library.prefetch.ensure_stored(NAME, manifest_of(body))
        )
        stopping = self.library.stop_fill(Digest.of(body))
        assert stopping is not None
        self.successResultOf(stopping)
        self.failureResultOf(bringing, RegistryError)

    def test_a_fill_that_nobody_knows_cannot_be_stopped(self) -> None:
        self.assertIsNone(self.library.stop_fill(Digest("0" * 64)))

    def test_stopping_leaves_nothing_ticking(self) -> None:
        self.learn(manifest_of(b"one", b"two"))
        self.successResultOf(Deferred.fromCoroutine(self.library.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
