"""The store on another host: signed URLs, and blobs with all that can be wrong with them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from attrs import define

from tests.emulator.answers import (
    DENIED,
    Answer,
    Step,
    Stretch,
    closes,
    head_of,
    range_of,
    reply,
    steps_of,
)
from tests.emulator.counters import Request
from tests.emulator.faults import Fault

if TYPE_CHECKING:
    from tests.emulator.emulator import Emulator

STORED = re.compile(r"/ollama/docker/registry/v2/blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})/data")


@define
class Grant:
    """What a signed URL allows."""

    digest: str
    method: str
    ends: float
    uses: int | None


class Store:
    """Serves blobs by signed URLs."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._grants: dict[str, Grant] = {}
        self._signed = 0

    def expire(self) -> None:
        """Refuse every URL that was given out until now."""
        self._grants.clear()

    def signed(self, digest: str, method: str = "GET") -> str:
        """A URL of the store that serves the blob for a while."""
        emulator, settings = self._emulator, self._emulator.settings
        self._signed += 1
        signature = f"{self._signed:016x}"
        self._grants[signature] = Grant(
            digest,
            method,
            emulator.reactor.seconds() + settings.url_seconds,
            settings.url_uses,
        )
        name = digest.partition(":")[2]
        store = settings.store_front or emulator.store_url
        return (
            f"{store}/ollama/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
            f"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires={math.ceil(settings.url_seconds)}"
            f"&X-Amz-SignedHeaders=host&sig={signature}"
        )

    def answer(self, request: Request, fault: Fault | None, flips: list[Fault]) -> Answer:
        """The answer to a request of the store's own host."""
        signature = parse_qs(urlsplit(request.target).query).get("sig", [""])[0]
        grant = self._grants.get(signature)
        xml = [("Content-Type", "application/xml")]
        if (
            grant is None
            or (grant.digest, grant.method) != (request.digest, request.method)
            or grant.ends <= self._emulator.reactor.seconds()
            or grant.uses == 0
        ):
            return reply(request, 403, xml, DENIED.encode())
        if "authorization" in request.headers:
            text = "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed"
            return reply(request, 400, xml, f"{text}</Message></Error>".encode())
        if grant.uses is not None:
            grant.uses -= 1
        return self.blob(request, fault, flips)

    def blob(self, request: Request, fault: Fault | None, flips: list[Fault]) -> Answer:
        """The answer that holds the blob asked for, or the range of it."""
        digest = str(request.digest)
        size = self._emulator.content.size(digest)
        do = fault.do if fault is not None else ""
        ignores = self._emulator.settings.ignore_range or do == "ignore-range"
        asked = None if ignores else range_of(request.header("range"), size)
        headers = [("Content-Type", "application/octet-stream")]
        if not ignores:
            headers.append(("Accept-Ranges", "bytes"))
        headers.append(("ETag", f'"{digest[7:39]}"'))
        if asked == (0, 0):
            headers.append(("Content-Range", f"bytes */{size}"))
            return reply(request, 416, headers)
        start, end = asked or (0, size)
        if fault is not None and do in ("cut", "stall", "truncate") and fault.after > end - start:
            fault.happened -= 1  # It lies beyond this answer: a longer one will meet it.
            fault, do = None, ""
        if asked:
            off = fault.at if fault is not None and do == "content-range" else 0
            headers.append(("Content-Range", f"bytes {start + off}-{end - 1 + off}/{size}"))
        if request.method == "GET":
            self._sending(request, digest, start, end)
        if fault is not None and do == "truncate":
            end = min(end, start + fault.after)
        wrong = sorted({flip.at for flip in flips if start <= flip.at < end})
        sent = start + fault.after if fault is not None and do == "cut" else end
        for flip in flips:
            flip.happened += start <= flip.at < min(sent, end)
        place = self._emulator.content.offset(digest)

        def payload(first: int, last: int) -> Iterator[Step]:
            here, stop = start + first, start + last
            for at in [*(at for at in wrong if here <= at < stop), stop]:
                if here < at:
                    yield Stretch(place + here, at - here)
                if at < stop:
                    yield Stretch(place + at, 1, wrong=True)
                here = at + 1

        framing = "length" if request.method == "HEAD" else self._emulator.settings.framing
        if do == "no-length":
            framing = "close"
        answer_head = head_of(request, 206 if asked else 200, headers, end - start, framing)
        answer = Answer(answer_head, digest=digest, closes=closes(request, framing))
        if request.method != "HEAD":
            answer.steps = steps_of(payload, end - start, framing, fault)
        return answer

    def _sending(self, request: Request, digest: str, start: int, end: int) -> None:
        request.span = (start, end)
        counters = self._emulator.counters
        counters.asked += end - start
        counters.asked_by_digest[digest] += end - start
        counters.blob_requests += 1
        counters.blob_requests_peak = max(counters.blob_requests_peak, counters.blob_requests)
