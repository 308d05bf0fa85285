"""Pulls out by a proxy, and from upstreams whose certificates a company's own root has signed."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from typing import Any, Optional

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SkipTest
from twisted.web.client import ResponseNeverReceived, readBody
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests import microsocks, tinyproxy
from tests.authority import Authority, tls_front
from tests.clients import ClientError, pull
from tests.emulator import Emulator
from tests.processes import ProcessCase
from tests.running import MODEL, SMALL16, Daemon, Hurried, RunningCase, reactor, until, until_sent
from tests.s3.servers import free_port
from yukari.config.files import Roots
from yukari.config.proxies import Proxies
from yukari.daemon.service import YukariService
from yukari.net.agent import READ_SECURE, Connections
from yukari.net.bodies import discard
from yukari.net.http import why
from yukari.net.trust import trust

THREE = f"{MODEL}=400KB,3000,10"
"""A model of three layers."""


class Secured(RunningCase):
    """Upstreams behind TLS."""

    def setUp(self) -> None:
        self.authority = Authority(os.path.abspath(self.mktemp()))

    async def secured(
        self, name: str = "127.0.0.1", *, model: str = THREE, store: Optional[Authority] = None
    ) -> Emulator:
        """An upstream, https its URL and its store's, its certificate for this name."""
        upstream = await self.upstream(model, tls=True)
        pem = (store or self.authority).certificate("127.0.0.2")
        upstream.settings.store_front = tls_front(self, upstream.store_url, pem, host="127.0.0.2")
        self.https = tls_front(self, upstream.url, self.authority.certificate(name))
        return upstream

    def trust_as_system(self, path: str) -> None:
        """Make a file's roots the system's for this test: OpenSSL itself reads the variable."""
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = path
        if before is None:
            self.addCleanup(os.environ.pop, "SSL_CERT_FILE")
        else:
            self.addCleanup(os.environ.__setitem__, "SSL_CERT_FILE", before)

    async def trusting(self, upstream: Emulator, **flags: Any) -> Daemon:
        """A daemon that trusts the test's root."""
        given = {
            "upstream_registry": self.https,
            "upstream_ca": self.authority.path,
            **flags,
        }
        return await self.daemon(upstream, **given)


class CertificateTests(Secured):
    async def test_a_root_of_ones_own_is_trusted(self) -> None:
        upstream = await self.secured()
        self.assert_whole(await self.pull(await self.trusting(upstream)), upstream.models[MODEL])

    async def test_the_systems_are_trusted_beside_it(self) -> None:
        system = Authority(os.path.abspath(self.mktemp()))
        self.trust_as_system(system.path)
        upstream = await self.secured(store=system)
        self.assert_whole(await self.pull(await self.trusting(upstream)), upstream.models[MODEL])

    async def test_a_file_may_be_trusted_alone(self) -> None:
        self.trust_as_system(self.authority.path)
        await self.secured()
        for roots, trusted in (
            (self.authority, True),
            (Authority(os.path.abspath(self.mktemp())), False),
        ):
            policy = trust(Roots.parse(roots.path), system=False)
            connections = Connections(reactor, 1, policy)
            self.addCleanup(connections.close)
            asked = connections.agent.request(b"GET", f"{self.https}/v2/".encode())
            if trusted:
                discard(await asked, reactor)
            else:
                with self.assertRaises(ResponseNeverReceived) as caught:
                    await asked
                self.assertIn("nobody that this cache trusts", why(caught.exception))

    async def test_without_it_the_certificate_is_what_is_wrong(self) -> None:
        upstream = await self.secured()
        daemon = await self.daemon(upstream, upstream_registry=self.https)
        said = await self.failing(self.pull(daemon))
        self.assertIn("or is signed by nobody that this cache trusts", said)
        self.assertEqual(upstream.counters.sent, 0)

    async def test_a_certificate_for_another_name_is_what_is_wrong(self) -> None:
        upstream = await self.secured("registry.example")
        daemon = await self.trusting(upstream)
        said = await self.failing(self.pull(daemon))
        self.assertIn("its certificate is for another name", said)

    async def test_reads_are_large_through_tls_too(self) -> None:
        upstream = await self.secured()
        daemon = await self.trusting(upstream)
        await self.pull(daemon)
        pool = daemon.service.parts.mirrors.connections[0]._pool
        kept = [each for some in pool._connections.values() for each in some]
        self.assertTrue(kept)
        for each in kept:
            transport = each.transport
            while hasattr(transport, "transport"):
                transport = transport.transport
            self.assertEqual(transport.bufferSize, READ_SECURE)


