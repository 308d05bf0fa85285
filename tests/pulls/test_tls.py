"""Pulls over TLS, where bytes are read from files in threads and not sent by the kernel."""

from __future__ import annotations

import os
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.portforward import ProxyServer

from tests.authority import self_signed
from tests.clients import ClientError, pull
from tests.emulator import Emulator, Fault
from tests.running import GENERATIONS, MODEL, SMALL16, Daemon, RunningCase, reactor, until


def write_certificate(path: str) -> None:
    """A self-signed certificate for 127.0.0.1 and its key, in one PEM file."""
    key, certificate = self_signed("127.0.0.1")
    with open(path, "wb") as opened:
        opened.write(key + certificate)


class _ByTls:
    """A reactor that connects by TLS, whatever it is asked, and trusts everyone."""

    @staticmethod
    def connectTCP(host: str, port: int, factory: Any) -> Any:
        return reactor.connectSSL(host, port, factory, CertificateOptions())


class Tunnel(Factory):
    """What comes to it in the clear goes on to a port by TLS: the clients here speak no TLS."""

    noisy = False

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.open: set[ProxyServer] = set()

    def buildProtocol(self, address: object) -> ProxyServer:
        made: Any = ProxyServer()
        made.factory, made.reactor = self, _ByTls
        lost = made.connectionLost

        def gone(reason: Any) -> None:
            self.open.discard(made)
            lost(reason)

        made.connectionLost = gone
        self.open.add(made)
        return cast(ProxyServer, made)


class TlsTests(RunningCase):
    """A daemon behind an ``ssl:`` endpoint."""

    async def both(self, *models: str, **settings: Any) -> tuple[Emulator, Daemon, str]:
        """An upstream, a daemon, and where clients in the clear reach it."""
        upstream = await self.upstream(*models, **settings)
        pem = os.path.abspath(self.mktemp())
        write_certificate(pem)
        daemon = await self.daemon(
            upstream, bind=rf"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1"
        )
        address: Any = daemon.service.ports[0].getHost()
        tunnel = Tunnel(address.host, address.port)
        listening = reactor.listenTCP(0, tunnel, interface="127.0.0.1")
        self.addCleanup(lambda: Deferred.fromCoroutine(until(lambda: not tunnel.open)))
        self.addCleanup(lambda: maybeDeferred(listening.stopListening))
        return upstream, daemon, f"http://127.0.0.1:{listening.getHost().port}"

    async def test_clients_of_every_generation_pull_cold_and_warm(self) -> None:
        for generation in GENERATIONS:
            upstream, daemon, url = await self.both()
            model = upstream.models[MODEL]
            for _ in range(2):
                self.assert_whole(await pull(reactor, url, MODEL, generation), model)
                await daemon.idle()
                self.assert_sent_once(upstream, model)
                await upstream.down()

    async def test_many_clients_at_once_cost_upstream_one_pull(self) -> None:
        upstream, _, url = await self.both(f"{MODEL}=1MB,3000")
        herd = [
            pull(reactor, url, MODEL, GENERATIONS[number % len(GENERATIONS)]) for number in range(9)
        ]
        for pulled in await gatherResults([self.begin(each) for each in herd]):
            self.assert_whole(pulled, upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_a_large_blob_comes_whole_cold_and_warm(self) -> None:
        upstream, daemon, url = await self.both(f"{MODEL}=12MB")
        model = upstream.models[MODEL]
        digest, _ = model.layers[0]
        for _ in range(2):
            reply = await self.http().open("GET", f"{url}/v2/library/m/blobs/{digest}", {})
            self.assertEqual(await reply.body() == model.read(digest), True)
            await daemon.idle()

    async def test_a_dropped_unranged_get_cancels_nothing(self) -> None:
        upstream, daemon, url = await self.both(f"{MODEL}=1MB", line=4_000_000)
        digest, _ = upstream.models[MODEL].layers[0]
        for _ in range(3):
            reply = await self.http().open("GET", f"{url}/v2/library/m/blobs/{digest}", {})
            reply.drop()
        self.assert_whole(await pull(reactor, url, MODEL, SMALL16), upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])

    async def test_no_unranged_get_gets_the_whole_wrong_blob(self) -> None:
        upstream, _, url = await self.both(f"{MODEL}=1500KB")
        digest, size = upstream.models[MODEL].layers[0]
        upstream.faults.add(Fault("store", "flip", digest=digest, at=7))
        reply = await self.http().open("GET", f"{url}/v2/library/m/blobs/{digest}", {})
        with self.assertRaises(ClientError):
            await reply.body()
        self.assertLess(reply.read, size)
