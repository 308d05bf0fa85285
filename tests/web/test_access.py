"""Access to models, and to what is for admins."""

from __future__ import annotations

import json
import os
import socket
from base64 import b64encode
from typing import Any, Optional

import bcrypt
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.running import MODEL, RunningCase, reactor, until
from tests.sending.doubles import Growing, Talk
from yukari.config.networks import Networks
from yukari.daemon.service import YukariService
from yukari.fatal import Ended
from yukari.web import htpasswd

OTHER = "someone/n:latest"
PATHS = ("/v2/", "/v2/_catalog", "/v2/library/m/tags/list", "/v2/library/m/manifests/latest")


class AllowTests(SynchronousTestCase):
    """ALLOW."""

    def statuses(self, peer: object, *headers: str) -> set[int]:
        """What a client gets for all there is to pull."""
        site = {"trusted_proxies": Networks.parse("10.9.0.0/16")}
        talk = Talk(peer=peer, site=site, allow=Networks.parse("10.0.0.0/8,fd00::/8"))
        for path in (*PATHS, talk.shelf.put(Growing(b"abc", in_file=False))):
            talk.ask(path, *headers)
        return {reply.status for reply in talk.replies()}

    def test_who_is_in_it_may_pull(self) -> None:
        for peer in (
            IPv4Address("TCP", "10.1.2.3", 1),
            IPv6Address("TCP", "::ffff:10.1.2.3", 1),
            IPv6Address("TCP", "fd00::1", 1),
            UNIXAddress(None),
        ):
            self.assertEqual(self.statuses(peer), {200, 404}, peer)

    def test_others_are_told_their_address(self) -> None:
        for peer in (
            IPv4Address("TCP", "192.0.2.7", 1),
            IPv4Address("TCP", "127.0.0.1", 1),
            IPv6Address("TCP", "::ffff:192.0.2.7", 1),
            IPv6Address("TCP", "fe80::1%eth0", 1),
        ):
            self.assertEqual(self.statuses(peer), {403}, peer)
        talk = Talk(allow=Networks.parse("10.0.0.0/8"))
        talk.ask("/v2/")
        (error,) = json.loads(talk.replies()[0].body)["errors"]
        self.assertEqual(error["code"], "DENIED")
        self.assertEqual(error["message"], "192.0.2.7 may not pull here: it is not in ALLOW")

    def test_a_header_opens_nothing_unless_a_proxy_sends_it(self) -> None:
        header = "X-Forwarded-For: 10.1.2.3"
        self.assertEqual(self.statuses(IPv4Address("TCP", "192.0.2.7", 1), header), {403})
        self.assertEqual(self.statuses(IPv4Address("TCP", "10.9.0.1", 1), header), {200, 404})
        stranger = "X-Forwarded-For: 10.1.2.3, 192.0.2.7"
        self.assertEqual(self.statuses(IPv4Address("TCP", "10.9.0.1", 1), stranger), {403})

    def test_probes_are_answered_all_the_same(self) -> None:
        talk = Talk(allow=Networks.parse("10.0.0.0/8"))
        talk.ask("/healthz")
        self.assertEqual(talk.replies()[0].status, 200)