class ProxyTests(Secured, ProcessCase):
    """Through Debian's tinyproxy."""

    skip = tinyproxy.MISSING

    async def by(self, upstream: Emulator, proxies: Proxies, **flags: Any) -> Daemon:
        """A daemon that trusts the test's root and goes by proxies."""
        service = partial(YukariService, proxies=proxies)
        return await self.trusting(upstream, service=service, **flags)

    async def by_http(self, upstream: Emulator, proxies: Proxies, **flags: Any) -> Daemon:
        """The same for an upstream in the clear."""
        service = partial(YukariService, proxies=proxies)
        return await self.daemon(upstream, service=service, **flags)

    async def test_http_is_asked_of_the_proxy(self) -> None:
        upstream, proxy = await self.upstream(), await tinyproxy.start(self)
        model = upstream.models[MODEL]
        self.assert_whole(await self.pull(await self.by_http(upstream, proxy.proxies())), model)
        self.assert_sent_once(upstream, model)
        self.assertIn(f"GET {upstream.url}/v2/library/m/manifests/latest", proxy.asked)
        self.assertEqual(
            {each.split("/")[2] for each in proxy.asked},
            {url.split("/")[2] for url in (upstream.url, upstream.store_url)},
        )

    async def test_https_goes_through_tunnels(self) -> None:
        upstream, proxy = await self.secured(), await tinyproxy.start(self)
        model = upstream.models[MODEL]
        self.assert_whole(await self.pull(await self.by(upstream, proxy.proxies())), model)
        self.assert_sent_once(upstream, model)
        fronts = (self.https, upstream.settings.store_front or "")
        self.assertEqual(
            set(proxy.asked), {f"CONNECT {each.removeprefix('https://')}" for each in fronts}
        )

    async def test_the_certificate_is_checked_against_the_target(self) -> None:
        upstream = await self.secured("registry.example")
        port = self.https.rpartition(":")[2]
        proxy = await tinyproxy.start(self)
        daemon = await self.by(upstream, proxy.proxies())
        said = await self.failing(self.pull(daemon))
        self.assertIn("its certificate is for another name", said)
        # The tunnel goes to the address, the certificate is the name's.
        daemon = await self.by(
            upstream,
            proxy.proxies(),
            upstream_registry="https://registry.example/",
            upstream_address=f"127.0.0.1:{port}",
        )
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_an_address_of_its_own_is_reached_by_a_tunnel_in_the_clear_too(self) -> None:
        upstream, proxy = await self.upstream(), await tinyproxy.start(self)
        address = upstream.url.removeprefix("http://")
        daemon = await self.by_http(
            upstream,
            proxy.proxies(),
            upstream_registry="http://registry.example/",
            upstream_address=address,
        )
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        self.assertIn(f"CONNECT {address}", proxy.asked)

    async def test_with_credentials(self) -> None:
        upstream = await self.secured()
        proxy = await tinyproxy.start(self, "BasicAuth me secret")
        daemon = await self.by(upstream, proxy.proxies("me:secret@"))
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        upstream.settings.store_front, upstream.settings.tls = None, False
        daemon = await self.by_http(upstream, proxy.proxies("me:secret@"))
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_who_is_exempt_goes_by_no_proxy(self) -> None:
        upstream, proxy = await self.secured(), await tinyproxy.start(self)
        daemon = await self.by(upstream, proxy.proxies(no_proxy="127.0.0.1"))
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        store = (upstream.settings.store_front or "").removeprefix("https://")
        self.assertEqual(set(proxy.asked), {f"CONNECT {store}"})

    async def test_the_proxy_itself_may_be_spoken_to_by_tls(self) -> None:
        upstream, proxy = await self.secured(), await tinyproxy.start(self, "BasicAuth me secret")
        pem = self.authority.certificate("127.0.0.1")
        secured = tls_front(self, proxy.url(), pem).replace("//", "//me:secret@")
        daemon = await self.by(upstream, Proxies.read({"all_proxy": secured}))
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        self.assert_sent_once(upstream, upstream.models[MODEL])
        self.assertTrue(all(each.startswith("CONNECT ") for each in proxy.asked), proxy.asked)
        upstream.settings.store_front, upstream.settings.tls = None, False
        daemon = await self.by_http(
            upstream,
            Proxies.read({"all_proxy": secured}),
            upstream_ca=self.authority.path,
        )
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_wrong_credentials_are_said_and_not_shown(self) -> None:
        upstream = await self.secured()
        proxy = await tinyproxy.start(self, "BasicAuth me secret")
        for by, credentials, status in (
            (self.by, "", 407),
            (self.by_http, "", 407),
            (self.by, "me:hunter2@", 401),  # so does Debian's tinyproxy say that they are wrong
        ):
            said = await self.failing(self.pull(await by(upstream, proxy.proxies(credentials))))
            self.assertIn(f"the proxy 127.0.0.1:{proxy.port} refused: {status} ", said)
            self.assertNotIn("hunter2", said)
            self.assertNotIn("bWU6", said)

    async def test_a_port_that_the_proxy_forbids_is_said(self) -> None:
        upstream, proxy = await self.secured(), await tinyproxy.start(self, "ConnectPort 443")
        daemon = await self.by(upstream, proxy.proxies())
        said = await self.failing(self.pull(daemon))
        self.assertIn(f"the proxy 127.0.0.1:{proxy.port} refused: 403 ", said)

    async def test_a_refusal_in_the_clear_may_be_the_proxys(self) -> None:
        upstream = await self.upstream()
        proxy = await tinyproxy.start(
            self, "FilterURLs On", f'Filter "{self.filtering("/blobs/")}"'
        )
        daemon = await self.by_http(upstream, proxy.proxies())
        await self.failing(self.pull(daemon, MODEL, SMALL16.scaled(direct_seconds=0.1)))
        digest = upstream.models[MODEL].layers[0][0]
        _, body = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}")
        said = f"; or the proxy 127.0.0.1:{proxy.port} refused it"
        self.assertIn(said, json.loads(body)["errors"][0]["message"])

    def filtering(self, text: str) -> str:
        """A file that makes tinyproxy refuse URLs with this in them."""
        path = os.path.join(self.directory(), "filter")
        with open(path, "w") as file:
            file.write(text + "\n")
        return path

    async def test_a_proxy_that_dies_in_the_middle_is_waited_for(self) -> None:
        upstream = await self.secured(model=f"{MODEL}=20MB")
        upstream.settings.line = 20e6
        proxy = await tinyproxy.start(self)
        daemon = await self.by(upstream, proxy.proxies())
        pulling = self.begin(self.pull(daemon))
        await until_sent(upstream, 4e6)
        proxy.signal("KILL")
        await proxy.ended
        await tinyproxy.start(self, port=proxy.port)
        model = upstream.models[MODEL]
        self.assert_whole(await pulling, model)
        self.assertLess(upstream.counters.sent, model.size + 12e6)

    async def test_one_that_stays_dead_ends_the_pull(self) -> None:
        upstream = await self.secured(model=f"{MODEL}=20MB")
        upstream.settings.line = 20e6
        proxy = await tinyproxy.start(self)
        daemon = await self.by(upstream, proxy.proxies(), clock=Hurried(30))
        reply = await self.http().open(
            "GET", f"{daemon.url}/v2/library/m/blobs/{upstream.models[MODEL].blobs[0][0]}", {}
        )
        await until_sent(upstream, 4e6)
        proxy.signal("KILL")
        with self.assertRaises(ClientError):
            await reply.body()
        said = await self.failing(self.pull(daemon))
        self.assertIn(f"the proxy 127.0.0.1:{proxy.port}: connection refused", said)


