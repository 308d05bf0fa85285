"""The emulated registry's challenges, signatures and tokens, right and wrong."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from hypothesis import given
from hypothesis.strategies import text
from twisted.trial.unittest import SynchronousTestCase

from tests.clients import Challenge, Key, Stalled
from tests.emulator import Emulator, Fault, public_key_of, signed_text, verify
from tests.emulator.cases import MODEL, EmulatorCase
from tests.emulator.challenge import SIGNED_BODY, Refused

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
"""The first test vector of RFC 8032."""
FIELD = "AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"
"""That public key in an OpenSSH line."""

OLLAMA = {"User-Agent": "ollama/0.34.4 (amd64 linux) Go/go1.26.0"}
CURL = {"User-Agent": "curl/8.5.0"}
MANIFEST_PATH = "/v2/library/m/manifests/latest"


class SignatureTests(SynchronousTestCase):
    """Keys and signatures are read as OpenSSH and Ollama write them."""

    def test_known_line_is_known_key(self) -> None:
        self.assertEqual(Key(SEED).line, f"ssh-ed25519 {FIELD}")
        self.assertEqual(public_key_of(FIELD).public_bytes_raw().hex(), PUBLIC)

    def test_what_is_signed_ends_in_the_hash_of_nothing(self) -> None:
        empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        self.assertEqual(base64.b64decode(SIGNED_BODY).decode(), empty)
        url = "http://h/token?a=b"
        self.assertEqual(signed_text(url).decode(), f"GET,{url},{SIGNED_BODY}")

    def test_keys_that_are_none_are_refused(self) -> None:
        for wrong in (
            "",
            FIELD[:-4],
            f"{FIELD}AAAA",
            f"ssh-ed25519 {FIELD}",
            FIELD.replace("+", "-"),
            FIELD.replace("NzaC1lZDI1NTE5", "NzaC1lZDI1NTE6"),
            "AAAAB3NzaC1yc2EAAAADAQABAAAAAQ==",
        ):
            with self.assertRaises(Refused):
                public_key_of(wrong)

    @given(text())
    def test_nothing_but_a_signature_is_one(self, garbage: str) -> None:
        for wrong in (garbage, f"{FIELD}:{garbage}", f"{garbage}:AAAA"):
            with self.assertRaises(Refused):
                verify(wrong, "http://h/token")

    def test_a_signature_is_of_one_url_by_one_key(self) -> None:
        key, url = Key(), "http://h/token?a=b"
        given = key.authorization(url)
        self.assertEqual(verify(given, url), key.public)
        with self.assertRaises(Refused):
            verify(given, url + "c")
        with self.assertRaises(Refused):
            verify(f"{Key().public}:{given.partition(':')[2]}", url)


class ChallengeCase(EmulatorCase):
    """A registry that challenges, and the steps of answering it."""

    async def challenging(self, **settings: Any) -> Emulator:
        return await self.started(**{"challenge": "ollama", **settings})

    async def status(
        self, emulator: Emulator, token: str = "", path: str = MANIFEST_PATH, **more: Any
    ) -> int:
        """Return the status of an Ollama's request with this token."""
        headers = {**OLLAMA, **({"Authorization": f"Bearer {token}"} if token else {})}
        return (await self.ask(emulator.url + path, headers, **more))[0].status

    async def challenge(self, emulator: Emulator, path: str = MANIFEST_PATH) -> Challenge:
        """The challenge to an unsigned request."""
        reply, _ = await self.ask(emulator.url + path, OLLAMA)
        self.assertEqual(reply.status, 401)
        return Challenge.parse(reply.headers["www-authenticate"])

    async def token(self, emulator: Emulator, key: Key, path: str = MANIFEST_PATH) -> str:
        """A token for this key."""
        url = (await self.challenge(emulator, path)).url()
        reply, body = await self.ask(url, {"Authorization": key.authorization(url)})
        self.assertEqual(reply.status, 200, body)
        return str(json.loads(body)["token"])


