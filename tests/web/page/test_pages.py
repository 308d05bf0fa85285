"""What is sent for the pages, as programs see it."""

from __future__ import annotations

import json
import os
import re
from sqlite3 import OperationalError
from urllib.parse import urlencode

import bcrypt
from twisted.logger import Logger

from tests.running import MODEL, Daemon, until
from tests.web.page.cases import HTML, PageCase, Tags
from tests.web.page.models import MARKUP, STRANGER, add_model
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Indexed, Version
from yukari.library.catalog.search import ORDERS
from yukari.library.upkeep.marks import Marks
from yukari.names import DEFAULT, Digest, Repository, Tag


class FrontTests(PageCase):
    """``/``."""

    async def test_browsers_get_a_page_and_other_clients_get_a_few_lines(self) -> None:
        _, daemon = await self.running()
        for accept, kind in (
            (HTML["Accept"], "text/html"),
            ("text/html;q=0.5", "text/html"),
            ("text/html;level=1", "text/html"),
            ("application/xhtml+xml", "text/html"),
            ("text/html;q=0, */*", "text/plain"),
            ("*/*", "text/plain"),
            ("application/json", "text/plain"),
            ("text/htmlx", "text/plain"),
            (None, "text/plain"),
        ):
            headers = {} if accept is None else {"Accept": accept}
            for method in ("GET", "HEAD"):
                reply, body = await self.ask(daemon.url + "/", headers, method)
                self.assertEqual(reply.status, 200)
                self.assertTrue(reply.headers["content-type"].startswith(kind), (accept, kind))
                self.assertIn("Accept", reply.headers["vary"])
                self.assertEqual(bool(body), method == "GET")

    async def test_the_address_is_the_one_that_was_typed(self) -> None:
        _, daemon = await self.running()
        for host, shown in (
            ("cache.lab:9200", "cache.lab:9200"),
            ("[fd00::1]:9200", "[fd00::1]:9200"),
            ("CACHE", "CACHE"),
            ("a..b:1", "a..b:1"),
            ("a<b>:1", None),
            ('x";y', None),
        ):
            reply, body = await self.ask(daemon.url + "/", {**HTML, "Host": host})
            self.assertEqual(reply.status, 400 if shown is None else 200, host)
            if shown is not None:
                command = f"ollama pull --insecure {shown}/library/llama3.2:latest"
                self.assertIn(command, body.decode())

    async def test_nothing_is_inline_and_nothing_is_foreign(self) -> None:
        _, daemon = await self.running()
        for path in ("/", "/models/library/m/latest", "/evictions", "/models/no/such/one"):
            reply, body = await self.ask(daemon.url + path, HTML)
            policy = reply.headers["content-security-policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertNotIn("unsafe", policy)
            for tag, attrs in Tags(body.decode()).found:
                self.assertFalse([name for name in attrs if name.startswith("on")], tag)
                self.assertNotIn("style", attrs)
                self.assertNotEqual(tag, "style")
                for name in ("src", "action", "data-live"):
                    if name in attrs:
                        self.assertTrue(str(attrs[name]).startswith("/"), attrs)
                if tag == "link":
                    self.assertTrue(str(attrs["href"]).startswith("/"), attrs)
                if tag == "script":
                    self.assertIn("src", attrs)

    async def test_assets_are_kept_by_browsers_as_long_as_they_are_the_same(
        self,
    ) -> None:
        _, daemon = await self.running()
        page = await self.page(daemon)
        found = set(re.findall(r'"(/page/[a-z]+\.[a-z]+\?[0-9a-f]{12})"', page))
        self.assertEqual(len(found), 3)
        for path in found:
            reply, body = await self.ask(daemon.url + path)
            self.assertEqual(reply.status, 200)
            self.assertIn("immutable", reply.headers["cache-control"])
            self.assertTrue(body)

    async def test_who_may_not_pull_sees_no_page(self) -> None:
        _, daemon = await self.running()
        daemon = await self.restarted(daemon, await self.upstream(), allow="10.0.0.0/8")
        for path in ("/", "/models/library/m/latest", "/status/events", "/sign-in"):
            reply, body = await self.ask(daemon.url + path, HTML)
            self.assertEqual(reply.status, 403, path)
            self.assertIn(b"127.0.0.1 may not pull here", body)
        self.assertEqual((await self.ask(daemon.url + "/"))[0].status, 200)

    async def test_models_that_are_refused_are_not_shown(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000", "secret/n:latest=3001")
        daemon = await self.daemon(upstream)
        await self.pull(daemon)
        await self.pull(daemon, "secret/n:latest")
        await daemon.idle()
        daemon = await self.restarted(daemon, upstream, models_deny="secret/*")
        await daemon.service.parts.management.index.settled()
        for path in ("/", "/?q=n", "/?q=secret&sort=size", "/models/library/m/latest"):
            self.assertNotIn("secret/n", await self.page(daemon, path))
        reply, _ = await self.ask(f"{daemon.url}/models/secret/n/latest", HTML)
        self.assertEqual(reply.status, 403)


class TroubleTests(PageCase):
    """The page is there when something else is not."""

    async def test_a_catalog_that_cannot_be_read_leaves_the_rest_of_the_page(self) -> None:
        _, daemon = await self.running()

        def broken(*_: object) -> None:
            raise OperationalError("disk I/O error")

        self.patch(CatalogFile, "search", broken)
        page = await self.page(daemon)
        self.assertIn("cannot be read now", page)
        self.assertIn("disk I/O error", page)
        self.assertIn("ollama pull", page)
        stranger = await self.page(daemon, "/", STRANGER)
        self.assertIn("cannot be read now", stranger)
        self.assertNotIn("disk I/O error", stranger)

    async def test_pins_that_cannot_be_read_leave_the_rest_of_the_page(self) -> None:
        _, daemon = await self.running()

        async def broken(_: object) -> None:
            raise OSError("marks.json is damaged")

        self.patch(Marks, "refresh", broken)
        for path in ("/", "/models/library/m/latest"):
            self.assertIn("m:latest", await self.page(daemon, path))


class ListTests(PageCase):
    """The stored models, and the page of one."""

    async def stocked(self) -> Daemon:
        upstream = await self.upstream()
        for at, (name, quantisation) in enumerate(
            (("library/alpha:7b", "Q4_K_M"), ("library/beta:70b", "Q8_0"))
        ):
            add_model(
                upstream,
                name,
                bytes([at]) * 1000 * (at + 1),
                parameters=name.rpartition(":")[2].upper(),
                quantisation=quantisation,
                license=f"Licence of {name} {MARKUP}",
                template=MARKUP,
            )
        daemon = await self.daemon(upstream)
        for name in ("library/alpha:7b", "library/beta:70b"):
            await self.pull(daemon, name)
        await daemon.idle()
        await daemon.service.parts.management.index.settled()
        return daemon

    def names(self, page: str) -> list[str]:
        return re.findall('<th scope="row"><a href="[^"]+">([^<]+)</a>', page)

    async def test_words_are_looked_for_in_names_and_details_as_they_stand(self) -> None:
        daemon = await self.stocked()
        for words, found in (
            ("", ["alpha:7b", "beta:70b"]),
            ("ALPHA", ["alpha:7b"]),
            ("7b", ["alpha:7b"]),
            ("library 70", ["beta:70b"]),
            ("q4_k", ["alpha:7b"]),
            ("q_", []),
            ("%", []),
            ("!", []),
            ("alpha beta", []),
        ):
            page = await self.page(daemon, f"/?{urlencode({'q': words})}")
            self.assertEqual(self.names(page), found, words)

    async def test_the_order_is_the_one_that_is_asked_for(self) -> None:
        daemon = await self.stocked()
        page = await self.page(daemon, "/?sort=size")
        self.assertEqual(self.names(page), ["beta:70b", "alpha:7b"])
        for odd in ("/?sort=none", "/?page=0", "/?page=-1", "/?page=x", "/?sort=%ff&q=%00&q="):
            self.assertEqual(self.names(await self.page(daemon, odd)), ["alpha:7b", "beta:70b"])
        self.assertEqual(self.names(await self.page(daemon, "/?page=99999999999")), [])

    async def test_a_page_of_many_models_is_small_and_leads_to_the_next(self) -> None:
        _, daemon = await self.running()
        catalog = daemon.service.parts.management.catalog
        many = [
            Indexed(
                Version(
                    Repository(DEFAULT, "n" * 80, f"{at:04}{'m' * 76}"), Tag("t" * 80), digest, ()
                ),
                1.0,
                1.0,
                False,
                "{}",
            )
            for at in range(1500)
            for digest in (Digest.of(b"%d" % at),)
        ]
        await catalog.run(CatalogFile.put, many, 1.0)
        for order in ORDERS:
            seen: list[str] = []
            for words in ("", "NNN 00"):
                for number in (1, 2):
                    query = urlencode({"q": words, "sort": order, "page": number})
                    page = await self.page(daemon, f"/?{query}")
                    self.assertLess(len(page), 200_000)
                    names = self.names(page)
                    self.assertEqual(len(names), 50)
                    seen += names
                self.assertEqual(len(set(seen)), len(seen))
                seen.clear()
            last = urlencode({"sort": order, "page": 31})
            page = await self.page(daemon, f"/?{last}")
            self.assertEqual(len(self.names(page)), 1)
            self.assertNotIn('rel="next"', page)

    async def test_markup_of_others_is_text(self) -> None:
        daemon = await self.stocked()
        for path in (
            f"/?{urlencode({'q': MARKUP})}",
            "/models/library/alpha/7b",
            f"/models/library/{urlencode({'': MARKUP})[1:]}/latest",
        ):
            _, body = await self.ask(daemon.url + path, HTML)
            self.assertIn(b"&lt;script&gt;", body, path)
            tags = Tags(body.decode()).found
            self.assertEqual([tag for tag, _ in tags].count("script"), 1)
            self.assertFalse([tag for tag, attrs in tags if "onerror" in attrs])

    async def test_a_models_page_has_its_layers_texts_and_commands(self) -> None:
        daemon = await self.stocked()
        page = await self.page(daemon, "/models/library/alpha/7b")
        for text in ("alpha:7b", "Q4_K_M", "Licence of library/alpha:7b", "/library/alpha:7b"):
            self.assertIn(text, page)
        # Both models have the same template.
        self.assertIn('<a href="/models/library/beta/70b">beta:70b</a>', page)
        for path in ("/models", "/models/a", "/models/a/b", "/models/a/b/c/d", "/models/a/b/c/d/e"):
            reply, _ = await self.ask(daemon.url + path, HTML)
            self.assertEqual(reply.status, 404, path)
        for path in ("/models/library/alpha/none", "/models/library/none/7b"):
            reply, _ = await self.ask(daemon.url + path, HTML)
            self.assertEqual(reply.status, 404, path)

    async def test_what_is_gone_upstream_and_what_is_pinned_is_said(self) -> None:
        daemon = await self.stocked()
        management = daemon.service.parts.management
        name, tag = Repository(DEFAULT, "library", "alpha"), Tag("7b")
        await management.catalog.run(CatalogFile.checked, name, tag, 1.0, gone=True)
        await management.marks.set_pin(name, tag, "somebody")
        for path in ("/", "/models/library/alpha/7b"):
            page = await self.page(daemon, path)
            self.assertIn("Gone upstream", page)
            self.assertIn("Pinned", page)


class StrangerTests(PageCase):
    """What is for admins is not even there for others."""

    async def test_a_stranger_sees_models_and_no_form_but_the_search(self) -> None:
        _, daemon = await self.running()
        for path in ("/", "/models/library/m/latest"):
            own = await self.page(daemon, path)
            page = await self.page(daemon, path, STRANGER)
            self.assertIn("m:latest", page)
            self.assertIn('method="post"', own)
            for secret in (
                'method="post"',
                "token",
                "Clients today",
                daemon.service._settings.storage,
            ):
                self.assertNotIn(secret, page)
        for path in ("/evictions", "/status", "/sign-in"):
            reply, _ = await self.ask(daemon.url + path, {**HTML, **STRANGER})
            self.assertEqual(reply.status, 403, path)

    async def test_a_password_makes_an_admin(self) -> None:
        path = os.path.abspath(self.mktemp())
        with open(path, "w") as file:
            file.write("her:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode())
        _, daemon = await self.running(admin_auth_file=path)
        page = await self.page(daemon)
        self.assertIn('href="/sign-in"', page)
        self.assertNotIn('method="post"', page)
        reply, _ = await self.ask(f"{daemon.url}/sign-in", HTML)
        self.assertEqual((reply.status, reply.headers["www-authenticate"][:5]), (401, "Basic"))
        signed = {"Authorization": "Basic aGVyOnNlY3JldA=="}
        reply, _ = await self.ask(f"{daemon.url}/sign-in", {**HTML, **signed})
        self.assertEqual((reply.status, reply.headers["location"]), (303, "/"))
        page = await self.page(daemon, "/", signed)
        self.assertIn('method="post"', page)
        self.assertNotIn('href="/sign-in"', page)


class StatusTests(PageCase):
    """``/status`` and ``/status/events``."""

    async def test_status_has_all_of_it(self) -> None:
        _, daemon = await self.running()
        Logger(namespace="yukari.test").warn("a {what} was full", what="disk")
        reply, body = await self.ask(f"{daemon.url}/status")
        status = json.loads(body)
        self.assertEqual((reply.status, status["format"]), (200, 1))
        self.assertEqual(status["store"]["models"], 1)
        self.assertTrue(status["upstream"]["reachable"])
        self.assertEqual(status["fills"], [])
        self.assertEqual(status["errors"][0]["text"], "a disk was full")
        self.assertGreater(status["traffic"]["hours"][-1]["sent"], 400_000)
        self.assertGreater(status["traffic"]["days"][-1]["received"], 400_000)
        self.assertEqual(status["traffic"]["clients"][0]["address"], "127.0.0.1")

    async def test_an_upstream_that_is_down_is_said_in_words(self) -> None:
        upstream, daemon = await self.running()
        await upstream.down()
        for at in range(4):
            await self.ask(f"{daemon.url}/v2/library/x{at}/manifests/latest")
        _, body = await self.ask(f"{daemon.url}/status")
        found = json.loads(body)["upstream"]
        self.assertFalse(found["reachable"])
        self.assertIn("cannot be reached", found["error"])
        self.assertIn("Not reachable", await self.page(daemon, "/", STRANGER))

    async def test_traffic_outlives_the_daemon(self) -> None:
        upstream, daemon = await self.running()
        daemon = await self.restarted(daemon, upstream)
        _, body = await self.ask(f"{daemon.url}/status")
        self.assertGreater(json.loads(body)["traffic"]["hours"][-1]["received"], 400_000)

    async def test_events_tell_how_far_a_fill_is_to_everybody_and_end_with_the_daemon(self) -> None:
        _, daemon = await self.under_way()
        watchers = daemon.service.parts.watchers
        http = self.http()
        reply = await http.open("GET", f"{daemon.url}/status/events", STRANGER)
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.headers["content-type"], "text/event-stream; charset=utf-8")
        body = self.begin(reply.body())
        await until(lambda: len(watchers) == 1)
        await daemon.stop()
        text = (await body).decode()
        first = json.loads(text.partition("data: ")[2].partition("\n")[0])
        self.assertEqual(first["count"], 1)
        self.assertEqual(first["fills"][0]["model"], "library/m")
        self.assertNotIn("readers", first["fills"][0])
        self.assertEqual(len(watchers), 0)
