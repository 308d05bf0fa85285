"""
S3 servers to test against: moto's, and a Ceph of one node.

Each is started when the first test asks for it and stopped when the run ends. A test is skipped if
it is not installed.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from random import Random
from typing import Optional

from attrs import define, field

from tests.s3.ceph import CEPH_TOOLS, start_ceph

ACCESS, SECRET = "test", "testtest"


_ports = itertools.cycle(Random().sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """
    Return a port of 127.0.0.1 that was free just now.

    It is outside the range from which the kernel gives ports to outgoing connections, which might
    take it before it is listened on.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def answers(port: int, within: float) -> bool:
    """Whether anything answers HTTP there within so many seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


@define
class Server:
    """One that is started at most once."""

    name: str
    port: int = field(default=0, init=False)
    _failed: Optional[str] = field(default=None, init=False)

    def missing(self) -> Optional[str]:
        """The reason why it cannot be started here, None if it can."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it on `port`, to be ended by `atexit`; raises if it does not come up."""
        raise NotImplementedError

    def up(self) -> None:
        """Start it once; `endpoint` says whether that worked."""
        if not self.port:
            self.port = free_port()
            try:
                self.start()
            except Exception as error:
                self._failed = str(error)

    def endpoint(self, host: str = "127.0.0.1") -> str:
        """Its URL, started by now."""
        self.up()
        if self._failed is not None:
            raise RuntimeError(f"{self.name} did not start: {self._failed}")
        return f"http://{host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """The environment of a daemon that stores there, without the bucket."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint(),
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_CONFIG_FILE": os.devnull,
        }


class Moto(Server):
    def missing(self) -> Optional[str]:
        found = find_spec("moto") and find_spec("flask")
        return None if found else "moto[server] is not installed"

    def start(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(process.wait)
        atexit.register(process.kill)
        if not answers(self.port, 120.0):
            raise RuntimeError("no answer in 120 s")


class Ceph(Server):
    def missing(self) -> Optional[str]:
        absent = [tool for tool in CEPH_TOOLS if shutil.which(tool) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    def start(self) -> None:
        directory = tempfile.mkdtemp(prefix="yukari-ceph-")
        daemons = start_ceph(directory, self.port, free_port(), free_port(), ACCESS, SECRET)

        def stop() -> None:
            for pid in daemons():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            shutil.rmtree(directory, ignore_errors=True)

        atexit.register(stop)
        if not answers(self.port, 120.0):
            raise RuntimeError(f"no answer in 120 s; see {directory}")


MOTO, CEPH = Moto("moto"), Ceph("Ceph")
