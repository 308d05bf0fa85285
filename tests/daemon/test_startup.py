"""The daemon's start and end as an operator sees them: one line of complaint, signals, statuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile

from twisted.internet.task import deferLater

from tests.processes import MAIN, Process, ProcessCase, YukariProcess, bare_environment, reactor
from tests.running import MODEL, until_sent

TWISTD = "from twisted.scripts.twistd import run; run()"
CLOCK = """
import os, time
real = time.time
time.time = lambda: real() - (3600 if os.path.exists("back") else 0)
"""
"""The time of day goes back by an hour once there is a file of that name."""
SLOW = """
import time
from twisted.internet import reactor
run = reactor.run
reactor.run = lambda *args, **keywords: (time.sleep(0.2), run(*args, **keywords))
"""
"""Some time passes from the start of the services until the reactor runs."""
NOWHERE = "http://127.0.0.1:9/"


class StartCase(ProcessCase):
    """Starts by way of ``yukari`` or twistd, with nothing set but what the test sets."""

    def start(self, code: str, *arguments: str, process: Process, **environment: str) -> None:
        self.spawn(
            sys.executable,
            "-c",
            code,
            *arguments,
            environment=bare_environment(**{"HOME": self.directory(), **environment}),
            process=process,
        )


class RefusalTests(StartCase):
    """A start that fails says so in one line, with status 1."""

    async def complaint(self, *arguments: str, **environment: str) -> str:
        """Return the text of a ``yukari`` that ends."""
        refused = Process()
        self.start(MAIN, "--bind=127.0.0.1:0", *arguments, process=refused, **environment)
        self.assertEqual(await refused.ended, 1, refused.text)
        self.assertEqual(refused.out, b"")
        said = refused.err.decode()
        self.assertEqual(said.count("\n"), 1, said)
        return said

    def not_a_directory(self) -> str:
        """A file; nothing can be made below it, not even by root."""
        path = os.path.join(self.directory(), "file")
        with open(path, "w"):
            return path

    async def test_a_port_in_use_ends_the_start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            bind = f"127.0.0.1:{taken.getsockname()[1]}"
            said = await self.complaint(f"--bind={bind}")
        self.assertIn(f"yukari: BIND {bind}: cannot listen there: ", said)
        self.assertIn("Address already in use", said)

    async def test_a_port_in_use_on_all_addresses(self) -> None:
        with socket.create_server(("", 0)) as taken:
            bind = f":{taken.getsockname()[1]}"
            said = await self.complaint(f"--bind={bind}")
        self.assertIn(f"yukari: BIND {bind}: cannot listen there: ", said)

    async def test_an_unusable_directory_ends_the_start(self) -> None:
        storage = os.path.join(self.not_a_directory(), "models")
        said = await self.complaint(f"--storage={storage}")
        self.assertIn(f"yukari: cannot store in {storage}: ", said)
        self.assertIn("Not a directory", said)

    async def test_a_missing_password_file_ends_the_start(self) -> None:
        place = self.directory()
        fifo = os.path.join(place, "fifo")
        os.mkfifo(fifo)
        for path, what in (fifo, "a FIFO"), (place, "a directory"), ("/dev/zero", "a device"):
            said = await self.complaint(f"--admin-auth-file={path}")
            self.assertIn(f"ADMIN_AUTH_FILE '{path}': expected a file, this is {what}", said)

    async def test_an_unusable_spool_directory_ends_the_start(self) -> None:
        spool = os.path.join(self.not_a_directory(), "spool")
        said = await self.complaint(f"--spool-dir={spool}")
        self.assertIn("Not a directory", said)

    async def test_an_unusable_home_ends_the_start(self) -> None:
        said = await self.complaint(HOME=self.not_a_directory())
        self.assertIn("Not a directory", said)

    async def test_a_directory_of_another_daemon_ends_the_start(self) -> None:
        storage = self.directory()
        first = await self.yukari(NOWHERE, storage=storage)
        said = await self.complaint(f"--storage={storage}")
        number = first.transport.pid  # type: ignore[union-attr]
        self.assertIn(f"in use by another yukari (process {number})", said)
        await first.stop()
        await self.yukari(NOWHERE, storage=storage)

    async def test_an_upstream_that_is_no_url_ends_the_start(self) -> None:
        said = await self.complaint("--upstream-registry=registry.ollama.ai")
        self.assertIn("yukari: --upstream-registry 'registry.ollama.ai': expected an http", said)

    async def test_twistd_reports_a_failed_start_and_leaves_no_pid_file(self) -> None:
        storage = os.path.join(self.not_a_directory(), "models")
        directory = self.directory()
        for daemonize in ("--nodaemon",), ("--logfile", f"{directory}/log"):
            refused = Process()
            self.start(
                TWISTD,
                *daemonize,
                "--pidfile",
                f"{directory}/pid",
                *("yukari", "--bind=127.0.0.1:0", f"--storage={storage}"),
                process=refused,
            )
            self.assertEqual(await refused.ended, 1, refused.text)
            self.assertIn(f"yukari: cannot store in {storage[:60]}", refused.text)
            while os.path.exists(f"{directory}/pid"):
                await deferLater(reactor, 0.02, lambda: None)
            self.assertNotIn("Traceback", refused.text)
        with open(f"{directory}/log") as log:
            self.assertEqual(len(log.readlines()), 1)


class StartTests(StartCase):
    """A daemon that starts says where it is, answers, and ends when it is told to."""

    async def serves(self, daemon: YukariProcess) -> None:
        await daemon.until(lambda: daemon.banner)
        reply, body = await self.ask(f"{daemon.url}/healthz")
        self.assertEqual((reply.status, body), (200, b"OK\n"))

    async def test_both_commands_start_with_defaults_and_a_quiet_log(self) -> None:
        for code, first in ((MAIN, ()), (TWISTD, ("-n", "yukari"))):
            daemon, home = YukariProcess(), self.directory()
            self.start(
                code, *first, process=daemon, BIND="127.0.0.1:0", SLOG_LEVEL="ERROR", HOME=home
            )
            await self.serves(daemon)
            self.assertIn(f"{home}/.cache/yukari", daemon.err.decode())
            self.assertIn(f"ollama pull --insecure {daemon.host}/", daemon.err.decode())
            daemon.signal("TERM")
            self.assertEqual(await daemon.ended, 0)
            self.assertEqual((len(daemon.lines), daemon.out), (1, b""))

    async def test_ctrl_c_ends_it_by_that_signal(self) -> None:
        daemon = await self.yukari(NOWHERE)
        await self.serves(daemon)
        daemon.signal("INT")
        self.assertEqual(await daemon.ended, -signal.SIGINT)
        self.assertNotIn("Traceback", daemon.text)

    async def test_sigterm_as_soon_as_it_listens_ends_it_well_and_a_second_changes_nothing(
        self,
    ) -> None:
        """Catches a line that says it listens before signals are handled: the status was 143."""
        daemon = YukariProcess()
        self.start(SLOW + MAIN, "--bind=127.0.0.1:0", process=daemon, UPSTREAM_REGISTRY=NOWHERE)
        await daemon.until(lambda: daemon.banner)
        daemon.signal("TERM")
        daemon.signal("TERM")
        self.assertEqual(await daemon.ended, 0)
        self.assertNotIn("Traceback", daemon.text)

    async def test_daemon_stops_while_blobs_are_being_fetched(self) -> None:
        upstream = await self.upstream(f"{MODEL}=5MB", line=100_000)
        storage = self.directory()
        daemon = await self.yukari(upstream.url, storage=storage)
        reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/manifests/latest", {})
        self.assertEqual(reply.status, 200)
        await until_sent(upstream, 1)
        daemon.signal("TERM")
        self.assertEqual(await daemon.ended, 0)
        self.assertNotIn("Traceback", daemon.text)
        manifest = upstream.models[MODEL].digest.replace(":", "-")
        self.assertEqual(os.listdir(os.path.join(storage, "blobs")), [manifest])

    async def test_a_clock_set_back_delays_nothing(self) -> None:
        daemon, home = YukariProcess(), self.directory()
        self.spawn(
            *(sys.executable, "-c", CLOCK + MAIN, "--bind=127.0.0.1:0", "--shutdown-delay=1s"),
            environment=bare_environment(HOME=home),
            process=daemon,
            directory=home,
        )
        await self.serves(daemon)
        daemon.signal("TERM")
        reply, _ = await self.ask(f"{daemon.url}/readyz")
        while reply.status == 200:
            reply, _ = await self.ask(f"{daemon.url}/readyz")
        with open(os.path.join(home, "back"), "w"):
            pass
        self.assertEqual(await daemon.ended, 0)

    async def test_daemon_starts_without_upstream(self) -> None:
        await self.serves(await self.yukari(NOWHERE))

    async def test_daemon_listens_on_several_addresses(self) -> None:
        short = tempfile.mkdtemp()  # A socket's path has a hundred characters at most.
        self.addCleanup(shutil.rmtree, short)
        path = os.path.join(short, "socket")
        daemon = await self.yukari(NOWHERE, f"--bind=unix:{path}", "--bind=[::1]:0")
        first, unix, v6 = daemon.host.split(", ")
        for host in (first, v6):
            reply, _ = await self.ask(f"http://{host}/healthz")
            self.assertEqual(reply.status, 200)
        self.assertEqual(unix, path)
        self.assertTrue(os.path.exists(path))

    async def test_an_endpoint_without_interface_listens_on_both_families(self) -> None:
        daemon = await self.yukari(NOWHERE, "--admin-bind=tcp:0", bind="tcp:port=0")
        number = daemon.host.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            reply, _ = await self.ask(f"http://{host}:{number}/healthz")
            self.assertEqual(reply.status, 200)

    async def test_twistd_starts_a_background_daemon(self) -> None:
        directory = self.directory()
        starting = Process()
        self.start(
            TWISTD,
            *("--pidfile", f"{directory}/pid", "--logfile", f"{directory}/log"),
            *("yukari", "--bind=127.0.0.1:0", f"--storage={directory}/models"),
            process=starting,
        )
        self.assertEqual(await starting.ended, 0, starting.text)
        with open(f"{directory}/pid") as file:
            number = int(file.read())
        self.addCleanup(kill, number)
        text = ""
        while not text.endswith("\n"):  # It is written once the reactor runs.
            await deferLater(reactor, 0.02, lambda: None)
            with open(f"{directory}/log") as file:
                text = file.readline()
        banner = json.loads(text)
        reply, _ = await self.ask(f"http://{banner['where']}/healthz")
        self.assertEqual(reply.status, 200)
        os.kill(number, signal.SIGTERM)
        while os.path.exists(f"{directory}/pid"):
            await deferLater(reactor, 0.02, lambda: None)


def kill(number: int) -> None:
    """Kill a process that is not our child, if it is still there."""
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        pass
