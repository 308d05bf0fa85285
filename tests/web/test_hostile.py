"""
The running daemon among hostile or broken clients: on real sockets, in a process of its own.

After each test it must still serve a pull, have logged no error, and be no larger than before.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from threading import Event, Thread
from typing import Any
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.processes import ProcessCase, YukariProcess
from tests.running import MODEL
from tests.sending.doubles import Reply, parse_replies
from tests.strategies import manifest_body
from tests.web.test_paths import TRAVERSALS
from yukari.descriptors import Descriptor
from yukari.names import Digest

NOWHERE = "127.0.0.1:9"
MB = 1_000_000
SECRET = b"nobody may read this"
GET = b"GET /healthz HTTP/1.1\r\nHost: h\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Target:
    """The daemon's address and process, for blocking code in a thread."""

    def __init__(self, daemon: YukariProcess) -> None:
        host, port = daemon.host.rsplit(":", 1)
        self.address = (host, int(port))
        transport: Any = daemon.transport
        self._pid = transport.pid

    def connect(self, *, room: int = 0) -> socket.socket:
        """A connection; ``room`` is the size of its receive buffer."""
        made = socket.socket()
        made.settimeout(60)
        if room:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        made.connect(self.address)
        return made

    def say(self, *pieces: bytes) -> bytes:
        """Return everything that arrives until the daemon hangs up."""
        with self.connect() as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
            except ConnectionError:
                pass  # it has heard enough
            got = b""
            try:
                while data := connection.recv(1 << 20):
                    got += data
            except ConnectionResetError:
                pass
            return got

    def ask(self, path: str, *headers: str, method: str = "GET") -> Reply:
        """Send one request on a connection of its own."""
        own = ("Host: localhost", "Connection: close")
        lines = [f"{method} {path} HTTP/1.1", *own, *headers, "", ""]
        (reply,) = parse_replies(self.say("\r\n".join(lines).encode("latin-1")), method)
        return reply

    def answers(self) -> None:
        """It does so within `connect`'s timeout."""
        assert self.ask("/healthz").status == 200

    def memory(self) -> int:
        """The process's resident memory, in bytes."""
        try:
            with open(f"/proc/{self._pid}/status") as status:
                found = re.search(r"VmRSS:\s+(\d+) kB", status.read())
        except FileNotFoundError:
            found = None
        if found is None:
            raise SkipTest("the memory of a process is told in /proc on Linux only")
        return int(found[1]) * 1024


def retransmits(connection: socket.socket) -> int:
    """How often its segments were sent again, those that connect it too; 0 if no Linux tells."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", told, 100)[0])


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Repeat ``work`` in a thread meanwhile."""
    ending = Event()

    def repeat() -> None:
        while not ending.is_set():
            work()

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def statuses(replies: list[Reply]) -> list[int]:
    return [reply.status for reply in replies]


