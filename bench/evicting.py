"""A model that needs the room of a thousand others, in a store of a hundred thousand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

from bench import peers
from bench.models import Blob, manifest_of, store_manifest, write_blob
from bench.scale import Scale, workplace
from bench.tables import Table

OWN = 100_000
"""Bytes of each stored model that are its alone; its file has no blocks on the disk."""
SIDECARS = 64 * 1024
"""What the daemon reckons for a blob on its way beside the blob."""


class _Upstream(BaseHTTPRequestHandler):
    """Has every model; the one that is new, with its only blob, is `manifest` and `body`."""

    protocol_version = "HTTP/1.1"
    manifest = b""
    body = b""

    def do_HEAD(self) -> None:
        self._answer(200, b"", sha256(self.path.encode()).hexdigest())

    def do_GET(self) -> None:
        if "/manifests/" in self.path:
            self._answer(200, self.manifest, sha256(self.manifest).hexdigest())
            return
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        last = min(int(end or len(self.body) - 1), len(self.body) - 1)
        piece = self.body[int(start) : last + 1]
        self._answer(206, piece, "", f"bytes {start}-{last}/{len(self.body)}")

    def _answer(self, status: int, body: bytes, digest: str, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if digest:
            self.send_header("Docker-Content-Digest", f"sha256:{digest}")
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _upstream(body: bytes) -> Iterator[str]:
    """The URL of a registry whose new model has this blob."""
    blob = Blob(sha256(body).hexdigest(), len(body))
    made = {"manifest": manifest_of([blob], blob), "body": body}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Upstream", (_Upstream,), made))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def _fill(store: Path, host: str, count: int) -> int:
    """Store models that share a config; return how many bytes of blobs there are."""
    config = write_blob(store / "blobs", 500, seed=1)
    taken = config.size
    for at in range(count):
        blob = Blob(sha256(b"%d" % at).hexdigest(), OWN)
        with (store / "blobs" / blob.file_name).open("wb") as opened:
            opened.truncate(OWN)
        name = f"library/model{at // 100}:tag{at % 100}"
        store_manifest(store, host, name, manifest_of([blob], config, mark=name), age=1000.0)
        taken += blob.size
    return taken


def _ask(url: str, body: object = None) -> dict[str, int]:
    sent = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, sent, {"Content-Type": "application/json"}), timeout=3600) as reply:
        found: dict[str, int] = json.load(reply)
        return found


def _until_known(peer: peers.Peer, count: int) -> None:
    while not ((found := _ask(f"{peer.url}/store/usage"))["complete"] and found["models"] == count):
        time.sleep(0.5)


def run(scale: Scale) -> Iterator[Table]:
    """Every model that goes is asked about upstream; the catalog is made from the files before."""
    table = Table(
        "evicting",
        "Room for a new model by evicting others, and the look at all that are stored before",
        [
            *("stored", "evicted", "look s", "CPU s", "pull s", "CPU s of it"),
            *("turns > 20 ms", "longest ms", "at work", "longest ms of it"),
        ],
    )
    count, goes = scale.of((100_000, 1000), (300, 20))
    with workplace() as place, _upstream(bytes((goes - 1) * OWN)) as upstream:
        taken = _fill(place / "store", upstream.split("/")[2], count)
        bound = f"--store-max={taken + SIDECARS}"
        began = time.monotonic()
        with peers.yukari(
            place, upstream, bound, "--evict-grace=0s", *peers.WATCHED, store=place / "store"
        ) as peer:
            assert peer.process is not None
            _until_known(peer, count)
            looked, worked = time.monotonic() - began, peer.process.cpu()
            written, began = peer.process.log.stat().st_size, time.monotonic()
            _ask(f"{peer.url}/api/pull", {"model": "new", "stream": False})
            pulled, cpu = time.monotonic() - began, peer.process.cpu() - worked
            left = _ask(f"{peer.url}/store/usage")["models"] - 1
            turns = peers.long_turns(peer, written)
            table.add(
                *(count, count - left, looked, worked, pulled, cpu),
                *(turns.count, turns.longest, turns.count_at_work, turns.longest_at_work),
            )
    yield table