class ChallengeTests(ChallengeCase):
    """The requests that are challenged, and their challenges."""

    async def test_only_unsigned_ollamas_are_challenged(self) -> None:
        emulator = await self.challenging()
        host = emulator.url.removeprefix("http://")
        for method in ("GET", "HEAD"):
            reply, _ = await self.ask(emulator.url + MANIFEST_PATH, OLLAMA, method)
            self.assertEqual(reply.status, 401)
            self.assertEqual(
                reply.headers["www-authenticate"],
                f'Bearer realm="http://{host}/token",service="ollama.com",'
                'scope="repository:library/m:pull"',
            )
            for agent in (CURL, {}, {"User-Agent": "ollama-transfer/1.0"}):
                reply, _ = await self.ask(emulator.url + MANIFEST_PATH, agent, method)
                self.assertEqual(reply.status, 200)
        counters = emulator.counters
        self.assertEqual(counters.challenges, {"manifest GET": 1, "manifest HEAD": 1})
        self.assertEqual(counters.unsigned, {"manifest GET": 4, "manifest HEAD": 4})

    async def test_nobody_is_challenged_where_it_is_off(self) -> None:
        emulator = await self.started(challenge="off")
        self.assertEqual(await self.status(emulator), 200)
        self.assertEqual(await self.status(emulator, "stale"), 200)

    async def test_everybody_is_challenged_by_an_oci_registry(self) -> None:
        emulator = await self.challenging(challenge="everyone")
        reply, _ = await self.ask(emulator.url + MANIFEST_PATH, CURL)
        self.assertEqual(reply.status, 401)

    async def test_blobs_are_challenged_where_that_is_said(self) -> None:
        emulator = await self.challenging(redirect=False)
        path = f"/v2/library/m/blobs/{emulator.models[MODEL].layers[1][0]}"
        for challenged, status in ((False, 200), (True, 401)):
            emulator.settings.challenge_blobs = challenged
            for method in ("GET", "HEAD"):
                self.assertEqual(await self.status(emulator, path=path, method=method), status)
        token = await self.token(emulator, Key())
        self.assertEqual(await self.status(emulator, token, path), 200)

    async def test_unknown_models_are_challenged_before_they_are_unknown(self) -> None:
        emulator = await self.challenging()
        path = "/v2/library/none/manifests/latest"
        token = await self.token(emulator, Key(), path)
        self.assertEqual(await self.status(emulator, token, path), 404)

    async def test_a_fault_challenges_like_the_registry(self) -> None:
        emulator = await self.started(challenge="off")
        emulator.faults.add(Fault("manifest", "error", status=401, times=1))
        found = await self.challenge(emulator)
        self.assertEqual(found.scope, "repository:library/m:pull")
        self.assertEqual(await self.status(emulator), 200)

    async def test_headers_may_be_anything(self) -> None:
        emulator = await self.challenging()
        for template, sent in (
            ("", None),
            ('Basic realm="x"', 'Basic realm="x"'),
            ("Bearer realm={realm}", f"Bearer realm={emulator.url}/token"),
            ('Basic realm="x", Bearer scope="{scope}"',) * 2,
        ):
            emulator.settings.challenge_header = template
            reply, _ = await self.ask(emulator.url + MANIFEST_PATH, OLLAMA)
            expected = sent and sent.format(scope="repository:library/m:pull")
            self.assertEqual((reply.status, reply.headers.get("www-authenticate")), (401, expected))

    async def test_realms_may_be_anywhere(self) -> None:
        emulator = await self.challenging()
        for realm in (
            "https://registry.invalid/token",
            "http://me:secret@127.0.0.1/token",
            "{other}/token",
        ):
            emulator.settings.realm = realm
            expected = realm.format(other=emulator.other_url)
            self.assertEqual((await self.challenge(emulator)).realm, expected)
        self.assertIn("127.0.0.3", emulator.other_url)


