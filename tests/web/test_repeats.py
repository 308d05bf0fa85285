"""Replies that are given again are those that the resources would give."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from typing import Any, Optional, Union

from attrs import define, field, frozen
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import ScriptedDisk
from tests.sending.doubles import Wire, noise
from yukari.config.networks import Networks
from yukari.config.patterns import ModelRules, Patterns
from yukari.config.units import FreeSpace
from yukari.fills.scheduler import FetchScheduler
from yukari.library.catalog.catalog import Catalog
from yukari.library.library import Library
from yukari.manifest import MANIFEST_LIST, Manifest
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.sending.send import LITTLE
from yukari.sending.workers import Helpers
from yukari.sources.offline import Offline
from yukari.storage.disk.store import DirectoryStore
from yukari.web import repeats
from yukari.web.repeats import GIVEN_FOR
from yukari.web.request_head import MAX_HEAD
from yukari.web.site import RegistrySite
from yukari.web.v2 import V2, make_root

NAME = Repository(DEFAULT, "library", "m")
LATEST = Tag("latest")
SMALL = noise(700)
LARGE = noise(LITTLE + 5000)
EMPTY = b""
CLIENT, OTHER = "192.0.2.7", "198.51.100.9"


def manifest_of(*bodies: bytes, note: str = "") -> Manifest:
    layers = [{"digest": str(Digest.of(body)), "size": len(body)} for body in bodies]
    content = {"schemaVersion": 2, "layers": layers, "note": note}
    return Manifest.parse(json.dumps(content).encode())


FIRST, SECOND = manifest_of(SMALL, LARGE, EMPTY), manifest_of(SMALL, note="%(date)b")
TAG_PATH = f"/v2/{NAME.path}/manifests/{LATEST}"


def path_of(body: bytes) -> str:
    return f"/v2/{NAME.path}/blobs/{Digest.of(body)}"


@define(eq=False)
class Registry:
    """
    A directory store's library, and two sites of it: one whose replies are given again, and one
    whose replies never are. Each client has a connection to both.
    """

    clock: Clock = field(factory=Clock)
    disk: ScriptedDisk = field(factory=ScriptedDisk)
    allow: Optional[Networks] = None
    proxies: Networks = Networks()
    store: DirectoryStore = field(init=False)
    library: Library = field(init=False)
    catalog: Catalog = field(init=False)
    sent: list[tuple[str, int]] = field(factory=list)
    rendered: int = field(default=0, init=False)
    """Requests that the resources have seen."""
    fast: RegistrySite = field(init=False)
    slow: RegistrySite = field(init=False)
    wires: dict[tuple[bool, str], Wire] = field(factory=dict, init=False)
    """By whether it is to the fast site, and the client."""
    _directory: Any = field(factory=tempfile.TemporaryDirectory, init=False)

    def __attrs_post_init__(self) -> None:
        self.store = DirectoryStore(
            path=self._directory.name,
            upstream_host="registry.example",
            in_thread=self.disk,
            clock=self.clock,
            min_free=FreeSpace(bytes=0),
        )
        self.run(self.store.start())
        self.library = Library(
            store=self.store,
            upstream=Offline(),
            scheduler=FetchScheduler(self.clock, 4, 8),
            in_thread=self.disk,
            clock=self.clock,
            now=self.clock.seconds,
        )
        self.catalog = Catalog(":memory:", self.disk, self.clock, self.clock.seconds)
        for body in (SMALL, LARGE, EMPTY):
            self.put_blob(body)
        self.put(FIRST)
        self.fast, self.slow = self.site(repeats=True), self.site(repeats=False)

    def close(self) -> None:
        """Close what the library has open."""
        self.library.blobs.stop()
        self.run(self.store.stop())
        self._directory.cleanup()

    def run(self, work: Any) -> Any:
        """The result of a coroutine that waits for nothing."""
        results: list[Any] = []
        Deferred.fromCoroutine(work).addCallback(results.append)
        (result,) = results
        return result

    def put(self, manifest: Manifest) -> None:
        self.run(self.store.put_manifest(NAME, LATEST, manifest, 1.0))

    def put_blob(self, body: bytes) -> None:
        path = os.path.join(self._directory.name, "blobs", Digest.of(body).file_name)
        with open(path, "wb") as file:
            file.write(body)

    def site(self, *, repeats: bool) -> RegistrySite:
        library: Any = self.library
        helpers = Helpers(self.disk, 0)
        root = make_root(library, self.disk, helpers, "http://up/", catalog=self.catalog)
        site = RegistrySite(
            root,
            self.clock,
            log_requests=not repeats,
            allow=self.allow,
            trusted_proxies=self.proxies,
            pseudonym="yukari-1",
            sent_to=lambda client, count: self.sent.append((client, count)),
        )
        if repeats:
            leaf: Any = root.children[b"v2"]
            render = V2.render

            def counted(request: Any) -> int:
                self.rendered += 1
                return render(leaf, request)

            leaf.render = counted
        site.reactor = self.clock  # type: ignore[attr-defined]
        return site

    def wire(self, client: str, *, fast: bool) -> Wire:
        """A client's connection that can be used."""
        wire = self.wires.get((fast, client))
        if wire is None or wire.disconnecting or not wire.connected:
            wire = self.wires[fast, client] = Wire(self.clock, IPv4Address("TCP", client, 4711))
            site = self.fast if fast else self.slow
            wire.protocol = site.buildProtocol(wire.getPeer())
            wire.protocol.makeConnection(wire)
        return wire

    def say(self, wire: Wire, *pieces: bytes) -> bytes:
        """What a connection answers to these pieces, without what differs by chance."""
        before = len(wire.value())
        for piece in pieces:
            if wire.connected and not wire.disconnecting:
                wire.protocol.dataReceived(piece)
            while any(
                call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()
            ):
                self.clock.advance(0)
        answer: bytes = wire.value()[before:]
        answer = re.sub(rb"\r\n(Date|X-Request-Id): [^\r]*", rb"\r\n\1", answer)
        return answer + b"closed" * wire.disconnecting

    def both(self, *pieces: bytes, client: str = CLIENT) -> tuple[bytes, bytes]:
        """What the two sites answer, the fast one first."""
        fast, slow = (self.say(self.wire(client, fast=fast), *pieces) for fast in (True, False))
        return fast, slow

    def ask(
        self, path: str = TAG_PATH, *headers: str, method: str = "GET", client: str = CLIENT
    ) -> bytes:
        """The answer of the site whose replies are given again."""
        head = head_of(method, path, "1.1", ["Host: localhost", *headers])
        return self.say(self.wire(client, fast=True), head)


