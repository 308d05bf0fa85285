"""What is sent for the pages, as programs see it."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from sqlite3 import OperationalError
from typing import Any, Optional
from urllib.parse import urlencode

import bcrypt
from twisted.logger import Logger

from tests.clients import Reply
from tests.emulator import Emulator, Fault
from tests.running import MODEL, Daemon, RunningCase, until
from tests.web.page.models import MARKUP, STRANGER, add_model
from yukari.library.catalog_file import CatalogFile
from yukari.library.catalog_rows import Indexed, Version
from yukari.library.marks import Marks
from yukari.library.search import ORDERS
from yukari.names import DEFAULT, Digest, Repository, Tag

HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
NAME, TAG = Repository(DEFAULT, "library", "m"), Tag("latest")


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Optional[str]]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.found.append((tag, dict(attrs)))


class PageCase(RunningCase):
    async def running(self, **flags: Any) -> tuple[Emulator, Daemon]:
        """A daemon that has pulled one model."""
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, **flags)
        await self.pull(daemon)
        await daemon.idle()
        await daemon.service.parts.management.index.settled()
        return upstream, daemon

    async def page(
        self, daemon: Daemon, path: str = "/", headers: Optional[dict[str, str]] = None
    ) -> str:
        reply, body = await self.ask(daemon.url + path, {**HTML, **(headers or {})})
        self.assertEqual(reply.status, 200, body)
        return body.decode()

    async def post(
        self,
        daemon: Daemon,
        action: str,
        fields: dict[str, str],
        headers: Optional[dict[str, str]] = None,
    ) -> tuple[Reply, str]:
        """Send a form as a browser does on the cache's own page."""
        given = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": daemon.url,
            **HTML,
            **(headers or {}),
        }
        http = self.http()
        url = f"{daemon.url}/page/{action}"
        reply = await http.open("POST", url, given, urlencode(fields).encode())
        return reply, (await reply.body()).decode()

    async def token(self, daemon: Daemon) -> str:
        found = re.search('name="token" value="([^"]+)"', await self.page(daemon))
        assert found is not None
        return found[1]


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


class StateTests(PageCase):
    """The states of models and of upstream."""

    async def test_how_far_a_tag_is_counts_its_own_blobs_alone(self) -> None:
        """Not those of another tag of its repository, and what is stored of it counts as well."""
        upstream = await self.upstream("library/m:latest=1MB,1MB", "library/m:other=2MB")
        daemon = await self.daemon(upstream)
        second, _ = upstream.models["library/m:latest"].layers[1]
        (other, _), *_ = upstream.models["library/m:other"].layers
        for digest in (second, other):
            upstream.faults.add(Fault("store", "silence", digest=digest))
        for tag in ("latest", "other"):
            daemon.service.parts.pulls.start(NAME, Tag(tag), "")
        await until(lambda: set(map(str, daemon.library.fills)) == {second, other})
        await daemon.service.parts.management.index.settled()
        page = await self.page(daemon)
        found = dict(re.findall(r'/m/(latest|other)">.*?data-part="so-far">([0-9.]+)<', page, re.S))
        self.assertEqual(found["other"], "0.0")
        self.assertTrue(50.0 <= float(found["latest"]) < 51.0, found)
        self.assertIn(f"{second[7:19]}:1000000 ", page)
        upstream.faults.clear()
        upstream.release()
        await daemon.idle()
        await daemon.service.parts.management.index.settled()
        self.assertNotIn("so-far", await self.page(daemon))

    async def test_a_newer_version_upstream_is_told_until_it_is_here(self) -> None:
        _, daemon = await self.running()
        revalidator = daemon.library.revalidator
        assert revalidator is not None
        for newer, said in (
            ("", "Newer upstream, coming"),
            ("no room", "Newer upstream"),
            (None, "Complete"),
        ):
            self.patch(type(revalidator), "newer", lambda *_, newer=newer: newer)
            page = await self.page(daemon, "/", STRANGER)
            self.assertIn(f">{said}</span>", page)
            page = await self.page(daemon, "/models/library/m/latest")
            self.assertEqual("Not here yet: no room" in page, newer == "no room")
            page = await self.page(daemon, "/models/library/m/latest", STRANGER)
            self.assertEqual("Newer upstream" in page, newer is not None)
            self.assertNotIn("no room", page)

    async def test_an_upstream_that_asks_to_wait_is_told_with_until_when(self) -> None:
        upstream, daemon = await self.running()
        upstream.faults.add(Fault("manifest", "error", status=429, retry_after=600, times=1))
        reply, _ = await self.ask(f"{daemon.url}/v2/library/other/manifests/latest")
        self.assertEqual(reply.status, 429)
        _, body = await self.ask(f"{daemon.url}/status")
        self.assertGreater(json.loads(body)["upstream"]["wait"], 500)
        page = await self.page(daemon)
        self.assertIn("Asks to wait", page)
        self.assertIn("it is left alone until <time", page)
        # An answer shows that it has changed its mind.
        await self.ask(f"{daemon.url}/v2/library/another/manifests/latest")
        _, body = await self.ask(f"{daemon.url}/status")
        self.assertEqual(json.loads(body)["upstream"]["wait"], 0.0)

    async def test_how_requests_get_past_challenges_is_told(self) -> None:
        upstream = await self.upstream(challenge="everyone")
        daemon = await self.daemon(upstream)
        self.assertIn("Nothing has come from it", await self.page(daemon))
        await self.pull(daemon)
        page = await self.page(daemon)
        self.assertIn("Challenged, and sent signed by this cache", page)
        self.assertIn(">Not challenged<", page)

    async def test_an_earlier_version_can_be_frozen(self) -> None:
        upstream, daemon = await self.running()
        old = upstream.models[MODEL]
        upstream.add_model(MODEL, [300_000], seed=9)
        token = await self.token(daemon)
        await self.post(daemon, "pull", {"token": token, "model": "m"})
        await daemon.service.parts.management.index.settled()
        page = await self.page(daemon, "/models/library/m/latest")
        found = re.search(r'value="(library/m:latest@sha256:[0-9a-f]{64})"', page)
        assert found is not None
        self.assertIn(old.digest, found[1])
        given = {"token": token, "model": found[1], "destination": "m:before"}
        reply, body = await self.post(daemon, "copy", given)
        self.assertEqual(reply.status, 303, body)
        stored = await daemon.library.store.get_manifest(NAME, Tag("before"))
        assert stored is not None
        self.assertEqual(stored.manifest.body, old.manifest_bytes)

    async def test_what_was_done_is_said_in_our_own_words_alone(self) -> None:
        _, daemon = await self.running()
        for path in ("/?done=deleted", "/models/library/m/latest?done=pinned"):
            self.assertIn('<p class="done" role="status">', await self.page(daemon, path))
            self.assertNotIn('class="done"', await self.page(daemon, path, STRANGER))
            self.assertNotIn('class="done"', await self.page(daemon, path + "x"))


