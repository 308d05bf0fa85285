"""How requests get past challenges, and what never leaves on the way."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Callable
from typing import Any, Optional
from urllib.parse import parse_qsl, urlsplit

from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent

from tests.sources.doubles import BODY, DIGEST, NAME, TAG, Exchange, Internet
from yukari.config.keys import SigningKey
from yukari.config.urls import RegistryUrl
from yukari.errors import RegistryError
from yukari.names import DEFAULT, Repository
from yukari.sources.authorizer import Keys
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.sources.own_key import OwnKey
from yukari.sources.registry import Registry
from yukari.sources.tokens import LIFETIME, MAX_TOKENS
from yukari.sources.upstream import Upstream
from yukari.sources.ways import FALLBACK_FOR, USER_AGENT
from yukari.spans import Span

CLIENT = "ollama/0.34.4"
EMPTY = "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ=="

Answer = tuple[int, dict[str, str], bytes]
"""A reply's status, headers and body."""


def token_reply(value: str, **more: object) -> Answer:
    return 200, {}, json.dumps({"token": value, **more}).encode()


class World:
    """
    A registry that challenges, and its realm, by functions that a test may replace.

    ``asked`` are the requests as "HOST METHOD-PATH" without queries, in their order.
    """

    def __init__(self, url: str, realm: str) -> None:
        self.internet = Internet()
        self.registry = RegistryUrl.parse(url)
        self.realm = realm
        self.challenge_headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.given = 0
        """Tokens that the realm has given."""
        self.valid: Callable[[str, Exchange], bool] = lambda token, _: True
        self.by_realm: Callable[[Exchange], Answer] = self.gives_to_signed
        self.unsigned: Callable[[Exchange], bool] = lambda e: not agent_of(e).startswith("ollama/")
        self.content: Callable[[Exchange], Answer] = lambda _: (200, {}, BODY)

    def gives_to_signed(self, exchange: Exchange) -> Answer:
        if not signer_of(exchange):
            return 401, {}, b'{"error":"unsigned"}'
        return self.gives(exchange)

    def gives(self, _: Exchange) -> Answer:
        self.given += 1
        return token_reply(f"token-{self.given}")

    def answer(self, exchange: Exchange) -> Answer:
        parts = urlsplit(exchange.url)
        if f"{parts.scheme}://{parts.netloc}{parts.path}" == self.realm.partition("?")[0]:
            return self.by_realm(exchange)
        scheme, _, token = exchange.asked[1].get("authorization", "").partition(" ")
        if (scheme == "Bearer" and self.valid(token, exchange)) or (
            not scheme and self.unsigned(exchange)
        ):
            return self.content(exchange)
        name = parts.path.split("/v2/")[-1].rsplit("/", 2)[0]
        said = f'Bearer realm="{self.realm}",service="s",scope="repository:{name}:pull"'
        return 401, {"www-authenticate": said, **self.challenge_headers}, b'{"errors":[]}'

    def run(self) -> None:
        """Answer all that is asked, until nothing more is."""
        at = len(self.asked)
        while at < len(self.internet.exchanges):
            exchange = self.internet.exchanges[at]
            parts = urlsplit(exchange.url)
            method = exchange.asked[0].partition(" ")[0]
            self.asked.append(f"{method} {parts.scheme}://{parts.netloc}{parts.path}")
            at += 1
            status, headers, body = self.answer(exchange)
            length = len(body)
            exchange.head(status, content_length=length, **headers)
            if body and method != "HEAD":
                exchange.send(body)

    def news(self) -> list[str]:
        """What was asked since the last look."""
        asked, self.asked[:] = list(self.asked), []
        self.internet.exchanges.clear()
        return asked

    def headers(self, name: str) -> list[str]:
        """The values of a header, of all requests that had it."""
        found = (each.asked[1].get(name) for each in self.internet.exchanges)
        return [each for each in found if each is not None]


def agent_of(exchange: Exchange) -> str:
    return exchange.asked[1]["user-agent"]


def signer_of(exchange: Exchange) -> str:
    """The public key that has signed the request rightly, "" if there is no signature."""
    public, colon, signature = exchange.asked[1].get("authorization", "").partition(":")
    if not colon:
        return ""
    signed = f"GET,{exchange.url},{EMPTY}".encode()
    key: Any = load_ssh_public_key(f"ssh-ed25519 {public}".encode())
    key.verify(b64decode(signature, validate=True), signed)
    names = [name for name, _ in parse_qsl(urlsplit(exchange.url).query)]
    assert names == sorted(names) and {"ts", "nonce"} <= {*names}
    return public


