"""When upstream is asked about what is stored, by the test's own clock."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Optional

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from tests.library.test_library import manifest_of
from tests.storage.memory import MemoryStore
from tests.storage.strategies import result_of
from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError, blob_unknown, upstream_unreachable
from yukari.library.agents import UserAgents, version
from yukari.library.revalidator import (
    FIRST_LATE,
    MAX_CONCURRENT_CHECKS,
    MAX_CONCURRENT_UPDATES,
    PAGE,
    Freshness,
    Revalidator,
)
from yukari.library.versions import Versions
from yukari.manifest import LARGE, Manifest, Variant
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.sources.circuit import Circuit

HOUR, DAY = 3600.0, 24 * 3600.0
TURN = 2.0**-10
LATEST = Tag("latest")
OLD, NEW = manifest_of(b"old"), manifest_of(b"new")


class Turns(Clock):
    """A clock whose calls come in a later turn, as a reactor's do; a turn takes `TURN` seconds."""

    def callLater(self, delay: float, *call: Any, **keywords: Any) -> Any:
        return super().callLater(max(delay, TURN), *call, **keywords)


def named(number: int) -> Repository:
    return Repository(DEFAULT, "library", f"m{number}")


@define(eq=False)
class Registry:
    """An upstream that takes ``takes`` seconds for an answer."""

    clock: Clock
    takes: float = 0.5
    has: dict[Repository, Manifest] = field(factory=dict)
    """What is not `OLD`."""
    down: bool = False
    silent: tuple[str, ...] = ()
    """Registries that are down."""
    requires: tuple[int, ...] = ()
    """The version that an Ollama must have."""
    asked: list[tuple[float, Repository]] = field(factory=list)
    under_way: int = 0
    most: int = 0
    """So many questions at a time, at most."""
    _circuits: dict[str, Circuit] = field(factory=dict, init=False)

    def _circuit(self, name: Repository) -> Circuit:
        return self._circuits.setdefault(name.registry, Circuit(self.clock))

    def is_down(self, name: Repository) -> bool:
        return self._circuit(name).is_open

    async def manifest_digest(
        self, name: Repository, tag: Tag, agent: str, variant: Variant
    ) -> Optional[Digest]:
        self._circuit(name).enter()
        self.asked.append((self.clock.seconds(), name))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.takes:
            await deferLater(self.clock, self.takes)
        self.under_way -= 1
        if self.down or name.registry in self.silent:
            failed = upstream_unreachable("it is down")
            self._circuit(name).failed(failed)
            raise failed
        self._circuit(name).succeeded()
        if agent.startswith("ollama/") and version(agent) < self.requires:
            raise RegistryError("UNSUPPORTED", "needs a newer Ollama", 412)
        return self.has.get(name, OLD).digest

    async def manifest(self, name: Repository, tag: Tag, agent: str, variant: Variant) -> Manifest:
        return self.has[name]


@define(eq=False)
class Shelf:
    """As much of a `Prefetch` as the revalidator needs; blobs come when the test says so."""

    bringing: list[Deferred[None]] = field(factory=list)

    async def ensure_stored(
        self, name: Repository, manifest: Manifest, *, at_any_hour: bool = False
    ) -> None:
        waiting: Deferred[None] = Deferred()
        self.bringing.append(waiting)
        await waiting


class RevalidatorCase(SynchronousTestCase):
    lifetime = 10 * DAY

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000 * DAY)
        self.store = MemoryStore()
        self.upstream = Registry(self.clock)

    def stored(self, count: int, age: float) -> None:
        """So many models, last checked so many seconds ago."""
        for number in range(count):
            self.put(number, age)

    def put(self, number: int, age: float) -> None:
        checked_at = self.clock.seconds() - age
        result_of(self.store.put_manifest(named(number), LATEST, OLD, checked_at))

    def daemon(self, seed: int = 0, **keywords: Any) -> Revalidator:
        freshness = Freshness(HOUR, self.lifetime, 0.0)
        shelf: Any = Shelf()
        nothing: Any = None
        upstream: Any = self.upstream
        versions = Versions(
            store=self.store,
            upstream=upstream,
            blobs=nothing,
            children=nothing,
            prefetch=shelf,
            agents=UserAgents(),
            now=self.clock.seconds,
        )
        made = Revalidator(
            store=self.store,
            upstream=self.upstream,  # type: ignore[arg-type]
            versions=versions,
            rules=ModelRules("registry.invalid", others={"hf.co": None}),
            clock=self.clock,
            freshness=evolve(freshness, **keywords),
            now=self.clock.seconds,
            random=Random(seed),
        )
        self.addCleanup(lambda: result_of(made.stop()))
        return made

    def run_for(self, seconds: float) -> None:
        """From one thing that happens to the next."""
        end = self.clock.seconds() + seconds
        while (calls := self.clock.getDelayedCalls()) and calls[0].getTime() <= end:
            self.clock.advance(calls[0].getTime() - self.clock.seconds())
        self.clock.advance(end - self.clock.seconds())

    def checked(self, number: int) -> float:
        """Seconds since a model's last check."""
        found = result_of(self.store.get_manifest(named(number), LATEST))
        assert found is not None
        return self.clock.seconds() - found.checked_at


