"""How much of manifests is in memory at once, however many an upstream sends."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any
from weakref import ref

from attrs import frozen
from twisted.internet.defer import Deferred, execute
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from tests.sources.doubles import DIGEST, Exchange, UpstreamCase
from tests.strategies import manifest_body
from yukari.descriptors import Descriptor
from yukari.errors import RegistryError
from yukari.large import MAX_ARRIVING, LargeManifests
from yukari.manifest import LARGE, Body, InvalidManifest, bodies_of, parse_manifest
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.net.bodies import BODY_WITHIN, LEAST_BETWEEN, LOOKS_EVERY, SLOW_LOOKS
from yukari.sources.bodies import Bodies
from yukari.sources.registry import MAX_HOSTS

BODY = manifest_body([Descriptor(DIGEST, 7, "a/b")], None, 3) + b" " * LARGE


class LargeBodyTests(UpstreamCase):
    def ask(self, count: int, body: bytes = BODY) -> list[Deferred[object]]:
        """Ask for so many manifests; all but a byte of `BODY` arrives of each."""
        asked = []
        for at in range(count):
            name = Repository(DEFAULT, "library", f"m{at}")
            asked.append(self.begin(self.upstream.manifest(name, Tag("latest"), "ollama/0.34")))
            self.internet.last.head(200, content_length=len(body))
            self.internet.last.send(body[: len(BODY) - 1])
        return asked

    def read(self) -> list[Exchange]:
        """The connections that are read."""
        return [each for each in self.internet.open if each.wire.producerState == "producing"]

    def test_no_more_large_manifests_are_read_at_once_than_have_turns(self) -> None:
        """Sixty-four of eight megabytes that never ended were half a gigabyte."""
        asked = self.ask(MAX_ARRIVING + 2)
        exchanges = self.internet.open
        self.assertEqual(self.read(), exchanges[:MAX_ARRIVING])
        exchanges[0].send(BODY[-1:])
        self.assertEqual(self.successResultOf(asked[0]).digest, Digest.of(BODY))
        self.assertEqual(self.read(), exchanges[1 : MAX_ARRIVING + 1])
        exchanges[1].close()
        self.failureResultOf(asked[1], RegistryError)
        self.assertEqual(self.read(), exchanges[2:])
        for each, exchange in zip(asked[2:], exchanges[2:]):
            exchange.send(BODY[-1:])
            self.assertEqual(self.successResultOf(each).digest, Digest.of(BODY))

    def test_nothing_is_read_of_one_that_says_its_length_before_its_turn(self) -> None:
        """One read may bring a megabyte: of each of forty that wait it was forty."""
        self.ask(MAX_ARRIVING)
        (waits,) = self.ask(1, BODY)
        exchange = self.internet.open[-1]
        self.begin(self.upstream.manifest(Repository(DEFAULT, "library", "n"), Tag("latest"), ""))
        self.internet.last.head(200, content_length=len(BODY))
        self.assertEqual(self.read(), self.internet.open[:MAX_ARRIVING])
        for each in self.internet.open[:MAX_ARRIVING]:
            each.send(BODY[-1:])
        exchange.send(BODY[-1:])
        self.assertEqual(self.successResultOf(waits).digest, Digest.of(BODY))
        self.internet.last.send(BODY)

    def test_those_that_end_while_they_wait_take_no_turn(self) -> None:
        asked = self.ask(MAX_ARRIVING + 1)
        asked.pop().cancel()
        self.clock.advance(BODY_WITHIN)
        for each in asked:
            self.assertEqual(self.failureResultOf(each, RegistryError).value.status, 504)
        (late,) = self.ask(1)
        self.internet.last.send(BODY[-1:])
        self.assertEqual(self.successResultOf(late).digest, Digest.of(BODY))

    def test_those_that_bring_next_to_nothing_make_way_for_as_many_as_wait(self) -> None:
        """Three that dripped held up the others of their registry until these were given up too."""
        asked = self.ask(MAX_ARRIVING + 1)
        exchanges = self.internet.open
        for _ in range(2 * SLOW_LOOKS):
            self.clock.advance(LOOKS_EVERY)
        self.assertEqual(self.failureResultOf(asked.pop(0), RegistryError).value.status, 504)
        self.assertEqual(self.read(), exchanges[1:])
        for each, exchange in zip(asked, exchanges[1:]):
            exchange.send(BODY[-1:])
            self.assertEqual(self.successResultOf(each).digest, Digest.of(BODY))

    def test_one_that_goes_on_keeps_its_turn_though_others_wait(self) -> None:
        body = BODY + b" " * 4 * LEAST_BETWEEN
        asked = self.ask(MAX_ARRIVING, body) + self.ask(1)
        exchanges = self.internet.open
        for _ in range(4):
            for each in exchanges[:MAX_ARRIVING]:
                each.send(b" " * LEAST_BETWEEN)
            self.clock.advance(LOOKS_EVERY)
        for exchange, done in zip(exchanges, asked):
            exchange.send(b" ")
            self.successResultOf(done)

    def test_a_large_manifest_comes_without_its_bytes_in_memory(self) -> None:
        """Forty of them that were stored and sent took three hundred megabytes."""
        kept: list[bytes] = []

        def keep(bodies: Sequence[Body]) -> Sequence[Body]:
            kept.extend(map(bytes, bodies))
            return [b"in a file"]

        bodies = Bodies("r.test", self.clock, execute, LargeManifests(keep))
        for body in (BODY, BODY.strip()):
            whole: Any = Whole(body)
            asked = Deferred.fromCoroutine(bodies.parsed(whole, "manifest", parse_manifest))
            found = self.successResultOf(asked)
            self.assertEqual(found.digest, Digest.of(body))
            self.assertEqual(bodies_of(found), [b"in a file" if body is BODY else body])
        self.assertEqual(kept, [BODY])

    def test_a_refusal_does_not_keep_what_it_was_made_of(self) -> None:
        """Forty bodies of eight megabytes that are no JSON were a gigabyte."""
        self.addCleanup(gc.enable)
        gc.disable()
        for size in (1, 2 * LARGE):
            made: list[ref[Held]] = []

            def parse(body: bytes, made: list[ref[Held]] = made) -> None:
                held = Held(body)
                made.append(ref(held))
                try:
                    raise ValueError(body)
                except ValueError as error:
                    raise InvalidManifest("no manifest") from error

            response: Any = Whole(bytes(size))
            bodies = Bodies("r.test", self.clock, execute)
            asked = Deferred.fromCoroutine(bodies.parsed(response, "manifest", parse))
            refused = self.failureResultOf(asked, InvalidManifest).value
            self.assertEqual(str(refused), "no manifest")
            self.assertEqual([each() for each in made], [None])


@frozen
class Held:
    """What is gone with the body."""

    body: bytes


@frozen
class Whole:
    """A response whose body arrives at once."""

    body: bytes
    headers: Headers = Headers()

    @property
    def length(self) -> int:
        return len(self.body)

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(self.body)
        protocol.connectionLost(Failure(ResponseDone()))


class HostTests(UpstreamCase):
    def test_the_measurements_of_the_hosts_that_were_used_last_are_kept(self) -> None:
        """A registry may redirect every blob to another host."""
        first = self.registry.pace("http://first.test/x")
        for at in range(MAX_HOSTS - 1):
            self.registry.pace(f"http://host{at}.test/x")
        self.assertIs(self.registry.pace("http://first.test/y"), first)
        last = self.registry.pace("http://last.test/x")
        self.assertEqual(len(self.registry.hosts()), MAX_HOSTS)
        self.assertIs(self.registry.pace("http://first.test/z"), first)
        self.assertIs(self.registry.pace("http://last.test/z"), last)