class TokenTests(ChallengeCase):
    """What the realm asks of a signature, and what its tokens open."""

    async def test_a_fresh_key_gets_a_token_that_opens_the_model(self) -> None:
        emulator, key = await self.challenging(), Key()
        token = await self.token(emulator, key)
        for method in ("GET", "HEAD"):
            self.assertEqual(await self.status(emulator, token, method=method), 200)
        counters = emulator.counters
        self.assertEqual(counters.signatures, {key.public: 1})
        self.assertEqual(counters.requests["token GET"], 1)
        self.assertEqual(counters.authorized, {"manifest GET": 1, "manifest HEAD": 1})
        self.assertEqual(counters.opened, {f"{key.public} library/m": 2})
        self.assertEqual(counters.authorizations, [])

    async def test_wrong_requests_get_no_token(self) -> None:
        emulator, key = await self.challenging(), Key()
        now = str(int(time.time()))
        right = {
            "nonce": "AAAAAAAAAAAAAAAAAAAAAA",
            "scope": "repository:library/m:pull",
            "service": "ollama.com",
            "ts": now,
        }
        old = str(int(time.time()) - 3600)
        Query = dict[str, str]
        cases: list[tuple[str, Callable[[Query], Query]]] = [
            ("the query's keys are not sorted", lambda query: dict(reversed(query.items()))),
            ("ts is not the present", lambda query: {**query, "ts": old}),
            ("ts is not the present", lambda query: {**query, "ts": "soon"}),
            ("no nonce of 16 bytes", lambda query: {**query, "nonce": "AAAA"}),
            ("no nonce of 16 bytes", lambda query: {**query, "nonce": query["nonce"] + "=="}),
            ("another service", lambda query: {**query, "service": "other"}),
            ("no scope", lambda query: {**query, "scope": ""}),
        ]
        for reason, change in cases:
            url = f"{emulator.url}/token?{urlencode(change(right))}"
            reply, body = await self.ask(url, {"Authorization": key.authorization(url)})
            self.assertEqual((reason, reply.status), (reason, 401))
            self.assertIn(reason, body.decode())
        url = f"{emulator.url}/token?{urlencode(right)}"
        for headers in ({}, {"Authorization": key.authorization(url + "&a=b")}):
            reply, _ = await self.ask(url, headers)
            self.assertEqual(reply.status, 401)
        self.assertEqual(emulator.counters.signatures, {})
        for status in (200, 401):  # A second time it is a replay.
            reply, _ = await self.ask(url, {"Authorization": key.authorization(url)})
            self.assertEqual(reply.status, status)
        self.assertEqual(emulator.counters.refused_signatures["the nonce has been seen"], 1)

    async def test_a_token_opens_what_it_was_asked_for(self) -> None:
        emulator = await self.challenging()
        emulator.add_model("library/n:latest", [10])
        token = await self.token(emulator, Key())
        self.assertEqual(await self.status(emulator, token, "/v2/library/n/manifests/latest"), 401)
        self.assertEqual(await self.status(emulator, "made-up"), 401)
        self.assertEqual(emulator.counters.refused_tokens, {"scope": 1, "unknown": 1})
        (seen,) = emulator.counters.authorizations
        self.assertEqual(seen, "manifest GET: Bearer made-up")

    async def test_a_token_expires(self) -> None:
        emulator, key = await self.challenging(token_seconds=0), Key()
        stale = await self.token(emulator, key)
        emulator.settings.token_seconds = 60
        self.assertEqual(await self.status(emulator, stale), 401)
        self.assertEqual(emulator.counters.refused_tokens, {"expired": 1})
        self.assertEqual(await self.status(emulator, await self.token(emulator, key)), 200)

    async def test_an_oci_realm_is_asked_without_a_signature(self) -> None:
        emulator = await self.challenging(
            challenge="everyone",
            signatures="refused",
            token_field="access_token",
            tell_expiry=True,
            token_seconds=60,
        )
        found = await self.challenge(emulator)
        url = f"{found.realm}?{urlencode({'service': found.service, 'scope': found.scope})}"
        signed = {"Authorization": Key().authorization(url)}
        self.assertEqual((await self.ask(url, signed))[0].status, 401)
        reply, body = await self.ask(url)
        told = json.loads(body)
        self.assertEqual((reply.status, told["expires_in"], len(told)), (200, 60, 2))
        self.assertEqual(await self.status(emulator, told["access_token"]), 200)
        emulator.settings.signatures = "ignored"
        self.assertEqual((await self.ask(url, signed))[0].status, 200)
        self.assertEqual(emulator.counters.signatures, {})

    async def test_a_realms_own_query_is_kept(self) -> None:
        emulator, key = await self.challenging(realm="{registry}/token?account=a+b"), Key()
        token = await self.token(emulator, key)
        self.assertEqual(await self.status(emulator, token), 200)
        lost = (await self.challenge(emulator)).url().replace("account=a+b&", "")
        reply, _ = await self.ask(lost, {"Authorization": key.authorization(lost)})
        self.assertEqual(reply.status, 401)

    async def test_a_realm_on_the_other_host_gives_tokens_too(self) -> None:
        emulator = await self.challenging(realm="{other}/v2/token")
        self.assertEqual(await self.status(emulator, await self.token(emulator, Key())), 200)
        (asked,) = (request for request in emulator.log if request.kind == "token GET")
        self.assertEqual(asked.side, "other")

    async def test_behind_tls_the_https_url_is_signed(self) -> None:
        emulator, key = await self.challenging(tls=True), Key()
        url = (await self.challenge(emulator)).url()
        self.assertEqual(url.partition("?")[0], emulator.url.replace("http:", "https:") + "/token")
        plain = url.replace("https:", "http:")
        for signed, status in ((plain, 401), (url, 200)):
            reply, _ = await self.ask(plain, {"Authorization": key.authorization(signed)})
            self.assertEqual(reply.status, status)

    async def test_what_a_hostile_realm_answers(self) -> None:
        emulator, key = await self.challenging(), Key()
        far, split = "http://127.0.0.3:1/token", '{"token":"a\\nb"}'
        for fault, status, body in (
            (Fault("token", "redirect", text=far), 307, b""),
            (Fault("token", "huge", after=3_000_000), 200, None),
            (Fault("token", "error", status=200, text="<html>"), 200, b"<html>"),
            (Fault("token", "error", status=200, text=split), 200, split.encode()),
        ):
            emulator.faults.clear()
            emulator.faults.add(fault)
            url = (await self.challenge(emulator)).url()
            reply, got = await self.ask(url, {"Authorization": key.authorization(url)})
            self.assertEqual(reply.status, status)
            if body is None:
                self.assertEqual((len(got), len(json.loads(got)["token"])), (3_000_000, 2_999_988))
            else:
                self.assertEqual(got, body)
            if status == 307:
                self.assertEqual(reply.headers["location"], far)
        emulator.faults.clear()
        emulator.faults.add(Fault("token", "silence"))
        url = (await self.challenge(emulator)).url()
        with self.assertRaises(Stalled):
            await self.http().open("GET", url, {}, seconds=0.05)


