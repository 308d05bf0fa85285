"""
Stock Ollama pulls straight from the emulated registry: the proof that this challenges as real ones.
"""

from __future__ import annotations

from tests.emulator import Emulator
from tests.ollama import MODEL, Ollama, OllamaCase


class StockOllamaTests(OllamaCase):
    """A pull past the cache."""

    async def challenging(self, **settings: object) -> tuple[Emulator, str, Ollama]:
        """A registry that challenges, its ``HOST:PORT``, and an Ollama with a key of its own."""
        settings = {"challenge": "ollama", **settings}
        upstream = await self.upstream(f"{MODEL}=300KB,11", **settings)
        return upstream, upstream.url.removeprefix("http://"), await self.ollama()

    async def test_a_fresh_key_opens_a_public_model(self) -> None:
        upstream, host, ollama = await self.challenging()
        await self.pull_by(ollama, host)
        self.assert_pulled(ollama, host, upstream.models[MODEL])
        counters = upstream.counters
        self.assertEqual(counters.challenges, {"manifest GET": 1})
        self.assertEqual(counters.signatures, {ollama.public_key: 1})
        self.assertEqual(counters.requests["token GET"], 1)
        self.assertEqual(counters.authorized, {"manifest GET": 1, "blob HEAD": 3, "blob GET": 3})
        self.assertEqual(counters.authorizations, [])

    async def test_blobs_that_are_challenged_cost_no_second_token(self) -> None:
        upstream, host, ollama = await self.challenging(challenge_blobs=True)
        await self.pull_by(ollama, host)
        self.assert_pulled(ollama, host, upstream.models[MODEL])
        self.assertEqual(upstream.counters.requests["token GET"], 1)

    async def test_an_expired_token_is_renewed(self) -> None:
        upstream, host, ollama = await self.challenging(token_seconds=0)
        self.assertIn("unauthorized: access denied", await self.refused(ollama, host))
        upstream.settings.token_seconds = 300
        await self.pull_by(ollama, host)
        self.assert_pulled(ollama, host, upstream.models[MODEL])
        self.assertEqual(upstream.counters.refused_tokens, {"expired": 1})

    async def test_only_its_key_opens_a_private_model(self) -> None:
        upstream, host, ollama = await self.challenging()
        other = await self.ollama()
        self.assertNotEqual(ollama.public_key, other.public_key)
        upstream.settings.private = {"library/m": [ollama.public_key]}
        self.assertIn("unauthorized: access denied", await self.refused(other, host))
        await self.pull_by(ollama, host)
        self.assert_pulled(ollama, host, upstream.models[MODEL])
        opened = {each for each in upstream.counters.opened if each.endswith(" library/m")}
        self.assertEqual(opened, {f"{ollama.public_key} library/m"})

    async def test_a_realm_on_another_host_gets_no_signature(self) -> None:
        """Ollama 0.14.3 and later send none; older ones do."""
        upstream, host, ollama = await self.challenging(realm="{other}/token")
        self.assertIn("does not match original host", await self.refused(ollama, host))
        self.assertEqual(upstream.counters.requests["token GET"], 0)

    async def test_a_wrong_clock_is_shown(self) -> None:
        upstream, host, ollama = await self.challenging(signature_seconds=-1)
        self.assertIn("ts is not the present", await self.refused(ollama, host))
        self.assertEqual(upstream.counters.refused_signatures, {"ts is not the present": 1})