class LookTests(RevalidatorCase):
    def test_thirty_stale_ones_take_three_seconds_and_not_thirty_at_once(self) -> None:
        self.stored(30, 2 * self.lifetime)
        self.daemon().start()
        self.run_for(FIRST_LATE + 30 / MAX_CONCURRENT_CHECKS * self.upstream.takes + 1)
        self.assertEqual(len(self.upstream.asked), 30)
        self.assertEqual(self.upstream.most, MAX_CONCURRENT_CHECKS)

    def test_a_check_that_lies_far_ahead_was_none(self) -> None:
        """By a clock that was wrong then, or is now."""
        self.stored(1, -300 * DAY)
        self.put(1, -60.0)
        daemon = self.daemon(refresh_after=60.0)
        daemon.start()
        self.run_for(HOUR)
        self.assertEqual([name for _, name in self.upstream.asked], [named(0)])
        self.assertLess(self.checked(0), HOUR)

    def test_no_turn_of_the_reactor_asks_about_more_than_a_few(self) -> None:
        """Though upstream answers at once, as an open circuit does."""
        self.upstream.takes = 0
        self.upstream.clock = self.clock = Turns()
        self.clock.advance(1000 * DAY)
        self.stored(3 * PAGE, 2 * self.lifetime)
        self.daemon().start()
        before = len(self.upstream.asked)
        while before < 3 * PAGE:
            self.clock.advance(TURN)
            self.assertLessEqual(len(self.upstream.asked) - before, MAX_CONCURRENT_CHECKS)
            before = len(self.upstream.asked)

    def test_an_upstream_that_is_down_is_not_asked_about_each(self) -> None:
        self.stored(100, 2 * self.lifetime)
        self.upstream.down = True
        self.daemon().start()
        self.run_for(3 * HOUR)
        self.assertLess(len(self.upstream.asked), 4 * MAX_CONCURRENT_CHECKS)
        self.assertTrue(all(self.checked(number) > self.lifetime for number in range(100)))

    def test_one_registry_that_is_down_holds_up_no_other(self) -> None:
        """Neither the one that is listed first nor the one behind it."""
        for silent, other in ((DEFAULT, "hf.co"), ("hf.co", DEFAULT)):
            self.setUp()
            self.stored(2 * PAGE, 2 * self.lifetime)
            for number in range(20):
                name = Repository("hf.co", "library", f"m{number}")
                checked_at = self.clock.seconds() - 2 * self.lifetime
                result_of(self.store.put_manifest(name, LATEST, OLD, checked_at))
            self.upstream.silent = (silent,)
            self.daemon().start()
            self.run_for(HOUR / 2)
            asked = Counter(name.registry for _, name in self.upstream.asked)
            self.assertEqual(asked[other], 20 if other else 2 * PAGE)
            self.assertLess(asked[silent], 3 * MAX_CONCURRENT_CHECKS)

    def test_each_registry_has_a_lifetime_of_its_own(self) -> None:
        self.stored(1, 2 * self.lifetime)
        name = Repository("hf.co", "library", "m")
        checked_at = self.clock.seconds() - 2 * self.lifetime
        result_of(self.store.put_manifest(name, LATEST, OLD, checked_at))
        self.daemon(lifetimes={"hf.co": 5 * self.lifetime}).start()
        self.run_for(HOUR)
        self.assertEqual([name for _, name in self.upstream.asked], [named(0)])

    def test_back_again_it_is_asked_about_all_of_them(self) -> None:
        self.stored(100, 2 * self.lifetime)
        self.upstream.down = True
        self.daemon().start()
        self.run_for(HOUR / 2)
        self.upstream.down = False
        self.run_for(5 * HOUR)
        self.assertTrue(all(self.checked(number) < 6 * HOUR for number in range(100)))

    def test_what_was_stored_together_is_not_due_together(self) -> None:
        self.stored(200, 0)
        self.daemon().start()
        self.run_for(self.lifetime + 2 * HOUR)
        hours = Counter(round(when / HOUR) for when, _ in self.upstream.asked)
        self.assertEqual(sum(hours.values()), 200)
        self.assertLess(max(hours.values()), 40)


