"""
Several daemons over one bucket, behind a load balancer that chooses by the model.

This is what ``deploy/kubernetes/base/ingress.yaml`` asks of an ingress controller, here of nginx
and HAProxy themselves.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

from twisted.internet.defer import Deferred, DeferredList
from twisted.trial.unittest import SkipTest

from tests.clients import Pulled
from tests.emulator import Emulator
from tests.processes import MAIN, ProcessCase, YukariProcess, bare_environment
from tests.running import SMALL16, SMALL_TRANSFER, pull, reactor, until_sent
from tests.s3.against import AgainstServer
from tests.s3.servers import MOTO, answers, free_port

NGINX = """
daemon off; worker_processes 1; error_log stderr; pid {directory}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    map $uri $model {{ default $uri; "~^/v2/([^/]+/[^/]+)/" $1; }}
    upstream replicas {{ hash $model consistent; {servers} }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 1h;
        location / {{ proxy_pass http://replicas; proxy_set_header Host $http_host; }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout check 5s
frontend all
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance uri depth 3
    option httpchk GET /readyz
    option redispatch
    default-server check inter 100ms fall 1 rise 1
{servers}
"""

MODELS = [f"library/m{at}:latest" for at in range(4)]
MANY = 40


class ReplicasTests(ProcessCase, AgainstServer):
    """Two daemons and a bucket."""

    server = MOTO

    async def replica(self, upstream: str, *flags: str) -> YukariProcess:
        """A daemon with a spool of its own and the test's bucket."""
        made = YukariProcess()
        self.spawn(
            *(sys.executable, "-c", MAIN, "--log-format=json", "--min-free=0", "--redirect=off"),
            *("--bind=127.0.0.1:0", f"--upstream-registry={upstream}"),
            *(f"--tigris-bucket={self.bucket}", f"--spool-dir={self.directory()}"),
            *flags,
            environment=bare_environment(**MOTO.environment()),
            process=made,
        )
        await made.until(lambda: made.banner)
        return made

    def program(self, name: str) -> str:
        """Return its path; skip the test without it."""
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        if found is None:
            raise SkipTest(f"{name} is not installed")
        return found

    def nginx(self, *replicas: YukariProcess) -> str:
        """The URL of one in front of them."""
        servers = " ".join(f"server {each.host};" for each in replicas)
        return self.start(self.program("nginx"), "-c", "{}", text=NGINX, servers=servers)

    def haproxy(self, *replicas: YukariProcess) -> str:
        """The URL of one in front of them that asks each whether it is ready."""
        servers = "\n".join(f"    server r{at} {each.host}" for at, each in enumerate(replicas))
        program = self.program("haproxy")
        return self.start(program, "-db", "-f", "{}", text=HAPROXY, servers=servers)

    def start(self, program: str, *arguments: str, text: str, servers: str) -> str:
        """The load balancer's URL; {} in its arguments is its configuration's path."""
        port, directory = free_port(), self.directory()
        path = os.path.join(directory, "configuration")
        with open(path, "w") as file:
            file.write(text.format(directory=directory, port=port, servers=servers))
        self.spawn(program, *(argument.format(path) for argument in arguments))
        self.assertTrue(answers(port, 60))
        return f"http://127.0.0.1:{port}"

    async def registry(self) -> Emulator:
        """A slow upstream with `MODELS`, no two alike."""
        return await self.upstream(
            *(f"{model}=2{at}00KB,1{at}00KB,30{at},1{at}" for at, model in enumerate(MODELS)),
            rate=2_000_000,
        )

    def pulls(self, front: str) -> list[Deferred[Pulled]]:
        """Clients of two generations pull each model at once."""
        return [
            self.begin(pull(reactor, front, model, generation, directory=self.directory()))
            for model in MODELS
            for generation in (SMALL16, SMALL_TRANSFER)
        ]

    async def all_succeed(self, pulls: list[Deferred[Pulled]]) -> None:
        for succeeded, pulled in await DeferredList(pulls, consumeErrors=True):
            self.assertTrue(succeeded, pulled)
            self.assertTrue(all(blob.ok for blob in pulled.blobs.values()))

    async def fetched_once(self, front: Callable[..., str]) -> None:
        """Upstream sends each byte once, and of many models each daemon has some."""
        upstream = await self.registry()
        replicas = [await self.replica(upstream.url) for _ in range(2)]
        url = front(*replicas)
        await self.all_succeed(self.pulls(url))
        self.assert_sent_once(upstream, *upstream.models.values())
        for at in range(MANY):
            await self.ask(f"{url}/v2/library/none{at}/tags/list")
        for each in replicas:
            _, numbers = await self.ask(f"{each.url}/metrics")
            self.assertIn(b'yukari_requests_total{kind="tag"', numbers)

    async def test_behind_nginx_each_blob_is_fetched_once(self) -> None:
        await self.fetched_once(self.nginx)

    async def test_behind_haproxy_each_blob_is_fetched_once(self) -> None:
        await self.fetched_once(self.haproxy)

    async def test_stopping_a_replica_interrupts_no_pull(self) -> None:
        self.program("haproxy")
        upstream = await self.registry()
        flags = "--shutdown-delay=1s", "--grace=30s"
        replicas = [await self.replica(upstream.url, *flags) for _ in range(2)]
        pulls = self.pulls(self.haproxy(*replicas))
        await until_sent(upstream, 2_000_000)
        replicas[0].signal("TERM")
        await self.all_succeed(pulls)
        self.assertEqual(await replicas[0].ended, 0)
