"""An upstream that means harm, or lives at an odd address: the whole daemon, on real sockets."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHostnameResolver, IReactorTCP
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SkipTest
from zope.interface import implementer

from tests.emulator import Emulator
from tests.running import MODEL, Daemon, RunningCase, reactor
from yukari.manifest import MAX_BYTES
from yukari.net import perimeter

PIECE = 64 * 1024


class _Replies(Protocol):
    """Answers each request with what ``factory.reply`` makes of it; a producer sends for ever."""

    factory: Upstream
    _head = b""
    _flood = b""

    def dataReceived(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head and not self._flood:
            request, _, self._head = self._head.partition(b"\r\n\r\n")
            self.factory.requests.append(request)
            beginning, self._flood = self.factory.reply(request)
            transport: Any = self.transport
            transport.write(beginning)
            if self._flood:
                transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        flood = self._flood * (PIECE // len(self._flood) + 1)
        self.factory.flooded += len(flood)
        self.transport.write(flood)  # type: ignore[union-attr]

    def stopProducing(self) -> None:
        self._flood = b""


@define(eq=False)
class Upstream(Factory):
    """A server of raw bytes: ``reply`` gives the beginning of a reply and what follows for ever."""

    reply: Callable[[bytes], tuple[bytes, bytes]]
    requests: list[bytes] = field(factory=list)
    flooded: int = 0
    url: str = ""

    def buildProtocol(self, addr: Any) -> Protocol:
        made = _Replies()
        made.factory = self
        return made


def reply(status: str, body: bytes = b"", **headers: object) -> tuple[bytes, bytes]:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    length = f"Content-Length: {len(body)}\r\n\r\n"
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}{length}".encode() + body, b""


class HostileUpstreamTests(RunningCase):
    async def hostile(
        self,
        reply: Callable[[bytes], tuple[bytes, bytes]],
        interface: str = "127.0.0.1",
        **flags: Any,
    ) -> tuple[Upstream, Daemon]:
        made = self.listening(reply, interface)
        daemon = await self.daemon(await self.upstream(), upstream_registry=made.url, **flags)
        return made, daemon

    def listening(self, reply: Callable[[bytes], tuple[bytes, bytes]], interface: str) -> Upstream:
        tcp: IReactorTCP = reactor
        made = Upstream(reply)
        port: Any = tcp.listenTCP(0, made, interface=interface)
        self.addCleanup(port.stopListening)
        host = f"[{interface}]" if ":" in interface else interface
        made.url = f"http://{host}:{port.getHost().port}/"
        return made

    async def told(self, daemon: Daemon, path: str, method: str = "GET") -> tuple[int, str]:
        found, body = await self.ask(f"{daemon.url}/v2/library/{path}", method=method)
        return found.status, body.decode()

    async def test_a_head_without_end_is_refused(self) -> None:
        """Twisted would collect it all."""
        for flood, said in (
            (b"X: " + b"x" * 1000 + b"\r\n", "a reply with too many headers"),
            (b"a:\r\n", "a reply with too many headers"),
            (b" more\r\n", "a reply with too many headers"),
            (b"\r\nHTTP/1.1 103 Early Hints\r\n", "too many interim replies"),
        ):
            first = b"HTTP/1.1 103 X\r\n" if b"103" in flood else b"HTTP/1.1 200 X\r\nA: b\r\n"
            upstream, daemon = await self.hostile(lambda _, a=first, b=flood: (a, b))
            status, text = await self.told(daemon, "m/manifests/latest")
            self.assertEqual(status, 502)
            self.assertIn(f"sent a bad reply: {said}", text)
            self.assertLess(upstream.flooded, 32 * 1024 * 1024)

    async def test_a_body_without_end_is_called_too_large(self) -> None:
        head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
        _, daemon = await self.hostile(lambda _: (head, b"400\r\n" + b" " * 1024 + b"\r\n"))
        status, text = await self.told(daemon, "m/manifests/latest")
        self.assertEqual(status, 502)
        self.assertIn(f"manifest of library/m:latest: more than {MAX_BYTES} bytes", text)

    async def test_what_unpacks_to_too_much_is_called_that(self) -> None:
        bomb = gzip.compress(b" " * (MAX_BYTES * 4), 9)
        for body, label, said in (
            (bomb, "gzip", "more than"),
            (gzip.compress(bomb, 9), "gzip, gzip", "not asked for"),
        ):
            _, daemon = await self.hostile(
                lambda _, a=body, b=label: reply("200 OK", a, content_encoding=b)
            )
            status, text = await self.told(daemon, "m/manifests/latest")
            self.assertEqual(status, 502)
            self.assertIn(said, text)

    async def test_cookies_are_not_kept(self) -> None:
        """They would come back in the requests for everybody's models."""
        upstream, daemon = await self.hostile(
            lambda _: reply("404 Not Found", set_cookie="who=me; Path=/")
        )
        for model in ("a", "a", "b"):
            await self.told(daemon, f"{model}/manifests/latest")
        self.assertGreater(len(upstream.requests), 1)
        for request in upstream.requests:
            self.assertNotIn(b"cookie", request.lower())

    async def test_the_length_of_a_compressed_blob_is_not_its_size(self) -> None:
        head = b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n"
        labels = {
            "a" * 64: b"Content-Encoding: gzip\r\n",
            "b" * 64: b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        }

        def answer(request: bytes) -> tuple[bytes, bytes]:
            digest = request.split()[1].rpartition(b":")[2].decode()
            if request.startswith(b"HEAD"):
                return head + labels[digest] + b"\r\n", b""
            return reply("206 X", b"x", content_range="bytes 0-0/1234")

        _, daemon = await self.hostile(answer)
        for digest in labels:
            url = f"{daemon.url}/v2/library/m/blobs/sha256:{digest}"
            found, _ = await self.ask(url, method="HEAD")
            self.assertEqual((found.status, found.headers["content-length"]), (200, "1234"))

    async def test_a_size_that_no_file_can_have_is_none(self) -> None:
        """Neither an index nor a file's length can be as large."""
        for size in (10**19 - 1, 2**63, 10**30):
            told = {
                f"Content-Length: {size}": (b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % size),
                f"Content-Range: bytes 0-0/{size}": reply(
                    "206 X", b"x", content_range=f"bytes 0-0/{size}"
                )[0],
            }
            for what, answer in told.items():
                _, daemon = await self.hostile(lambda _, answer=answer: (answer, b""))
                for method in ("HEAD", "GET"):
                    url = f"{daemon.url}/v2/library/m/blobs/sha256:{'ab' * 32}"
                    found, body = await self.ask(url, method=method)
                    self.assertEqual(found.status, 502, (what, method, body))
                    if body:
                        self.assertIn(b"does not tell the size", body)

    async def test_an_ipv6_address_is_connected_to(self) -> None:
        try:
            upstream, daemon = await self.hostile(lambda _: reply("404 Not Found"), "::1")
        except CannotListenError:
            raise SkipTest("there is no IPv6 here") from None
        self.assertEqual((await self.told(daemon, "m/manifests/latest"))[0], 404)
        (request,) = upstream.requests
        self.assertIn(upstream.url.split("/")[2].encode(), request)

    async def test_a_redirect_from_a_public_registry_to_a_private_address_is_refused(self) -> None:
        """By the address in a URL, and by the one that a name turns out to have."""
        inner = self.listening(lambda _: reply("200 OK", b"secret"), "127.0.0.2")
        port = inner.url.rstrip("/").split(":")[-1]
        self.patch(perimeter, "is_private", {"127.0.0.2": True, "127.0.0.1": False}.get)
        digest = "sha256:" + "ab" * 32
        for location in (inner.url, f"http://127.2:{port}/"):
            _, daemon = await self.hostile(
                lambda _, to=location: reply("307 Temporary Redirect", location=to)
            )
            for path in ("m/manifests/latest", f"m/blobs/{digest}"):
                status, text = await self.told(daemon, path)
                self.assertEqual(status, 502)
                self.assertIn("a private address", text)
            said = await self.failing(self.pull(await self.daemon_of_redirects(location)))
            self.assertIn("a private address", said)
        self.assertEqual(inner.requests, [])

    async def daemon_of_redirects(self, location: str) -> Daemon:
        """A daemon whose upstream has a model, and its blobs elsewhere."""
        model = (await self.upstream()).models[MODEL]

        def answer(request: bytes) -> tuple[bytes, bytes]:
            if b"/manifests/" in request.split(b"\r\n")[0]:
                return reply("200 OK", model.manifest_bytes)
            return reply("307 Temporary Redirect", location=location)

        return (await self.hostile(answer))[1]


