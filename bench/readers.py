"""
Readers that cost as little as a program can that takes every byte: ``recv_into``, and no more.

As a process of its own, each reader a process too, which prints one line of JSON::

    python -m bench.readers --url http://127.0.0.1:9200/v2/library/m/blobs/sha256:... --readers 4

Readers read the same range or, with ``--split``, each its share of it. Those of https URLs trust
everybody.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

BUFFER = 1 << 20


class Reader:
    """One connection; asks and reads as often as it is told."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._path = self._parts.path + (f"?{self._parts.query}" if self._parts.query else "")
        self._buffer = memoryview(bytearray(BUFFER))
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((self._parts.hostname, self._parts.port), timeout=120)
        if self._parts.scheme != "https":
            return plain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain)

    def ask(self, start: int | None = None, end: int | None = None) -> tuple[int, int]:
        """Send a GET; returns the body's length and how many bytes of it have come already."""
        asked = (
            "" if start is None else f"Range: bytes={start}-{'' if end is None else end - 1}\r\n"
        )
        head = f"GET {self._path} HTTP/1.1\r\nHost: {self._parts.netloc}\r\n{asked}\r\n"
        self.socket.sendall(head.encode())
        return self._reply()

    def _reply(self) -> tuple[int, int]:
        came = b""
        while b"\r\n\r\n" not in came:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionError("closed before a reply")
            came += piece
        head, _, body = came.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        status = int(lines[0].split()[1])
        headers = dict(line.split(": ", 1) for line in lines[1:])
        if status in (301, 302, 307, 308):
            self.socket.close()
            original = head.decode("latin-1").split("\r\n")
            where = next(line for line in original if line.lower().startswith("location: "))
            self.follow = where[10:]
            raise Redirected(self.follow)
        if status not in (200, 206):
            raise ConnectionError(f"{lines[0]}: {body[:200]!r}")
        return int(headers["content-length"]), len(body)

    def read(self, start: int | None = None, end: int | None = None) -> int:
        """A body to its end; its length."""
        length, came = self.ask(start, end)
        while came < length:
            count = self.socket.recv_into(self._buffer)
            if not count:
                raise ConnectionError(f"closed after {came} of {length} bytes")
            came += count
        return length


class Redirected(Exception):
    """The bytes are elsewhere: the URL."""


def reader_of(url: str) -> Reader:
    """A reader where the bytes are, behind any redirect."""
    reader = Reader(url)
    try:
        reader.ask(0, 1)
    except Redirected as there:
        return Reader(str(there))
    # The one byte that was asked for has come with the head or comes now.
    reader.socket.close()
    return Reader(url)


def _child(options: argparse.Namespace, at: int, ready: int, go: int, out: int) -> None:
    start, end = options.start, options.end
    if options.split:
        share = (end - start) // options.readers
        start, end = (
            start + at * share,
            end if at == options.readers - 1 else start + (at + 1) * share,
        )
    reader = reader_of(options.url) if options.follow else Reader(options.url)
    os.write(ready, b".")
    os.read(go, 1)
    total = sum(reader.read(start, end) for _ in range(options.repeat))
    os.write(out, f"{total} {time.monotonic()}\n".encode())


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Bytes and seconds from the first request until the last reader's last byte."""
    ready, go, out = os.pipe(), os.pipe(), os.pipe()
    children = []
    for at in range(options.readers):
        number = os.fork()
        if not number:
            status = 1
            try:
                _child(options, at, ready[1], go[0], out[1])
                status = 0
            except Exception as error:
                print(f"reader {at}: {error!r}", file=sys.stderr)
                os.write(ready[1], b".")
            finally:
                os._exit(status)
        children.append(number)
    waiting = options.readers
    while waiting:
        waiting -= len(os.read(ready[0], waiting))
    began = time.monotonic()
    os.write(go[1], b"." * options.readers)
    failed = [number for number in children if os.waitpid(number, 0)[1]]
    os.close(out[1])
    lines = b""
    while piece := os.read(out[0], 65536):
        lines += piece
    ends = [line.split() for line in lines.decode().splitlines()]
    return {
        "bytes": sum(int(total) for total, _ in ends),
        "seconds": max((float(at) for _, at in ends), default=began) - began,
        "failed": len(failed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.readers")
    parser.add_argument("--url", required=True)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--end", type=int, help="of the range; else of the blob")
    parser.add_argument("--split", action="store_true", help="each reads its share")
    parser.add_argument("--follow", action="store_true", help="look for a redirect first")
    options = parser.parse_args()
    found = measure(options)
    print(json.dumps(found))
    if found["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