class AuthorizerCase(SynchronousTestCase):
    def world(
        self,
        url: str = "https://registry.ollama.ai/",
        realm: str = "https://registry.ollama.ai/token",
        operator: Optional[SigningKey] = None,
        everyone: bool = False,
        token: Optional[str] = None,
        **of_registry: Any,
    ) -> World:
        world = World(url, realm)
        agent = Agent.usingEndpointFactory(world.internet.clock, world.internet)
        path = os.path.join(os.path.abspath(self.mktemp()), "id_ed25519")
        own = OwnKey(path, execute, world.internet.clock)
        keys = Keys(own, operator, everyone, token)
        self.registry = Registry(
            world.registry, agent, world.internet.clock, keys=keys, **of_registry
        )
        self.upstream = Upstream(self.registry)
        self.own = self.successResultOf(Deferred.fromCoroutine(own.get())).public
        return world

    def manifest(self, world: World, name: Repository = NAME, agent: str = CLIENT) -> Deferred[Any]:
        asking = Deferred.fromCoroutine(self.upstream.manifest(name, TAG, agent))
        world.run()
        return asking

    def assert_manifest(self, world: World, name: Repository = NAME, agent: str = CLIENT) -> None:
        self.assertEqual(self.successResultOf(self.manifest(world, name, agent)).body, BODY)

    def error(self, world: World, name: Repository = NAME) -> RegistryError:
        return self.failureResultOf(self.manifest(world, name), RegistryError).value  # type: ignore[no-any-return]


def asked(*what: str, host: str = "https://registry.ollama.ai") -> list[str]:
    """``m``: the manifest; ``t``: the realm."""
    paths = {"m": "/v2/library/m/manifests/latest", "o": "/v2/a/o/manifests/latest", "t": "/token"}
    return [f"GET {host}{paths[each]}" for each in what]