class AddressTests(RunningCase):
    """Names and addresses that IDNA does not take."""

    async def assert_pulls(self, upstream: Emulator, url: str, address: Optional[str]) -> None:
        flags = {} if address is None else {"upstream_address": address}
        daemon = await self.daemon(upstream, upstream_registry=url, **flags)
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_an_ipv6_literal(self) -> None:
        upstream = await self.upstream()
        place = upstream.url.split("//")[1].rstrip("/")
        await self.assert_pulls(upstream, "http://[2001:db8::1]:5000/", place)
        await self.assert_pulls(upstream, "http://[2001:db8::1]/", place)

    async def test_a_name_with_an_underscore(self) -> None:
        upstream = await self.upstream()
        place = upstream.url.split("//")[1].rstrip("/")
        await self.assert_pulls(upstream, "http://my_registry:5000/", place)
        await self.assert_pulls(upstream, "http://my_registry.test/", place)

    async def test_a_name_with_an_underscore_is_resolved_and_each_address_is_tried(self) -> None:
        """As Docker's and Kubernetes's own names are: Twisted refuses to. The first one refuses."""
        upstream = await self.upstream()
        before = reactor.installNameResolver(Resolver())
        self.addCleanup(reactor.installNameResolver, before)
        port = upstream.url.rstrip("/").split(":")[-1]
        await self.assert_pulls(upstream, f"http://my_registry:{port}/", None)


@implementer(IHostnameResolver)
class Resolver:
    """Resolves every name, though no address, to this machine, by two addresses of it."""

    def resolveHostName(
        self, receiver: Any, hostName: str, portNumber: int = 0, *_: Any, **__: Any
    ) -> Any:
        addresses = [hostName] if hostName.startswith("127.") else ["127.0.0.9", "127.0.0.1"]
        receiver.resolutionBegan(self)
        for address in addresses:
            receiver.addressResolved(IPv4Address("TCP", address, portNumber))
        receiver.resolutionComplete()
        return receiver
