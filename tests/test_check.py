"""``python -m yukari.check``: a health check for containers."""

from __future__ import annotations

import os
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.daemon.test_certificates import renew
from tests.processes import Process, ProcessCase, bare_environment
from yukari.check import url_of


class UrlTests(SynchronousTestCase):
    def test_the_url_follows_from_bind(self) -> None:
        for bind, url in {
            "": "http://localhost:9200",
            ":80": "http://localhost:80",
            "0.0.0.0:80 :81": "http://localhost:80",
            "[::]:80": "http://localhost:80",
            "127.0.0.1:9201": "http://127.0.0.1:9201",
            "[::1]:9201": "http://[::1]:9201",
            "tcp:9202:interface=127.0.0.1": "http://localhost:9202",
            "ssl:443:privateKey=/k:certKey=/c": "https://localhost:443",
            "tls:/etc/certificates:8443": "https://localhost:8443",
        }.items():
            self.assertEqual(url_of({"BIND": bind}), f"{url}/healthz")

    def test_the_url_follows_from_the_configuration_file(self) -> None:
        path = self.mktemp()
        for text, url in {
            "": "http://localhost:9200",
            'bind = ":80 :81"': "http://localhost:80",
            'bind = ["127.0.0.1:9201", ":80"]': "http://127.0.0.1:9201",
        }.items():
            with open(path, "w") as file:
                file.write(text)
            self.assertEqual(url_of({"YUKARI_CONFIG": path}), f"{url}/healthz")
            self.assertEqual(
                url_of({"YUKARI_CONFIG": path, "BIND": ":1"}), "http://localhost:1/healthz"
            )
        for wrong in ("bind = ", "/nowhere"):
            with open(path, "w") as file:
                file.write(wrong)
            with self.assertRaisesRegex(ValueError, "YUKARI_CONFIG"):
                url_of({"YUKARI_CONFIG": path if wrong == "bind = " else wrong})

    def test_error_names_a_bind_without_url(self) -> None:
        for bind in ("systemd:domain=INET6:index=0", "systemd:domain=INET:name=80", "unix:/run/y"):
            with self.assertRaisesRegex(ValueError, "yukari.check URL"):
                url_of({"BIND": bind})


class CheckTests(ProcessCase):
    async def checked(self, *arguments: str, **environment: str) -> Process:
        check = self.spawn(
            *(sys.executable, "-m", "yukari.check", *arguments),
            environment=bare_environment(
                http_proxy="http://127.0.0.1:9",
                RES_OPTIONS="timeout:1 attempts:1",  # where no server of names answers
                **environment,
            ),
        )
        await check.ended
        return check

    async def test_a_healthy_daemon_is_status_0(self) -> None:
        daemon = await self.yukari("http://127.0.0.1:9/")
        for check in (
            await self.checked(BIND=daemon.host),
            await self.checked(f"{daemon.url}/readyz"),
        ):
            self.assertEqual((check.status, check.text), (0, ""))

    async def test_a_certificate_needs_no_authority(self) -> None:
        pem = os.path.join(self.directory(), "pem")
        key = os.path.join(self.directory(), "key")
        renew(key, pem)
        daemon = await self.yukari(
            "http://127.0.0.1:9/", bind=f"ssl:0:privateKey={key}:certKey={pem}"
        )
        port = daemon.host.rpartition(":")[2]
        check = await self.checked(BIND=f"ssl:{port}:privateKey={key}:certKey={pem}")
        self.assertEqual((check.status, check.text), (0, ""))

    async def test_a_failure_is_status_1_and_a_line(self) -> None:
        daemon = await self.yukari("http://127.0.0.1:9/")
        unknown = await self.checked(BIND="unix:/run/yukari.sock")
        self.assertEqual((unknown.status, unknown.text.count("\n")), (1, 1))
        for url, said in {
            f"{daemon.url}/nothing": ": 404 {",
            "http://127.0.0.1:9/healthz": "refused",
            "http://nowhere.invalid/healthz": "nowhere.invalid",
            "nonsense": "unknown url type",
        }.items():
            check = await self.checked(url)
            self.assertEqual(check.status, 1)
            self.assertIn(said, check.text)
            self.assertEqual(check.text.count("\n"), 1)
            self.assertNotIn("Traceback", check.text)