class SignedTests(AuthorizerCase):
    def test_a_challenge_costs_two_requests_and_then_none(self) -> None:
        world = self.world()
        self.assert_manifest(world)
        self.assertEqual({*map(agent_of, world.internet.exchanges)}, {CLIENT})
        self.assertEqual(world.news(), asked("m", "t", "m"))
        self.assert_manifest(world)
        self.assertEqual(world.news(), asked("m"))

    def test_another_model_costs_its_token_alone(self) -> None:
        world = self.world()
        self.assert_manifest(world)
        world.news()
        self.assert_manifest(world, Repository(DEFAULT, "a", "o"))
        query = dict(parse_qsl(urlsplit(world.internet.exchanges[0].url).query))
        self.assertEqual(query["scope"], "repository:a/o:pull")
        self.assertEqual(world.news(), asked("t", "o"))

    def test_a_token_is_asked_for_anew_once_it_has_expired(self) -> None:
        for lifetime, more in ((LIFETIME, {}), (300.0, {"expires_in": 300})):
            world = self.world()

            def gives(exchange: Exchange, more: Any = more) -> Answer:
                self.assertEqual(signer_of(exchange), self.own)
                return token_reply("x", **more)

            world.by_realm = gives
            self.assert_manifest(world)
            world.news()
            world.internet.clock.advance(lifetime * 0.8)
            self.assert_manifest(world)
            self.assertEqual(world.news(), asked("m"))
            world.internet.clock.advance(lifetime * 0.2)
            self.assert_manifest(world)
            self.assertEqual(world.news(), asked("t", "m"))

    def test_a_token_that_is_refused_sooner_is_replaced_once(self) -> None:
        world = self.world()
        self.assert_manifest(world)
        world.news()
        world.valid = lambda token, _: token == "token-2"
        self.assert_manifest(world)
        self.assertEqual(world.news(), asked("m", "t", "m"))

    def test_many_at_once_ask_for_one_token(self) -> None:
        world = self.world()
        works = [
            Deferred.fromCoroutine(self.upstream.manifest(NAME, TAG, f"{CLIENT}.{n}"))
            for n in range(20)
        ]
        world.run()
        for work in works:
            self.assertEqual(self.successResultOf(work).body, BODY)
        self.assertEqual(world.given, 1)

    def test_challenge_is_read_though_no_token_comes_before_its_client_leaves(self) -> None:
        """Its connection was kept, with the end of the reply unread, until garbage is collected."""
        world = self.world()
        asking = Deferred.fromCoroutine(self.upstream.manifest(NAME, TAG, CLIENT))
        challenged = world.internet.last
        status, headers, body = world.answer(challenged)
        challenged.head(status, content_length=len(body), **headers)
        self.assertIn("/token", world.internet.last.url)
        self.assertEqual(challenged.wire.producerState, "paused")
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.assertEqual(challenged.wire.producerState, "producing")
        challenged.send(body)
        self.assertFalse(challenged.open)
        world.internet.stop()

    def test_one_who_leaves_takes_nobody_elses_token_away(self) -> None:
        world = self.world()
        world.internet.exchanges.clear()
        works = [
            Deferred.fromCoroutine(self.upstream.manifest(NAME, TAG, f"{CLIENT}.{n}"))
            for n in range(2)
        ]
        for _ in works:  # Both are challenged; the realm has not answered yet.
            exchange = world.internet.exchanges[len(world.asked)]
            world.asked.append("m")
            status, headers, body = world.answer(exchange)
            exchange.head(status, content_length=len(body), **headers)
            exchange.send(body)
        works[0].cancel()
        world.run()
        self.failureResultOf(works[0])
        self.assertEqual(self.successResultOf(works[1]).body, BODY)

    def test_tokens_are_kept_by_the_thousand_and_no_more(self) -> None:
        world = self.world()
        for number in range(MAX_TOKENS + 5):
            self.assert_manifest(world, Repository(DEFAULT, "a", f"m{number}"))
            world.news()
        self.assertEqual(len(self.registry.authorizer.tokens._kept), MAX_TOKENS)

    def test_412_reaches_an_old_client(self) -> None:
        world = self.world()
        world.content = lambda e: (412, {}, b"too old") if "0.1" in agent_of(e) else (200, {}, BODY)
        error = self.failureResultOf(self.manifest(world, agent="ollama/0.1"), RegistryError).value
        self.assertEqual((error.status, error.message), (412, "too old"))
        self.assert_manifest(world)

    def test_a_scope_that_cannot_be_foreseen_is_learnt(self) -> None:
        world = self.world()
        answer = world.answer

        def other_scopes(exchange: Exchange) -> Answer:
            status, headers, body = answer(exchange)
            if "www-authenticate" in headers:
                headers["www-authenticate"] = headers["www-authenticate"].replace(
                    "repository:", "r:"
                )
            return status, headers, body

        world.answer = other_scopes  # type: ignore[method-assign]
        world.valid = lambda token, e: e.url.count("/a/o/") == (token == "token-2")
        self.assert_manifest(world)
        world.news()
        self.assert_manifest(world, Repository(DEFAULT, "a", "o"))
        self.assertEqual(world.news(), asked("o", "t", "o"))


