"""The states of models, of upstream and of several registries, as the pages tell them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlencode

from tests.emulator import Fault
from tests.running import MODEL, Daemon, until
from tests.web.page.cases import HTML, NAME, TAG, PageCase
from tests.web.page.models import MARKUP, STRANGER
from yukari.names import Tag
from yukari.sources.host_facts import THE_LINE, HostFacts


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

    async def test_a_host_that_sends_has_a_line_of_what_bounds_it(self) -> None:
        """A host that sends nothing has none, and what is not known of one is left out."""
        _, daemon = await self.running()
        found = (
            HostFacts("busy.test", 4, 2e6, 0.05, 0.0754, THE_LINE),
            HostFacts("new.test", 1, 1e6, None, None, None),
            HostFacts("idle.test", 0, 0.0, 0.05, None, None),
        )
        self.patch(type(daemon.library.upstream), "hosts_of", lambda *_: found)
        page = await self.page(daemon)
        lines = dict(re.findall(r"<dt>([a-z]+)\.test</dt><dd>(.*?)</dd>", page, re.S))
        self.assertEqual(
            lines,
            {
                "busy": "4 connections, round trip 75 ms (50 ms without a queue);"
                " the limit is the line",
                "new": "1 connection",
            },
        )

    async def test_a_model_is_complete_whose_manifest_is_not_among_the_blobs(self) -> None:
        """As Ollama up to 0.39 lays models out."""
        upstream, daemon = await self.running()
        await daemon.stop()
        model, storage = upstream.models[MODEL], daemon.service._settings.storage
        for path in (
            os.path.join(storage, "blobs", model.digest.replace(":", "-")),
            os.path.join(storage, "yukari", "catalog.sqlite3"),
        ):
            os.unlink(path)
        (path,) = Path(storage, "manifests").rglob("latest")
        self.assertEqual(path.read_bytes(), model.manifest_bytes)
        shutil.rmtree(os.path.join(storage, "manifests-v2"))
        daemon = await self.restarted(daemon, upstream)
        index = daemon.service.parts.management.index
        await until(lambda: index.looked)
        self.assertIn(">Complete<", await self.page(daemon))

    async def test_a_newer_version_upstream_is_shown_until_it_is_here(self) -> None:
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

    async def test_a_newer_version_that_is_on_its_way_is_shown(self) -> None:
        due = {"manifest_lifetime": "1ms", "invalidator_period": "50ms", "revalidate_after": "0s"}
        upstream, daemon = await self.running(**due)
        revalidator = daemon.library.revalidator
        assert revalidator is not None
        held = upstream.faults.add(Fault("store", "silence"))
        upstream.add_model(MODEL, [300_000], seed=9)
        await until(lambda: revalidator.newer(NAME, TAG, 0.0) == "")
        self.assertIn("Newer upstream, coming", await self.page(daemon))
        upstream.faults.remove(held)
        upstream.release()
        await until(lambda: revalidator.newer(NAME, TAG, 0.0) is None)
        await daemon.service.parts.management.index.settled()
        self.assertNotIn("Newer upstream", await self.page(daemon))

    async def test_an_upstream_that_asks_to_wait_is_shown_with_until_when(self) -> None:
        upstream, daemon = await self.running()
        upstream.faults.add(Fault("manifest", "error", status=429, retry_after=600, times=1))
        reply, _ = await self.ask(f"{daemon.url}/v2/library/other/manifests/latest")
        self.assertEqual(reply.status, 429)
        _, body = await self.ask(f"{daemon.url}/status")
        self.assertGreater(json.loads(body)["upstream"]["wait"], 500)
        page = await self.page(daemon)
        self.assertIn("Asks to wait", page)
        self.assertIn("it is not asked until <time", page)
        # An answer shows that it has changed its mind.
        await self.ask(f"{daemon.url}/v2/library/another/manifests/latest")
        _, body = await self.ask(f"{daemon.url}/status")
        self.assertEqual(json.loads(body)["upstream"]["wait"], 0.0)

    async def test_how_requests_get_past_challenges_is_shown(self) -> None:
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

    async def test_the_other_is_named_when_it_is_down(self) -> None:
        upstream = await self.upstream()
        other = await self.upstream("library/n:latest=3000")
        daemon = await self.daemon(upstream, upstreams=f"lab={other.url}")
        await other.down()
        for at in range(4):
            await self.ask(f"{daemon.url}/v2/lab--library/x{at}/manifests/latest")
        page = await self.page(daemon, "/", STRANGER)
        self.assertEqual(page.count("Not reachable"), 1)
        self.assertEqual((page.count("Has not answered yet"), page.count(">Reachable<")), (1, 0))
        await self.ask(f"{daemon.url}/v2/library/x/manifests/latest")
        page = await self.page(daemon, "/", STRANGER)
        self.assertEqual((page.count("Has not answered yet"), page.count(">Reachable<")), (0, 1))
        self.assertIn("cannot be reached", await self.page(daemon))