class RegistryTests(PageCase):
    """A cache of two registries."""

    async def both(self) -> tuple[str, Daemon]:
        """Return the other registry's host, and a daemon with a model of each."""
        upstream = await self.upstream()
        other = await self.upstream("library/n:latest=3000")
        daemon = await self.daemon(upstream, upstreams=f"lab={other.url}")
        for name in (MODEL, "lab--library/n:latest"):
            await self.pull(daemon, name)
        await daemon.idle()
        await daemon.service.parts.management.index.settled()
        return other.url.rpartition("/")[2], daemon

    async def test_each_has_its_command_and_its_models(self) -> None:
        host, daemon = await self.both()
        page = await self.page(daemon, "/", STRANGER)
        self.assertIn("/library/llama3.2:latest</code>", page)
        self.assertIn("/lab--library/llama3.2:latest</code>", page)
        for chosen, found in (
            ("", ["m:latest", f"{host}/library/n:latest"]),
            (host, [f"{host}/library/n:latest"]),
            (daemon.service._settings.upstream_registry.host, ["m:latest"]),
            (MARKUP, ["m:latest", f"{host}/library/n:latest"]),
        ):
            for words in ("", "library"):
                query = urlencode({"q": words, "registry": chosen})
                page = await self.page(daemon, f"/?{query}")
                names = re.findall(r'<th scope="row"><a href="/models/[^"]+">([^<]+)<', page)
                self.assertEqual(sorted(names), sorted(found), (chosen, words))
        page = await self.page(daemon, f"/?{urlencode({'registry': host, 'q': 'm:latest'})}")
        self.assertIn("No stored model matches", page)

    async def test_a_model_of_the_other_is_managed_on_its_page(self) -> None:
        host, daemon = await self.both()
        page = await self.page(daemon, f"/models/{host}/library/n/latest")
        self.assertIn("/lab--library/n:latest</code>", page)
        self.assertIn("/v2/lab--library/n/manifests/latest</code>", page)
        found = re.search('name="model" value="([^"]+)"', page)
        assert found is not None
        fields = {"token": await self.token(daemon), "model": found[1]}
        reply, body = await self.post(daemon, "pin", fields)
        self.assertEqual(reply.status, 303, body)
        self.assertEqual(reply.headers["location"], f"/models/{host}/library/n/latest?done=pinned")
        self.assertIn("Pinned", await self.page(daemon, f"/models/{host}/library/n/latest"))
        _, body = await self.post(daemon, "delete", fields)
        reply, _ = await self.ask(f"{daemon.url}/models/{host}/library/n/latest", HTML)
        self.assertEqual(reply.status, 404)

    async def test_the_other_is_told_when_it_is_down(self) -> None:
        upstream = await self.upstream()
        other = await self.upstream("library/n:latest=3000")
        daemon = await self.daemon(upstream, upstreams=f"lab={other.url}")
        await other.down()
        for at in range(4):
            await self.ask(f"{daemon.url}/v2/lab--library/x{at}/manifests/latest")
        page = await self.page(daemon, "/", STRANGER)
        self.assertEqual(page.count("Not reachable"), 1)
        self.assertEqual(page.count(">Reachable<"), 1)
        self.assertIn("cannot be reached", await self.page(daemon))


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
        upstream, daemon = await self.under_way()
        upstream.settings.line = 1000
        token = await self.token(daemon)
        (digest,) = map(str, daemon.library.fills)
        reply, _ = await self.post(daemon, "stop", {"token": token, "digest": digest})
        self.assertEqual(reply.status, 303)
        self.assertIsNone(daemon.fill(digest))


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
