"""What goes out: heads, bodies, and errors in a registry's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Union

from attrs import define, field, frozen

from tests.emulator.counters import Request
from tests.emulator.faults import Fault
from tests.emulator.models import compact

CHUNK = 1 << 16
"""The most payload in one chunk of a chunked body."""


CLOUDFLARE = """<!DOCTYPE html>
<html lang="en-US"><head><title>ollama.ai | {status}: {reason}</title></head>
<body><h1>{reason} <span>Error code {status}</span></h1><p>cloudflare</p></body></html>
"""
PORTAL = "<html><head><title>Guest Wi-Fi</title></head><body>Please log in.</body></html>\n"
DENIED = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)


@frozen
class Stretch:
    """``count`` bytes of the content file from ``offset``; ``wrong`` ones go out inverted."""

    offset: int
    count: int
    wrong: bool = False


CUT, RESET, HOLD = "cut", "reset", "hold"
Step = Union[bytes, Stretch, str]
"""A step of an answer's body: bytes, bytes of the file, or what happens to the connection."""


@define
class Answer:
    """What goes out: the head, the body's steps, and what becomes of the connection."""

    head: bytes
    steps: Iterator[Step] = field(factory=lambda: iter(()))
    closes: bool = False
    digest: str | None = None
    delay: float = 0.0
    rate: float | None = None
    silent: bool = False


CODES = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("NAME_UNKNOWN", "repository name not known to registry"),
    412: ("MANIFEST_INVALID", "this model requires a newer version of Ollama"),
    429: ("TOOMANYREQUESTS", "too many requests"),
    503: ("UNAVAILABLE", "service unavailable"),
}


def range_of(header: str, size: int) -> tuple[int, int] | None:
    """The one range asked for, half-open; None for all of it, (0, 0) for one that is not there."""
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    return (start, end) if start < end else (0, 0)


def closes(request: Request, framing: str) -> bool:
    return not request.keeps_alive or (framing == "close" and request.method != "HEAD")


def head_of(
    request: Request, status: int, headers: list[tuple[str, str]], length: int, framing: str
) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if framing == "length":
        lines.append(f"Content-Length: {length}")
    elif framing == "chunked" and request.method != "HEAD":
        lines.append("Transfer-Encoding: chunked")
    if closes(request, framing):
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def steps_of(
    payload: Callable[[int, int], Iterator[Step]], length: int, framing: str, fault: Fault | None
) -> Iterator[Step]:
    """The body's steps; ``payload`` gives those of its bytes from one place to another."""

    def framed(first: int, last: int) -> Iterator[Step]:
        if framing != "chunked":
            yield from payload(first, last)
            return
        for start in range(first, last, CHUNK):
            end = min(start + CHUNK, last)
            yield f"{end - start:x}\r\n".encode()
            yield from payload(start, end)
            yield b"\r\n"

    until = 0
    if fault is not None and fault.do in ("cut", "stall"):
        until = min(fault.after, length)
        yield from framed(0, until)
        if fault.do == "cut":
            yield RESET if fault.reset else CUT
            return
        yield HOLD
    yield from framed(until, length)
    if framing == "chunked":
        yield b"0\r\n\r\n"


def reply(
    request: Request,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes = b"",
    fault: Fault | None = None,
    framing: str = "length",
) -> Answer:
    """An answer whose body is at hand, with what a fault does to it on its way."""
    if fault is not None:
        if fault.do == "truncate":
            body = body[: fault.after]
        elif fault.do == "no-length":
            framing = "close"
    head = head_of(request, status, headers, len(body), framing)
    answer = Answer(head, closes=closes(request, framing))
    if request.method != "HEAD":
        answer.steps = steps_of(lambda a, b: iter([body[a:b]]), len(body), framing, fault)
    return answer


def refusal(
    request: Request,
    status: int,
    code: str,
    message: str,
    headers: list[tuple[str, str]] | None = None,
) -> Answer:
    """An error as a registry words it."""
    detail = {"Tag": request.reference} if request.reference else None
    error = {"code": code, "message": message, "detail": detail}
    json_type = ("Content-Type", "application/json; charset=utf-8")
    return reply(request, status, [*(headers or ()), json_type], compact({"errors": [error]}))