class UnsignedTests(AuthorizerCase):
    def test_where_the_signature_is_refused_it_is_asked_once_more_unsigned(self) -> None:
        world = self.world()
        world.by_realm = lambda _: (403, {}, b'{"error":"no such key"}')
        self.assert_manifest(world)
        self.assertEqual(agent_of(world.internet.exchanges[-1]), USER_AGENT)
        self.assertNotIn("authorization", world.internet.exchanges[-1].asked[1])
        self.assertEqual(world.news(), asked("m", "t", "m"))
        for name in (NAME, Repository(DEFAULT, "a", "o")):
            self.assert_manifest(world, name)
            self.assertEqual(len(world.news()), 1)

    def test_a_404_to_an_unsigned_request_is_no_sign_that_unsigned_ones_are_let_in(self) -> None:
        world = self.world()
        self.assert_manifest(world)
        world.valid = lambda _, e: "/a/o/" not in e.url
        world.content = lambda e: (404, {}, b"") if "/a/o/" in e.url else (200, {}, BODY)
        self.assertEqual(self.error(world, Repository(DEFAULT, "a", "o")).status, 404)
        world.news()
        self.assert_manifest(world)
        self.assertEqual(agent_of(world.internet.exchanges[-1]), CLIENT)
        self.assertEqual(world.news(), asked("m"))

    def test_a_realm_that_has_moved_is_found_again(self) -> None:
        """A registry that challenges everybody could not be pulled from until a restart."""
        for gone in ((401, {}, b""), (404, {}, b""), (503, {}, b"")):
            world = self.world()
            world.unsigned = lambda _: False
            self.assert_manifest(world)
            world.realm = "https://registry.ollama.ai/v2/token"
            world.news()
            answer = world.answer
            world.answer = lambda e, answer=answer, gone=gone: (  # type: ignore[method-assign]
                gone if urlsplit(e.url).path == "/token" else answer(e)
            )
            self.assert_manifest(world, Repository(DEFAULT, "a", "o"))
            self.assertLessEqual(len(world.news()), 5)
            self.assert_manifest(world)
            self.assertEqual(len(world.news()), 2)

    def test_a_registry_that_challenges_no_more_is_asked_as_it_is(self) -> None:
        world = self.world()
        self.assert_manifest(world)
        world.by_realm, world.unsigned = (lambda _: (404, {}, b"")), (lambda _: True)
        self.assert_manifest(world, Repository(DEFAULT, "a", "o"))
        world.news()
        self.assert_manifest(world, Repository(DEFAULT, "a", "o"))
        self.assertEqual(world.news(), asked("o"))

    def test_after_a_while_the_signature_is_tried_again(self) -> None:
        world = self.world()
        world.by_realm = lambda _: (403, {}, b"")
        self.assert_manifest(world)
        world.news()
        world.by_realm = world.gives_to_signed
        world.internet.clock.advance(FALLBACK_FOR)
        self.assert_manifest(world)
        self.assertEqual(world.news(), asked("m", "t", "m"))

    def test_a_realm_that_does_not_answer_is_no_end(self) -> None:
        world = self.world()
        world.realm = "https://ollama.com/token"
        found = Deferred.fromCoroutine(self.upstream.manifest(NAME, TAG, CLIENT))
        exchange = world.internet.exchanges[0]
        status, headers, body = world.answer(exchange)
        exchange.head(status, content_length=len(body), **headers)
        exchange.send(body)
        self.assertTrue(world.internet.last.url.startswith("https://ollama.com/token?"))
        world.asked = ["m", "t"]
        world.internet.clock.advance(10)
        world.run()
        self.assertEqual(self.successResultOf(found).body, BODY)
        world.internet.clock.advance(60)
        self.assertEqual(world.internet.clock.getDelayedCalls(), [])

    def test_a_key_that_cannot_be_used_is_no_end_and_is_said_where_all_is_refused(self) -> None:
        world = self.world()
        with open(self.registry.keys.own.path, "wb") as file:  # type: ignore[union-attr]
            file.write(b"mine")
        self.registry.keys.own._key = None  # type: ignore[union-attr]
        with capturedLogs() as events:
            self.assert_manifest(world)
            world.unsigned = lambda _: False
            self.assertIn("own key", self.error(world).message)
        self.assertEqual(len([event for event in events if "reason" in event]), 1)


class OciTests(AuthorizerCase):
    def oci(self, url: str = "https://ghcr.io/", realm: str = "https://ghcr.io/token") -> World:
        world = self.world(url, realm)
        world.unsigned = lambda _: False

        def by_realm(exchange: Exchange) -> Answer:
            if "authorization" in exchange.asked[1]:
                return 401, {"www-authenticate": 'Basic realm="x"'}, b""
            query = parse_qsl(urlsplit(exchange.url).query)
            self.assertEqual({name for name, _ in query}, {"service", "scope"})
            world.given += 1
            return 200, {}, json.dumps({"Access_Token": "t", "expires_in": 300}).encode()

        world.by_realm = by_realm
        return world

    def test_a_realm_elsewhere_is_asked_without_a_signature(self) -> None:
        world = self.oci("https://registry-1.docker.io/", "https://auth.docker.io/token")
        for _ in range(2):
            self.assert_manifest(world)
        self.assertEqual(len(world.news()), 4)

    def test_a_realm_on_its_own_host_as_well(self) -> None:
        for hint in ({}, {"docker-distribution-api-version": "registry/2.0"}):
            world = self.oci()
            world.challenge_headers = hint
            self.assert_manifest(world)
            self.assertEqual(len(world.news()), 4 if hint else 5)
            self.assert_manifest(world)
            self.assertEqual(len(world.news()), 1)

    def test_a_realm_that_breaks_at_a_signature(self) -> None:
        world = self.oci()
        by_realm = world.by_realm
        world.by_realm = lambda e: (500, {}, b"") if signer_of(e) else by_realm(e)
        self.assert_manifest(world)

    def test_a_token_for_everybody_may_be_given_to_a_signature_too(self) -> None:
        world = self.oci()
        world.by_realm = world.gives
        self.assert_manifest(world)
        self.assertEqual(len(world.news()), 3)


