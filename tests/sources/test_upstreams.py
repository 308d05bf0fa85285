"""Several registries side by side: whom a question goes to, and who is asked for a shared blob."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from yukari.errors import RegistryError, blob_unknown
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.sources.circuit import Reachability
from yukari.sources.offline import Offline
from yukari.sources.pace import HostPace
from yukari.sources.upstreams import FAILURES, BlobOfSeveral, Upstreams
from yukari.spans import Span

DIGEST = Digest.of(b"blob")
OURS, HF, LAB = (
    Repository(registry, "her", "m") for registry in (DEFAULT, "hf.co", "10.0.0.5:5000")
)
MORE = Repository("hf.co", "his", "m")
SPAN = Span(0, 10)


@define(eq=False)
class Blob:
    """A registry's blob that answers as a test says."""

    answer: Any = "bytes"
    """What `fetch` returns, or an exception that it raises."""
    repositories: list[Repository] = field(factory=list)
    asked: int = 0
    retried: int = 0
    moves: bool = False
    pace: HostPace = field(factory=HostPace)
    ranges: bool = True

    async def fetch(self, span: Span) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def add_repository(self, name: Repository) -> None:
        self.repositories.append(name)

    def retry(self) -> None:
        self.retried += 1

    def move_on(self, *, soon: bool = False) -> bool:
        return self.moves

    def describe(self) -> str:
        return "a blob"

    async def set_aside(self, *, alone: bool) -> bool:
        return False


@define(eq=False)
class Registry:
    """A registry of one blob; it notes what it was asked."""

    found: Blob = field(factory=Blob)
    down: bool = False
    asked: list[Repository] = field(factory=list)

    def is_down(self, _: Repository) -> bool:
        return self.down

    def state_of(self, _: str) -> Reachability:
        return Reachability(reachable=not self.down)

    async def manifest_digest(self, name: Repository, *_: Any) -> Optional[Digest]:
        self.asked.append(name)
        return DIGEST

    def blob(self, digest: Digest, size: int, *names: Repository) -> Blob:
        self.found.repositories += names
        return self.found


class UpstreamsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.each: dict[str, Any] = {name.registry: Registry() for name in (OURS, HF, LAB)}
        self.upstreams = Upstreams(self.each)

    def blob_of(self, *names: Repository) -> BlobOfSeveral:
        found = self.upstreams.blob(DIGEST, 10, *names)
        assert isinstance(found, BlobOfSeveral)
        return found

    def blob_at(self, name: Repository) -> Blob:
        found: Blob = self.each[name.registry].found
        return found

    def fetch(self, source: BlobOfSeveral) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(source.fetch(SPAN)))

    def failing(self, source: BlobOfSeveral, kind: type[Exception]) -> Any:
        return self.failureResultOf(Deferred.fromCoroutine(source.fetch(SPAN)), kind).value


class QuestionTests(UpstreamsCase):
    def test_each_is_asked_about_its_own(self) -> None:
        for name in (HF, OURS, LAB):
            asking = self.upstreams.manifest_digest(name, Tag("latest"), "")
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(asking)), DIGEST)
        for name in (OURS, HF, LAB):
            self.assertEqual(self.each[name.registry].asked, [name])

    def test_one_that_is_down_is_down_for_its_own_alone(self) -> None:
        self.each["hf.co"].down = True
        found = [self.upstreams.is_down(name) for name in (OURS, HF, LAB)]
        self.assertEqual(found, [False, True, False])
        self.assertFalse(self.upstreams.state_of("hf.co").reachable)
        self.assertTrue(self.upstreams.state_of(DEFAULT).reachable)

    def test_one_that_is_no_longer_mirrored_is_an_error_and_no_other_is_asked(self) -> None:
        """A sidecar or the catalog of a bucket may still name it."""
        gone = Repository("quay.io", "her", "m")
        asking = Deferred.fromCoroutine(self.upstreams.manifest_digest(gone, Tag("latest"), ""))
        error = self.failureResultOf(asking, RegistryError).value
        self.assertEqual(error.status, 404)
        self.assertIn("quay.io", error.message)
        self.assertTrue(self.upstreams.is_down(gone))
        source = self.blob_of(gone)
        self.assertEqual(self.failing(source, SourceRefused).error.status, 503)
        source.add_repository(OURS)
        self.assertEqual(self.fetch(source), "bytes")


