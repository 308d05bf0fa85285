"""What registries, realms and redirects cannot get out of this cache, whatever they answer."""

from __future__ import annotations

import json
from itertools import cycle
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from tests.sources.doubles import BODY, NAME, TAG, Exchange
from tests.sources.test_authorizer import (
    CLIENT,
    Answer,
    AuthorizerCase,
    World,
    agent_of,
    asked,
    signer_of,
    token_reply,
)
from yukari.config.keys import SigningKey
from yukari.errors import RegistryError
from yukari.sources.ways import USER_AGENT


class HostileTests(AuthorizerCase):
    def signatures(self, world: World) -> list[str]:
        """The URLs that have been signed."""
        return [each.url for each in world.internet.exchanges if signer_of(each)]

    def test_no_realm_but_the_registrys_own_gets_a_signature(self) -> None:
        for url, realm, signed in (
            ("https://registry.ollama.ai/", "https://registry.ollama.ai/token", True),
            ("https://registry.ollama.ai/", "https://ollama.com/token", True),
            ("https://registry.ollama.ai/", "http://ollama.com/token", False),
            ("https://registry.ollama.ai/", "https://ollama.com.evil.test/token", False),
            ("https://registry.ollama.ai/", "https://evil.test/ollama.com/token", False),
            ("https://registry.ollama.ai/", "https://evil.test/token?x=https://ollama.com/", False),
            ("https://registry.ollama.ai/", "https://hf.co/token", False),
            ("https://evil.test/", "https://ollama.com/token", False),
            ("https://evil.test/", "https://evil.test/token", True),
            ("https://evil.test/", "https://evil.test:8443/token", False),
            ("https://evil.test/", "http://evil.test/token", False),
            ("http://mirror.test/", "http://mirror.test/token", True),
            ("http://mirror.test/", "https://ollama.com/token", False),
        ):
            world = self.world(url, realm, operator=SigningKey.make()[0])
            world.by_realm = lambda _: (401, {}, b"")
            self.manifest(world).addErrback(lambda _: None)
            self.assertEqual(bool(self.signatures(world)), signed, (url, realm))
            for each in self.signatures(world):
                self.assertTrue(each.startswith(realm), each)
            if realm.startswith("http:") and url.startswith("https:"):
                # Not even without one: nothing of an https registry is sent in the clear.
                self.assertEqual([e.url for e in world.internet.exchanges if "http:" in e.url], [])

    def test_no_broken_realm_is_asked_at_all(self) -> None:
        for realm in (
            "https://user:word@registry.ollama.ai/token",
            "https://registry.ollama.ai@evil.test/token",
            "https://registry.ollama.ai\\@evil.test/token",
            "https://registry.ollama.ai%2f@evil.test/token",
            "//evil.test/token",
            "file:///etc/passwd",
            "https://evil.test/\ttoken",
            "",
        ):
            world = self.world(realm=realm)
            world.unsigned = lambda _: False
            self.assertEqual(self.error(world).status, 403)
            self.assertEqual({*world.asked}, {*asked("m")}, realm)
            self.assertEqual(len(world.asked), 1, realm)

    def test_a_realms_redirect_is_not_followed(self) -> None:
        for where in ("https://evil.test/token", "https://registry.ollama.ai/other"):
            world = self.world()
            world.by_realm = lambda _, where=where: (307, {"location": where}, b"")
            self.assert_manifest(world)
            self.assertEqual(world.news(), asked("m", "t", "m"))

    def test_a_redirect_takes_no_token_and_no_answer_to_a_challenge_with_it(self) -> None:
        for where in (
            "https://evil.test/v2/library/m/manifests/latest",
            "http://registry.ollama.ai/v2/library/m/manifests/latest",
            "https://registry.ollama.ai/v2/library/x/manifests/latest",
        ):
            world = self.world()
            self.assert_manifest(world)
            world.news()
            answer = world.answer

            def led(exchange: Exchange, where: str = where, answer: Any = answer) -> Answer:
                if exchange.url == "https://registry.ollama.ai/v2/library/m/manifests/latest":
                    return 307, {"location": where}, b""
                self.assertNotIn("authorization", exchange.asked[1])
                realm = 'Bearer realm="https://registry.ollama.ai/token",service="s"'
                return 401, {"www-authenticate": realm}, b""

            world.answer = led  # type: ignore[method-assign]
            self.assertEqual(self.error(world).status, 403)
            self.assertEqual(len(world.asked), 3, world.asked)
            self.assertEqual([*map(agent_of, world.internet.exchanges)][1:], [CLIENT, USER_AGENT])

    def test_a_stranger_that_challenges_ollama_is_asked_by_another_name(self) -> None:
        """A mirror that points to the real registry."""
        world = self.world("https://mirror.test/", "https://registry.ollama.ai/token")
        answer, there = world.answer, "https://registry.ollama.ai/v2/library/m/manifests/latest"

        def led(exchange: Exchange) -> Answer:
            if exchange.url.startswith("https://mirror.test/"):
                return 307, {"location": there}, b""
            return answer(exchange)

        world.answer = led  # type: ignore[method-assign]
        for agents in ([CLIENT, CLIENT, USER_AGENT], [CLIENT, USER_AGENT]):
            self.assert_manifest(world)
            self.assertEqual([*map(agent_of, world.internet.exchanges)], agents)
            self.assertEqual(world.headers("authorization"), [])
            world.news()

    def test_a_registry_that_refuses_every_token_is_asked_a_few_times_only(self) -> None:
        world = self.world(operator=SigningKey.make()[0])
        world.by_realm = world.gives
        world.valid = world.unsigned = lambda *_: False
        self.assertEqual(self.error(world).status, 403)
        self.assertLessEqual(len(world.news()), 8)

    def test_a_registry_that_asks_for_something_else_each_time_as_well(self) -> None:
        world = self.world(operator=SigningKey.make()[0])
        world.by_realm = world.gives
        answer, count = world.answer, iter(range(1000))

        def new_scopes(exchange: Exchange) -> Answer:
            status, headers, body = answer(exchange)
            if "www-authenticate" in headers:
                headers["www-authenticate"] += f',scope="{next(count)}",service="{next(count)}"'
                headers["www-authenticate"] = (
                    headers["www-authenticate"]
                    .replace('scope="repository:library/m:pull",', "")
                    .replace('service="s",', f'service="{next(count)}",')
                )
            return status, headers, body

        world.answer = new_scopes  # type: ignore[method-assign]
        world.valid = world.unsigned = lambda *_: False
        self.assertEqual(self.error(world).status, 403)
        self.assertLessEqual(len(world.news()), 14)

    def test_a_realms_reply_that_is_none_is_said_without_its_text(self) -> None:
        for body in (
            b"",
            b"null",
            b"[]",
            b"{}",
            b"[" * 50_000,
            b'{"token": 5}',
            b'{"token": ""}',
            b'{"token": "a b"}',
            b'{"token": "a\\r\\nX: y"}',
            b'{"token": "\\u00e9"}',
            json.dumps({"token": "secret" * 5000}).encode(),
            json.dumps({"token": "secret", "x": "y" * 70_000}).encode(),
            b"<html>secret</html>",
        ):
            world = self.world()
            world.unsigned = lambda _: False
            world.by_realm = lambda _, body=body: (200, {}, body)
            error = self.error(world)
            self.assertEqual(error.status, 502, body[:50])
            self.assertIn("realm", error.message)
            self.assertNotIn("secret", error.message)

    def test_odd_lifetimes_are_no_loop(self) -> None:
        for lifetime in (0, -5, "600", None, True, 1e300, 1e-9, float("inf"), float("nan")):
            world = self.world()
            world.by_realm = lambda _, lifetime=lifetime: token_reply("x", expires_in=lifetime)
            self.assert_manifest(world)
            self.assertEqual(len(world.news()), 3, lifetime)

    def test_a_realm_that_sends_slowly_is_given_up(self) -> None:
        world = self.world()
        world.unsigned = lambda _: False
        found = Deferred.fromCoroutine(self.upstream.manifest(NAME, TAG, CLIENT))
        status, headers, body = world.answer(world.internet.last)
        world.internet.last.head(status, content_length=len(body), **headers)
        realm = world.internet.last
        realm.head(200, content_length=1000)
        for _ in range(10):
            realm.send(b"x")
            world.internet.clock.advance(1)
        self.assertFalse(realm.open)
        world.asked = ["m", "t"]
        world.run()
        self.assertEqual(self.failureResultOf(found, RegistryError).value.status, 502)

    def test_secrets_are_in_no_log_no_error_and_no_repr(self) -> None:
        operator = SigningKey.make()[0]
        for by_realm in ("gives", "refuses", "breaks"):
            world = self.world(operator=operator)
            world.unsigned = lambda _: False
            if by_realm == "gives":
                world.by_realm = world.gives
            elif by_realm == "refuses":
                world.by_realm = lambda _: (401, {}, b"")
            else:
                world.by_realm = lambda _: (500, {}, b"")
            world.valid = lambda *_: False
            with capturedLogs() as events:
                error = self.error(world)
            authorizer = self.registry.authorizer
            shown = " ".join(map(repr, (error, str(error), events, self.upstream, authorizer)))
            shown += repr(authorizer.tokens) + repr(authorizer.keys)
            secrets = [text.rpartition(":")[2] for text in world.headers("authorization")]
            secrets += [
                each.url.partition("?")[2] for each in world.internet.exchanges if "?" in each.url
            ]
            self.assertGreater(len(secrets), 0)
            for secret in secrets:
                self.assertNotIn(secret.removeprefix("Bearer "), shown)


