"""What is stored stays fresh while upstream answers, and stays whatever upstream does."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from twisted.internet.interfaces import IHostnameResolver
from zope.interface import implementer

from tests.emulator import Emulator, Fault, Model
from tests.running import MODEL, Daemon, Hurried, RunningCase, reactor, stored_at, until
from yukari.library import manifests

ALWAYS_DUE = {"manifest_lifetime": "1ms", "invalidator_period": "50ms"}


class FreshnessCase(RunningCase):
    """A model that is stored, and a daemon that looks after it."""

    def where(self) -> dict[str, Any]:
        """How a daemon is made that stores there, each time with the same store."""
        return {}

    async def fresh(self, upstream: Emulator, **flags: Any) -> Daemon:
        """A daemon that checks nothing because of a pull."""
        return await self.daemon(upstream, **{"revalidate_after": "0s", **self.where(), **flags})

    async def stored(self, *models: str, **flags: Any) -> tuple[Emulator, Daemon]:
        """With its models stored, and nothing counted yet."""
        upstream = await self.upstream(*models)
        daemon = await self.fresh(upstream, **flags)
        for name in upstream.models:
            await self.pull(daemon, name)
        await daemon.idle()
        upstream.counters.clear()
        return upstream, daemon

    async def manifest(self, daemon: Daemon, reference: str = "latest") -> bytes:
        reply, body = await self.ask(f"{daemon.url}/v2/library/m/manifests/{reference}")
        self.assertEqual(reply.status, 200, body)
        return body

    async def served(self, daemon: Daemon, model: Model) -> None:
        """Returns once the daemon serves this model under its tag."""
        while await self.manifest(daemon) != model.manifest_bytes:
            await until(lambda: True)


class RevalidationTests(FreshnessCase):
    """The look that comes round every period."""

    async def test_a_tag_that_stands_still_costs_a_head_a_check_and_no_get(self) -> None:
        upstream, _ = await self.stored(**ALWAYS_DUE)
        await upstream.seen("manifest HEAD", 4)
        self.assertEqual(upstream.counters.requests["manifest GET"], 0)
        self.assertEqual(upstream.counters.requests["blob GET"], 0)

    async def test_what_was_checked_lately_is_not_asked_about(self) -> None:
        upstream, daemon = await self.stored(manifest_lifetime="1h", invalidator_period="10ms")
        looked = daemon.library.revalidator._loop
        await until(lambda: looked._runAtStart is not None)
        for _ in range(3):
            await self.successor(daemon)
        self.assertEqual(dict(upstream.counters.requests), {})

    async def successor(self, daemon: Daemon) -> None:
        """Returns when a look that began after now has ended."""
        revalidator = daemon.library.revalidator
        now = revalidator._looking
        await until(lambda: revalidator._looking is not now)

    async def test_a_tag_that_moves_is_replaced_once_its_blobs_are_here(self) -> None:
        upstream, daemon = await self.stored(**ALWAYS_DUE)
        old = upstream.models[MODEL]
        held = upstream.faults.add(Fault("store", "silence"))
        new = upstream.add_model(MODEL, [300_000, 2000], seed=9)
        await upstream.stalled(1)
        self.assertEqual(await self.manifest(daemon), old.manifest_bytes)
        upstream.faults.remove(held)
        upstream.release()
        await self.served(daemon, new)
        self.assertEqual(daemon.library.fills, {})
        pulled = await self.pull(daemon)
        self.assert_whole(pulled, new)

    async def test_the_replaced_manifest_is_still_there_by_digest_with_its_blobs(self) -> None:
        upstream, daemon = await self.stored(**ALWAYS_DUE)
        old = upstream.models[MODEL]
        new = upstream.add_model(MODEL, [300_000], seed=9)
        await self.served(daemon, new)
        await upstream.down()
        self.assertEqual(await self.manifest(daemon, old.digest), old.manifest_bytes)
        self.assert_stored(daemon, old)

    async def test_a_registry_whose_head_does_not_answer_is_asked_by_get(self) -> None:
        upstream = await self.upstream(head_manifests=False)
        daemon = await self.daemon(upstream, revalidate_after="0s", **ALWAYS_DUE)
        await self.pull(daemon)
        new = upstream.add_model(MODEL, [1000], seed=9)
        await self.served(daemon, new)

    async def test_a_registry_that_refuses_head_alone_is_asked_by_get(self) -> None:
        """Whatever it answers: a tag that moves is noticed."""
        for status in (400, 401, 403, 404, 500):
            upstream = await self.upstream()
            upstream.faults.add(Fault("manifest HEAD", "error", status=status))
            daemon = await self.daemon(upstream, revalidate_after="0s", **ALWAYS_DUE)
            await self.pull(daemon)
            new = upstream.add_model(MODEL, [1000], seed=status)
            await self.served(daemon, new)

    async def test_a_registry_that_leaves_head_without_a_reply_is_asked_by_get(self) -> None:
        """As behind a firewall that lets GET pass alone."""
        for seed, fault in (
            (9, Fault("manifest HEAD", "drop")),
            (10, Fault("manifest HEAD", "redirect", text="ftp://elsewhere.test/")),
        ):
            upstream = await self.upstream()
            upstream.faults.add(fault)
            daemon = await self.daemon(upstream, revalidate_after="0s", **ALWAYS_DUE)
            await self.pull(daemon)
            new = upstream.add_model(MODEL, [1000], seed=seed)
            await self.served(daemon, new)

    async def test_a_model_that_vanished_upstream_stays(self) -> None:
        upstream, daemon = await self.stored(**ALWAYS_DUE)
        model = upstream.models[MODEL]
        upstream.delete_model(MODEL)
        upstream.counters.clear()
        await upstream.seen("manifest HEAD", 1)
        await self.successor(daemon)
        self.assert_whole(await self.pull(daemon), model)

    async def _kept_through(self, *faults: Fault) -> None:
        upstream, daemon = await self.stored(**ALWAYS_DUE)
        model = upstream.models[MODEL]
        for fault in faults:
            upstream.faults.add(fault)
        await until(lambda: all(fault.happened for fault in faults))
        await self.successor(daemon)
        self.assert_whole(await self.pull(daemon), model)

    async def test_a_captive_portals_page_takes_no_manifests_place(self) -> None:
        await self._kept_through(
            Fault("manifest HEAD", "error", status=405), Fault("manifest GET", "portal")
        )

    async def test_a_truncated_manifest_takes_no_manifests_place(self) -> None:
        await self._kept_through(
            Fault("manifest HEAD", "error", status=405), Fault("manifest GET", "truncate", at=100)
        )

    async def test_errors_take_no_manifests_place(self) -> None:
        for status in (401, 403, 410, 429, 500, 503):
            await self._kept_through(Fault("manifest", "error", status=status))

    async def test_a_manifest_whose_blob_is_not_upstream_takes_no_manifests_place(self) -> None:
        upstream, daemon = await self.stored(**ALWAYS_DUE)
        old = upstream.models[MODEL]
        new = upstream.add_model(MODEL, [300_000, 2000], seed=9)
        gone = upstream.faults.add(Fault("blob", "error", status=404, digest=new.blobs[1][0]))
        await until(lambda: gone.happened >= 1)
        await self.successor(daemon)
        self.assertEqual(await self.manifest(daemon), old.manifest_bytes)

    async def test_failures_are_not_asked_about_every_period(self) -> None:
        upstream, daemon = await self.stored()
        storage = daemon.service._settings.storage
        for folder, _, names in os.walk(os.path.join(storage, "manifests")):
            for name in names:
                os.utime(os.path.join(folder, name), (0, 0))
        upstream.faults.add(Fault("manifest", "error", status=500))
        daemon = await self.restarted(daemon, upstream, invalidator_period="10ms")
        for _ in range(4):
            await self.successor(daemon)
        self.assertEqual(upstream.counters.requests["manifest HEAD"], 1)

    async def test_a_restart_with_everything_fresh_asks_upstream_nothing(self) -> None:
        upstream, daemon = await self.stored()
        daemon = await self.restarted(daemon, upstream, invalidator_period="10ms")
        await self.successor(daemon)
        await self.successor(daemon)
        self.assertEqual(dict(upstream.counters.requests), {})

    async def test_many_stale_ones_are_asked_about_a_few_at_a_time(self) -> None:
        models = [f"library/m{at}:latest=10" for at in range(30)]
        upstream, daemon = await self.stored(*models)
        held = upstream.faults.add(Fault("manifest", "silence"))
        daemon = await self.restarted(
            daemon, upstream, manifest_lifetime="1ms", invalidator_period="1h"
        )
        await upstream.stalled(5)
        self.assertEqual(upstream.counters.requests["manifest HEAD"], 5)
        upstream.faults.remove(held)
        upstream.release()
        await upstream.seen("manifest HEAD", 30)


class RefreshTests(FreshnessCase):
    """A pull is also a reason to look."""

    async def test_a_pull_is_served_at_once_and_the_new_version_comes_behind_it(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, revalidate_after="1ms")
        await self.pull(daemon)
        await daemon.idle()
        old = upstream.models[MODEL]
        new = upstream.add_model(MODEL, [100_000], seed=9)
        await until(lambda: True)
        self.assertEqual(await self.manifest(daemon), old.manifest_bytes)
        await self.served(daemon, new)

    async def test_pulls_within_the_time_ask_upstream_nothing(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, revalidate_after="1h")
        await self.pull(daemon)
        await daemon.idle()
        upstream.counters.clear()
        for _ in range(3):
            await self.pull(daemon)
        self.assertEqual(dict(upstream.counters.requests), {})

    async def test_a_silent_upstream_holds_up_no_pull_of_what_is_stored(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, revalidate_after="1ms")
        await self.pull(daemon)
        await daemon.idle()
        upstream.faults.add(Fault("any", "silence"))
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])


class Leaping(Hurried):
    """The test's reactor; its clock is so many seconds ahead."""

    ahead = 0.0

    def seconds(self) -> float:
        return super().seconds() + self.ahead