class SharedBlobTests(UpstreamsCase):
    """A blob that models of several registries name."""

    def test_one_registry_is_asked_while_it_answers(self) -> None:
        source = self.blob_of(HF, OURS)
        for _ in range(5):
            self.assertEqual(self.fetch(source), "bytes")
        self.assertEqual((self.blob_at(HF).asked, self.blob_at(OURS).asked), (5, 0))
        self.assertIs(source.pace, self.blob_at(HF).pace)

    def test_the_next_is_asked_when_one_refuses_by_a_turn_of_its_own(self) -> None:
        """The turn that was taken is of the first one's budget."""
        self.blob_at(HF).answer = SourceRefused(blob_unknown(DIGEST))
        source = self.blob_of(HF, OURS)
        self.assertTrue(self.failing(source, SourceFailed).moved)
        self.assertEqual(self.blob_at(OURS).asked, 0)
        self.assertIs(source.pace, self.blob_at(OURS).pace)
        self.assertEqual(self.fetch(source), "bytes")

    def test_it_is_refused_when_all_have_refused_and_then_asked_for_anew(self) -> None:
        for name in (HF, OURS):
            self.blob_at(name).answer = SourceRefused(blob_unknown(DIGEST))
        source = self.blob_of(HF, OURS)
        self.failing(source, SourceFailed)
        self.assertEqual(self.failing(source, SourceRefused).error.status, 404)
        self.blob_at(OURS).answer = "bytes"
        self.assertEqual(self.fetch(source), "bytes")

    def test_the_next_is_asked_when_one_keeps_failing(self) -> None:
        self.blob_at(HF).answer = SourceFailed("429", 5.0, busy=True)
        source = self.blob_of(HF, OURS)
        for _ in range(FAILURES):
            self.assertEqual(self.failing(source, SourceFailed).retry_after, 5.0)
        self.assertEqual(self.fetch(source), "bytes")
        self.assertEqual(self.blob_at(OURS).asked, 1)

    def test_the_next_is_asked_when_one_has_had_its_time(self) -> None:
        """A blob of a registry that is silent hung for another's models, too."""
        source = self.blob_of(HF, OURS)
        self.blob_at(HF).moves = True
        self.assertTrue(source.move_on())  # to another repository of the same registry
        self.blob_at(HF).moves = False
        self.fetch(source)
        self.assertTrue(source.move_on())
        self.fetch(source)
        self.assertEqual((self.blob_at(HF).asked, self.blob_at(OURS).asked), (1, 1))
        self.assertFalse(source.move_on())
        source.retry()
        self.assertTrue(source.move_on())

    def test_one_that_is_named_later_is_asked_when_the_first_has_had_its_time(self) -> None:
        source = self.blob_of(HF)
        self.assertFalse(source.move_on())
        source.add_repository(OURS)
        self.assertTrue(source.move_on())
        self.fetch(source)
        self.assertEqual((self.blob_at(HF).asked, self.blob_at(OURS).asked), (0, 1))

    def test_one_that_has_nobody_beside_it_keeps_being_asked(self) -> None:
        self.blob_at(HF).answer = SourceFailed("reset")
        source = self.blob_of(HF)
        for _ in range(2 * FAILURES):
            self.failing(source, SourceFailed)
        self.assertEqual(self.blob_at(HF).asked, 2 * FAILURES)

    def test_another_that_names_it_later_helps_one_that_has_refused(self) -> None:
        self.blob_at(HF).answer = SourceRefused(blob_unknown(DIGEST))
        source = self.blob_of(HF)
        self.failing(source, SourceRefused)
        source.add_repository(LAB)
        self.blob_at(HF).answer = SourceFailed("reset")
        for _ in range(FAILURES):
            self.failing(source, SourceFailed)
        self.assertEqual(self.fetch(source), "bytes")
        self.assertEqual(self.blob_at(LAB).asked, 1)

    def test_two_models_of_one_registry_are_one_source(self) -> None:
        source = self.blob_of(HF, OURS, MORE)
        self.assertEqual(self.blob_at(HF).repositories, [HF, MORE])
        self.assertEqual(self.fetch(source), "bytes")

    def test_wrong_bytes_turn_to_the_next(self) -> None:
        source = self.blob_of(HF, OURS)
        self.fetch(source)
        setting = Deferred.fromCoroutine(source.set_aside(alone=True))
        self.assertFalse(self.successResultOf(setting))
        self.fetch(source)
        self.assertEqual(self.blob_at(OURS).asked, 1)

    def test_a_retry_asks_every_registry_anew(self) -> None:
        self.blob_at(HF).answer = SourceRefused(blob_unknown(DIGEST))
        source = self.blob_of(HF, OURS)
        self.failing(source, SourceFailed)
        source.retry()
        self.assertEqual([self.blob_at(name).retried for name in (HF, OURS)], [1, 1])

    def test_offline_there_is_nothing(self) -> None:
        upstreams = Upstreams({DEFAULT: Offline(), "hf.co": Offline()})
        source = upstreams.blob(DIGEST, 10, HF, OURS)
        self.failureResultOf(Deferred.fromCoroutine(source.fetch(SPAN)), SourceFailed)
        self.failureResultOf(Deferred.fromCoroutine(source.fetch(SPAN)), SourceRefused)