class FamilyTests(AuthorizerCase):
    def hugging_face(self, **more: Any) -> World:
        world = self.world("https://hf.co/", "https://huggingface.co/v2/token", **more)
        answer = world.answer

        def moved(exchange: Exchange) -> Answer:
            parts = urlsplit(exchange.url)
            if parts.netloc == "hf.co":
                return 307, {"location": f"https://huggingface.co{parts.path}"}, b""
            return answer(exchange)

        world.answer = moved  # type: ignore[method-assign]
        return world

    def test_hugging_face_challenges_behind_its_redirect(self) -> None:
        world = self.hugging_face()
        self.assert_manifest(world)
        self.assertEqual(
            [each.split("/")[2] for each in world.asked], ["hf.co"] + ["huggingface.co"] * 3
        )
        for exchange in world.internet.exchanges:
            if "hf.co" in exchange.url:
                self.assertNotIn("authorization", exchange.asked[1])
        world.news()
        self.assert_manifest(world)
        self.assertEqual(len(world.news()), 2)

    def test_its_store_gets_no_token(self) -> None:
        world = self.hugging_face()
        world.unsigned = lambda _: False
        world.content = lambda e: (302, {"location": "https://us.aws.cdn.hf.co/x?sig=1"}, b"")
        answer = world.answer

        def stored(exchange: Exchange) -> Answer:
            if "cdn" in exchange.url:
                self.assertNotIn("authorization", exchange.asked[1])
                return 206, {"content-range": "bytes 0-9/10"}, b"0123456789"
            return answer(exchange)

        world.answer = stored  # type: ignore[method-assign]
        blob = self.upstream.blob(DIGEST, 10, NAME)
        found = Deferred.fromCoroutine(blob.fetch(Span(0, 10)))
        world.run()
        self.assertEqual(self.successResultOf(found).span, Span(0, 10))
        self.assertEqual(world.asked[-1], "GET https://us.aws.cdn.hf.co/x")

    def test_what_does_not_exist_is_said_as_what_may_be_private(self) -> None:
        world = self.hugging_face()
        world.by_realm = lambda _: (401, {}, b"")
        world.unsigned = lambda _: False
        error = self.error(world)
        self.assertEqual(error.status, 403)
        for words in ("library/m:latest", "does not exist or is private", "UPSTREAM_KEY"):
            self.assertIn(words, error.message)

    def gated(self, **more: Any) -> World:
        """A model that hf.co opens to one token, without a challenge to anything else."""
        world = self.hugging_face(token="hf_secret", by_agent=True, is_default=False, **more)
        moved = world.answer

        def gated(exchange: Exchange) -> Answer:
            given = exchange.asked[1].get("authorization")
            if urlsplit(exchange.url).netloc == "hf.co":
                return moved(exchange)
            if given == "Bearer hf_secret":
                return world.content(exchange)
            return 401, {}, b'{"error":"Access to model a/o is restricted."}'

        world.answer = gated  # type: ignore[method-assign]
        return world

    def test_a_token_opens_what_is_gated_and_goes_to_the_registry_alone(self) -> None:
        world = self.gated(everyone=True)
        world.content = lambda e: (200, {}, BODY)
        self.assert_manifest(world)
        sent = world.headers("authorization")
        self.assertEqual(sent, ["Bearer hf_secret"])
        world.news()
        world.content = lambda e: (302, {"location": "https://us.aws.cdn.hf.co.evil.test/x"}, b"")
        blob = self.upstream.blob(DIGEST, 10, NAME)
        found = Deferred.fromCoroutine(blob.fetch(Span(0, 10)))
        world.run()
        self.failureResultOf(found)
        for exchange in world.internet.exchanges:
            if "evil" in exchange.url:
                self.assertNotIn("authorization", exchange.asked[1])

    def test_what_only_the_token_opens_is_not_given_to_clients(self) -> None:
        world = self.gated()
        error = self.error(world)
        self.assertEqual(error.status, 403)
        self.assertIn("PRIVATE_MODELS=everyone", error.message)
        self.assertNotIn("hf_secret", error.message)

    def test_a_token_that_does_not_open_it_is_refused_in_the_registrys_words(self) -> None:
        world = self.gated(everyone=True)
        world.content = lambda _: (403, {}, b'{"error":"Not in the list of authorized users."}')
        error = self.error(world)
        self.assertEqual(error.status, 403)
        self.assertIn("hf.co says: Not in the list of authorized users", error.message)
        self.assertIn("may not pull it either", error.message)

    def test_no_manifest_is_asked_for_by_another_agent_where_bytes_differ(self) -> None:
        world = self.hugging_face(by_agent=True, is_default=False)
        world.by_realm = lambda _: (401, {}, b"")
        self.assertEqual(self.error(world).status, 403)
        self.assertEqual({*map(agent_of, world.internet.exchanges)}, {CLIENT})