class SocksTests(Secured, ProcessCase):
    """Through Debian's microsocks."""

    skip = microsocks.MISSING

    async def by(self, upstream: Emulator, url: str, **flags: Any) -> Daemon:
        """A daemon that trusts the test's root and goes by a proxy for all schemes."""
        service = partial(YukariService, proxies=Proxies.read({"ALL_PROXY": url}))
        return await self.trusting(upstream, service=service, **flags)

    async def test_https_and_http_go_through_it(self) -> None:
        """The second upstream is in the clear: no HTTP proxy is asked to fetch its URLs."""
        for secured in (True, False):
            upstream = await (self.secured() if secured else self.upstream(THREE))
            proxy = await microsocks.start(self)
            flags = {} if secured else {"upstream_registry": upstream.url}
            daemon = await self.by(upstream, f"socks5h://127.0.0.1:{proxy.port}", **flags)
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            self.assert_sent_once(upstream, upstream.models[MODEL])
            registry = self.https if secured else upstream.url
            self.assertIn(registry.split("/")[2], proxy.asked)
            self.assertEqual(len(proxy.asked), 2)

    async def test_names_are_resolved_by_whom_the_scheme_says(self) -> None:
        """socks5 resolves here, socks5h there: only one works if the names differ by place."""
        for kind, host in (("socks5", "127.0.0.1"), ("socks5h", "localhost")):
            upstream = await self.secured("localhost")
            port = self.https.rpartition(":")[2]
            proxy = await microsocks.start(self)
            daemon = await self.by(
                upstream,
                f"{kind}://127.0.0.1:{proxy.port}",
                upstream_registry=f"https://localhost:{port}",
            )
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            self.assertIn(f"{host}:{port}", proxy.asked)

    async def test_with_a_user_and_a_password(self) -> None:
        upstream = await self.secured()
        proxy = await microsocks.start(self, "-u", "me", "-P", "se:cret")
        url = f"socks5h://me:se%3Acret@127.0.0.1:{proxy.port}"
        daemon = await self.by(upstream, url)
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        for wrong, words in (
            ("me:hunter2@", "refused the user and the password"),
            ("", "wants another authentication"),
        ):
            daemon = await self.by(upstream, f"socks5h://{wrong}127.0.0.1:{proxy.port}")
            said = await self.failing(self.pull(daemon))
            self.assertIn(f"the proxy 127.0.0.1:{proxy.port} {words}", said)
            self.assertNotIn("hunter2", said)

    async def test_an_upstream_that_it_cannot_reach_is_said(self) -> None:
        upstream = await self.secured()
        proxy = await microsocks.start(self)
        daemon = await self.by(
            upstream,
            f"socks5h://127.0.0.1:{proxy.port}",
            upstream_registry=f"https://127.0.0.1:{free_port()}",
        )
        said = await self.failing(self.pull(daemon))
        self.assertIn(f"the proxy 127.0.0.1:{proxy.port} did not connect: ", said)


