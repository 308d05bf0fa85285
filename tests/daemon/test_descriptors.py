"""A daemon that may open 1,024 files, and more clients than it can ask upstream for at once."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from tests.clients import pull
from tests.emulator import Fault
from tests.processes import MAIN, ProcessCase, YukariProcess, bare_environment, reactor
from tests.running import MODEL, SMALL16, until
from yukari.sources.questions import MAX_QUESTIONS

FILES = 1024
CLIENTS = 690
LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES})); {MAIN}"


class DescriptorTests(ProcessCase):
    async def limited(self, upstream: str, storage: str) -> YukariProcess:
        made = YukariProcess()
        self.spawn(
            *(sys.executable, "-c", LIMITED, "--log-format=json", "--bind=127.0.0.1:0"),
            *("--min-free=0", f"--upstream-registry={upstream}", f"--storage={storage}"),
            # One registry, for each takes descriptors; and nobody gives up while the test runs.
            *("--upstreams=none", "--upstream-timeout=10m", "--upstream-connections=64/200"),
            environment=bare_environment(HOME=self.directory()),
            process=made,
        )
        await made.until(lambda: made.banner)
        return made

    async def connected(self, port: int, at: int) -> Any:
        """One of many clients, from several addresses: each may have so many connections only."""
        address = f"127.0.0.{2 + at % 5}"
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port, bindAddress=(address, 0))
        client = await connectProtocol(endpoint, Protocol())
        self.addCleanup(client.transport.abortConnection)  # type: ignore[union-attr]
        return client

    async def test_what_is_stored_is_served_while_many_wait_for_upstream(self) -> None:
        """Each of them would take a second descriptor, for upstream."""
        upstream = await self.upstream()
        daemon = await self.limited(upstream.url, self.directory())
        short = f"fewer connections than UPSTREAM_CONNECTIONS: {FILES // 8} to "
        await daemon.until(lambda: any(short in line["msg"] for line in daemon.lines))
        await pull(reactor, daemon.url, MODEL, SMALL16, directory=os.getcwd())
        layer = upstream.models[MODEL].layers[0][0]
        fault = upstream.faults.add(Fault("manifest", "silence"))
        for at in range(CLIENTS):
            client = await self.connected(int(daemon.host.split(":")[1]), at)
            target = f"/v2/library/m{at % 100}/manifests/t{at}"
            client.transport.write(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        await until(lambda: fault.happened >= MAX_QUESTIONS)
        for _ in range(20):
            for path in ("manifests/latest", f"blobs/{layer}"):
                found, _ = await self.ask(f"{daemon.url}/v2/library/m/{path}")
                self.assertEqual(found.status, 200, path)
        self.assertEqual(fault.happened, MAX_QUESTIONS)
        self.assertNotIn("Too many open files", daemon.text)
