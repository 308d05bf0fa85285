"""Certificates are renewed under a daemon that runs, and logs are reopened."""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.protocols.wire import Echo

from tests.authority import self_signed
from tests.processes import MAIN, Process, ProcessCase, YukariProcess, bare_environment, reactor
from tests.running import MODEL, until
from yukari.daemon.certificates import LOOK_EVERY, Certificates

TWISTD = "from twisted.scripts.twistd import run; run()"


def renew(key_path: str, certificate_path: str) -> None:
    """A new key, and a self-signed certificate for ``cache.test``."""
    key, certificate = self_signed("cache.test")
    with open(key_path, "wb") as opened:
        opened.write(key)
    with open(certificate_path, "wb") as opened:
        opened.write(certificate)


def connected(port: int) -> ssl.SSLSocket:
    """A client that trusts everyone; for a thread."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    wire = socket.create_connection(("localhost", port), timeout=20)
    return context.wrap_socket(wire, server_hostname="cache.test")


def shown(port: int) -> str:
    """The certificate that a client is shown, in PEM; for a thread."""
    with connected(port) as wire:
        return ssl.DER_cert_to_PEM_cert(wire.getpeercert(binary_form=True) or b"")


def download(port: int, digest: str) -> str:
    """The digest of what a client gets of a blob; for a thread."""
    with connected(port) as wire:
        wire.sendall(
            f"GET /v2/library/m/blobs/{digest} HTTP/1.1\r\n"
            "Host: cache.test\r\nConnection: close\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += wire.recv(1)
        got = sha256()
        while data := wire.recv(1 << 16):
            got.update(data)
        return f"sha256:{got.hexdigest()}"


class Files(ProcessCase):
    def setUp(self) -> None:
        self.place = self.directory()
        self.key, self.certificate = (
            os.path.join(self.place, name) for name in ("key.pem", "certificate.pem")
        )
        renew(self.key, self.certificate)

    @property
    def stored(self) -> str:
        with open(self.certificate) as file:
            return file.read()


class SighupTests(Files):
    async def tls_daemon(self, upstream: str, bind: str) -> tuple[YukariProcess, int]:
        daemon = await self.yukari(upstream, "--slog-level=INFO", bind=bind)
        return daemon, int(daemon.host.rpartition(":")[2])

    async def renewed_in_the_middle(self, bind: str) -> None:
        upstream = await self.upstream(f"{MODEL}=20MB", line=8_000_000)
        digest, size = upstream.models[MODEL].blobs[0]
        daemon, port = await self.tls_daemon(upstream.url, bind)
        old = self.stored
        self.assertEqual(await deferToThread(shown, port), old)
        await deferToThread(download, port, upstream.models[MODEL].blobs[-1][0])
        downloading = deferToThread(download, port, digest)
        await until(lambda: upstream.counters.sent_by_digest[digest] > size // 10)
        upstream.settings.line = 10_000  # The download does not end before it may.
        renew(self.key, self.certificate)
        daemon.signal("HUP")
        while await deferToThread(shown, port) == old:
            pass
        self.assertEqual(await deferToThread(shown, port), self.stored)
        self.assertFalse(downloading.called)
        upstream.settings.line = None
        self.assertEqual(await downloading, digest)
        self.assertEqual(await daemon.stop(), 0)

    async def test_a_renewed_certificate_does_not_disturb_a_download(self) -> None:
        await self.renewed_in_the_middle(
            f"ssl:0:privateKey={self.key}:certKey={self.certificate}:interface=127.0.0.1"
        )

    async def test_certificates_in_a_directory_are_renewed(self) -> None:
        await self.renewed_in_the_middle(f"tls:{self.place}:0")

    async def test_a_broken_certificate_leaves_the_old_one(self) -> None:
        daemon, port = await self.tls_daemon(
            "http://127.0.0.1:9/", f"ssl:0:privateKey={self.key}:certKey={self.certificate}"
        )
        old = self.stored
        renew(self.key, os.path.join(self.place, "another.pem"))  # the key does not fit any more
        daemon.signal("HUP")
        await daemon.until(lambda: any("not reloaded" in line["msg"] for line in daemon.lines))
        self.assertEqual(await deferToThread(shown, port), old)
        self.assertNotIn("Traceback", daemon.text)

    async def test_without_certificates_nothing_happens(self) -> None:
        daemon = await self.yukari("http://127.0.0.1:9/")
        daemon.signal("HUP")
        reply, _ = await self.ask(f"{daemon.url}/healthz")
        self.assertEqual(reply.status, 200)

    async def test_a_daemon_whose_terminal_has_gone_ends(self) -> None:
        daemon = YukariProcess()
        reactor.spawnProcess(
            daemon,
            sys.executable,
            [
                *(sys.executable, "-c", MAIN, "--bind=127.0.0.1:0", "--min-free=0"),
                *("--log-format=console", f"--storage={self.place}/models"),
            ],
            env=bare_environment(),
            usePTY=True,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        await daemon.until(lambda: b" listens on " in daemon.out)
        daemon.signal("HUP")
        await deferLater(reactor, 0.3, lambda: None)
        self.assertIsNone(daemon.status)
        transport: Any = daemon.transport
        transport.loseConnection()
        self.assertEqual(await daemon.ended, 0)

    async def test_a_rotated_log_is_reopened(self) -> None:
        log = os.path.join(self.place, "log")
        daemon = Process()
        self.spawn(
            *(sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", f"--logfile={log}"),
            *("yukari", "--bind=127.0.0.1:0", f"--storage={self.place}/models", "--min-free=0"),
            *("--log-format=json", "--slog-level=INFO"),
            environment=bare_environment(),
            process=daemon,
        )

        async def line(having: str) -> dict[str, str]:
            while True:
                if os.path.exists(log):
                    with open(log) as file:
                        for each in file:
                            if having in each:
                                return dict(json.loads(each))
                await deferLater(reactor, 0.02, lambda: None)

        where = (await line(" listens on "))["where"]
        os.rename(log, f"{log}.1")
        daemon.signal("HUP")
        while not os.path.exists(log):
            await deferLater(reactor, 0.02, lambda: None)
        await self.ask(f"http://{where}/healthz")
        self.assertEqual((await line("/healthz"))["path"], "/healthz")
        self.assertEqual(await daemon.stop(), 0)


def suites(port: int, offered: str, version: ssl.TLSVersion) -> str:
    """The suite that is agreed on with a client that offers these, "" for none; for a thread."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(f"{offered}:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    try:
        with (
            socket.create_connection(("localhost", port), timeout=20) as wire,
            context.wrap_socket(wire, server_hostname="cache.test") as secured,
        ):
            return secured.cipher()[0]  # type: ignore[index]
    except (ssl.SSLError, ConnectionError):
        return ""


