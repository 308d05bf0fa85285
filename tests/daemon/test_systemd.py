"""Under systemd: notifications, and sockets that it holds while the daemon is away."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
from unittest import skipIf

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from tests.processes import CHECKOUT, MAIN, ProcessCase, YukariProcess, bare_environment, reactor
from tests.running import MODEL
from yukari.config.settings import SETTINGS, Settings
from yukari.daemon.service import ENDS_WITHIN
from yukari.daemon.systemd import Notifier, watchdog_period

PROCESS = 4711
ACTIVATE = shutil.which("systemd-socket-activate") or ""


class Told(socket.socket):
    """systemd's end of NOTIFY_SOCKET, a datagram socket on ``path``."""

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.setblocking(False)
        self.bind(path)

    def read(self) -> list[str]:
        """Return what has arrived since the last call."""
        found = []
        try:
            while True:
                found.append(self.recv(1000).decode())
        except BlockingIOError:
            return found


class NotifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()  # A socket's path has a hundred characters at most.
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "notify")
        self.told = Told(self.path)
        self.addCleanup(self.told.close)
        self.clock = Clock()

    def notifier(self, **environment: str) -> Notifier:
        return Notifier(self.clock, {"NOTIFY_SOCKET": self.path, **environment}, PROCESS)

    def test_ready_and_stopping(self) -> None:
        notifier = self.notifier()
        self.assertEqual(self.told.read(), [])
        notifier.ready()
        self.assertEqual(self.told.read(), ["READY=1"])
        notifier.stopping(90.5)
        self.assertEqual(self.told.read(), ["STOPPING=1\nEXTEND_TIMEOUT_USEC=90500000"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_keep_alives_are_sent_at_half_the_timeout(self) -> None:
        notifier = self.notifier(WATCHDOG_USEC="20000000", WATCHDOG_PID=str(PROCESS))
        notifier.ready()
        self.assertEqual(self.told.read(), ["READY=1", "WATCHDOG=1"])
        self.clock.pump([5.0] * 8)
        self.assertEqual(self.told.read(), ["WATCHDOG=1"] * 4)
        notifier.stopping(1)
        self.clock.advance(10)
        self.assertEqual(self.told.read()[1:], ["WATCHDOG=1"])
        notifier.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_abstract_socket(self) -> None:
        name = f"yukari-test-{os.getpid()}"
        with Told(f"\0{name}") as told:
            self.notifier(NOTIFY_SOCKET=f"@{name}").ready()
            self.assertEqual(told.read(), ["READY=1"])

    def test_a_socket_without_listener_is_no_error(self) -> None:
        self.notifier(NOTIFY_SOCKET="").ready()
        self.told.close()
        self.notifier(WATCHDOG_USEC="1000000").ready()
        self.clock.advance(0.5)

    @given(st.integers(1, 2**62), st.integers(1, 2**22), st.integers(1, 2**22))
    def test_the_watchdog_is_for_the_process_it_names(
        self, wait: int, ours: int, named: int
    ) -> None:
        environment = {"WATCHDOG_USEC": str(wait), "WATCHDOG_PID": str(named)}
        self.assertEqual(watchdog_period(environment, named), wait / 2e6)
        if ours != named:
            self.assertIsNone(watchdog_period(environment, ours))

    @given(st.text().filter(lambda text: not text.strip("0").isdecimal()))
    def test_a_timeout_that_is_no_positive_number_is_no_watchdog(self, text: str) -> None:
        self.assertIsNone(watchdog_period({"WATCHDOG_USEC": text}, PROCESS))


@skipIf(not ACTIVATE, "no systemd-socket-activate on PATH")
class ActivationTests(ProcessCase):
    async def test_the_first_connection_starts_the_daemon(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            where = f"127.0.0.1:{free.getsockname()[1]}"
        daemon = YukariProcess()
        settings = {"BIND": "systemd:domain=INET:index=0", "STORAGE": self.directory()}
        self.spawn(
            *(ACTIVATE, f"--listen={where}", "--fdname=yukari.socket"),
            *(f"--setenv={name}" for name in (*settings, "PYTHONPATH")),
            *(sys.executable, "-c", MAIN, "--log-format=json"),
            environment=bare_environment(**settings),
            process=daemon,
        )
        await daemon.until(lambda: "Listening on" in daemon.text)
        self.assertIsNone(daemon.banner)
        reply, body = await self.ask(f"http://{where}/healthz")
        self.assertEqual((reply.status, body), (200, b"OK\n"))
        self.assertEqual(daemon.host, where)
        self.assertEqual(await daemon.stop(), 0)


class ServiceTests(ProcessCase):
    """The daemon as systemd starts it."""

    async def held(self, listening: socket.socket, upstream: str, storage: str) -> YukariProcess:
        """A daemon that listens on a socket which stays open without it, as systemd passes it."""
        made = YukariProcess()
        reactor.spawnProcess(
            made,
            "/bin/sh",
            # The process that the sockets are for is named by its number.
            ("sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", sys.executable, "-c", MAIN),
            env=bare_environment(
                LISTEN_FDS="1",
                LISTEN_FDNAMES="yukari.socket",
                BIND="systemd:domain=INET:index=0",
                LOG_FORMAT="json",
                SLOG_LEVEL="INFO",
                STORAGE=storage,
                UPSTREAM_REGISTRY=upstream,
                MIN_FREE="0",
            ),
            path=self.directory(),
            childFDs={0: "w", 1: "r", 2: "r", 3: listening.fileno()},
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        await made.until(lambda: made.banner)
        return made

    async def test_connections_during_a_restart_are_not_refused(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB", line=100_000)
        storage = self.directory()
        digest, size = upstream.models[MODEL].blobs[0]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            first = await self.held(listening, upstream.url, storage)
            for path in ("manifests/latest", f"blobs/{digest}"):
                reply = await self.http().open("GET", f"{first.url}/v2/library/m/{path}", {})
                self.assertEqual(reply.status, 200)
            first.signal("TERM")
            await first.until(lambda: "in progress" in first.text)
            upstream.settings.line = None
            meanwhile = self.begin(self.ask(f"{first.url}/healthz"))
            self.assertEqual(len(await reply.body()), size)
            self.assertEqual(await first.ended, 0)
            afterwards = self.begin(self.ask(f"{first.url}/healthz"))
            second = await self.held(listening, upstream.url, storage)
            self.assertEqual(second.url, first.url)
            for asked in meanwhile, afterwards:
                self.assertEqual((await asked)[0].status, 200)

    async def test_daemon_notifies_that_it_is_ready_alive_and_stopping(self) -> None:
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        with Told(os.path.join(directory, "notify")) as told:
            environment = bare_environment(
                NOTIFY_SOCKET=told.getsockname(), WATCHDOG_USEC="40000", GRACE="10s"
            )
            daemon = YukariProcess()
            self.spawn(
                *(sys.executable, "-c", MAIN, "--bind=127.0.0.1:0", "--log-format=json"),
                f"--storage={self.directory()}",
                environment=environment,
                process=daemon,
            )
            heard = []
            while heard.count("WATCHDOG=1") < 3:
                heard += told.read()
                await deferLater(reactor, 0.02, lambda: None)
            self.assertEqual(heard[0], "READY=1")
            self.assertIsNotNone(daemon.banner)
            daemon.signal("TERM")
            self.assertEqual(await daemon.ended, 0)
            self.assertIn("STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000", told.read())

    async def test_a_socket_that_was_not_passed_is_one_line(self) -> None:
        for index in "index=0", "name=yukari.socket":
            refused = self.spawn(
                *(sys.executable, "-c", MAIN, f"--bind=systemd:domain=INET6:{index}")
            )
            self.assertEqual(await refused.ended, 1)
            self.assertIn("expected a socket that systemd passed to this process", refused.text)
            self.assertEqual(refused.text.count("\n"), 1)


class UnitTests(SynchronousTestCase):
    """The files in ``deploy/systemd``."""

    def read(self, name: str) -> str:
        return (CHECKOUT / "deploy" / "systemd" / name).read_text(encoding="utf-8")

    def test_every_line_of_the_example_is_a_setting_with_a_good_value(self) -> None:
        names = {row.environment for row in SETTINGS}
        given = re.findall(r"^#?([A-Z_0-9]+)=(.*)$", self.read("yukari.env"), re.MULTILINE)
        for name, value in given:
            if not name.startswith("AWS_"):
                self.assertIn(name, names)
                # Neither the socket nor the file is there.
                if not value.startswith("systemd:") and name != "YUKARI_CONFIG":
                    Settings.read({}, {"HOME": "/", name: value})
        self.assertGreater(len(given), 10)

    def test_every_line_of_the_example_is_commented_out(self) -> None:
        self.assertEqual(re.findall("^[^#\n]", self.read("yukari.env"), re.MULTILINE), [])

    def test_the_units_timeout_exceeds_the_daemons_longest_stop(self) -> None:
        stop = re.search("^TimeoutStopSec=([0-9]+)$", self.read("yukari.service"), re.MULTILINE)
        assert stop is not None
        settings = Settings.read({}, {"HOME": "/"})
        self.assertGreaterEqual(
            float(stop[1]), settings.shutdown_delay + settings.grace + ENDS_WITHIN
        )
