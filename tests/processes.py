"""
Processes of a test's own: the daemon as a shell runs it, stock Ollama, other registries.

They run beside the test's reactor, where the emulated upstream is, and end
with the test that started them, however it ends::

    daemon = await self.yukari(upstream.url)
    ...
    daemon.signal("KILL")
    await daemon.ended
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.running import RunningCase
from yukari.config.settings import SETTINGS

reactor: Any = _reactor

CHECKOUT = Path(__file__).resolve().parent.parent
MAIN = "from yukari.cli.main import main; main()"
"""The console script ``yukari``; tests need no installation."""

PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}

_running: set[int] = set()


@atexit.register
def _end_all() -> None:
    """Should the tests' own process end in the middle of one."""
    for number in _running:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass


def bare_environment(**more: str) -> dict[str, str]:
    """This process's environment with none of our settings in it, and the checkout importable."""
    ours = {row.environment for row in SETTINGS} | PROXIES | {name.upper() for name in PROXIES}
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return {**kept, "PYTHONPATH": path, **more}


class ProcessFailed(Exception):
    """A process ended that should not have, or not so; the text is all that it wrote."""


@define(eq=False)
class Process(ProcessProtocol):
    """A child process and what it wrote."""

    out: bytes = field(default=b"", init=False)
    err: bytes = field(default=b"", init=False)
    status: Optional[int] = field(default=None, init=False)
    """Its exit status, or minus the signal that ended it; None while it runs."""
    _ended: list[Deferred[int]] = field(factory=list, init=False)
    _waiting: list[tuple[Callable[[], object], Deferred[None]]] = field(factory=list, init=False)

    def outReceived(self, data: bytes) -> None:
        self.out += data
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.err += data
        self._look()

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        self.status = value.exitCode if value.signal is None else -value.signal
        _running.discard(self._number)
        ended, self._ended = self._ended, []
        for each in ended:
            each.callback(self.status)
        self._look()

    def connectionMade(self) -> None:
        self._number: int = self._process.pid
        _running.add(self._number)

    @property
    def _process(self) -> Any:
        return self.transport

    @property
    def text(self) -> str:
        """All that it wrote, stdout first."""
        return (self.out + self.err).decode("utf-8", "replace")

    def _look(self) -> None:
        for entry in list(self._waiting):
            holds, answer = entry
            if self.status is not None and not holds():
                self._waiting.remove(entry)
                answer.errback(ProcessFailed(f"ended with {self.status}:\n{self.text}"))
            elif holds():
                self._waiting.remove(entry)
                answer.callback(None)

    def until(self, holds: Callable[[], object]) -> Deferred[None]:
        """Fires when ``holds()``, asked whenever it wrote something; fails if it ends before."""
        answer: Deferred[None] = Deferred()
        self._waiting.append((holds, answer))
        self._look()
        return answer

    @property
    def ended(self) -> Deferred[int]:
        """Fires with its status once it has ended."""
        answer: Deferred[int] = Deferred()
        if self.status is None:
            self._ended.append(answer)
        else:
            answer.callback(self.status)
        return answer

    def signal(self, name: str) -> None:
        """``TERM``, ``KILL`` ...; harmless once it has ended."""
        try:
            self._process.signalProcess(name)
        except ProcessExitedAlready:
            pass

    async def stop(self) -> int:
        """Ask it to end; after 20 s make it."""
        self.signal("TERM")
        insisting = reactor.callLater(20, self.signal, "KILL")
        status = await self.ended
        if insisting.active():
            insisting.cancel()
        return status


@define(eq=False)
class YukariProcess(Process):
    """The daemon, with its log in JSON."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return the complete lines of its log."""
        whole = self.err[: self.err.rfind(b"\n") + 1].splitlines()
        return [json.loads(line) for line in whole if line.startswith(b"{")]

    @property
    def banner(self) -> Optional[dict[str, Any]]:
        """Return the line that says where it listens."""
        return next((line for line in self.lines if " listens on " in line["msg"]), None)

    @property
    def host(self) -> str:
        """Return host and port as they stand before a model's name."""
        banner = self.banner
        assert banner is not None
        return str(banner["where"])

    @property
    def url(self) -> str:
        return f"http://{self.host}"


class ProcessCase(RunningCase):
    """Tests with processes of their own."""

    def directory(self) -> str:
        """A new, empty one."""
        path = os.path.abspath(self.mktemp())
        os.makedirs(path)
        return path

    def spawn(
        self,
        *command: str,
        environment: Optional[Mapping[str, str]] = None,
        directory: Optional[str] = None,
        process: Optional[Process] = None,
    ) -> Process:
        """Start one; it ends with the test."""
        made = process or Process()
        reactor.spawnProcess(
            made,
            command[0],
            command,
            env=bare_environment() if environment is None else dict(environment),
            path=directory or self.directory(),
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    async def yukari(
        self,
        upstream: str,
        *arguments: str,
        bind: str = "127.0.0.1:0",
        storage: Optional[str] = None,
        **environment: str,
    ) -> YukariProcess:
        """
        Start a daemon and wait until it listens; it has a store of its own unless ``storage`` is
        given.
        """
        made = YukariProcess()
        self.spawn(
            *(sys.executable, "-c", MAIN, "--log-format=json", "--min-free=0"),
            f"--bind={bind}",
            f"--upstream-registry={upstream}",
            f"--storage={storage or self.directory()}",
            *arguments,
            environment=bare_environment(**{"UPSTREAMS": "none", **environment}),
            process=made,
        )
        await made.until(lambda: made.banner)
        return made
