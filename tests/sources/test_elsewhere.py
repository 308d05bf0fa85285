"""The registry's name leads elsewhere: to its real address by setting, or back to the cache."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.emulator import Emulator
from tests.running import MODEL, Daemon, RunningCase
from tests.s3.servers import free_port
from yukari.config.setting import InvalidSetting
from yukari.config.urls import Address


class AddressTests(SynchronousTestCase):
    def test_a_host_with_or_without_a_port(self) -> None:
        for text, address in {
            "registry.internal": Address("registry.internal"),
            "192.0.2.1:8443": Address("192.0.2.1", 8443),
            "[2001:DB8::1]": Address("2001:db8::1"),
            "[::1]:443": Address("::1", 443),
        }.items():
            self.assertEqual(Address.parse(text), address)

    def test_nothing_else(self) -> None:
        for text in ("", ":443", "a:0", "a:65536", "::1", "[a]", "http://a", "a/b", "a b", "[::1"):
            with self.assertRaises(InvalidSetting, msg=text):
                Address.parse(text)


class ElsewhereTests(RunningCase):
    def address(self, upstream: Emulator) -> str:
        return upstream.url.split("//")[1].rstrip("/")

    async def test_the_registry_is_reached_at_the_address_by_its_own_name(self) -> None:
        upstream = await self.upstream()
        host, port = self.address(upstream).split(":")
        for address, url in (
            (f"{host}:{port}", "http://registry.invalid/"),
            (host, f"http://registry.invalid:{port}/"),
        ):
            daemon = await self.daemon(upstream, upstream_registry=url, upstream_address=address)
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            self.assertEqual(daemon.service._settings.upstream_registry.host, url.split("/")[2])

    async def looping(self, path: str) -> tuple[Daemon, int, bytes]:
        """A cache whose upstream is itself, and what it answers."""
        port = free_port()
        daemon = await self.daemon(
            await self.upstream(),
            bind=f"127.0.0.1:{port}",
            upstream_registry="http://registry.invalid/",
            upstream_address=f"127.0.0.1:{port}",
        )
        reply, body = await self.ask(f"{daemon.url}/v2/library/m/{path}")
        return daemon, reply.status, body

    async def test_a_cache_that_is_its_own_upstream_says_so_at_once(self) -> None:
        for path in ("manifests/latest", "blobs/sha256:" + "0" * 64):
            _, status, body = await self.looping(path)
            self.assertEqual(status, 502)
            self.assertIn(b"this cache is its own upstream", body)
            self.assertIn(b"UPSTREAM_ADDRESS", body)

    async def test_a_cache_may_mirror_another(self) -> None:
        upstream = await self.upstream()
        first = await self.daemon(upstream)
        second = await self.daemon(upstream, upstream_registry=first.url)
        self.assert_whole(await self.pull(second), upstream.models[MODEL])
