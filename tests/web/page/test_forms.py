"""The forms of the pages: who may send them, and what they do."""

from __future__ import annotations

from urllib.parse import urlencode

from tests.web.page.cases import HTML, NAME, TAG, PageCase
from tests.web.page.models import STRANGER
from yukari.library.upkeep.marks import Marks


class RebindingTests(PageCase):
    """A page of another site whose name was pointed at this cache."""

    async def test_it_neither_sees_models_nor_is_an_admin(self) -> None:
        _, daemon = await self.running(admin_bind="127.0.0.1:0")
        (port,) = daemon.service.admin_ports
        admin = f"http://127.0.0.1:{port.getHost().port}"
        token = await self.token(daemon)
        for url in (daemon.url, admin):
            browser = {**HTML, "User-Agent": "Mozilla/5.0", "Host": "evil.example:9200"}
            reply, body = await self.ask(f"{url}/", browser)
            page = body.decode()
            self.assertEqual(reply.status, 200)
            self.assertIn("ollama pull --insecure evil.example:9200", page)
            for secret in ("m:latest", "token", 'method="post"', "data-live"):
                self.assertNotIn(secret, page)
            for path in (
                "/models/library/m/latest",
                "/status/events",
                "/status",
                "/evictions",
                "/fills",
            ):
                reply, _ = await self.ask(url + path, browser)
                self.assertEqual(reply.status, 403, path)
            sent = {**browser, "Origin": "http://evil.example:9200"}
            reply = await self.http().open(
                "POST", f"{url}/page/pin", sent, urlencode({"model": "m", "token": token}).encode()
            )
            self.assertEqual(reply.status, 403)
            self.assertIsNone(daemon.service.parts.management.marks.pin(NAME, TAG))
        for host in ("cache:9200", "10.0.0.1", "[fd00::1]:9200", "cache.internal"):
            page = await self.page(daemon, "/", {"User-Agent": "Mozilla/5.0", "Host": host})
            self.assertIn("m:latest", page)


class FormTests(PageCase):
    """The forms, and who may send them."""

    async def test_a_form_needs_the_token_and_the_caches_own_page(self) -> None:
        _, daemon = await self.running()
        token = await self.token(daemon)
        marks: Marks = daemon.service.parts.management.marks
        fields = {"model": "m", "token": token}
        for given, headers in (
            ({"model": "m"}, {}),
            ({**fields, "token": token[:-1]}, {}),
            ({**fields, "token": "\xff"}, {}),
            (fields, {"Origin": "http://evil.example"}),
            (fields, {"Origin": "null"}),
            (fields, {"Origin": daemon.url.replace("http", "https")}),
            (fields, {"Sec-Fetch-Site": "cross-site"}),
            (fields, STRANGER),
        ):
            reply, _ = await self.post(daemon, "pin", given, headers)
            self.assertEqual(reply.status, 403, (given, headers))
            self.assertIsNone(marks.pin(NAME, TAG))
        reply, _ = await self.post(daemon, "pin", fields)
        self.assertEqual(
            (reply.status, reply.headers["location"]), (303, "/models/library/m/latest?done=pinned")
        )
        self.assertIsNotNone(marks.pin(NAME, TAG))
        reply, _ = await self.post(daemon, "unpin", fields)
        self.assertIsNone(marks.pin(NAME, TAG))

    async def test_a_form_is_not_sent_by_get(self) -> None:
        _, daemon = await self.running()
        reply, _ = await self.ask(f"{daemon.url}/page/delete?model=m", HTML)
        self.assertEqual((reply.status, reply.headers["allow"]), (405, "POST"))

    async def test_a_model_is_pulled_copied_and_deleted(self) -> None:
        upstream, daemon = await self.running()
        upstream.add_model("library/n:latest", [5000])
        token = await self.token(daemon)
        reply, _ = await self.post(daemon, "pull", {"token": token, "model": "n"})
        self.assertEqual(
            (reply.status, reply.headers["location"]), (303, "/models/library/n/latest?done=pulled")
        )
        given = {"token": token, "model": "n", "destination": "n:kept"}
        reply, _ = await self.post(daemon, "copy", given)
        self.assertEqual(
            (reply.status, reply.headers["location"]), (303, "/models/library/n/kept?done=copied")
        )
        self.assertIn("Own copy", await self.page(daemon, "/models/library/n/kept"))
        reply, _ = await self.post(daemon, "delete", {"token": token, "model": "n:latest"})
        self.assertEqual(reply.status, 303)
        found = await self.ask(f"{daemon.url}/models/library/n/latest", HTML)
        self.assertEqual(found[0].status, 404)

    async def test_what_fails_is_said_on_a_page(self) -> None:
        _, daemon = await self.running()
        token = await self.token(daemon)
        for action, fields, status, text in (
            ("pull", {"model": "none"}, 404, "no model library/none:latest"),
            ("pull", {"model": "a b"}, 400, "model a b"),
            ("pull", {}, 400, "expected a model"),
            ("delete", {"model": "none"}, 404, "not found"),
            ("pin", {"model": "none"}, 404, "not stored"),
            ("copy", {"model": "m", "destination": ""}, 400, "expected a model"),
            ("stop", {"digest": "x"}, 400, "digest x"),
            ("stop", {"digest": f"sha256:{'0' * 64}"}, 404, "ended already"),
        ):
            reply, body = await self.post(daemon, action, {"token": token, **fields})
            self.assertEqual(reply.status, status, (action, body))
            self.assertIn(text, body)
            self.assertIn("<h1>", body)

    async def test_a_fill_is_stopped(self) -> None:
        _, daemon = await self.under_way()
        token = await self.token(daemon)
        (digest,) = map(str, daemon.library.fills)
        reply, _ = await self.post(daemon, "stop", {"token": token, "digest": digest})
        self.assertEqual(reply.status, 303)
        self.assertIsNone(daemon.fill(digest))
