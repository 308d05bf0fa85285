"""
With every failure there is, at the lowest log level: no secret is in the log or in a reply to
clients or admins.
"""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from html import escape
from typing import Any, Optional
from urllib.parse import parse_qsl, urlsplit

import bcrypt
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol

from tests.emulator import Emulator, Fault
from tests.processes import MAIN, Process, ProcessCase, YukariProcess, bare_environment, reactor
from tests.running import MODEL, until
from tests.s3.against import AgainstServer
from tests.s3.proxy import Proxy, reply
from tests.s3.servers import MOTO

SOON = f"""
from yukari.library import blobs, prefetch
blobs.FIRST_WORD_WITHIN = prefetch.FIRST_WORD_WITHIN = 0.5
{MAIN}
"""
"""A daemon that says sooner what is wrong with a blob: it is asked often here."""
PROXY = "proxy-user", "proxy-secret"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIASECRETACCESSID00",
    "AWS_SECRET_ACCESS_KEY": "s3-secret-key",
    "AWS_SESSION_TOKEN": "s3-session-token",
}
CLIENT = {
    "Authorization": "Bearer client-token",
    "Proxy-Authorization": f"Basic {b64encode(b'client:proxy-password').decode()}",
    "Cookie": "session=client-cookie",
    "X-Amz-Security-Token": "client-session-token",
    "Referer": "http://h/?X-Amz-Signature=client-referer",
}
QUERY = "X-Amz-Credential=client-key&X-Amz-Signature=client-signature"
BLOB = f"blobs/sha256:{'0' * 64}"


def hidden(*pair: str) -> list[str]:
    """A user's password, and both as Basic has them."""
    return [pair[1], b64encode(":".join(pair).encode()).decode().rstrip("=")]


SECRETS = [
    *hidden(*PROXY),
    *hidden("her", "admins-password"),
    *hidden("her", "wrong-password"),
    *hidden("client", "proxy-password"),
    *KEYS.values(),
    "client-",
    "X-Amz-",
    "sig=",
]


def signed(upstream: Emulator) -> list[str]:
    """What signed requests for tokens had, but the public key: nonces and signatures."""
    asked = [request for request in upstream.log if "nonce=" in request.target]
    found = [request.header("authorization").rpartition(":")[2] for request in asked]
    return found + [dict(parse_qsl(urlsplit(each.target).query))["nonce"] for each in asked]


def refusal(told: str) -> bytes:
    """S3's reply, which repeats what was signed."""
    return (
        '<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code><Message>Another.</Message>'
        f"<StringToSign>{escape(told)}</StringToSign></Error>"
    ).encode()


class Tattling(Protocol):
    """Answers every request with an error that repeats all of it, as elements and as a message."""

    def dataReceived(self, data: bytes) -> None:
        self.factory.asked += 1  # type: ignore[attr-defined]
        told = data.replace(b"\r\n", b" ")
        body = refusal(told.decode("latin-1"))
        head = b"HTTP/1.1 403 %b\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
        self.transport.write(head % (told, len(body)) + body)  # type: ignore[union-attr]


class SecretsCase(ProcessCase):
    """Daemons whose every word is looked at."""

    told: bytes = b""
    """The replies to clients and admins."""

    def tattler(self) -> tuple[str, Factory]:
        """The host and port of a server that repeats its requests."""
        factory: Any = Factory.forProtocol(Tattling)
        factory.asked = 0
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"127.0.0.1:{port.getHost().port}", factory

    async def start(self, upstream: str, *arguments: str, **environment: str) -> YukariProcess:
        """A daemon that logs all there is; one that ends at its start has ended."""
        made = YukariProcess()
        self.spawn(
            *(sys.executable, "-c", SOON, "--log-format=json", "--slog-level=DEBUG"),
            *("--bind=127.0.0.1:0", "--min-free=0", f"--upstream-registry={upstream}"),
            *arguments,
            environment=bare_environment(HOME=self.directory(), **environment),
            process=made,
        )
        await made.until(lambda: made.banner or made.status is not None)
        return made

    async def provoke(
        self, url: str, path: str, user: Optional[str] = None, method: str = "GET"
    ) -> int:
        """Send a request with every secret that a client can send, and keep the reply."""
        headers = dict(CLIENT)
        if user is not None:
            headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
        answer, body = await self.ask(f"{url}{path}?{QUERY}", headers, method)
        kept = {name: value for name, value in answer.headers.items() if name != "location"}
        self.told += body + repr(kept).encode()
        return answer.status

    async def provoke_all(self, url: str, user: Optional[str] = None) -> None:
        """All there is to ask."""
        for path in (
            *("/", "/readyz", "/nothing", "/v2/_catalog", "/v2/library/m/manifests/latest"),
            *(f"/v2/library/m/{BLOB}", "/v2/library/other/manifests/latest"),
        ):
            await self.provoke(url, path)
        for path in ("/metrics", "/fills", f"/fills/{BLOB.removeprefix('blobs/')}"):
            await self.provoke(url, path, user)
            await self.provoke(url, path, "her:wrong-password")

    def assert_kept(self, daemon: Process, *secrets: str) -> None:
        """Check that none of the secrets got out."""
        for what, text in (("log", daemon.text), ("replies", self.told.decode("latin-1"))):
            for secret in (*SECRETS, *secrets):
                at = text.find(secret)
                around = text[max(0, at - 300) : at + 99]
                self.assertEqual(at, -1, f"{secret} in the {what}: {around}")