def head_of(method: str, path: str, version: str, headers: Sequence[str]) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


# what is generated

HOSTS = ("Host: localhost", "Host: localhost:9200", "Host: a/b", "host: localhost", "Host:")
HEADERS = (
    "User-Agent: ollama/0.12.6 (amd64 linux) Go/go1.24.1",
    "User-Agent: Mozilla/5.0",
    f"Accept: {MANIFEST_LIST}",
    "Accept: application/vnd.docker.distribution.manifest.v2+json",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-origin",
    "Origin: http://evil.example",
    "Via: 1.1 yukari-1",
    "X-Forwarded-For: 198.51.100.9",
    "X-Request-Id: mine",
    "Connection: close",
    "Connection: keep-alive",
    "Content-Length: 0",
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "If-None-Match: *",
    f'If-None-Match: "{FIRST.digest}"',
    f'If-Range: "{Digest.of(SMALL)}"',
    'If-Range: "x"',
    "Range: bytes=0-99",
    "Range: bytes=0-99\r\n ",
    "Range: bytes=5-1000000",
    "Range: bytes=9-1",
    "Range: bytes=900000000-900000001",
    "Range: bytes=-7",
    "Range: bytes=3-",
    "Range: bytes=",
    "Range: bytes=0-1,5-9",
    "range: bytes=1-2",
    "X-Percent: %(id)b %s %",
    " folded",
    "no colon",
)
PATHS = (
    TAG_PATH,
    f"{TAG_PATH}?a=%20",
    f"http://localhost{TAG_PATH}",
    f"/v2/{NAME.path}/manifests/{FIRST.digest}",
    f"/v2/{NAME.path}/manifests/absent",
    f"/v2/library/%6D/manifests/{LATEST}",
    path_of(SMALL),
    path_of(LARGE),
    path_of(EMPTY),
    path_of(b"absent"),
    "/v2/",
    "/healthz",
)