class UpdateTests(RevalidatorCase):
    def test_updates_whose_blobs_never_come_hold_up_no_checks(self) -> None:
        moved = 3 * MAX_CONCURRENT_UPDATES
        self.stored(moved + 5, 2 * self.lifetime)
        self.upstream.has = {named(number): NEW for number in range(moved)}
        daemon = self.daemon()
        daemon.start()
        for _ in range(3):
            self.run_for(HOUR)
            asked = Counter(name for _, name in self.upstream.asked)
            self.assertEqual([asked[named(number)] for number in range(moved, moved + 5)], [1] * 5)
            self.assertEqual(sum(asked.values()), moved + 5)
            for number in range(moved, moved + 5):
                self.put(number, 2 * self.lifetime)
            self.upstream.asked.clear()
            moved_asked = [named(number) for number in range(moved)]
            self.upstream.asked += [(0.0, name) for name in moved_asked]
        self.assertEqual(len(daemon._versions._prefetch.bringing), MAX_CONCURRENT_UPDATES)  # type: ignore[attr-defined]

    def test_each_new_version_that_is_whole_lets_another_come(self) -> None:
        moved = 2 * MAX_CONCURRENT_UPDATES
        self.stored(moved, 2 * self.lifetime)
        self.upstream.has = {named(number): NEW for number in range(moved)}
        daemon = self.daemon()
        daemon.start()
        self.run_for(10)
        shelf: Any = daemon._versions._prefetch
        for number in range(moved):
            self.assertEqual(len(shelf.bringing), min(moved, MAX_CONCURRENT_UPDATES + number))
            shelf.bringing[number].callback(None)
        found = [result_of(self.store.get_manifest(named(n), LATEST)) for n in range(moved)]
        self.assertEqual({each.manifest for each in found if each is not None}, {NEW})

    def test_large_ones_that_wait_for_their_turn_are_not_in_memory_meanwhile(self) -> None:
        """Each of 12,000 layers takes three megabytes, and any number of tags may have moved."""
        large = Manifest.parse(bytes(NEW.body) + b" " * LARGE)
        moved = 2 * MAX_CONCURRENT_UPDATES
        self.stored(moved, 2 * self.lifetime)
        self.upstream.has = {named(number): large for number in range(moved)}
        daemon = self.daemon()
        daemon.start()
        self.run_for(2 * HOUR)
        shelf: Any = daemon._versions._prefetch
        self.assertEqual(len(shelf.bringing), MAX_CONCURRENT_UPDATES)
        self.assertEqual(len(self.upstream.asked), moved)
        self.upstream.has = {named(number): NEW for number in range(moved)}
        for number in range(moved):
            shelf.bringing[number].callback(None)
            self.run_for(1)
        self.assertEqual(len(self.upstream.asked), moved + MAX_CONCURRENT_UPDATES)
        stored = [result_of(self.store.get_manifest(named(each), LATEST)) for each in range(moved)]
        found = Counter(each.manifest.digest for each in stored if each is not None)
        self.assertEqual(found, {each.digest: MAX_CONCURRENT_UPDATES for each in (large, NEW)})

    def test_a_new_version_is_as_old_as_the_question_and_not_as_its_blobs(self) -> None:
        """Else it would take the place of what another daemon was told meanwhile."""
        self.stored(1, 2 * self.lifetime)
        self.upstream.has = {named(0): NEW}
        daemon = self.daemon()
        daemon.start()
        self.run_for(10)
        shelf: Any = daemon._versions._prefetch
        self.run_for(DAY)
        shelf.bringing[0].callback(None)
        self.assertEqual(result_of(self.store.get_manifest(named(0), LATEST)).manifest, NEW)
        self.assertGreaterEqual(self.checked(0), DAY)

    def test_one_whose_blobs_cannot_be_had_is_tried_again_ever_later(self) -> None:
        self.stored(1, 2 * self.lifetime)
        self.upstream.has = {named(0): NEW}
        daemon = self.daemon(period=60.0)
        shelf: Any = daemon._versions._prefetch
        daemon.start()
        tries = []
        for _ in range(round(DAY / 60)):
            self.run_for(60)
            for waiting in shelf.bringing:
                waiting.errback(upstream_unreachable("its blob is gone"))
            tries += shelf.bringing
            shelf.bringing.clear()
        # At 1, 2, 4, 8 ... minutes: the tenth after 17 hours.
        self.assertIn(len(tries), (9, 10, 11))
        self.assertEqual(result_of(self.store.get_manifest(named(0), LATEST)).manifest, OLD)

    def test_a_newer_version_is_known_until_it_is_stored_by_whomever(self) -> None:
        self.stored(1, 2 * self.lifetime)
        key = named(0), LATEST
        daemon = self.daemon(period=60.0)
        shelf: Any = daemon._versions._prefetch

        def newer() -> Optional[str]:
            return daemon.newer(*key, self.clock.seconds() - self.checked(0))

        self.assertIsNone(newer())
        self.upstream.has = {named(0): NEW}
        daemon.start()
        self.run_for(10)
        self.assertEqual(newer(), "")
        shelf.bringing.pop().errback(upstream_unreachable("its blob is gone"))
        self.assertEqual(newer(), "its blob is gone")
        # That upstream is down meanwhile makes nothing older.
        self.upstream.down = True
        self.run_for(HOUR)
        self.assertIn("down", newer() or "")
        # A pull that an admin asked for has brought it.
        self.put(0, 0.0)
        self.assertIsNone(newer())

    def test_a_new_version_whose_blob_is_not_found_does_not_make_the_tag_gone(self) -> None:
        self.stored(1, 2 * self.lifetime)
        self.upstream.has = {named(0): NEW}
        daemon = self.daemon()
        checks: list[bool] = []
        self.patch(daemon._events, "checked", lambda *_, gone: checks.append(gone))
        daemon.start()
        self.run_for(10)
        shelf: Any = daemon._versions._prefetch
        shelf.bringing.pop().errback(blob_unknown(NEW.digest))
        self.assertEqual(checks, [])

    def test_none_takes_anothers_place_once_it_is_stopped(self) -> None:
        self.stored(2 * MAX_CONCURRENT_UPDATES, 2 * self.lifetime)
        self.upstream.has = {named(number): NEW for number in range(2 * MAX_CONCURRENT_UPDATES)}
        daemon = self.daemon()
        daemon.start()
        self.run_for(10)
        result_of(daemon.stop())
        self.run_for(HOUR)
        shelf: Any = daemon._versions._prefetch
        self.assertEqual(len(shelf.bringing), MAX_CONCURRENT_UPDATES)
        self.assertEqual(daemon._bringing, {})