@implementer(IHostnameResolver)
class Nowhere:
    """Names below ``invalid`` have no address, which no server has to be asked for."""

    def __init__(self, other: Any) -> None:
        self._other = other

    def resolveHostName(self, receiver: Any, hostName: str, *more: Any, **named: Any) -> Any:
        if not hostName.endswith(".invalid"):
            return self._other.resolveHostName(receiver, hostName, *more, **named)
        receiver.resolutionBegan(self)
        receiver.resolutionComplete()
        return self


def resolve_nowhere(case: RunningCase) -> None:
    """For the time of the test."""
    before = reactor.nameResolver
    case.addCleanup(reactor.installNameResolver, before)
    reactor.installNameResolver(Nowhere(before))


class UpstreamErrorTests(FreshnessCase):
    """What a person is told when upstream has no good answer."""

    async def _asked(self, daemon: Daemon, path: str = "library/x/manifests/latest") -> Any:
        reply, body = await self.ask(f"{daemon.url}/v2/{path}")
        return reply.status, json.loads(body)["errors"][0], reply

    async def test_no_such_model_is_remembered_for_a_few_seconds_only(self) -> None:
        self.patch(manifests, "UNKNOWN_FOR", 3600.0)
        upstream, clock = await self.upstream(), Leaping(1.0)
        daemon = await self.daemon(upstream, clock=clock)
        for _ in range(5):
            status, error, _ = await self._asked(daemon)
            self.assertEqual((status, error["code"]), (404, "MANIFEST_UNKNOWN"))
        self.assertEqual(upstream.counters.requests["manifest GET"], 1)
        upstream.add_model("library/x:latest", [10])
        clock.ahead = manifests.UNKNOWN_FOR
        reply, _ = await self.ask(f"{daemon.url}/v2/library/x/manifests/latest")
        self.assertEqual(reply.status, 200)

    async def test_upstream_that_refuses_is_said_at_once_and_back_again_noticed(self) -> None:
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, clock=Hurried(20.0))
        await upstream.down()
        for _ in range(6):
            status, error, _ = await self._asked(daemon)
            self.assertEqual(status, 502)
            self.assertIn("cannot be reached", error["message"])
        upstream.up()
        while (await self.ask(f"{daemon.url}/v2/library/m/manifests/latest"))[0].status != 200:
            await until(lambda: True)

    async def test_a_silent_upstream_is_said_within_a_bounded_time(self) -> None:
        upstream = await self.upstream()
        upstream.faults.add(Fault("manifest", "silence"))
        daemon = await self.daemon(upstream, clock=Hurried(100.0))
        status, _, _ = await self._asked(daemon)
        self.assertEqual(status, 504)

    async def test_a_name_that_does_not_resolve_is_said(self) -> None:
        resolve_nowhere(self)
        upstream = await self.upstream()
        daemon = await self.daemon(upstream, upstream_registry="http://no-such-host.invalid/")
        status, error, _ = await self._asked(daemon)
        self.assertEqual(status, 502)
        self.assertIn("cannot be reached", error["message"])