class BadProxyTests(Secured):
    """Proxies that are none."""

    async def by(self, port: int, clock: Any = reactor) -> Daemon:
        upstream = await self.secured()
        proxies = Proxies.read({"https_proxy": f"http://me:secret@127.0.0.1:{port}"})
        service = partial(YukariService, proxies=proxies)
        return await self.trusting(upstream, service=service, clock=clock)

    async def said(self, daemon: Daemon) -> str:
        """What a client is told; never a secret."""
        said = await self.failing(self.pull(daemon))
        self.assertNotIn("secret", said)
        return said

    async def test_where_nobody_listens(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            said = await self.said(await self.by(port))
        self.assertIn(f"the proxy 127.0.0.1:{port}: connection refused", said)

    async def listening(self, answer: bytes) -> int:
        """The port of somebody who answers so, and closes unless the answer is empty."""
        connections: set[Protocol] = set()

        class Answers(Protocol):
            def connectionMade(self) -> None:
                connections.add(self)

            def dataReceived(self, data: bytes) -> None:
                if answer:
                    self.transport.write(answer)  # type: ignore[union-attr]
                    self.transport.loseConnection()  # type: ignore[union-attr]

            def connectionLost(self, reason: object = None) -> None:
                connections.discard(self)

        factory = Factory.forProtocol(Answers)
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(lambda: Deferred.fromCoroutine(until(lambda: not connections)))
        self.addCleanup(lambda: maybeDeferred(listening.stopListening))
        port: int = listening.getHost().port
        return port

    async def test_one_that_is_asked_in_the_clear_is_not_asked_twice_on_a_connection(self) -> None:
        channels = []

        class Answers(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                channels.append(request.channel)
                return b"found"

        site = Site(Answers(), timeout=None)
        listening = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(lambda: maybeDeferred(listening.stopListening))
        proxies = Proxies.read({"http_proxy": f"127.0.0.1:{listening.getHost().port}"})
        connections = Connections(reactor, 4, proxies=proxies)
        self.addCleanup(connections.close)
        for _ in range(3):
            reply = await connections.agent.request(b"GET", b"http://registry.example/v2/")
            self.assertEqual(await readBody(reply), b"found")
        self.assertEqual(len({id(each) for each in channels}), 3)

    async def test_one_that_is_silent(self) -> None:
        port = await self.listening(b"")
        said = await self.said(await self.by(port, Hurried(20)))
        self.assertIn(f"the proxy 127.0.0.1:{port} is silent", said)

    async def test_one_that_speaks_something_else(self) -> None:
        port = await self.listening(b"220 mail.example ESMTP\r\n\r\n")
        said = await self.said(await self.by(port))
        self.assertIn(f"the proxy 127.0.0.1:{port} does not answer as an HTTP proxy", said)

    async def test_one_that_says_nothing_and_closes(self) -> None:
        port = await self.listening(b"HTTP/1.1 200")
        said = await self.said(await self.by(port))
        self.assertIn(f"the proxy 127.0.0.1:{port} closed the connection", said)

    async def test_what_it_says_is_made_harmless(self) -> None:
        port = await self.listening(b"HTTP/1.1 503 \x1b[2J\xff" + b"a" * 300 + b"\r\n\r\n")
        said = await self.said(await self.by(port))
        self.assertIn(f"the proxy 127.0.0.1:{port} refused: 503 ?[2J?aaa", said)
        self.assertNotIn("a" * 101, said)


class EnvironmentTests(ProcessCase):
    """The daemon as a process, its proxy in its environment."""

    async def test_a_proxy_that_cannot_be_read_is_ignored_with_one_warning(self) -> None:
        upstream = await self.upstream()
        daemon = await self.yukari(
            upstream.url, HTTP_PROXY="socks3://me:secret@proxy.example:1080", NO_PROXY="!"
        )
        pulled = await pull(reactor, daemon.url, MODEL, SMALL16)
        self.assert_whole(pulled, upstream.models[MODEL])
        await daemon.stop()
        said = "ignored, because it cannot be read: HTTP_PROXY 'socks3://***@proxy.example:1080'"
        self.assertEqual(daemon.text.count("WARN"), 1)
        self.assertIn(said, daemon.text)
        self.assertNotIn("secret", daemon.text)

    async def test_the_log_names_it_without_its_password(self) -> None:
        if tinyproxy.MISSING:
            raise SkipTest(tinyproxy.MISSING)
        proxy = await tinyproxy.start(self, "BasicAuth me secret")
        upstream = await self.upstream()
        daemon = await self.yukari(
            upstream.url, "--slog-level=DEBUG", http_proxy=proxy.url("me:secret@")
        )
        told = f"mirrors {upstream.url}/ by the proxy 127.0.0.1:{proxy.port}, stores in"
        self.assertIn(told, (daemon.banner or {})["msg"])
        pulled = await pull(reactor, daemon.url, MODEL, SMALL16)
        self.assert_whole(pulled, upstream.models[MODEL])
        await daemon.stop()
        refused = await self.yukari(
            upstream.url, "--slog-level=DEBUG", http_proxy=proxy.url("me:wrongpass@")
        )
        await self.failing(pull(reactor, refused.url, MODEL, SMALL16))
        await refused.stop()
        for text in (daemon.text, refused.text):
            for secret in ("me:secret", "bWU6", "wrongpass"):
                self.assertNotIn(secret, text)
