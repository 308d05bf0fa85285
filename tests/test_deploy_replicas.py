"""
Several daemons over one bucket, behind a load balancer that chooses by the model.

This is what ``deploy/kubernetes/base/ingress.yaml`` asks of an ingress controller, here of nginx
and HAProxy themselves.
"""

from __future__ import annotations

import os
import shutil
import sys

from twisted.internet.defer import DeferredList
from twisted.trial.unittest import SkipTest

from tests.processes import MAIN, ProcessCase, YukariProcess, bare_environment
from tests.running import SMALL16, SMALL_TRANSFER, pull, reactor
from tests.s3.against import AgainstServer
from tests.s3.servers import ACCESS, MOTO, SECRET, answers, free_port

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
frontend all
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance uri depth 3
{servers}
"""

MODELS, MANY = 6, 40


class ReplicasTests(ProcessCase, AgainstServer):
    """Two daemons and a bucket."""

    server = MOTO
    timeout = 120

    async def replica(self, upstream: str) -> YukariProcess:
        """A daemon with a spool of its own and the test's bucket."""
        made = YukariProcess()
        self.spawn(
            *(sys.executable, "-c", MAIN, "--log-format=json", "--min-free=0", "--redirect=off"),
            *("--bind=127.0.0.1:0", f"--upstream-registry={upstream}"),
            *(f"--tigris-bucket={self.bucket}", f"--spool-dir={self.directory()}"),
            environment=bare_environment(
                AWS_ENDPOINT_URL_S3=MOTO.endpoint(),
                AWS_REGION="us-east-1",
                AWS_ACCESS_KEY_ID=ACCESS,
                AWS_SECRET_ACCESS_KEY=SECRET,
                AWS_CONFIG_FILE=os.devnull,
            ),
            process=made,
        )
        await made.until(lambda: made.banner)
        return made

    def program(self, name: str) -> str:
        """Its path; the test is skipped where it is not."""
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        if found is None:
            raise SkipTest(f"{name} is not installed")
        return found

    def start(self, program: str, *arguments: str, configuration: str, servers: str) -> str:
        """The load balancer's URL; {} in its arguments is its configuration's path."""
        port, directory = free_port(), self.directory()
        path = os.path.join(directory, "configuration")
        with open(path, "w") as file:
            file.write(configuration.format(directory=directory, port=port, servers=servers))
        self.spawn(program, *(argument.format(path) for argument in arguments))
        self.assertTrue(answers(port, 10))
        return f"http://127.0.0.1:{port}"

    async def fetched_once(self, program: str, *arguments: str, configuration: str) -> None:
        """
        Clients pull several models at once: upstream sends each byte once, every client gets all,
        and of many models each daemon has some.
        """
        path = self.program(program)
        models = [f"library/m{at}:latest" for at in range(MODELS)]
        upstream = await self.upstream(
            *(f"{model}=2{at}00KB,1{at}00KB,30{at},1{at}" for at, model in enumerate(models)),
            rate=2_000_000,
        )
        replicas = [await self.replica(upstream.url) for _ in range(2)]
        servers = "\n".join(
            f"server {'' if program == 'nginx' else f'r{at} '}{each.host}"
            + (";" if program == "nginx" else "")
            for at, each in enumerate(replicas)
        )
        front = self.start(path, *arguments, configuration=configuration, servers=servers)
        pulls = [
            self.begin(pull(reactor, front, model, generation, directory=self.directory()))
            for model in models
            for generation in (SMALL16, SMALL_TRANSFER)
        ]
        for succeeded, pulled in await DeferredList(pulls, consumeErrors=True):
            self.assertTrue(succeeded, pulled)
        self.assert_sent_once(upstream, *upstream.models.values())
        for at in range(MANY):
            await self.ask(f"{front}/v2/library/none{at}/tags/list")
        for each in replicas:
            _, numbers = await self.ask(f"{each.url}/metrics")
            self.assertIn(b'yukari_requests_total{kind="tag"', numbers)

    async def test_behind_nginx(self) -> None:
        await self.fetched_once("nginx", "-c", "{}", configuration=NGINX)

    async def test_behind_haproxy(self) -> None:
        await self.fetched_once("haproxy", "-db", "-f", "{}", configuration=HAPROXY)