class OutageTests(FreshnessCase):
    """A daemon that is started when upstream is not there."""

    async def _started(self, where: str, **keywords: Any) -> tuple[Daemon, Model]:
        """
        Start a daemon whose upstream is ``where``, on a store that has a model pulled under
        that URL from a registry elsewhere.
        """
        upstream = await self.upstream()
        address = where.partition("://")[2]
        storage = os.path.abspath(self.mktemp())
        daemon = await self.daemon(
            upstream, storage=storage, upstream_registry=where, upstream_address=upstream.url[7:]
        )
        await self.pull(daemon)
        await daemon.idle()
        await daemon.stop()
        self.assertEqual(os.listdir(os.path.join(storage, "manifests")), [address])
        flags = {**ALWAYS_DUE, "revalidate_after": "1ms", "upstream_registry": where}
        daemon = await self.daemon(upstream, storage=storage, **flags, **keywords)
        return daemon, upstream.models[MODEL]

    async def _serves_what_it_has(self, where: str, status: int, **keywords: Any) -> None:
        daemon, model = await self._started(where, **keywords)
        for _ in range(3):
            self.assert_whole(await self.pull(daemon), model)
        for path in ("manifests/latest", f"blobs/sha256:{'0' * 64}"):
            reply, body = await self.ask(f"{daemon.url}/v2/library/x/{path}")
            self.assertEqual(reply.status, status)
            self.assertIn("upstream", json.loads(body)["errors"][0]["message"])
        self.assert_whole(await self.pull(daemon), model)

    async def test_refusing(self) -> None:
        await self._serves_what_it_has("http://127.0.0.1:9", 502)

    async def test_its_name_leads_nowhere(self) -> None:
        resolve_nowhere(self)
        await self._serves_what_it_has("http://no-such-host.invalid", 502)

    async def test_it_accepts_and_never_answers(self) -> None:
        """No pull of what is stored waits for it: the first ends before any question does."""
        hole = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(hole.close)
        where = f"http://127.0.0.1:{hole.getsockname()[1]}"
        daemon, model = await self._started(where)
        revalidator = daemon.library.revalidator
        await until(lambda: revalidator._checking)
        self.assert_whole(await self.pull(daemon), model)
        self.assertTrue(revalidator._checking)
        self.assertEqual(revalidator._failed, {})
        await daemon.stop()
        await self._serves_what_it_has(where, 504, clock=Hurried(100.0))


