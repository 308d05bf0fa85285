"""
Who is measured: Yukari, what people would use instead, and the registry they all pull from.

Each is a context manager that yields a `Peer`; ``missing()`` says what is not installed::

    with workplace() as place, nginx_static(place, place / "store") as peer: ...
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional
from urllib.request import Request, urlopen

from attrs import define, frozen

from bench.models import DOCKER, Blob, manifest_of
from bench.processes import MEASURED, Process, environment, free_port, listens, running
from tests.authority import self_signed

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
DOCKER_REGISTRY = shutil.which("docker-registry")
WRK = shutil.which("wrk")
MAIN = "from yukari.tap import main; main()"


@define(eq=False)
class Peer:
    """Something that answers ``/v2/``."""

    name: str
    host: str
    port: int
    process: Optional[Process] = None
    scheme: str = "http"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"


def get(url: str, **headers: str) -> bytes:
    """A small body."""
    with urlopen(Request(url, headers=headers), timeout=60) as reply:
        body: bytes = reply.read()
        return body


# ours


@contextmanager
def yukari(
    place: Path,
    upstream: str,
    *flags: str,
    store: Optional[Path] = None,
    checkout: Path = MEASURED,
    name: str = "yukari",
    pem: Optional[Path] = None,
    **env: str,
) -> Iterator[Peer]:
    """The daemon on a store of its own, or on ``store``; over TLS with a ``pem`` file."""
    port = free_port()
    bind = f"127.0.0.1:{port}"
    if pem is not None:
        bind = f"ssl:{port}:privateKey={pem}:certKey={pem}:interface=127.0.0.1"
    command = [
        *(sys.executable, "-c", MAIN, f"--bind={bind}", "--min-free=0"),
        *(f"--upstream-registry={upstream}", f"--storage={store or place / name}", *flags),
    ]
    with running(command, place, f"{name}-{port}", environment(checkout, **env)) as process:
        process.until(lambda: listens(port))
        yield Peer(name, "127.0.0.1", port, process, "http" if pem is None else "https")


def certificate(place: Path) -> Path:
    """A file with a new key and its certificate."""
    path = place / "cert.pem"
    path.write_bytes(b"".join(self_signed("127.0.0.1")))
    return path


WATCHED = ("--long-turns=20ms", "--slog-level=warn", "--log-format=json")
"""Flags with which the daemon tells of its reactor's long turns."""


@frozen
class LongTurns:
    """
    How many turns were longer than `WATCHED` allows, and the longest of them, in ms; the same by
    the thread's CPU time, which leaves out the machine's other work.
    """

    count: int
    longest: float
    count_at_work: int
    longest_at_work: float


def long_turns(peer: Peer, after: int) -> LongTurns:
    """What ``peer``'s log tells of them after its first ``after`` bytes."""
    assert peer.process is not None
    lines = peer.process.log.read_bytes()[after:].splitlines()
    turns = [turn for turn in map(json.loads, lines) if "held_ms" in turn]
    if os.environ.get("BENCH_STACKS"):
        for turn in turns:
            print(turn["msg"], file=sys.stderr)
    held = [turn["held_ms"] for turn in turns]
    worked = [turn["cpu_ms"] for turn in turns if turn["cpu_ms"] > 20]
    return LongTurns(len(held), max(held, default=0.0), len(worked), max(worked, default=0.0))


# upstream