@frozen
class Say:
    """The same bytes twice or more, cut into pieces."""

    data: bytes
    times: int = 1
    cut: int = 0
    client: str = CLIENT


@frozen
class Advance:
    seconds: float


@frozen
class Change:
    """What `Registry` does to its store."""

    what: str


def heads() -> st.SearchStrategy[bytes]:
    headers = st.lists(st.sampled_from(HEADERS), max_size=3)
    return st.builds(
        lambda method, path, version, host, rest: head_of(method, path, version, [*host, *rest]),
        st.sampled_from(("GET", "GET", "GET", "HEAD", "POST", "get")),
        st.sampled_from(PATHS),
        st.sampled_from(("1.1", "1.1", "1.1", "1.0")),
        st.sampled_from([[each] for each in HOSTS] + [[HOSTS[0]]] * 5 + [[], list(HOSTS[:2])]),
        headers,
    )


def ranges() -> st.SearchStrategy[bytes]:
    """Requests that differ in their range alone."""
    positions = st.integers(0, 1000) | st.sampled_from([LITTLE, 10**17, 10**18])
    return st.builds(
        lambda path, first, last, zeros: head_of(
            "GET", path, "1.1", ["Host: h", f"Range: bytes={'0' * zeros}{first}-{last}"]
        ),
        st.sampled_from((path_of(SMALL), path_of(LARGE), path_of(EMPTY))),
        positions,
        positions,
        st.integers(0, 2),
    )


def says(one: st.SearchStrategy[bytes]) -> st.SearchStrategy[Say]:
    tails = st.sampled_from((b"", b"", b"", b"\r\n", b"hello", b"GET"))
    data = st.builds(lambda head, tail: head + tail, one, tails) | st.tuples(one, one).map(b"".join)
    cuts = st.just(0) | st.integers(0, 400)
    return st.builds(Say, one | data, st.integers(1, 4), cuts, st.sampled_from((CLIENT, OTHER)))


Step = Union[Say, Advance, Change]
CHANGES = ("put", "put back", "remove tag", "remove blob", "bring blob", "deny", "stop")


@st.composite
def plans(draw: st.DrawFn) -> list[Step]:
    """Few requests, each at several times, with changes in between."""
    asked = draw(st.lists(heads() | ranges(), min_size=1, max_size=3))
    steps = st.one_of(
        says(st.sampled_from(asked)),
        says(st.sampled_from(asked)),
        st.sampled_from([Advance(0.1), Advance(GIVEN_FOR), Advance(2.0)]),
        st.sampled_from(CHANGES).map(Change),
    )
    return draw(st.lists(steps, max_size=10))


@frozen
class Settings:
    allow: Optional[str] = None
    proxies: Optional[str] = None

    def registry(self) -> Registry:
        return Registry(
            allow=Networks.parse(self.allow) if self.allow else None,
            proxies=Networks.parse(self.proxies) if self.proxies else Networks(),
        )


def change(registry: Registry, what: str) -> None:
    if what == "put":
        registry.put(SECOND)
    elif what == "put back":
        registry.put(FIRST)
    elif what == "remove tag":
        registry.run(registry.store.inventory.remove_tag(NAME, LATEST))
    elif what == "remove blob":
        registry.run(registry.library.blobs.remove(Digest.of(SMALL)))
    elif what == "deny":
        registry.library.rules.become(ModelRules(denied=Patterns(("library/*",))))
    elif what == "bring blob":
        registry.put_blob(SMALL)
    else:
        registry.fast.drain.stopping = registry.slow.drain.stopping = True


GET = head_of("GET", TAG_PATH, "1.1", ["Host: h"])
HEALTH = head_of("GET", "/healthz", "1.1", ["Host: h"])
GET_SMALL = head_of("GET", path_of(SMALL), "1.1", ["Host: h"])


def get(*headers: str, path: str = TAG_PATH) -> bytes:
    return head_of("GET", path, "1.1", ["Host: h", *headers])


