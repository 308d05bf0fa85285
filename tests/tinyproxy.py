"""Debian's tinyproxy, as a test's own process."""

from __future__ import annotations

import os
import re
import shutil

from attrs import define

from tests.processes import Process, ProcessCase
from tests.s3.servers import free_port
from yukari.config.proxies import Proxies

TINYPROXY = shutil.which("tinyproxy") or ""
MISSING = None if TINYPROXY else "tinyproxy is not installed"


@define(eq=False)
class Tinyproxy(Process):
    """It listens on ``port`` of loopback."""

    port: int

    @property
    def asked(self) -> list[str]:
        """The requests that came to it: a method and what it was asked of."""
        found = re.findall(r"Request \(file descriptor [0-9]+\): (\S+ \S+) HTTP", self.text)
        return [each.split("?")[0] for each in found]

    def url(self, credentials: str = "") -> str:
        """What is set to go by it, with ``USER:PASSWORD@`` or not."""
        return f"http://{credentials}127.0.0.1:{self.port}"

    def proxies(self, credentials: str = "", no_proxy: str = "") -> Proxies:
        """The settings of a daemon that goes by it for everything."""
        return Proxies.read({"ALL_PROXY": self.url(credentials), "NO_PROXY": no_proxy})


async def start(case: ProcessCase, *lines: str, port: int = 0) -> Tinyproxy:
    """Start one, with more ``lines`` in its configuration; it ends with the test."""
    made = Tinyproxy(port or free_port())
    directory = case.directory()
    path = os.path.join(directory, "tinyproxy.conf")
    with open(path, "w") as file:
        file.write(
            f"Port {made.port}\nListen 127.0.0.1\nTimeout 30\nMaxClients 100\nLogLevel Info\n"
        )
        file.write("\n".join([*lines, ""]))
    case.spawn(TINYPROXY, "-d", "-c", path, process=made)
    await made.until(lambda: "Accepting connections" in made.text)
    return made
