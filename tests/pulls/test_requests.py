"""Single requests to the whole daemon: blobs by HEAD and by Range, names, methods, small pages."""

from __future__ import annotations

import json
import os
from typing import Any, Optional

from tests.clients import Reply
from tests.emulator import Emulator, Fault
from tests.running import MODEL, Daemon, RunningCase, until


class RequestCase(RunningCase):
    """A daemon, and one blob to ask for."""

    upstream_: Emulator
    daemon_: Daemon

    async def blob(self, *, warm: bool = False) -> tuple[str, bytes]:
        """The blob's URL at a new daemon, and its bytes; ``warm`` if it is to be stored already."""
        self.upstream_ = await self.upstream(f"{MODEL}=200KB")
        self.daemon_ = await self.daemon(self.upstream_)
        model = self.upstream_.models[MODEL]
        digest, _ = model.layers[0]
        if warm:
            await self.pull(self.daemon_)
            await self.daemon_.idle()
            self.upstream_.counters.clear()
        return f"{self.daemon_.url}/v2/library/m/blobs/{digest}", model.read(digest)

    def assert_refused(self, answer: tuple[Reply, bytes], status: int, code: str) -> str:
        """A refusal in OCI's form; its message."""
        reply, body = answer
        self.assertEqual((reply.status, reply.headers["content-type"]), (status, JSON), body[:100])
        (error,) = json.loads(body)["errors"]
        self.assertEqual(error["code"], code)
        self.assertTrue(error["message"])
        return str(error["message"])


JSON = "application/json; charset=utf-8"


class HeadTests(RequestCase):
    """HEAD of a blob."""

    async def test_of_one_that_a_manifest_named_costs_upstream_nothing(self) -> None:
        url, body = await self.blob()
        await self.ask(f"{self.daemon_.url}/v2/library/m/manifests/latest", method="HEAD")
        self.upstream_.counters.clear()
        reply, _ = await self.ask(url, method="HEAD")
        self.assertEqual((reply.status, reply.length), (200, len(body)))
        self.assertEqual(self.upstream_.counters.requests, {})

    async def test_of_an_unknown_one_costs_one_head_and_starts_nothing(self) -> None:
        url, body = await self.blob()
        reply, _ = await self.ask(url, method="HEAD")
        self.assertEqual((reply.status, reply.length), (200, len(body)))
        self.assertEqual(self.upstream_.counters.requests, {"blob HEAD": 1})
        self.assertEqual(self.daemon_.library.fills, {})

    async def test_of_one_that_upstream_does_not_have_is_404(self) -> None:
        url, _ = await self.blob()
        unknown = url[:-4] + "0000"
        reply, _ = await self.ask(unknown, method="HEAD")
        self.assertEqual(reply.status, 404)
        self.assert_refused(await self.ask(unknown), 404, "BLOB_UNKNOWN")

    async def test_tells_the_size_where_upstreams_head_does_not(self) -> None:
        for fault in (
            Fault("blob HEAD", "no-length"),
            Fault("blob HEAD", "error", status=405),
        ):
            url, body = await self.blob()
            self.upstream_.faults.add(fault)
            reply, _ = await self.ask(url, method="HEAD")
            self.assertEqual((reply.status, reply.length), (200, len(body)))

    async def test_of_anything_has_a_length_and_no_body(self) -> None:
        url, _ = await self.blob(warm=True)
        top = self.daemon_.url
        for asked in (
            url,
            url[:-4] + "0000",
            f"{top}/",
            f"{top}/healthz",
            f"{top}/fills",
            f"{top}/v2/",
            f"{top}/v2/library/m/manifests/latest",
            f"{top}/v2/library/m/manifests/other",
            f"{top}/v2/library/m/tags/list",
            f"{top}/nothing",
        ):
            got, body = await self.ask(asked)
            reply, _ = await self.ask(asked, method="HEAD")
            self.assertEqual((asked, reply.status), (asked, got.status))
            self.assertEqual((asked, reply.length), (asked, len(body)))

    async def test_of_a_range_is_of_the_whole(self) -> None:
        url, body = await self.blob(warm=True)
        reply, _ = await self.ask(url, {"Range": "bytes=0-9"}, "HEAD")
        self.assertEqual((reply.status, reply.length), (200, len(body)))