class SuiteTests(Files):
    async def test_only_forward_secret_authenticated_encryption_is_spoken(self) -> None:
        old, new = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        binds = (
            f"ssl:0:interface=127.0.0.1:privateKey={self.key}:certKey={self.certificate}",
            f"tls:{self.place}:0:interface=127.0.0.1",
        )
        for description in binds:
            certificates = Certificates(reactor, Clock())
            endpoint: Any = certificates.endpoint(description)
            port = await endpoint.listen(Factory.forProtocol(Echo))
            self.addCleanup(port.stopListening)
            number = port.getHost().port
            for offered, version, agreed in (
                ("ECDHE+AESGCM", old, True),
                ("ECDHE+CHACHA20", old, True),
                ("ECDHE+AES:!AESGCM:!AESCCM", old, False),
                ("AES128-GCM-SHA256:AES256-SHA", old, False),
                ("ALL", new, True),
                ("ALL", ssl.TLSVersion.TLSv1_1, False),
            ):
                found = await deferToThread(suites, number, offered, version)
                self.assertEqual(bool(found), agreed, (description, offered, version, found))


class ChangeTests(Files):
    """Without a signal, by looking at the files."""

    async def test_changed_files_are_read_again(self) -> None:
        clock = Clock()
        certificates = Certificates(reactor, clock)
        endpoint = certificates.endpoint(
            f"ssl:0:privateKey={self.key}:certKey={self.certificate}:interface=127.0.0.1"
        )
        port = await endpoint.listen(Factory.forProtocol(Echo))
        self.addCleanup(lambda: Deferred.fromCoroutine(_stopped(port)))
        certificates.start()
        number = port.getHost().port
        with capturedLogs() as logs:
            clock.advance(LOOK_EVERY)
            self.assertEqual([log for log in logs if "reloaded" in str(log)], [])
            renew(self.key, self.certificate)
            clock.advance(LOOK_EVERY)
        self.assertEqual(await deferToThread(shown, number), self.stored)
        certificates.stop()
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_a_directory_that_loses_its_certificates_keeps_the_old_ones(
        self,
    ) -> None:
        certificates = Certificates(reactor, Clock())
        for bad in (os.path.join(self.place, "nowhere"), self.mktemp()):
            error = self.assertRaises(ValueError, certificates.endpoint, f"tls:{bad}:0")
            self.assertTrue(str(error).startswith("expected a directory of *.pem files"), error)
        endpoint = certificates.endpoint(f"tls:{self.place}:0:interface=127.0.0.1")
        port = await endpoint.listen(Factory.forProtocol(Echo))
        self.addCleanup(lambda: Deferred.fromCoroutine(_stopped(port)))
        old = self.stored

        def key_of_another() -> None:
            renew(self.key, self.mktemp())

        def garbage() -> None:
            with open(self.certificate, "w") as file:
                file.write("garbage")

        for spoil in (key_of_another, garbage, lambda: os.unlink(self.certificate)):
            spoil()
            with capturedLogs() as logs:
                certificates.reload()
            errors = [log for log in logs if log["log_level"].name == "error"]
            self.assertEqual(len(errors), 1)
            self.assertIn("stays as it was", errors[0]["log_format"])
            self.assertEqual(await deferToThread(shown, port.getHost().port), old)

    async def test_plain_endpoints_are_left_alone(self) -> None:
        clock = Clock()
        certificates = Certificates(reactor, clock)
        certificates.endpoint("tcp:0")
        certificates.start()
        certificates.reload()
        certificates.stop()
        self.assertEqual(clock.getDelayedCalls(), [])


async def _stopped(port: object) -> None:
    await port.stopListening()  # type: ignore[attr-defined]