class PrivateTests(ChallengeCase):
    """Models that only some keys open."""

    async def test_only_listed_keys_open_a_private_model(self) -> None:
        emulator, key = await self.challenging(), Key()
        emulator.settings.private = {"library/m": [key.public]}
        token = await self.token(emulator, key)
        self.assertEqual(await self.status(emulator, token), 200)
        other = await self.token(emulator, Key())
        self.assertEqual(await self.status(emulator, other), 401)
        self.assertEqual(emulator.counters.refused_tokens, {"key": 1})

    async def test_unsigned_requests_for_it_are_refused_whoever_asks(self) -> None:
        emulator = await self.challenging(private={"library/m": []})
        for challenge in ("off", "ollama"):
            emulator.settings.challenge = challenge
            for status in (401, 404):
                emulator.settings.private_unsigned = status
                for agent in (OLLAMA, CURL):
                    reply, _ = await self.ask(emulator.url + MANIFEST_PATH, agent)
                    self.assertEqual(reply.status, status)

    async def test_what_nobody_opens_answers_401_for_ever(self) -> None:
        emulator, key = await self.challenging(private={"library/m": []}), Key()
        for _ in range(3):
            self.assertEqual(await self.status(emulator, await self.token(emulator, key)), 401)

    async def test_its_blobs_are_as_private(self) -> None:
        emulator, key = await self.challenging(redirect=False), Key()
        public = emulator.add_model("library/n:latest", [20])
        emulator.settings.private = {"library/m": [key.public]}
        secret, shared = emulator.models[MODEL].layers[1][0], public.layers[0][0]
        token = await self.token(emulator, key)
        for path, held, status in (
            (f"/v2/library/m/blobs/{secret}", token, 200),
            (f"/v2/library/m/blobs/{secret}", "", 401),
            (f"/v2/library/n/blobs/{secret}", "", 404),
            (f"/v2/library/n/blobs/{shared}", "", 200),
        ):
            self.assertEqual((path, await self.status(emulator, held, path)), (path, status))
