"""What a HEAD without a digest tells: a wrong "unchanged" would keep an old version for ever."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from yukari.manifest import Variant
from yukari.names import Digest, Repository, Tag
from yukari.sources.known_manifests import LONGEST_ETAG, SELDOM, KnownManifests

KEY = Repository("hf.co", "her", "m"), Tag("Q4"), Variant.PLAIN
OTHER = Repository("hf.co+llama-cpp", "her", "m"), Tag("Q4"), Variant.PLAIN
DIGEST, NEWER = Digest.of(b"manifest"), Digest.of(b"newer")


@frozen
class Reply:
    headers: Headers

    @classmethod
    def of(cls, **headers: str) -> Any:
        return cls(Headers({name.replace("_", "-"): [text] for name, text in headers.items()}))


class KnownManifestsTests(SynchronousTestCase):
    def known(self, *, is_patient: bool = True, **headers: str) -> KnownManifests:
        self.clock = Clock()
        known = KnownManifests(self.clock, is_patient)
        known.learn(KEY, Reply.of(**headers), DIGEST)
        return known

    def test_a_digest_that_is_announced_counts(self) -> None:
        known = self.known(etag='"a"')
        reply = Reply.of(etag='"a"', ollama_content_digest=NEWER.hex)
        self.assertEqual(known.digest(KEY, reply), NEWER)

    def test_a_digest_that_was_wrong_before_tells_nothing(self) -> None:
        """A label that stays while the manifest moves would keep an old version for ever."""
        label = {"docker_content_digest": str(NEWER)}
        self.assertIsNone(self.known(is_patient=False, **label).digest(KEY, Reply.of(**label)))
        etag = Reply.of(etag='"a"', **label)
        self.assertEqual(self.known(etag='"a"', **label).digest(KEY, etag), DIGEST)

    def test_the_same_etag_is_the_same_manifest_however_late(self) -> None:
        known = self.known(is_patient=False, etag='"a"')
        self.clock.advance(100 * SELDOM)
        self.assertEqual(known.digest(KEY, Reply.of(etag='"a"')), DIGEST)

    def test_another_etag_or_none_tells_nothing(self) -> None:
        known = self.known(etag='"a"')
        self.assertIsNone(known.digest(KEY, Reply.of(etag='"b"')))
        self.assertIsNone(known.digest(KEY, Reply.of()))
        self.assertIsNone(self.known().digest(KEY, Reply.of(etag='"b"')))

    def test_an_etag_without_end_is_not_remembered(self) -> None:
        """Fifty thousand of 60 kB would be three gigabytes."""
        etag = "e" * (LONGEST_ETAG + 1)
        known = self.known(is_patient=False, etag=etag)
        self.assertIsNone(known.digest(KEY, Reply.of(etag=etag)))

    def test_without_any_it_is_fetched_anew_after_an_hour(self) -> None:
        known = self.known()
        self.clock.advance(SELDOM - 1)
        self.assertEqual(known.digest(KEY, Reply.of()), DIGEST)
        self.clock.advance(1)
        self.assertIsNone(known.digest(KEY, Reply.of()))

    def test_registries_that_are_not_known_for_it_are_always_asked(self) -> None:
        self.assertIsNone(self.known(is_patient=False).digest(KEY, Reply.of()))

    def test_what_was_not_fetched_is_not_known(self) -> None:
        self.assertIsNone(self.known(etag='"a"').digest(OTHER, Reply.of(etag='"a"')))
