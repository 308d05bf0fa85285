"""Processes that a bench starts, and what they take: CPU seconds, resident bytes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from attrs import define, field

CHECKOUT = Path(__file__).resolve().parent.parent
MEASURED = Path(os.environ.get("BENCH_CHECKOUT", CHECKOUT))
"""Whose Yukari is measured: this checkout's, or another one's, to see what a change brings."""
TICKS = os.sysconf("SC_CLK_TCK")


class DidNotStart(Exception):
    """A process that never came up; the text ends with what it wrote."""


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as trial:
        return trial.connect_ex((host, port)) == 0


@define(eq=False)
class Process:
    """A running process with its children, and where its output goes."""

    popen: subprocess.Popen[bytes]
    log: Path
    _retired: float = field(default=0.0, init=False)

    @property
    def number(self) -> int:
        return self.popen.pid

    def numbers(self) -> list[int]:
        """Its own and its children's."""
        found = [self.number]
        for number in found:
            path = Path(f"/proc/{number}/task/{number}/children")
            try:
                found += map(int, path.read_text().split())
            except OSError:
                pass
        return found

    def cpu(self) -> float:
        """Seconds of CPU so far, user and system, all threads and children."""
        return sum(map(_cpu_of, self.numbers()))

    def cpu_of_main(self) -> float:
        """The same of its first thread, which is a reactor's."""
        return _cpu_of(self.number, f"task/{self.number}/")

    def resident(self) -> int:
        """Bytes of memory now, all children's."""
        return sum(_status(number, "VmRSS") for number in self.numbers())

    def forget_peak(self) -> None:
        """`peak` counts from now."""
        for number in self.numbers():
            Path(f"/proc/{number}/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most bytes of memory since the start or `forget_peak`."""
        return sum(_status(number, "VmHWM") for number in self.numbers())

    def until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        """Returns when ``holds()``; `DidNotStart` if the process ends or time is up before."""
        ends = time.monotonic() + seconds
        while not holds():
            if self.popen.poll() is not None or time.monotonic() > ends:
                written = self.log.read_text(errors="replace")[-2000:]
                raise DidNotStart(f"{self.popen.args!r}:\n{written}")
            time.sleep(0.005)

    def stop(self) -> None:
        """Ask it to end; after 5 s make it."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


def _cpu_of(number: int, thread: str = "") -> float:
    try:
        fields = Path(f"/proc/{number}/{thread}stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _status(number: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def environment(checkout: Path = CHECKOUT, **more: str) -> dict[str, str]:
    """This process's own, in which ``checkout`` can be imported."""
    return {**os.environ, "PYTHONPATH": str(checkout), **more}


@contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    name: str,
    env: Optional[Mapping[str, str]] = None,
) -> Iterator[Process]:
    """A process until the block ends; what it writes goes to a file in ``directory``."""
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=None if env is None else dict(env),
        )
    process = Process(popen, log)
    try:
        yield process
    finally:
        process.stop()


def python(*arguments: str, **keywords: Any) -> bytes:
    """Run a module of the checkout to its end; what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=CHECKOUT,
        check=True,
        **keywords,
    )
    return done.stdout