@define(eq=False)
class Emulated(Peer):
    """The tests' emulated registry; ``models`` as it describes them."""

    models: dict[str, Any] = {}

    def order(self, **orders: Any) -> None:
        """As `tests.emulator.Emulator.control`."""
        request = Request(f"{self.url}/_faults", json.dumps(orders).encode(), method="POST")
        with urlopen(request, timeout=10) as reply:
            reply.read()

    def counters(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(get(f"{self.url}/_counters"))
        return found


@contextmanager
def emulator(
    place: Path, *models: str, hosts: Sequence[str] = (), **settings: Any
) -> Iterator[Emulated]:
    """
    ``settings`` are those of `tests.emulator.Settings`; ``hosts`` are the addresses of the
    registry, its store and its other host, if they are not on the loopback.

    Nobody is challenged: a client does not follow a challenge of another host than it asked,
    and nginx passes upstream's on.
    """
    settings.setdefault("challenge", "off")
    command = [
        *(sys.executable, "-m", "tests.emulator", "--content-dir", str(place)),
        *("--settings", json.dumps(settings), "--models", *models),
    ]
    for flag, host in zip(("--host", "--store-host", "--other-host"), hosts):
        command += [flag, host]
    with running(command, place, f"emulator-{time.monotonic_ns()}", environment()) as process:
        process.until(lambda: process.log.read_bytes().endswith(b"\n"), 120)
        described = json.loads(process.log.read_bytes().splitlines()[-1])
        host, _, port = described["registry"].rpartition("/")[2].partition(":")
        yield Emulated("direct", host, int(port), process, models=described["models"])


# nginx


def nginx_missing() -> Optional[str]:
    return None if NGINX else "nginx is not installed"


def _user() -> str:
    """Root's workers would be somebody else's, who may not read the files."""
    if os.geteuid() != 0:
        return ""
    names = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    return "user {} {};".format(*names)


@contextmanager
def _nginx(place: Path, name: str, http: str, port: int, workers: str = "auto") -> Iterator[Peer]:
    assert NGINX is not None
    directory = place / f"{name.replace(' ', '-')}-{port}"
    directory.mkdir()
    configuration = f"""
daemon off; pid {directory}/pid; error_log stderr error; {_user()}
worker_processes {workers};
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    open_file_cache max=1000 inactive=60s; open_file_cache_valid 5s;
    {http}
}}
"""
    (directory / "nginx.conf").write_text(configuration)
    command = [NGINX, "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]
    with running(command, directory, name.replace(" ", "-")) as process:
        process.until(lambda: listens(port))
        yield Peer(name, "127.0.0.1", port, process)


@contextmanager
def nginx_static(
    place: Path, store: Path, workers: str = "auto", pem: Optional[Path] = None
) -> Iterator[Peer]:
    """
    A store's own files by sendfile, from a directory of manifests and one of blobs.

    With a ``pem`` file it speaks TLS, with the versions and ciphers that OpenSSL prefers.
    """
    port = free_port()
    secure = pem and f"ssl; ssl_certificate {pem}; ssl_certificate_key {pem}"
    versions = "ssl_protocols TLSv1.2 TLSv1.3;" if pem else ""
    http = f"""
    server {{
        listen 127.0.0.1:{port} {secure or ""}; {versions}
        location ~ ^/v2/.+/blobs/sha256:(?<hex>[0-9a-f]+)$ {{
            alias {store}/blobs/sha256-$hex;
            add_header Location $uri;
        }}
        location ~ ^/v2/(?<model>.+)/manifests/(?<tag>[^/]+)$ {{
            alias {store}/served/$model/$tag;
            types {{ }} default_type {DOCKER};
        }}
    }}"""
    with _nginx(place, "nginx static", http, port, workers) as peer:
        peer.scheme = "https" if pem else "http"
        yield peer


@contextmanager
def nginx_upstream(place: Path, models: dict[str, list[Blob]]) -> Iterator[Peer]:
    """
    A registry as fast as this machine allows: static files, blob GETs redirected to another host.

    ``models`` are names ``NAMESPACE/MODEL`` and their blobs, the config last, all
    of which lie in ``place / "blobs"``; each has the tag ``latest``.
    """
    for name, blobs in models.items():
        path = place / "served" / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "latest").write_bytes(manifest_of(blobs[:-1], blobs[-1]))
    port, store_port = free_port(), free_port()
    blobs_alias = f"alias {place}/blobs/sha256-$hex;"
    http = f"""
    server {{
        listen 127.0.0.1:{port};
        location ~ ^/v2/.+/blobs/sha256:(?<hex>[0-9a-f]+)$ {{
            if ($request_method = GET) {{
                return 307 http://127.0.0.2:{store_port}/$hex?signature=0123456789abcdef;
            }}
            {blobs_alias}
        }}
        location ~ ^/v2/(?<model>.+)/manifests/(?<tag>[^/]+)$ {{
            alias {place}/served/$model/$tag;
            types {{ }} default_type {DOCKER};
        }}
        location = /v2/ {{ return 200 "{{}}"; }}
    }}
    server {{
        listen 127.0.0.2:{store_port};
        location ~ ^/(?<hex>[0-9a-f]+)$ {{ {blobs_alias} }}
    }}"""
    with _nginx(place, "direct", http, port) as peer:
        yield peer


@contextmanager
def nginx_slice(place: Path, upstream: str, slice_size: str = "8m") -> Iterator[Peer]:
    """
    What a careful operator writes in an hour, in front of ``upstream`` (``HOST:PORT``).

    The inner server follows the registry's redirect, the outer one keeps the
    blob in slices and says the Location that stock clients ask for.
    """
    port, inner = free_port(), free_port()
    cache = place / f"slices-{port}"
    http = f"""
    proxy_cache_path {cache} levels=1:2 keys_zone=kept:16m max_size=100g inactive=30d
                     use_temp_path=off;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    map $http_range $own_path {{ "" $uri; default ""; }}
    upstream registry {{ server {upstream}; keepalive 32; }}
    upstream inner {{ server 127.0.0.1:{inner}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{inner};
        proxy_buffering on; proxy_max_temp_file_size 0; proxy_buffers 8 64k; proxy_buffer_size 16k;
        location / {{
            proxy_pass http://registry;
            proxy_set_header Host {upstream};
            proxy_intercept_errors on;
            error_page 301 302 307 308 = @elsewhere;
        }}
        location @elsewhere {{
            set $there $upstream_http_location;
            proxy_set_header Connection "";
            proxy_set_header Authorization "";
            proxy_pass $there;
        }}
    }}
    server {{
        listen 127.0.0.1:{port};
        proxy_cache kept;
        proxy_cache_lock on; proxy_cache_lock_age 60s; proxy_cache_lock_timeout 60s;
        proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504;
        proxy_ignore_headers Cache-Control Expires Set-Cookie;
        location / {{
            proxy_pass http://inner;
            proxy_cache_key $uri;
            proxy_cache_valid 200 5m;
        }}
        location ~ ^/v2/.+/blobs/ {{
            slice {slice_size};
            proxy_pass http://inner;
            proxy_cache_key $uri$slice_range;
            proxy_set_header Range $slice_range;
            proxy_cache_valid 200 206 30d;
            add_header Location $own_path;
        }}
    }}"""
    with _nginx(place, f"nginx slice {slice_size}", http, port) as peer:
        yield peer


# Debian's docker-registry


def docker_missing() -> Optional[str]:
    return None if DOCKER_REGISTRY else "docker-registry is not installed"


@contextmanager
def docker_proxy(place: Path, upstream: str) -> Iterator[Peer]:
    """A pull-through cache of ``upstream`` (a URL); stock Ollama cannot pull from it."""
    assert DOCKER_REGISTRY is not None
    port = free_port()
    configuration = place / f"docker-{port}.yml"
    configuration.write_text(
        f"""
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {place}/docker-{port}}}}}
http: {{addr: "127.0.0.1:{port}"}}
proxy: {{remoteurl: "{upstream}"}}
"""
    )
    command = [DOCKER_REGISTRY, "serve", str(configuration)]
    with running(command, place, f"docker-{port}") as process:
        process.until(lambda: listens(port))
        yield Peer("docker-registry", "127.0.0.1", port, process)