class ReplicaTests(RevalidatorCase):
    """Several daemons over one store."""

    lifetime = 2 * DAY

    def twice(self, within: float) -> int:
        """How often a model was asked about again within so many seconds."""
        last: dict[Repository, float] = {}
        count = 0
        for when, name in sorted(self.upstream.asked, key=lambda each: each[0]):
            count += when - last.get(name, -within) < within
            last[name] = when
        return count

    def test_each_manifest_is_checked_once_a_lifetime_and_not_once_a_replica(self) -> None:
        self.stored(50, 0)
        for seed in range(3):
            self.daemon(seed).start()
        self.run_for(10 * self.lifetime)
        asked = len(self.upstream.asked)
        # A check is due after 0.9 to 1.0 lifetimes, of three daemons' the earliest counts.
        self.assertGreaterEqual(asked, 50 * 9)
        self.assertLess(asked, 50 * 10 / 0.9 * 1.02)
        # Both may look before either has an answer; that is the rare one.
        self.assertLessEqual(self.twice(self.lifetime / 2), asked // 50)

    def test_all_stale_when_they_start_together_hardly_any_is_asked_about_twice(self) -> None:
        self.stored(500, 2 * self.lifetime)
        for seed in range(3):
            self.daemon(seed).start()
        self.run_for(HOUR / 2)
        self.assertLess(len(self.upstream.asked), 500 * 1.15)
        self.assertEqual({name for _, name in self.upstream.asked}, set(map(named, range(500))))

    def test_a_handful_that_is_stale_is_not_asked_about_by_each_of_them(self) -> None:
        self.upstream.takes = 0.2
        self.stored(3, 2 * self.lifetime)
        for seed in range(3):
            self.daemon(seed).start()
        self.run_for(HOUR / 2)
        self.assertLess(len(self.upstream.asked), 3 * 2)

    def test_what_another_has_checked_meanwhile_is_not_asked_about(self) -> None:
        """A pull by a daemon that still remembers the time of the check before."""
        self.stored(1, DAY)
        remembered = result_of(self.store.get_manifest(named(0), LATEST))
        assert remembered is not None
        one, two = (self.daemon(seed, refresh_after=60.0) for seed in range(2))
        one.pulled(named(0), LATEST, remembered)
        self.run_for(10)
        two.pulled(named(0), LATEST, remembered)
        self.run_for(10)
        self.assertEqual(len(self.upstream.asked), 1)


class RefreshTests(RevalidatorCase):
    def test_many_pulls_of_one_model_are_one_check(self) -> None:
        self.stored(MAX_CONCURRENT_CHECKS + 1, DAY)
        daemon = self.daemon(refresh_after=60.0)
        for number in (*range(MAX_CONCURRENT_CHECKS + 1), *range(MAX_CONCURRENT_CHECKS + 1)):
            found = result_of(self.store.get_manifest(named(number), LATEST))
            assert found is not None
            daemon.pulled(named(number), LATEST, found)
        self.run_for(10)
        self.assertEqual(len(self.upstream.asked), MAX_CONCURRENT_CHECKS + 1)
        self.assertEqual(self.upstream.most, MAX_CONCURRENT_CHECKS)

    def test_no_waiting_check_begins_during_the_stop(self) -> None:
        """Each check that ended began the next one, hundreds of calls deep."""
        begun: list[Any] = []
        check = Revalidator._check_now

        async def noted(self: Revalidator, *given: Any) -> None:
            begun.append(given)
            await check(self, *given)

        self.patch(Revalidator, "_check_now", noted)
        self.stored(500, DAY)
        daemon = self.daemon(refresh_after=60.0)
        for number in range(500):
            found = result_of(self.store.get_manifest(named(number), LATEST))
            assert found is not None
            daemon.pulled(named(number), LATEST, found)
        result_of(daemon.stop())
        self.assertEqual(len(begun), MAX_CONCURRENT_CHECKS)
        self.assertEqual(daemon._checking, {})

    def test_nothing_is_remembered_of_a_tag_that_failed_and_is_gone(self) -> None:
        self.stored(3, 2 * self.lifetime)
        self.upstream.down = True
        daemon = self.daemon(lifetime=10 * HOUR)
        daemon.start()
        self.run_for(HOUR / 2)
        self.assertNotEqual(daemon._failed, {})
        for number in range(3):
            result_of(self.store.inventory.remove_tag(named(number), LATEST))
        self.run_for(2 * HOUR)
        self.assertEqual(daemon._failed, {})


class OldClientTests(RevalidatorCase):
    """Clients for which upstream's manifest may be too new (412)."""

    def setUp(self) -> None:
        super().setUp()
        self.stored(1, DAY)
        self.upstream.requires = 0, 5
        self.checks = self.daemon(refresh_after=60.0)

    def pull(self, agent: str, *, granted: bool) -> float:
        """Pull as a client, and return the seconds since the last check soon after."""
        self.checks._versions.agents.seen(named(0), LATEST, agent, granted=granted)
        stored = result_of(self.store.get_manifest(named(0), LATEST))
        assert stored is not None
        self.checks.pulled(named(0), LATEST, stored)
        self.run_for(10)
        return self.checked(0)

    def test_one_that_never_had_the_tag_from_upstream_freezes_nothing(self) -> None:
        """After a restart, it was the only one that was known of a tag."""
        self.assertLess(self.pull("ollama/0.1.0", granted=False), 60)

    def test_a_newer_client_does_not_wait_because_an_older_was_refused(self) -> None:
        for agent in ("ollama/0.4.0", "ollama/0.4.0", "ollama/0.4.1"):
            self.assertGreater(self.pull(agent, granted=agent == "ollama/0.4.0"), DAY - 60)
        self.assertEqual(len(self.upstream.asked), 2)
        self.assertLess(self.pull("ollama/0.5.0", granted=False), 60)