class SameBytesTests(SynchronousTestCase):
    @given(
        plans(),
        st.sampled_from(
            [
                Settings(),
                Settings(),
                Settings(allow="192.0.2.0/24"),
                Settings(allow="198.51.100.0/24", proxies="192.0.2.7"),
            ]
        ),
    )
    # One for each rule, for chance may pass it by.
    @example([Say(GET, 3), Change("put"), Say(GET)], Settings())
    @example([Say(GET, 3), Change("remove tag"), Say(GET)], Settings())
    @example([Say(GET_SMALL, 3), Change("remove blob"), Say(GET_SMALL)], Settings())
    @example([Say(GET, 3), Change("remove blob"), Say(GET)], Settings())
    @example([Say(GET, 3), Change("stop"), Say(GET)], Settings())
    @example([Say(GET, 3), Change("deny"), Say(GET)], Settings())
    @example([Say(GET_SMALL, 3), Change("deny"), Say(GET_SMALL)], Settings())
    @example([Say(GET, 3), Say(GET, client=OTHER)], Settings(allow="192.0.2.0/24"))
    @example([Say(GET_SMALL, 3), Say(GET_SMALL, client=OTHER)], Settings(allow="192.0.2.0/24"))
    @example([Say(get("Connection: close"), 4)], Settings())
    @example([Say(head_of("GET", TAG_PATH, "1.0", []), 4)], Settings())
    @example([Say(get("Content-Length: 5")), Say(b"hello")] * 4, Settings())
    @example([Say(get("Transfer-Encoding: chunked")), Say(b"0\r\n\r\n")] * 4, Settings())
    @example([Say(GET, 3), Say(GET + GET, 2), Say(GET, 2, 20)], Settings())
    @example(
        [Say(GET, 3), Say(get(f"Content-Length: {len(GET)}", path="/healthz")), Say(GET)],
        Settings(),
    )
    @example([Say(GET, 3), Say(b"GET "), Say(GET)], Settings())
    @example([Say(GET, 3), Say(b"\r\n"), Say(GET), Say(b"\r\n"), Say(GET)], Settings())
    @example([Say(HEALTH, 2), Say(GET + GET), Say(HEALTH)], Settings())
    @example([Say(get("Range: bytes=0-9", path=path_of(SMALL)), 4)], Settings())
    @example(
        [
            Say(get("Range: bytes=0-9", "Range: bytes=5-6", path=path_of(SMALL)), 3),
            Say(get("Range: bytes=1-9", "Range: bytes=5-6", path=path_of(SMALL))),
        ],
        Settings(),
    )
    @example(
        [
            Say(get("Range: bytes=", path=path_of(SMALL)), 3),
            Say(get("Range: bytes=0-9", path=path_of(SMALL))),
        ],
        Settings(),
    )
    def test_whatever_is_asked_both_give_the_same(
        self, plan: list[Step], settings: Settings
    ) -> None:
        """Catches a rule that the short way does not keep, and a reply that outlives a change."""
        registry = settings.registry()
        try:
            for step in plan:
                if isinstance(step, Advance):
                    registry.clock.advance(step.seconds)
                elif isinstance(step, Change):
                    change(registry, step.what)
                else:
                    cut = [step.data[: step.cut], step.data[step.cut :]]
                    for _ in range(step.times):
                        fast, slow = registry.both(*filter(None, cut), client=step.client)
                        self.assertEqual(fast, slow)
        finally:
            registry.close()


