"""Debian's microsocks, a SOCKS5 proxy, as a test's own process."""

from __future__ import annotations

import re
import shutil
import socket

from attrs import define

from tests.processes import Process, ProcessCase
from tests.running import until
from tests.s3.servers import free_port

MICROSOCKS = shutil.which("microsocks") or ""
MISSING = None if MICROSOCKS else "microsocks is not installed"


@define(eq=False)
class Microsocks(Process):
    """It listens on ``port`` of loopback."""

    port: int

    @property
    def asked(self) -> set[str]:
        """The hosts and ports that it connected to, names as they were sent."""
        return set(re.findall(r"connected to (\S+)", self.text))


async def start(case: ProcessCase, *arguments: str) -> Microsocks:
    """Start one; it ends with the test."""
    made = Microsocks(free_port())
    case.spawn(MICROSOCKS, "-i", "127.0.0.1", "-p", str(made.port), *arguments, process=made)
    await until(lambda: _listens(made.port))
    return made


def _listens(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0