class RangeContract:
    """Parts of a blob, whether it is stored or on its way."""

    warm: bool

    async def test_a_part_is_206_and_says_which(self: Any) -> None:
        url, whole = await self.blob(warm=self.warm)
        size = len(whole)
        for asked, (start, end) in (
            ("bytes=5-9", (5, 10)),
            ("bytes=0-0", (0, 1)),
            ("bytes=199990-", (199_990, size)),
            ("bytes=-7", (size - 7, size)),
            ("bytes=-999999999", (0, size)),
            ("bytes=199990-999999999", (199_990, size)),
            (f"bytes=0-{size - 1}", (0, size)),
        ):
            reply, body = await self.ask(url, {"Range": asked})
            self.assertEqual((asked, reply.status), (asked, 206))
            self.assertEqual(reply.headers["content-range"], f"bytes {start}-{end - 1}/{size}")
            self.assertEqual((reply.length, body == whole[start:end]), (end - start, True))
            self.assertNotIn("location", reply.headers)

    async def test_what_lies_outside_is_416(self: Any) -> None:
        url, whole = await self.blob(warm=self.warm)
        for asked in (f"bytes={len(whole)}-", "bytes=-0", "bytes=99999999999999999999999-"):
            answer = await self.ask(url, {"Range": asked})
            self.assert_refused(answer, 416, "RANGE_INVALID")
            self.assertEqual(answer[0].headers["content-range"], f"bytes */{len(whole)}")

    async def test_what_is_no_single_range_is_the_whole(
        self: Any,
    ) -> None:
        url, whole = await self.blob(warm=self.warm)
        for asked in ("bytes=0-1,5-6", "bytes=0-,0-,0-,0-", "bytes=9-5", "lines=1-2", "bytes=x-y"):
            reply, body = await self.ask(url, {"Range": asked})
            self.assertEqual((asked, reply.status, body == whole), (asked, 200, True))

    async def test_an_unranged_reply_tells_where_it_is_from(
        self: Any,
    ) -> None:
        url, whole = await self.blob(warm=self.warm)
        reply, body = await self.ask(url)
        self.assertEqual((reply.status, body == whole), (200, True))
        self.assertEqual(self.daemon_.url + reply.headers["location"], url)
        self.assertEqual(reply.headers["accept-ranges"], "bytes")
        self.assertEqual(reply.headers["docker-content-digest"], url[-71:])

    async def test_who_has_the_digest_gets_304(self: Any) -> None:
        url, _ = await self.blob(warm=self.warm)
        for tag in (f'"{url[-71:]}"', f'W/"{url[-71:]}"', f'"other", "{url[-71:]}"', "*"):
            for method in ("GET", "HEAD"):
                reply, body = await self.ask(url, {"If-None-Match": tag}, method)
                self.assertEqual((reply.status, body), (304, b""))
        reply, _ = await self.ask(url, {"If-None-Match": '"other"'})
        self.assertEqual(reply.status, 200)

    async def test_if_range_of_the_digest_gets_the_part_and_of_another_the_whole(
        self: Any,
    ) -> None:
        url, whole = await self.blob(warm=self.warm)
        for tag, expected in ((f'"{url[-71:]}"', (206, 5)), ('"other"', (200, len(whole)))):
            reply, body = await self.ask(url, {"Range": "bytes=0-4", "If-Range": tag})
            self.assertEqual((reply.status, len(body)), expected)


class WarmRangeTests(RangeContract, RequestCase):
    """Ranges of a blob that is stored."""

    warm = True