class OfflineTests(FreshnessCase):
    """A cache that must open no connection."""

    async def test_what_is_stored_is_served_and_a_miss_says_that_it_is_offline(self) -> None:
        upstream, daemon = await self.stored()
        model = upstream.models[MODEL]
        daemon = await self.restarted(daemon, upstream, offline=True, **ALWAYS_DUE)
        self.assert_whole(await self.pull(daemon), model)
        status = {}
        for path in ("manifests/latest", f"blobs/sha256:{'0' * 64}"):
            reply, body = await self.ask(f"{daemon.url}/v2/library/x/{path}")
            status[path] = reply.status
            self.assertIn("offline", json.loads(body)["errors"][0]["message"])
        self.assertEqual(set(status.values()), {503})
        self.assertEqual(dict(upstream.counters.requests), {})

    async def test_a_fill_that_an_earlier_process_left_waits(self) -> None:
        upstream, daemon = await self.under_way()
        daemon = await self.restarted(daemon, upstream, offline=True)
        self.assertIn(upstream.models[MODEL].layers[0][0], map(str, daemon.library.fills))
        upstream.settings.line = None
        daemon = await self.restarted(daemon, upstream)
        await daemon.idle()
        self.assert_stored(daemon, upstream.models[MODEL])


class ListingTests(FreshnessCase):
    """What OCI clients ask about what is stored."""

    async def test_the_catalog_and_the_tags_are_paged(self) -> None:
        models = [f"library/m{at}:{tag}=10" for at in range(3) for tag in ("a", "b", "c")]
        _, daemon = await self.stored(*models)
        for path, key, expected in (
            ("_catalog", "repositories", ["library/m0", "library/m1", "library/m2"]),
            ("library/m1/tags/list", "tags", ["a", "b", "c"]),
        ):
            found: list[str] = []
            where = f"/v2/{path}?n=2"
            while where:
                reply, body = await self.ask(daemon.url + where)
                page = json.loads(body)[key]
                self.assertLessEqual(len(page), 2)
                found += page
                link = reply.headers.get("link", "")
                where = link[1 : link.index(">")] if link else ""
            self.assertEqual(found, expected)

    async def test_a_page_of_no_size_is_refused(self) -> None:
        _, daemon = await self.stored()
        for n in ("0", "-1", "x", "", "1" * 500):
            reply, _ = await self.ask(f"{daemon.url}/v2/_catalog?n={n}")
            self.assertIn(reply.status, (200, 400) if len(n) != 2 else (400,))

    async def test_manifests_are_served_by_digest(self) -> None:
        upstream, daemon = await self.stored()
        model = upstream.models[MODEL]
        self.assertEqual(await self.manifest(daemon, model.digest), model.manifest_bytes)
        self.assertTrue(stored_at(daemon, model.blobs[0][0]))
