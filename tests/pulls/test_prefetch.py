"""Blobs that are fetched before they are asked for, and what is said of those that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attrs import define, field

from tests.clients import Reply
from tests.emulator import Emulator, Fault
from tests.running import LOOK, MODEL, Daemon, Hurried, RunningCase, reactor, until
from yukari.library import blobs, prefetch
from yukari.names import DEFAULT, Digest, Repository, Tag


class PrefetchCase(RunningCase):
    """A model with three layers, and a daemon."""

    async def both(self, *faults: Fault, **flags: Any) -> tuple[Emulator, Daemon]:
        upstream = await self.upstream()
        for fault in faults:
            upstream.faults.add(fault)
        return upstream, await self.daemon(upstream, **flags)

    async def manifest(self, daemon: Daemon) -> tuple[Reply, bytes]:
        return await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")

    async def blob(self, daemon: Daemon, digest: str, method: str = "GET") -> tuple[Reply, bytes]:
        return await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}", {}, method)


class ModeTests(PrefetchCase):
    async def test_asked_fetches_nothing_for_a_manifest_and_the_rest_for_a_blob(self) -> None:
        upstream, daemon = await self.both(prefetch="asked")
        model = upstream.models[MODEL]
        await self.manifest(daemon)
        await daemon.idle()
        self.assertEqual(upstream.counters.sent, 0)
        digest, size = model.config  # as one who inspects the model
        await self.blob(daemon, digest)
        await daemon.idle()
        self.assertEqual(dict(upstream.counters.sent_by_digest), {digest: size})
        await self.blob(daemon, model.layers[1][0])
        await daemon.idle()
        self.assert_sent_once(upstream, model)

    async def test_none_fetches_what_is_asked_for_alone(self) -> None:
        upstream, daemon = await self.both(prefetch="none")
        model = upstream.models[MODEL]
        await self.manifest(daemon)
        digest, size = model.layers[1]
        await self.blob(daemon, digest)
        await daemon.idle()
        self.assertEqual(dict(upstream.counters.sent_by_digest), {digest: size})

    async def test_pulls_work_in_every_mode(self) -> None:
        for mode in ("all", "asked", "none"):
            upstream, daemon = await self.both(prefetch=mode)
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            await daemon.idle()
            self.assert_sent_once(upstream, upstream.models[MODEL])


class HoursTests(PrefetchCase):
    async def test_what_an_admin_pulls_does_not_wait_for_the_hour(self) -> None:
        upstream, daemon = await self.both()
        scheduler = daemon.service.parts.scheduler
        scheduler.may_fetch_ahead = lambda: False
        self.addCleanup(setattr, scheduler, "may_fetch_ahead", lambda: True)
        name = Repository(DEFAULT, "library", "m")
        for changed in (False, True):
            if changed:
                upstream.add_model(MODEL, [3000, 700], seed=9)
            pull = daemon.service.parts.pulls.start(name, Tag("latest"), "")
            await pull.ended.wait()
            self.assertIsNone(pull.error)
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])


WORD_WITHIN = 2.125
"""Seconds like no others, by which `Patient` knows them."""


@define(eq=False)
class Later:
    """A call that is due when a condition holds; as much of IDelayedCall as is needed."""

    _holds: Callable[[], object]
    _call: Callable[[], object]
    _timer: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = reactor.callLater(LOOK, self._look)

    def _look(self) -> None:
        if self._holds():
            self._call()
        else:
            self._timer = reactor.callLater(LOOK, self._look)

    def active(self) -> bool:
        return bool(self._timer.active())

    def cancel(self) -> None:
        self._timer.cancel()


class Patient(Hurried):
    """A clock by which the wait for a first word is over when ``over()`` says so."""

    over: Callable[[], object]

    def callLater(self, delay: float, *call: Any, **keywords: Any) -> Any:
        if delay == WORD_WITHIN:
            return Later(lambda: self.over(), *call)
        return super().callLater(delay, *call, **keywords)


class ReasonTests(PrefetchCase):
    """A blob that upstream refuses is told of in the manifest's place: clients show that."""

    async def test_a_refusal_is_the_manifests_answer_from_the_first_pull_on(self) -> None:
        self.patch(prefetch, "FIRST_WORD_WITHIN", WORD_WITHIN)
        self.patch(prefetch, "TOLD_OF_WAIT", WORD_WITHIN)
        self.patch(blobs, "FIRST_WORD_WITHIN", WORD_WITHIN)
        for status, shown in ((403, 403), (404, 502), (500, 502), (503, 502), (429, 429)):
            clock = Patient(10)
            upstream, daemon = await self.both(clock=clock)
            digest, _ = upstream.models[MODEL].layers[0]
            fault = upstream.faults.add(Fault("blob", "error", status=status, digest=digest))
            # A busy machine takes its time to find out that upstream keeps refusing it.
            refusal, faults = daemon.library.filling.refusal, upstream.faults
            clock.over = lambda refusal=refusal, faults=faults, digest=digest: (
                faults.standing and refusal(Digest.parse(digest))
            )
            for _ in range(2):
                reply, body = await self.manifest(daemon)
                self.assertEqual(reply.status, shown, body)
                self.assertIn(
                    "library/m cannot be pulled", json.loads(body)["errors"][0]["message"]
                )
            await until(lambda over=clock.over: over())  # It may just be asked for again.
            reply, _ = await self.blob(daemon, digest, "HEAD")
            self.assertGreaterEqual(reply.status, 400)
            self.assertIn("cannot be pulled", await self.failing(self.pull(daemon)))
            upstream.faults.remove(fault)
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_a_blob_that_fails_for_long_is_said_at_once_then(self) -> None:
        for status in (500, 429):
            upstream = await self.upstream()
            daemon = await self.daemon(upstream, clock=Hurried(20))
            digest, _ = upstream.models[MODEL].layers[0]
            upstream.faults.add(Fault("blob", "error", status=status, digest=digest))
            await self.manifest(daemon)
            refusal = daemon.library.filling.refusal
            await until(lambda r=refusal, d=digest: r(Digest.parse(d)))
            reply, _ = await self.manifest(daemon)
            self.assertEqual(reply.status, 502 if status == 500 else 429)

    async def test_a_stored_model_is_served_whatever_upstream_says_of_its_blobs(self) -> None:
        upstream, daemon = await self.both()
        await self.pull(daemon)
        await daemon.idle()
        upstream.faults.add(Fault("blob", "error", status=403))
        daemon = await self.restarted(daemon, upstream)
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