class BlobTests(AuthorizerCase):
    def fetched(self, world: World) -> Deferred[Any]:
        blob = self.upstream.blob(DIGEST, 10, NAME)
        found = Deferred.fromCoroutine(blob.fetch(Span(0, 10)))
        world.run()
        return found

    def blobs(self, **more: Any) -> World:
        world = self.world(**more)
        answer = world.answer

        def stored(exchange: Exchange) -> Answer:
            if exchange.url.startswith("https://store.test/"):
                self.assertNotIn("authorization", exchange.asked[1])
                return 206, {"content-range": "bytes 0-9/10"}, b"0123456789"
            return answer(exchange)

        world.answer = stored  # type: ignore[method-assign]
        world.content = lambda e: (
            (307, {"location": "https://store.test/blob?sig=1"}, b"")
            if "/blobs/" in e.url
            else (200, {}, BODY)
        )
        return world

    def test_where_blobs_are_not_challenged_they_are_asked_for_as_they_are(self) -> None:
        world = self.blobs()
        self.assert_manifest(world)
        world.news()
        self.assertEqual(self.successResultOf(self.fetched(world)).span, Span(0, 10))
        self.assertEqual(len(world.asked), 2)
        self.assertEqual(world.headers("authorization"), [])

    def test_where_they_are_the_manifests_token_opens_them(self) -> None:
        world = self.blobs()
        world.unsigned = lambda _: False
        self.assert_manifest(world)
        for count in (3, 2):
            world.news()
            self.assertEqual(self.successResultOf(self.fetched(world)).span, Span(0, 10))
            self.assertEqual(len(world.asked), count)
        self.assertEqual(world.given, 1)

    def test_the_first_blob_that_fails_holds_up_no_other(self) -> None:
        world = self.blobs()
        self.assert_manifest(world)
        world.news()
        blobs = [self.upstream.blob(DIGEST, 10, NAME) for _ in range(3)]
        works = [Deferred.fromCoroutine(blob.fetch(Span(0, 10))) for blob in blobs]
        self.assertEqual(len(world.internet.exchanges), 1)
        works[0].cancel()
        self.failureResultOf(works[0])
        self.assertEqual(len(world.internet.exchanges), 3)
        del world.internet.exchanges[0]
        world.run()
        for work in works[1:]:
            self.assertEqual(self.successResultOf(work).span, Span(0, 10))

    def test_what_no_key_opens_is_refused_as_private(self) -> None:
        world = self.blobs()
        world.unsigned = world.valid = lambda *_: False
        error = self.failureResultOf(self.fetched(world), SourceRefused).value.error
        self.assertEqual(error.status, 403)
        self.assertIn("UPSTREAM_KEY", error.message)

    def test_a_busy_realm_is_waited_for(self) -> None:
        world = self.blobs()
        world.unsigned = lambda _: False
        world.by_realm = lambda _: (429, {"retry-after": "7"}, b"")
        error = self.failureResultOf(self.fetched(world), SourceFailed).value
        self.assertEqual((error.retry_after, error.busy), (7.0, True))

    def test_its_size_is_asked_by_the_same_ways(self) -> None:
        world = self.world()
        world.unsigned = lambda _: False
        world.content = lambda _: (200, {}, b"0123456789")
        found = Deferred.fromCoroutine(self.upstream.blob_size(NAME, DIGEST))
        world.run()
        self.assertEqual(self.successResultOf(found), 10)