HOSTS = (
    "https://registry.ollama.ai",
    "https://ollama.com",
    "https://evil.test",
    "http://registry.ollama.ai",
)
MANIFESTS = ("/v2/library/m/manifests/latest", "/v2/library/x/manifests/latest")
PLACES = st.builds(str.__add__, st.sampled_from(HOSTS), st.sampled_from(MANIFESTS))
REALMS = st.builds(str.__add__, st.sampled_from(HOSTS), st.sampled_from(("/token", "")))
BEHAVIOURS = st.one_of(
    st.tuples(st.sampled_from(("challenges", "guards")), REALMS),
    st.tuples(st.just("redirects"), PLACES),
    st.tuples(st.just("answers"), st.sampled_from((200, 401, 404))),
)
"""
What a host does with a request for a manifest: it challenges all, or those without a token;
redirects; or answers with a status.
"""
REALM_REPLIES = st.sampled_from((200, 200, 200, 401, 307))


class AnyRegistryTests(AuthorizerCase):
    """No key leaves and no request hangs, whatever a registry, its realms and redirects answer."""

    @given(
        st.dictionaries(PLACES, BEHAVIOURS),
        st.lists(st.tuples(st.sampled_from(("challenges", "guards")), REALMS), max_size=1),
        st.lists(REALM_REPLIES, min_size=1, max_size=4),
        st.booleans(),
    )
    def test_it_ends_and_nothing_leaves_for_anybody_else(
        self,
        behaviours: dict[str, tuple[str, Any]],
        elsewhere: list[tuple[str, str]],
        realms: list[int],
        everyone: bool,
    ) -> None:
        world = self.world(operator=SigningKey.make()[0], everyone=everyone)
        given = cycle(realms)
        default = elsewhere[0] if elsewhere else ("answers", 200)

        def answer(exchange: Exchange) -> Answer:
            if "/manifests/" not in exchange.url:
                return next(given), {"location": "https://evil.test/token"}, b'{"token": "t"}'
            does, what = behaviours.get(exchange.url, default)
            has_token = "authorization" in exchange.asked[1]
            if does == "redirects":
                return 307, {"location": what}, b""
            if does == "answers" or (does == "guards" and has_token):
                return what if does == "answers" else 200, {}, BODY
            return 401, {"www-authenticate": f'Bearer realm="{what}"'}, b""

        world.answer = answer  # type: ignore[method-assign]
        for _ in range(2):
            found = self.manifest(world)
            found.addErrback(lambda failure: failure.trap(RegistryError))
            self.successResultOf(found)
        self.assertLess(len(world.asked), 120)
        for exchange in world.internet.exchanges:
            authorization = exchange.asked[1].get("authorization")
            if authorization is not None:
                host = exchange.url.partition("://")[2].partition("/")[0]
                self.assertIn(host, ("registry.ollama.ai", "ollama.com"))
                self.assertTrue(exchange.url.startswith("https://"), exchange.url)
                if authorization.startswith("Bearer "):
                    self.assertIn("/v2/library/m/manifests/latest", exchange.url)
                else:
                    self.assertTrue(signer_of(exchange))