class OwnMachineTests(SynchronousTestCase):
    """Clients that count as the daemon's own machine, for what is for admins."""

    def test_what_came_through_a_proxy_does_not(self) -> None:
        for headers in (
            ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For:"],
            ["X-Real-IP: 192.0.2.1"],
            ["Forwarded:"],
            ["Via: 1.1 proxy"],
        ):
            self.assertEqual(self.status("localhost", *headers), 403, headers)

    def test_a_page_in_its_browser_does_not(self) -> None:
        for host in ("localhost", "LOCALHOST:9200", "127.0.0.1:9200", "[::1]:9200", ""):
            self.assertEqual(self.status(host), 200, host)
        for host in ("rebound.example:9200", "localhost.example", "1.example"):
            self.assertEqual(self.status(host), 403, host)
        self.assertEqual(self.status("127.0.0.1@a"), 400)
        origin = "Origin: http://localhost:9200"
        self.assertEqual(self.status("localhost:9200", origin), 403)
        self.assertEqual(self.status("a.example", origin, is_admins=True), 403)
        self.assertEqual(self.status("a.example", is_admins=True), 200)
        self.assertEqual(self.status("a.example", peer=UNIXAddress(None)), 200)

    def test_pages_of_other_sites_pull_nothing(self) -> None:
        """An image in a page anywhere else began a whole fill."""
        for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
            for path in ("/v2/", "/v2/_catalog"):
                talk = Talk()
                talk.ask(path, f"Sec-Fetch-Site: {site}")
                self.assertEqual(talk.replies()[0].status, status, (site, path))
        talk = Talk()
        talk.ask("/v2/", "Sec-Fetch-Site: Cross-Site", "Sec-Fetch-Site: none")
        self.assertEqual(talk.replies()[0].status, 403)

    def test_a_page_at_a_name_that_was_pointed_here_gets_nothing(self) -> None:
        """DNS rebinding: for the browser the page is of the same site."""
        browsers = (
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
            "Sec-Fetch-Site: same-origin",
            "Origin: http://rebound.example",
            "accept-language: en",
        )
        lists = dict.fromkeys(("/v2/_catalog", "/v2/library/m/tags/list"), 200)
        one = dict.fromkeys(("manifests/latest", f"blobs/sha256:{'a' * 64}"), 404)
        for path, status in {
            **lists,
            **{f"/v2/library/m/{each}": one[each] for each in one},
        }.items():
            for said in browsers:
                for host in ("rebound.example", "rebound.example:9200", "localhost.example"):
                    self.assertEqual(self.status(host, said, path=path), 403, (host, said))
                for host in ("cache:9200", "10.0.0.1", "[::1]:9200", "cache.local", "A.INTERNAL:1"):
                    self.assertEqual(self.status(host, said, path=path), status, (host, said))
                self.assertEqual(self.status(socket.gethostname(), said, path=path), status)
            self.assertEqual(self.status("cache.example", path=path), status)
        self.assertEqual(self.status("cache.example", browsers[0], path="/v2/"), 200)

    def test_a_page_by_https_has_a_certificate_for_its_name(self) -> None:
        site = {"trusted_proxies": Networks.parse("127.0.0.1")}
        headers = ("Sec-Fetch-Site: same-origin", "X-Forwarded-Proto: https")
        for trusted, status in ((site, 200), ({}, 403)):
            found = self.status("a.example", *headers, path="/v2/_catalog", site=trusted)
            self.assertEqual(found, status)

    def status(
        self,
        host: str,
        *headers: str,
        is_admins: bool = False,
        peer: object = IPv4Address("TCP", "127.0.0.1", 1),  # noqa: B008
        path: str = "/fills",
        site: Optional[dict[str, Any]] = None,
    ) -> int:
        """What whoever asks so from ``peer`` gets of ``path``."""
        talk = Talk(peer=peer, site={"is_admins": is_admins, **(site or {})})
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]
        talk.say("\r\n".join(lines).encode())
        (reply,) = talk.replies()
        return reply.status

    def test_what_may_be_done_there_is_said(self) -> None:
        talk = Talk()
        talk.ask("/fills", method="PUT")
        (reply,) = talk.replies()
        self.assertEqual((reply.status, reply.headers["allow"]), (405, "GET, HEAD, DELETE"))