class ColdRangeTests(RangeContract, RequestCase):
    """Ranges of a blob that nobody has asked for before."""

    warm = False

    async def test_a_part_in_the_middle_does_not_wait_for_what_is_before_it(self) -> None:
        upstream = await self.upstream(f"{MODEL}=4MB", line=50_000)
        daemon = await self.daemon(upstream)
        model = upstream.models[MODEL]
        digest, size = model.layers[0]
        url = f"{daemon.url}/v2/library/m/blobs/{digest}"
        headers = {"Range": f"bytes={size - 1000}-"}
        _, body = await self.ask(url, headers)
        self.assertEqual(body, model.read(digest, size - 1000))
        self.assertLess(upstream.counters.sent, size // 2)


class NameTests(RequestCase):
    """Names that are unusual, and names that are none."""

    async def test_hyphens_dots_and_capitals_are_kept(self) -> None:
        names = ("My-User/My.Model-v2:Q4_K_M.x", "library/qwen2.5-coder:7b-instruct", "a/_b:_")
        upstream = await self.upstream(*(f"{name}=3000@{at}" for at, name in enumerate(names)))
        daemon = await self.daemon(upstream)
        for _ in range(2):
            for name in names:
                self.assert_whole(await self.pull(daemon, name), upstream.models[name])
            await daemon.idle()
            await upstream.down()

    async def test_what_could_leave_the_store_is_refused(self) -> None:
        upstream = await self.upstream()
        secret = self.mktemp()
        with open(secret, "w") as opened:
            opened.write("a secret")
        daemon = await self.daemon(upstream)
        for name in ("..", "%2e%2e", "%2E%2E%2F..", "..%2f..", ".", "%00", "m%5c..", "%c3%a4", "-"):
            for path in (
                f"{name}/m/manifests/latest",
                f"library/{name}/manifests/latest",
                f"library/m/manifests/{name}",
                f"library/m/manifests/{name}/{name}/{name}/{secret}",
                f"library/m/blobs/{name}",
                f"{name}/{name}/{name}/{name}",
                f"library/m/blobs/sha256:{name}",
                f"{name}/m/tags/list",
            ):
                reply, body = await self.ask(f"{daemon.url}/v2/{path}")
                self.assertIn(reply.status, (400, 404), path)
                self.assertIn("errors", json.loads(body))
                self.assertNotIn(b"a secret", body)
        self.assertEqual(upstream.counters.requests, {})

    async def test_paths_that_climb_are_nothing(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream)
        for path in ("/../etc/passwd", "/v2/../../etc/passwd", "/%2e%2e/passwd", "//etc/passwd"):
            reply, body = await self.ask(daemon.url + path)
            self.assertIn(reply.status, (400, 404), path)
            self.assertIn("errors", json.loads(body))

    async def test_a_digest_that_is_none_is_400(self) -> None:
        url, _ = await self.blob()
        for digest in ("latest", "sha256:abc", url[-71:].upper(), "md5:" + "0" * 32, url[-71:-1]):
            answer = await self.ask(url.replace(url[-71:], digest))
            self.assert_refused(answer, 400, "DIGEST_INVALID")
        self.assertEqual(self.upstream_.counters.requests, {})


class MethodTests(RequestCase):
    """What is neither GET nor HEAD."""

    async def test_nothing_can_be_pushed_or_deleted(self) -> None:
        url, whole = await self.blob(warm=True)
        top = self.daemon_.url
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"):
            for asked in (
                url,
                f"{top}/v2/",
                f"{top}/v2/library/m/manifests/latest",
                f"{top}/v2/library/m/blobs/uploads/",
                f"{top}/",
                f"{top}/healthz",
            ):
                answer = await self.ask(asked, method=method)
                self.assert_refused(answer, 405, "UNSUPPORTED")
                self.assertEqual(answer[0].headers["allow"], "GET, HEAD")
        _, body = await self.ask(url)
        self.assertEqual(body, whole)
        self.assertEqual(self.upstream_.counters.requests, {})


class PageTests(RequestCase):
    """What is there beside the registry."""

    async def test_v2_says_that_a_registry_is_here(self) -> None:
        daemon = await self.daemon(await self.upstream())
        for path in ("/v2/", "/v2"):
            reply, body = await self.ask(daemon.url + path)
            self.assertEqual((reply.status, body), (200, b"{}"))
            version = reply.headers["docker-distribution-api-version"]
            self.assertEqual(version, "registry/2.0")

    async def test_the_front_page_says_how_to_pull(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream)
        reply, body = await self.ask(f"{daemon.url}/")
        self.assertEqual(reply.status, 200)
        host = daemon.url.partition("//")[2]
        self.assertIn(f"ollama pull --insecure {host}/library/", body.decode())
        self.assertIn(upstream.url, body.decode())

    async def test_health_needs_no_upstream(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream)
        await upstream.down()
        reply, body = await self.ask(f"{daemon.url}/healthz")
        self.assertEqual((reply.status, body), (200, b"OK\n"))

    async def test_tags_are_those_that_are_stored(self) -> None:
        upstream = await self.upstream(*(f"library/m:{tag}=10@{tag}" for tag in ("1", "2", "3")))
        daemon = await self.daemon(upstream)
        url = f"{daemon.url}/v2/library/m/tags/list"
        self.assert_refused(await self.ask(url), 404, "NAME_UNKNOWN")
        for tag in ("3", "1"):
            await self.pull(daemon, f"library/m:{tag}")
        _, body = await self.ask(url)
        self.assertEqual(json.loads(body), {"name": "library/m", "tags": ["1", "3"]})


class FillsPageTests(RequestCase):
    """``/fills``, while a slow fill goes on."""

    async def slow(self) -> tuple[Daemon, Emulator, str]:
        """A blob that is on its way, in its middle; its digest."""
        upstream = await self.upstream(f"{MODEL}=1MB,10", line=2_000_000)
        daemon = await self.daemon(upstream)
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        digest, size = upstream.models[MODEL].layers[0]
        await until(lambda: upstream.counters.sent_by_digest[digest] >= size // 4)
        upstream.settings.line = 20_000
        await until(lambda: (fill := daemon.fill(digest)) and fill.coverage.plan.covered.total)
        return daemon, upstream, digest

    async def test_it_tells_what_is_on_its_way(self) -> None:
        daemon, _, digest = await self.slow()
        reader = await self.http().open("GET", f"{daemon.url}/v2/a/b/blobs/{digest}", {})
        reply, body = await self.ask(f"{daemon.url}/fills")
        self.assertEqual((reply.status, reply.headers["content-type"]), (200, JSON))
        (fill,) = [fill for fill in json.loads(body)["fills"] if fill["digest"] == digest]
        self.assertEqual((fill["model"], fill["size"]), ("library/m", 1_000_000))
        self.assertEqual(fill["readers"], 1)
        self.assertGreater(fill["percent"], 0)
        self.assertLess(fill["percent"], 100)
        self.assertIn("rate", fill)
        reader.drop()
        alone = json.loads((await self.ask(f"{daemon.url}/fills/{digest}"))[1])
        self.assertEqual(alone["digest"], digest)

    async def test_nothing_is_shown_where_nothing_is_on_its_way(self) -> None:
        daemon = await self.daemon(await self.upstream())
        _, body = await self.ask(f"{daemon.url}/fills")
        self.assertEqual(json.loads(body), {"fills": [], "hosts": []})

    async def test_deleting_one_stops_it_and_leaves_nothing(self) -> None:
        daemon, upstream, digest = await self.slow()
        reply, _ = await self.ask(f"{daemon.url}/fills/{digest}", method="DELETE")
        self.assertEqual(reply.status, 200)
        self.assertIsNone(daemon.fill(digest))
        await upstream.idle()
        spools = os.path.join(daemon.service._settings.storage, "yukari", "spool")
        left = [name for name in os.listdir(spools) if name.startswith(digest.replace(":", "-"))]
        self.assertEqual(left, [])
        upstream.settings.line = None
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_a_reader_of_a_deleted_fill_is_cut_off(self) -> None:
        daemon, _, digest = await self.slow()
        reading = self.begin(self.read(f"{daemon.url}/v2/library/m/blobs/{digest}"))
        fill = daemon.fill(digest)
        assert fill is not None
        await until(lambda: fill.coverage.readers)
        await self.ask(f"{daemon.url}/fills/{digest}", method="DELETE")
        self.assertIsNone(await reading)

    async def read(self, url: str) -> Optional[bytes]:
        """A blob's bytes, None where the connection broke before the last."""
        reply = await self.http().open("GET", url, {})
        try:
            return await reply.body()
        except Exception:
            return None

    async def test_deleting_what_is_not_on_its_way_is_404(self) -> None:
        daemon = await self.daemon(await self.upstream())
        for path, status, code in (
            (f"/fills/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
            ("/fills/other", 400, "DIGEST_INVALID"),
            ("/fills", 400, "DIGEST_INVALID"),
        ):
            answer = await self.ask(daemon.url + path, method="DELETE")
            self.assert_refused(answer, status, code)