class UpstreamTests(SecretsCase):
    async def test_secrets_of_upstream_and_clients_are_not_shown(self) -> None:
        users = os.path.join(self.directory(), "users")
        with open(users, "w") as file:
            hashed = bcrypt.hashpw(b"admins-password", bcrypt.gensalt(4)).decode()
            file.write(f"her:{hashed}\n")
        upstream = await self.upstream(f"{MODEL}=400KB,3000")
        daemon = await self.start(upstream.url, f"--admin-auth-file={users}")
        agent = {"User-Agent": "ollama/0.34.4"}
        await self.ask(f"{daemon.url}/v2/library/m/manifests/none", agent)
        layer = upstream.models[MODEL].layers[0][0]
        for do, more in (
            ("error", {"status": 401, "text": "https://s3/?X-Amz-Signature=1&sig=2"}),
            ("portal", {}),
        ):
            fault = upstream.faults.add(Fault("manifest", do, **more))
            # Each time another tag: what was refused a moment ago is not asked for again.
            await self.provoke(daemon.url, f"/v2/library/m/manifests/{do}")
            self.assertTrue(fault.happened)
            upstream.faults.remove(fault)
        for on, do, more in (
            ("blob", "error", {"status": 500}),
            ("blob", "no-location", {}),
            ("store", "error", {"status": 403}),
            ("store", "drop", {}),
            ("store", "cut", {"after": 1000, "reset": True}),
            ("store", "content-range", {"at": 2}),
            ("store", "flip", {"at": 1}),
            ("store", "slow", {"rate": 100}),
        ):
            fault = upstream.faults.add(Fault(on, do, **more))
            await self.provoke_all(daemon.url, "her:admins-password")
            await self.provoke(daemon.url, f"/v2/library/m/blobs/{layer}", method="HEAD")
            await until(lambda: fault.happened)  # noqa: B023
            upstream.faults.remove(fault)
            await self.provoke(daemon.url, f"/fills/{layer}", "her:admins-password", "DELETE")
        self.assertEqual(await self.provoke(daemon.url, "/metrics", "her:admins-password"), 200)
        self.assertEqual(await self.provoke(daemon.url, "/metrics"), 401)
        await self.send(daemon, "GET http://client:client-secret@h/v2/ HTTP/1.1\r\nHost: h\r\n\r\n")
        await self.send(daemon, f"GET /?{QUERY} HTTP/1.1\r\nAuthorization client-token\r\n\r\n")
        told = {200, 400, 401, 404, 502}
        await daemon.until(lambda: told <= {line.get("status") for line in daemon.lines})
        secrets = [*upstream.store._grants, *upstream.challenger._tokens, *signed(upstream)]
        self.assertGreater(len(secrets), 10)
        self.assert_kept(daemon, *secrets)

    async def send(self, daemon: YukariProcess, request: str) -> None:
        """Send a request that no client of ours would send; return when it is in the log."""
        before = len(daemon.lines)
        host, port = daemon.host.split(":")
        wire: Any = await connectProtocol(TCP4ClientEndpoint(reactor, host, int(port)), Protocol())
        wire.transport.write(request.encode())
        await daemon.until(lambda: len(daemon.lines) > before)
        wire.transport.abortConnection()

    async def test_a_proxys_password_is_not_shown(self) -> None:
        upstream = await self.upstream()
        where, tattler = self.tattler()
        for scheme in ("http", "https"):
            daemon = await self.start(
                upstream.url.replace("http", scheme), ALL_PROXY=f"http://{':'.join(PROXY)}@{where}"
            )
            asked = tattler.asked  # type: ignore[attr-defined]
            await self.provoke_all(daemon.url)
            self.assertGreater(tattler.asked, asked)  # type: ignore[attr-defined]
            self.assert_kept(daemon)

    async def test_wrong_settings_show_no_secret(self) -> None:
        credentials = f"{PROXY[0]}:{PROXY[1]}"
        for name, value in {
            "UPSTREAM_REGISTRY": f"https://{credentials}@registry.example/",
            "PRESIGN_ENDPOINT": f"https://{credentials}@s3.example/",
            "AWS_ENDPOINT_URL_S3": f"https://{credentials}@s3.example/",
        }.items():
            refused = Process()
            environment = {"HOME": self.directory(), "TIGRIS_BUCKET": "b", **KEYS, name: value}
            self.spawn(
                *(sys.executable, "-c", MAIN, "--bind=127.0.0.1:0", "--slog-level=DEBUG"),
                environment=bare_environment(**environment),
                process=refused,
            )
            self.assertEqual(await refused.ended, 1, name)
            self.assertIn(name, refused.text)
            self.assert_kept(refused)

    async def test_an_unreadable_proxy_shows_no_secret(self) -> None:
        upstream = await self.upstream()
        proxy = f"ftp://{':'.join(PROXY)}@proxy.example:1/"
        daemon = await self.start(upstream.url, HTTP_PROXY=proxy)
        await self.provoke_all(daemon.url)
        self.assertIn("HTTP_PROXY", daemon.text)
        self.assert_kept(daemon)