class ModelsTests(RunningCase):
    """MODELS_ALLOW and MODELS_DENY."""

    async def test_a_refused_model_is_neither_served_nor_listed_nor_fetched(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000", f"{OTHER}=3001")
        blob = upstream.models[OTHER].layers[0][0]
        often = {"manifest_lifetime": "1ms", "invalidator_period": "10ms"}
        for rule, flag in (("Some*/*", "models_deny"), ("library/*", "models_allow")):
            daemon = await self.daemon(upstream)
            await self.pull(daemon, OTHER)
            await daemon.idle()
            upstream.counters.clear()
            daemon = await self.restarted(daemon, upstream, **often, **{flag: rule})
            for path in ("manifests/latest", f"manifests/{blob}", f"blobs/{blob}", "tags/list"):
                url = f"{daemon.url}/v2/someone/n/{path}"
                self.assertEqual((await self.ask(url, method="HEAD"))[0].status, 403, path)
                reply, body = await self.ask(url)
                self.assertEqual(reply.status, 403, path)
                self.assertIn(rule, json.loads(body)["errors"][0]["message"])
            revalidator = daemon.library.revalidator
            for _ in range(3):
                look = revalidator._looking
                await until(lambda: revalidator._looking is not look)  # noqa: B023
            self.assertEqual(dict(upstream.counters.requests), {})
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            _, body = await self.ask(f"{daemon.url}/v2/_catalog")
            self.assertEqual(json.loads(body), {"repositories": ["library/m"]})
            await daemon.stop()

    async def test_what_an_earlier_process_left_of_a_refused_model_waits(self) -> None:
        upstream, daemon = await self.under_way()
        daemon = await self.restarted(daemon, upstream, models_deny="library/m")
        self.assertIn(upstream.models[MODEL].layers[0][0], map(str, daemon.library.fills))
        self.assertFalse(daemon.library.filling._scheduler.fills)
        upstream.settings.line = None
        daemon = await self.restarted(daemon, upstream)
        await daemon.idle()
        self.assert_stored(daemon, upstream.models[MODEL])


class AdminTests(RunningCase):
    """ADMIN_AUTH_FILE."""

    def users(self, *lines: str) -> str:
        path = os.path.abspath(self.mktemp())
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
        with open(path, "w") as file:
            file.write("\n".join([f"her:{hashed}", *lines]))
        return path

    async def status(self, url: str, user: Optional[str] = None, method: str = "GET") -> int:
        headers = {}
        if user is not None:
            headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
        reply, body = await self.ask(url, headers, method)
        if reply.status == 401:
            self.assertEqual(reply.headers["www-authenticate"], 'Basic realm="yukari"')
            self.assertEqual(json.loads(body)["errors"][0]["code"], "UNAUTHORIZED")
        return reply.status

    async def test_what_is_for_admins_asks_for_a_password_and_pulling_does_not(self) -> None:
        self.patch(htpasswd, "FREE_GUESSES", 1000)
        upstream = await self.upstream()
        users = self.users()
        daemon = await self.daemon(upstream, admin_bind="127.0.0.1:0", admin_auth_file=users)
        (port,) = daemon.service.admin_ports
        for top in (daemon.url, f"http://127.0.0.1:{port.getHost().port}"):
            blob = f"/fills/sha256:{'0' * 64}"
            for method, path, status in (
                ("GET", "/metrics", 200),
                ("GET", "/fills", 200),
                ("GET", blob, 404),
                ("DELETE", blob, 404),
            ):
                for user in (None, "her:wrong", "nobody:secret", "her", ":"):
                    self.assertEqual(await self.status(top + path, user, method), 401, (path, user))
                self.assertEqual(await self.status(top + path, "her:secret", method), status)
            for path in ("/", "/healthz", "/readyz", "/v2/"):
                self.assertEqual(await self.status(top + path), 200, path)
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_a_password_does_not_open_what_is_closed(self) -> None:
        daemon = await self.daemon(await self.upstream(), admin_auth_file=self.users())
        url = f"{daemon.url}/metrics"
        credentials = b64encode(b"her:secret").decode()
        proxied = {"X-Forwarded-For": "192.0.2.1", "Authorization": f"Basic {credentials}"}
        self.assertEqual((await self.ask(url, proxied))[0].status, 403)

    async def test_the_file_is_read_anew_on_request(self) -> None:
        users = self.users()
        daemon = await self.daemon(await self.upstream(), admin_auth_file=users)
        url = f"{daemon.url}/metrics"
        self.assertEqual(await self.status(url, "her:secret"), 200)
        with open(users) as file:
            lines = file.read()
        for text, status in ((lines.replace("her:", "she:"), 401), ("nonsense", 401), (lines, 200)):
            with open(users, "w") as file:
                file.write(text)
            with capturedLogs() as events:
                daemon.service.reload()
            errors = [formatEvent(event) for event in events if event["log_level"].name == "error"]
            self.assertEqual(len(errors), text == "nonsense")
            self.assertTrue(all("line 1: expected" in error for error in errors), errors)
            self.assertEqual(await self.status(url, "her:secret"), status)

    async def test_a_file_that_is_wrong_ends_the_start_with_its_line(self) -> None:
        upstream = await self.upstream()
        for path, why in ((self.users("he:pw"), "line 2: expected USER:HASH"), ("/no", "No such")):
            settings = self.settings(upstream, admin_auth_file=path)
            with capturedLogs():
                ended = self.assertRaises(Ended, YukariService, reactor, settings)
            self.assertIn(f"yukari: ADMIN_AUTH_FILE '{path}': {why}", ended.line)