class OperatorsKeyTests(AuthorizerCase):
    def private(self, everyone: bool) -> World:
        operator = SigningKey.make()[0]
        world = self.world(operator=operator, everyone=everyone)
        world.unsigned = lambda e: (
            "/library/m/" not in e.url and not agent_of(e).startswith("ollama")
        )

        def by_realm(exchange: Exchange) -> Answer:
            signer = signer_of(exchange)
            return token_reply(signer) if signer else (401, {}, b"")

        world.by_realm = by_realm
        world.valid = lambda token, e: token == operator.public or "/library/m/" not in e.url
        return world

    def test_what_only_it_opens_is_refused_and_says_by_which_setting(self) -> None:
        world = self.private(everyone=False)
        error = self.error(world)
        self.assertEqual(error.status, 403)
        self.assertIn("PRIVATE_MODELS", error.message)
        found = Deferred.fromCoroutine(self.upstream.blob(DIGEST, 10, NAME).fetch(Span(0, 10)))
        world.run()
        # Nothing of the blob reaches a fill.
        refusal = self.failureResultOf(found, SourceRefused).value.error
        self.assertIn("PRIVATE_MODELS", refusal.message)

    def test_a_size_that_only_a_get_shows_is_refused_too(self) -> None:
        world = self.private(everyone=False)
        world.content = lambda e: (405 if e.asked[0].startswith("HEAD") else 200, {}, b"x")
        found = Deferred.fromCoroutine(self.upstream.blob_size(NAME, DIGEST))
        world.run()
        error = self.failureResultOf(found, RegistryError).value
        self.assertIn("PRIVATE_MODELS", error.message)

    def test_everyone_gets_it_where_that_is_set_and_later_at_once(self) -> None:
        world = self.private(everyone=True)
        self.assert_manifest(world)
        world.news()
        self.assert_manifest(world)
        self.assertEqual(world.news(), asked("m"))

    def test_a_public_model_is_never_asked_for_by_it(self) -> None:
        world = self.private(everyone=True)
        self.assert_manifest(world)
        world.news()
        self.assert_manifest(world, Repository(DEFAULT, "a", "o"))
        self.assertEqual(
            set(world.headers("authorization")) & {f"Bearer {self.own}"}, {f"Bearer {self.own}"}
        )
        self.assertEqual(world.news(), asked("o", "t", "o"))

    def test_a_registry_that_hides_private_models_behind_404(self) -> None:
        for everyone in (False, True):
            world = self.private(everyone)
            valid = world.valid
            world.valid = lambda token, _: True
            world.content = lambda e, valid=valid: (
                (200, {}, BODY)
                if valid(e.asked[1].get("authorization", "").partition(" ")[2], e)
                else (404, {}, b"")
            )
            if everyone:
                self.assert_manifest(world)
            else:
                self.assertIn("PRIVATE_MODELS", self.error(world).message)

    def test_blobs_that_are_hidden_behind_404_come_like_their_manifest(self) -> None:
        world = self.private(everyone=True)
        world.unsigned = lambda e: "/blobs/" in e.url or not agent_of(e).startswith("ollama")
        world.content = lambda e: (
            (200, {}, BODY if "/manifests/" in e.url else b"0123456789")
            if "authorization" in e.asked[1]
            else (404, {}, b"")
        )
        self.assert_manifest(world)
        found = Deferred.fromCoroutine(self.upstream.blob(DIGEST, 10, NAME).fetch(Span(0, 10)))
        world.run()
        self.assertEqual(self.successResultOf(found).span, Span(0, 10))

    def test_what_is_nowhere_stays_404(self) -> None:
        world = self.private(everyone=True)
        world.valid = lambda *_: True
        world.content = lambda _: (404, {}, b"")
        self.assertEqual(self.error(world).status, 404)

    def test_what_it_does_not_open_either_is_said(self) -> None:
        world = self.private(everyone=True)
        world.valid = lambda *_: False
        self.assertIn("UPSTREAM_KEY may not pull it", self.error(world).message)