class HostileCase(ProcessCase):
    async def target(self, **more: Any) -> Target:
        """A daemon whose upstream has two models; one was pulled, the other is at the end."""
        self._upstream = await self.upstream(f"{MODEL}=400KB,3000", "library/next:latest=200KB,7")
        self._daemon = await self._begin(self._upstream.url, **more)
        await self.pull(self._daemon, MODEL)  # type: ignore[arg-type]
        self.model = self._upstream.models[MODEL]
        self.blob = f"/v2/library/m/blobs/{self.model.blobs[0][0]}"
        self.content = self.model.read(self.model.blobs[0][0])
        return Target(self._daemon)

    async def sparse_target(self, size: int) -> tuple[Target, str]:
        """A daemon without an upstream that has a blob of ``size`` zeros, and the blob's path."""
        store = self.directory()
        digest = sha256()
        for _ in range(size // MB):
            digest.update(bytes(MB))
        blob = Digest(digest.hexdigest())
        layer = Descriptor(blob, size, "application/vnd.ollama.image.model")
        tags = os.path.join(store, "manifests", NOWHERE, "library", "m")
        os.makedirs(tags)
        os.makedirs(os.path.join(store, "blobs"))
        with open(os.path.join(tags, "latest"), "wb") as made:
            made.write(manifest_body([layer], None, None))
        with open(os.path.join(store, "blobs", blob.file_name), "wb") as made:
            made.truncate(size)
        self._upstream = None  # type: ignore[assignment]
        self._daemon = await self._begin(f"http://{NOWHERE}/", storage=store)
        return Target(self._daemon), f"/v2/library/m/blobs/{blob}"

    async def _begin(self, upstream: str, **more: Any) -> YukariProcess:
        return await self.yukari(upstream, "--slog-level=DEBUG", **more)

    async def attack(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do it in a thread; then see how the daemon is."""
        attacking: Deferred[None] = deferToThread(work, *arguments)
        await attacking
        if self._upstream is not None:
            await self.pull(self._daemon, "library/next:latest")  # type: ignore[arg-type]
        self.assertIsNone(self._daemon.status)
        told = [line for line in self._daemon.lines if line["level"] in ("WARN", "ERROR")]
        self.assertEqual(told, [])
        self.assertNotIn("Traceback", self._daemon.text)


class SpeechTests(HostileCase):
    """Bytes that are no request, or hardly one."""

    async def test_bytes_that_are_no_http_are_refused(self) -> None:
        noise = random.Random(1)

        def speak(target: Target) -> None:
            for said in (
                b"\r\n\r\n\r\nhello\r\n\r\n",
                b"\x00" * 100 + b"\r\n\r\n",
                b"GET\r\n\r\n",
                b"GET /\r\n\r\n",
                b"GET / HTTP/9\r\n\r\n",
                b"GET / HTTP/1.1 x\r\n\r\n",
                b"GET /\x00\xff HTTP/1.1\r\n\r\n",
                b"G\xe9T / HTTP/1.1\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
                b"GET / HTTP/1.1\r\n: nameless\r\n\r\n",
                b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
                b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
                b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                b"GET / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n",
                b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
                b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n",
                b"SSH-2.0-OpenSSH_9.6\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise.randbytes(300) + b"\r\n",
                noise.randbytes(100_000),
                noise.randbytes(100_000).replace(b"\n", b"") + b"\r\n\r\n",
            ):
                got = target.say(said)
                self.assertRegex(got[:12], rb"HTTP/1\.[01] 4\d\d", said[:60])

        await self.attack(speak, await self.target())

    async def test_headers_without_end_are_refused(self) -> None:
        def flood(target: Target) -> None:
            for said, status in (
                (b"A: b\r\n" * 100_000, 431),
                (b"".join(b"X-%d: %s\r\n" % (at, b"y" * 1000) for at in range(5000)), 400),
                (b"X: " + b"y" * 5 * MB, 431),
                (b"".join(b"X:\r\n " + b"y" * 8000 for _ in range(1000)), 400),
                (b"Cookie: " + b"a=b;" * 3000 + b"\r\n" + b"Z: " + b"y" * 5000 + b"\r\n", 400),
            ):
                before = target.memory()
                got = target.say(GET, said)
                self.assertEqual(statuses(parse_replies(got)), [status], said[:20])
                self.assertLess(target.memory() - before, 20 * MB)
            got = target.say(b"GET /" + b"a" * 5 * MB)
            self.assertEqual(statuses(parse_replies(got)), [431])
            got = target.say(b"GET /v2/" + b"a" * 15_000 + b" HTTP/1.1\r\nHost: h\r\n" + LAST[25:])
            self.assertEqual(statuses(parse_replies(got)), [404])

        await self.attack(flood, await self.target())

    async def test_bodies_are_ignored_or_refused(self) -> None:
        def send(target: Target) -> None:
            small = b"Content-Length: 5\r\n\r\nhello"
            got = target.say(GET + small + LAST)
            self.assertEqual(statuses(parse_replies(got)), [200, 200])
            got = target.say(GET + b"Expect: 100-continue\r\n" + small + LAST)
            self.assertTrue(got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), got)
            chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
            for said in (
                [GET, b"Content-Length: 1000000000000\r\n\r\n", bytes(MB)],
                [GET, b"Content-Length: " + b"9" * 3000 + b"\r\n\r\n", bytes(MB)],
                [GET, b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 100],
                [GET, b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000],
                [GET, b"Expect: 100-continue\r\nContent-Length: 1000000000000\r\n\r\n"],
            ):
                got = target.say(*said)
                self.assertEqual(got.split()[1], b"413", said[1][:40])
                self.assertEqual(got.count(b"HTTP/1.1"), 1, got[:200])

        await self.attack(send, await self.target())

    async def test_other_versions_and_forms_of_http_are_answered(self) -> None:
        def ask(target: Target) -> None:
            path = self.blob.encode()
            for said, status, length in (
                (b"GET %s HTTP/1.0\r\n\r\n" % path, 200, len(self.content)),
                (b"HEAD %s HTTP/1.0\r\n\r\n" % path, 200, len(self.content)),
                (b"GET %s HTTP/1.0\r\nRange: bytes=1-3\r\n\r\n" % path, 206, 3),
                (b"GET %s HTTP/1.1\r\nConnection: close\r\n\r\n" % path, 400, 0),
                (b"GET %s HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n" % path, 200, None),
                (b"GET http://other%s HTTP/1.0\r\n\r\n" % path, 200, len(self.content)),
                (b"GET http://other:1/nothing HTTP/1.0\r\n\r\n", 404, None),
                (b"GET http://a b/ HTTP/1.0\r\n\r\n", 400, 0),
                (b"GET //etc/passwd HTTP/1.0\r\n\r\n", 404, None),
                (b"GET * HTTP/1.0\r\n\r\n", 405, None),
                (b"CONNECT other:443 HTTP/1.0\r\n\r\n", 405, None),
            ):
                got = target.say(said)
                (reply,) = parse_replies(got, said.split()[0].decode())
                self.assertEqual(reply.status, status, said)
                if length is not None:
                    self.assertEqual(reply.headers["content-length"], str(length))
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "x" * 99):
                reply = target.ask("/v2/library/m/manifests/latest", method=method)
                self.assertEqual((reply.status, reply.headers["allow"]), (405, "GET, HEAD"))
                self.assertIn("errors", json.loads(reply.body))

        await self.attack(ask, await self.target())

    async def test_fifty_pipelined_requests_are_answered_in_order(self) -> None:
        def ask(target: Target) -> None:
            asked, expected = [], []
            end = "\r\nHost: h\r\n"
            size = len(self.content)
            for at in range(50):
                start = at * 7919 % size
                kind = at % 5
                if kind == 0:
                    asked.append(f"GET {self.blob} HTTP/1.1{end}Range: bytes={start}-\r\n\r\n")
                    expected.append((206, self.content[start:]))
                elif kind == 1:
                    asked.append(f"HEAD {self.blob} HTTP/1.1{end}\r\n")
                    expected.append((200, b""))
                elif kind == 2:
                    asked.append(f"GET /v2/library/m/manifests/latest HTTP/1.1{end}\r\n")
                    expected.append((200, self.model.manifest_bytes))
                elif kind == 3:
                    asked.append(f"GET {self.blob} HTTP/1.1{end}Range: bytes={size}-\r\n\r\n")
                    expected.append((416, None))
                else:
                    asked.append(f"GET {self.blob} HTTP/1.1{end}If-None-Match: *\r\n\r\n")
                    expected.append((304, b""))
            got = target.say("".join(asked).encode(), LAST)
            replies = parse_replies(got, *(line.split()[0] for line in asked))
            self.assertEqual(len(replies), 51)
            for reply, (status, body) in zip(replies, expected):
                self.assertEqual(reply.status, status)
                if body is not None:
                    self.assertEqual(reply.body, body)

        await self.attack(ask, await self.target())


class PathTests(HostileCase):
    """Requests for what nobody may have, or nobody can."""

    async def test_nothing_outside_the_store_can_be_read(self) -> None:
        beside_it = self.directory()
        store = os.path.join(beside_it, "store")
        for place in (beside_it, store, os.path.join(store, "blobs")):
            os.makedirs(place, exist_ok=True)
            with open(os.path.join(place, "secret"), "wb") as secret:
                secret.write(SECRET)
        target = await self.target(storage=store)

        def climb(target: Target) -> None:
            digest = self.model.blobs[0][0]
            paths = [
                *TRAVERSALS,
                *(
                    f"/v2/library/m/{kind}/{up * depth}{name}"
                    for kind in ("blobs", "manifests")
                    for up in ("../", "..%2f", "%2e%2e%2f", "..%5c", "%2e%2e/", "....//", "..;/")
                    for depth in (1, 3, 9)
                    for name in ("secret", "etc/passwd", "%2fetc%2fpasswd", "yukari/lock")
                ),
                f"/v2/library/m/blobs/{digest}/../../../../secret",
                f"/v2/library/m/blobs/{digest}%00.txt",
                f"/v2/library/m/blobs/{digest.replace('sha256', 'sha512')}",
                f"/v2/library/m/blobs/{digest.upper()}",
                "/v2/yukari/spool/blobs/x",
                "/etc/passwd",
                "/%2e%2e/%2e%2e/etc/passwd",
                "/fills/../../etc/passwd",
                "/fills/sha256:..%2f..%2fsecret",
            ]
            host = "Host: localhost\r\n"
            said = [f"GET {path} HTTP/1.1\r\n{host}\r\n".encode("latin-1") for path in paths]
            got = target.say(b"".join(said), LAST)
            replies = parse_replies(got)
            self.assertEqual(len(replies), len(paths) + 1)
            for path, reply in zip(paths, replies):
                self.assertIn(reply.status, (400, 404), path)
                self.assertIn("message", json.loads(reply.body)["errors"][0], path)
            self.assertNotIn(SECRET, got)
            self.assertNotIn(b"root:", got)

        await self.attack(climb, target)

    async def test_pages_have_no_paths_below_them(self) -> None:
        def ask(target: Target) -> None:
            for path in ("/healthz", "/readyz", "/metrics"):
                asked = (path, f"{path}/", f"{path}/x", f"{path}/x/", f"{path}//")
                found = [target.ask(each).status for each in asked]
                self.assertEqual(found, [200, 200, 404, 404, 200], path)

        await self.attack(ask, await self.target())

    async def test_impossible_ranges_are_answered(self) -> None:
        def ask(target: Target) -> None:
            size = len(self.content)
            for text, status, sent in (
                ("bytes=999999999999999999999-", 416, None),
                (f"bytes={size}-", 416, None),
                ("bytes=-0", 416, None),
                (f"bytes=0-{'9' * 4000}", 206, self.content),
                (f"bytes=-{'9' * 4000}", 206, self.content),
                (f"bytes={'9' * 4000}-{'9' * 4000}", 416, None),
                ("bytes=" + "0-0," * 999 + "0-0", 200, self.content),
                ("bytes=" + "0-," * 999 + "0-", 200, self.content),
                ("bytes=--5", 200, self.content),
                ("bytes=-5-", 200, self.content),
                ("bytes=5-2", 200, self.content),
                ("bytes=", 200, self.content),
                ("lines=0-0", 200, self.content),
                ("\xff", 200, self.content),
                ("bytes=-1", 206, self.content[-1:]),
                (f"bytes={size - 1}-{size}", 206, self.content[-1:]),
            ):
                reply = target.ask(self.blob, f"Range: {text}")
                self.assertEqual(reply.status, status, text[:40])
                if sent is not None:
                    self.assertEqual(reply.body, sent, text[:40])
                else:
                    self.assertEqual(reply.headers["content-range"], f"bytes */{size}")
            got = target.ask(self.blob, "Range: bytes=0-0", "Range: bytes=5-6", "If-Range: x")
            self.assertEqual(got.status, 200)

        await self.attack(ask, await self.target())


class CrowdTests(HostileCase):
    """Many who take up room."""

    async def test_silent_and_slow_connections_disturb_nobody(self) -> None:
        def crowd(target: Target) -> None:
            before = target.memory()
            with ExitStack() as all_of_them:
                dripping, sent_again = [], 0
                for at in range(400):
                    connection = all_of_them.enter_context(target.connect())
                    if at % 4 == 1:
                        connection.sendall(b"GET /v2/library/m/manif")
                    elif at % 4 == 2:
                        connection.sendall(GET + b"X: " + b"y" * 10_000)
                    elif at % 4 == 3:
                        dripping.append(connection)
                    sent_again += retransmits(connection)
                self.assertEqual(sent_again, 0)  # The kernel drops who finds no room in line.
                drops = iter(GET * 100)

                def drip() -> None:
                    drop = bytes([next(drops)])
                    for connection in dripping:
                        connection.sendall(drop)
                    time.sleep(0.05)

                with beside(drip):
                    for _ in range(10):
                        target.answers()
                    self.assertEqual(target.ask(self.blob).body, self.content)
                self.assertLess(target.memory() - before, 30 * MB)

        await self.attack(crowd, await self.target())

    async def test_what_is_asked_for_ahead_and_never_read_takes_no_memory(self) -> None:
        """Each of these connections had the daemon hold a thousand replies: 1 GB in all."""

        def ask(target: Target) -> None:
            before = target.memory()
            head = f"GET {self.blob} HTTP/1.1\r\nHost: h\r\nRange: bytes=0-29999\r\n\r\n"
            request = head.encode()
            with ExitStack() as all_of_them:
                for _ in range(60):
                    connection = all_of_them.enter_context(target.connect())
                    connection.setblocking(False)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    try:
                        connection.send(request * (65536 // len(request)))
                    except BlockingIOError:
                        pass
                for _ in range(20):
                    target.answers()
                    self.assertEqual(target.ask(self.blob).body, self.content)
                self.assertLess(target.memory() - before, 40 * MB)

        await self.attack(ask, await self.target())

    async def test_clients_may_hang_up_at_any_moment(self) -> None:
        def leave(target: Target) -> None:
            chance = random.Random(5)
            gone = struct.pack("ii", 1, 0)
            cold = self._upstream.models["library/next:latest"].blobs[0][0]
            asked = (
                f"GET {self.blob} HTTP/1.1\r\nHost: h\r\n\r\n".encode() * 3,
                f"GET /v2/library/next/blobs/{cold} HTTP/1.1\r\nHost: h\r\n\r\n".encode(),
                b"GET /v2/library/next/manifests/latest HTTP/1.1\r\nHost: h\r\n\r\n",
                LAST,
            )
            for _ in range(300):
                with target.connect(room=4096) as connection:
                    said = chance.choice(asked)
                    connection.sendall(said[: chance.randrange(1, 2 * len(said))])
                    if chance.random() < 0.3:
                        connection.settimeout(0.02)
                        try:
                            connection.recv(chance.randrange(1, 5000))
                        except TimeoutError:
                            pass  # it has said too little
                    if chance.random() < 0.7:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, gone)

        await self.attack(leave, await self.target())
        sent = self._upstream.counters.sent_by_digest
        for digest, size in self._upstream.models["library/next:latest"].blobs:
            self.assertEqual(sent[digest], size)

    async def test_clients_that_never_read_disturb_nobody(self) -> None:
        target, path = await self.sparse_target(200 * MB)

        def hold(target: Target) -> None:
            before = target.memory()
            asked = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
            with ExitStack() as all_of_them:
                holding = [all_of_them.enter_context(target.connect(room=4096)) for _ in range(50)]
                for connection in holding:
                    connection.sendall(asked)
                    # More than is read ahead of an answer, and never taken in.
                    connection.settimeout(0.01)
                    try:
                        connection.sendall(asked * 10_000)
                    except TimeoutError:
                        pass
                for _ in range(10):
                    target.answers()
                self.assertLess(target.memory() - before, 30 * MB)

        await self.attack(hold, target)

    async def test_five_hundred_slow_readers_do_not_slow_a_fast_one(self) -> None:
        size = 200 * MB
        target, path = await self.sparse_target(size)
        asked = f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()

        def fast() -> None:
            """Read all of it."""
            buffer, came = bytearray(MB), 0
            with target.connect() as connection:
                connection.sendall(asked)
                while count := connection.recv_into(buffer):
                    came += count
            self.assertGreater(came, size)

        def crawl(target: Target) -> None:
            with ExitStack() as all_of_them:
                slow = [all_of_them.enter_context(target.connect(room=8192)) for _ in range(500)]
                taken = dict.fromkeys(slow, 0)
                for connection in slow:
                    connection.sendall(asked)
                    connection.setblocking(False)

                def sip() -> None:
                    for connection in slow:
                        try:
                            taken[connection] += len(connection.recv(2048))
                        except BlockingIOError:
                            pass
                    time.sleep(0.02)

                with beside(sip):
                    fast()
                    while not min(taken.values()):  # nobody starves beside it
                        fast()
                    target.answers()
                self.assertLess(max(taken.values()), size)  # the fast one overtook them all
                self.assertLess(target.memory(), 180 * MB)

        await self.attack(crawl, target)