class RepeatTests(SynchronousTestCase):
    """What is given again, for how long, and how it is counted."""

    def setUp(self) -> None:
        self.registry = Registry()
        self.addCleanup(self.registry.close)

    def seen(self, *asked: tuple[Any, ...]) -> list[int]:
        """How many of these requests the resources saw, each of four times."""
        counts = []
        for each in asked:
            before = self.registry.rendered
            for _ in range(4):
                self.registry.ask(*each)
            counts.append(self.registry.rendered - before)
        return counts

    def test_manifests_and_little_pieces_are_given_again(self) -> None:
        """Else the comparisons above compare nothing."""
        piece = "Range: bytes=10-19"
        asked = [(), (path_of(SMALL),), (path_of(SMALL), piece), (path_of(LARGE), piece)]
        self.assertEqual(self.seen(*asked), [2, 2, 2, 2])
        self.assertEqual(self.seen((path_of(LARGE),)), [4])

    def test_one_range_was_asked_for_and_another_is_given(self) -> None:
        path = path_of(LARGE)
        self.registry.ask(path, "Range: bytes=0-9")
        self.registry.ask(path, "Range: bytes=5-6")
        before = self.registry.rendered
        answer = self.registry.ask(path, f"Range: bytes=20-{20 + LITTLE - 1}")
        self.assertEqual(self.registry.rendered, before)
        self.assertTrue(answer.endswith(b"\r\n\r\n" + LARGE[20 : 20 + LITTLE]))
        self.assertIn(b"\r\nContent-Range: bytes 20-%d/%d\r\n" % (19 + LITTLE, len(LARGE)), answer)

    def test_each_reply_has_an_id_of_its_own(self) -> None:
        for _ in range(5):
            self.registry.ask()
        found = re.findall(rb"X-Request-Id: (\w+)", self.registry.wire(CLIENT, fast=True).value())
        self.assertEqual(len(set(found)), 5)

    def test_pulls_and_bytes_are_counted(self) -> None:
        for _ in range(5):
            self.registry.ask()
            self.registry.ask(path_of(SMALL))
        self.registry.ask(method="HEAD")
        self.registry.ask(method="HEAD")
        usage = self.registry.catalog._pulls[NAME, LATEST]
        self.assertEqual((usage.pulls, usage.clients), (5, {CLIENT}))
        self.assertEqual(self.registry.catalog._sent, {(NAME, Digest.of(SMALL)): 5 * len(SMALL)})
        total = 5 * (len(FIRST.body) + len(SMALL))
        self.assertEqual(sum(count for _, count in self.registry.sent), total)
        self.assertEqual({client for client, _ in self.registry.sent}, {CLIENT})

    def test_clients_of_a_trusted_proxy_are_counted_by_their_own_names(self) -> None:
        self.registry = Registry(proxies=Networks.parse(CLIENT))
        self.addCleanup(self.registry.close)
        for _ in range(3):
            self.registry.ask(TAG_PATH, f"X-Forwarded-For: {OTHER}")
        self.assertEqual(self.registry.catalog._pulls[NAME, LATEST].clients, {OTHER})

    def test_after_a_while_the_resources_see_the_request_again(self) -> None:
        """Else what goes by the time of the last request would forget that there was one."""
        for _ in range(3):
            self.registry.ask()
        before = self.registry.rendered
        self.assertEqual(before, 2)
        self.registry.clock.advance(GIVEN_FOR / 2)
        self.registry.ask()
        self.assertEqual(self.registry.rendered, before)
        self.registry.clock.advance(GIVEN_FOR / 2)
        self.registry.ask()
        self.assertEqual(self.registry.rendered, before + 1)

    def test_what_is_asked_for_now_and_then_is_not_kept(self) -> None:
        """Catches a copy of each reply that nobody will ask for again in time."""
        site: Any = self.registry.fast
        for _ in range(4):
            self.registry.ask()
            self.registry.clock.advance(2 * GIVEN_FOR)
        self.assertEqual(site.repeats.held, 0)

    def test_what_is_asked_for_all_the_time_is_seen_once_in_a_while(self) -> None:
        """Catches a reply that is kept only at the second request after its end."""
        for _ in range(20):
            self.registry.ask()
            self.registry.clock.advance(GIVEN_FOR / 4)
        self.assertEqual(self.registry.rendered, 6)

    def test_a_connection_that_gets_replies_again_is_not_idle(self) -> None:
        for _ in range(10):
            self.registry.ask()
            self.registry.clock.advance(300.0)
        self.assertFalse(self.registry.wires[True, CLIENT].disconnecting)

    def test_memory_is_bounded(self) -> None:
        """A client that never asks the same twice must not fill it."""
        self.patch(repeats, "MAX_BYTES", 128 * MAX_HEAD)
        pad = "x" * (MAX_HEAD - 200)
        site: Any = self.registry.fast
        for number in range(200):
            for _ in range(2):
                self.registry.ask(TAG_PATH, f"X-Pad: {number}{pad}")
        self.assertLessEqual(site.repeats.held, repeats.MAX_BYTES)
        self.assertGreater(site.repeats.held, repeats.MAX_BYTES // 2)
        before = self.registry.rendered
        for _ in range(4):
            self.registry.ask(TAG_PATH, f"X-Pad: {pad}{pad}")
        self.assertEqual(self.registry.rendered, before + 4)