class BucketTests(SecretsCase, AgainstServer):
    server = MOTO

    def s3(self, endpoint: str) -> dict[str, str]:
        return {
            "TIGRIS_BUCKET": self.bucket,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            **KEYS,
        }

    async def test_redirects_to_s3_show_no_secret(self) -> None:
        upstream = await self.upstream(f"{MODEL}=17MB")  # Smaller ones are not redirected.
        environment = self.s3(MOTO.endpoint("localhost"))
        del environment["AWS_SESSION_TOKEN"]  # Keys with an unknown expiry sign no URL.
        first = await self.start(upstream.url, **environment)
        layer = upstream.models[MODEL].layers[0][0]
        await self.provoke_all(first.url)
        await first.until(lambda: layer in self.published(first))
        daemon = await self.start(upstream.url, "--redirect=on", **environment)
        self.assertEqual(await self.provoke(daemon.url, f"/v2/library/m/blobs/{layer}"), 307)
        await self.provoke_all(daemon.url)
        for each in (first, daemon):
            self.assert_kept(each)

    def published(self, daemon: YukariProcess) -> set[str]:
        """The blobs that it has brought into the bucket."""
        return {line["digest"] for line in daemon.lines if line.get("percent") == 100}

    async def test_a_refusal_of_s3_shows_no_secret(self) -> None:
        upstream = await self.upstream()
        where, _ = self.tattler()
        daemon = await self.start(upstream.url, **self.s3(f"http://{where}"))
        self.assertEqual(await daemon.ended, 1)
        self.assertIn("does not take them", daemon.text)
        self.assert_kept(daemon)

    async def test_a_later_refusal_of_s3_shows_no_secret(self) -> None:
        upstream = await self.upstream()
        proxy = Proxy(reactor, int(MOTO.endpoint().rpartition(":")[2]))
        endpoint = await proxy.start()
        self.addCleanup(proxy.stop)
        daemon = await self.start(upstream.url, **self.s3(endpoint))
        await self.provoke(daemon.url, "/readyz")
        told = refusal(" ".join((QUERY, *KEYS.values())))
        many = [reply(status, told) for status in (403, 400, 500)] * 20
        proxy.faults.extend(many)
        await self.provoke_all(daemon.url)
        await until(lambda: len(proxy.faults) < len(many) - 3)
        proxy.faults.clear()
        await self.provoke_all(daemon.url)
        self.assertIn("SignatureDoesNotMatch", daemon.text)
        self.assert_kept(daemon)
