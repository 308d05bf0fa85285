"""S3 by way of a proxy: tinyproxy, and one that answers but once a connection."""

from __future__ import annotations

import os
import shutil

from twisted.internet.task import deferLater

from tests import tinyproxy
from tests.authority import Authority, tls_front
from tests.clients import pull
from tests.emulator import Emulator, Model
from tests.processes import ProcessCase, YukariProcess
from tests.running import LOOK, MODEL, SMALL16, reactor
from tests.s3.against import AgainstServer
from tests.s3.servers import MOTO
from tests.tinyproxy import Tinyproxy
from yukari.s3.errors import S3Error


class ClientTests(AgainstServer, ProcessCase):
    """A client of S3."""

    server = MOTO
    skip = tinyproxy.MISSING

    async def test_objects_go_up_and_come_down(self) -> None:
        proxy = await tinyproxy.start(self, "BasicAuth me secret")
        endpoint = MOTO.endpoint()
        client = self.client_at(endpoint, proxies=proxy.proxies("me:secret@"))
        await client.put_object("a key", b"bytes" * 100_000, "text/plain", metadata={"a": "b"})
        found = await client.get_whole("a key")
        assert found is not None
        self.assertEqual((found[0].metadata, found[1]), ({"a": "b"}, b"bytes" * 100_000))
        for method in ("PUT", "GET"):
            self.assertIn(f"{method} {endpoint}/{self.bucket}/a%20key", proxy.asked)

    async def test_a_refusal_is_said(self) -> None:
        proxy = await tinyproxy.start(self, "BasicAuth me secret")
        client = self.client_at(MOTO.endpoint(), proxies=proxy.proxies())
        with self.assertRaises(S3Error) as caught:
            await client.get_bucket()
        self.assertIn(f"the proxy 127.0.0.1:{proxy.port} refused: 407 ", str(caught.exception))


class DaemonTests(AgainstServer, ProcessCase):
    """The daemon as a process, its bucket and its upstream behind one proxy."""

    server = MOTO
    skip = tinyproxy.MISSING

    async def by(
        self, proxy: Tinyproxy, upstream: Emulator, disk: str, **aws: str
    ) -> YukariProcess:
        return await self.yukari(
            upstream.url,
            f"--tigris-bucket={self.bucket}",
            f"--spool-dir={disk}",
            "--redirect=off",
            storage="tigris",
            all_proxy=proxy.url("me:secret@"),
            **{**MOTO.environment(), **aws},
        )

    async def until_stored(self, model: Model) -> None:
        """Return when the bucket has all of the model's blobs."""
        wanted = {f"blobs/{digest}" for digest, _ in model.blobs}
        while wanted - {row.key for row in (await self.client.list_objects("blobs/")).objects}:
            await deferLater(reactor, LOOK)

    async def cold_and_warm(self, **aws: str) -> Tinyproxy:
        """Pull, take the disk away, and pull again: the proxy by which all went."""
        proxy = await tinyproxy.start(self, "BasicAuth me secret")
        upstream = await self.upstream(f"{MODEL}=9MB,3000,10")
        model = upstream.models[MODEL]
        disk = self.directory()
        daemon = await self.by(proxy, upstream, disk, **aws)
        self.assert_whole(await pull(reactor, daemon.url, MODEL, SMALL16), model)
        await self.until_stored(model)
        await daemon.stop()
        shutil.rmtree(disk)
        os.mkdir(disk)
        daemon = await self.by(proxy, upstream, disk, **aws)
        self.assert_whole(await pull(reactor, daemon.url, MODEL, SMALL16), model)
        await daemon.stop()
        self.assert_sent_once(upstream, model)
        return proxy

    async def test_in_the_clear(self) -> None:
        proxy = await self.cold_and_warm()
        store = f"{MOTO.endpoint()}/{self.bucket}/"
        self.assertTrue(any(each.startswith(f"PUT {store}blobs/") for each in proxy.asked))
        self.assertTrue(any(each.startswith(f"GET {store}blobs/") for each in proxy.asked))

    async def test_by_tls_through_tunnels(self) -> None:
        authority = Authority(os.path.abspath(self.mktemp()))
        endpoint = tls_front(self, MOTO.endpoint(), authority.certificate("127.0.0.1"))
        proxy = await self.cold_and_warm(AWS_ENDPOINT_URL_S3=endpoint, AWS_CA_BUNDLE=authority.path)
        self.assertIn(f"CONNECT {endpoint.removeprefix('https://')}", proxy.asked)
        self.assertFalse([each for each in proxy.asked if MOTO.endpoint() in each])
