"""The registry's own answers: manifests, lists, blobs, redirects, refusals."""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.emulator.answers import (
    CLOUDFLARE,
    CODES,
    PORTAL,
    Answer,
    Step,
    closes,
    head_of,
    refusal,
    reply,
)
from tests.emulator.counters import Request
from tests.emulator.faults import Fault
from tests.emulator.models import LIST, ManifestList, Model, compact, digest_of, too_old
from tests.emulator.store import STORED

if TYPE_CHECKING:
    from tests.emulator.emulator import Emulator

MANIFESTS = re.compile(r"/v2/([^/]+/[^/]+)/manifests/([^/]+)")
BLOBS = re.compile(r"/v2/([^/]+/[^/]+)/blobs/(sha256:[0-9a-f]{64})")
REALM = re.compile(r"(/v2)?/token")

TOO_OLD = (
    "\n\nThe model you are attempting to pull requires a newer version of Ollama.\n\n"
    "Please download the latest version at:\n\n\thttps://ollama.com/download\n\n"
)
"""The body of a 412, as registry.ollama.ai has it."""

UNKNOWN_QUANTISATION = (
    'The specified tag is not a valid quantization scheme. Please use another tag or "latest"'
)
SHARDED = (
    "The specified tag is a sharded GGUF. Ollama does not support this yet. "
    "Follow this issue for more info: https://github.com/ollama/ollama/issues/5245"
)
UNKNOWN_USER = "Invalid username or password."
GATED = "Access to model {name} is restricted. You must have access to it and be authenticated."
RATE_LIMITED = "We had to rate limit your IP. To continue using our service, create a HF account."


class Registry:
    """Decides what is answered to each request, and counts it."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._asked: defaultdict[str, deque[float]] = defaultdict(deque)

    def answer(self, request: Request) -> Answer:
        """Count the request and decide its answer."""
        emulator = self._emulator
        path = urlsplit(request.target).path
        if path.startswith("/_") and request.side == "registry":
            return emulator.controlled(path, request)
        self._classify(request, path)
        self._count(request)
        fault, flips = emulator.faults.drawn(request)
        answer = self._wrong(request, fault) or self._right(request, path, fault, flips)
        answer.delay = emulator.settings.latency
        if fault is not None:
            answer.delay += fault.seconds if fault.do == "delay" else 0
            answer.silent = fault.do == "silence"
            answer.rate = fault.rate
        status = answer.head[9:12].decode() if answer.head else "none"
        emulator.counters.answers[f"{request.kind} {status}"] += 1
        return answer

    def _classify(self, request: Request, path: str) -> None:
        kind = "other"
        if request.side == "store":
            stored = STORED.fullmatch(path)
            kind, request.digest = "store", f"sha256:{stored.group(1)}" if stored else None
        elif named := MANIFESTS.fullmatch(path):
            kind, (request.repository, request.reference) = "manifest", named.groups()
        elif named := BLOBS.fullmatch(path):
            kind, (request.repository, request.digest) = "blob", named.groups()
        elif REALM.fullmatch(path):
            kind = "token"
        request.kind = f"{kind} {request.method}"

    def _count(self, request: Request) -> None:
        emulator, given = self._emulator, request.header("authorization")
        emulator.log.append(request)
        emulator.counters.requests[request.kind] += 1
        emulator.counters.user_agents[request.header("user-agent")] += 1
        tokens = emulator.settings.gated.get(str(request.repository), ())
        if given in [f"Bearer {token}" for token in tokens]:
            emulator.counters.opened_by_token[request.kind] += 1
        elif given and request.kind != "token GET" and not emulator.challenger.knows(given):
            emulator.counters.authorizations.append(f"{request.kind}: {given}")

    def _wrong(self, request: Request, fault: Fault | None) -> Answer | None:
        """The answer of a fault that leaves nothing of the right one."""
        if fault is None:
            return None
        extra = [] if fault.retry_after is None else [("Retry-After", str(fault.retry_after))]
        if fault.do == "drop":
            return Answer(b"", closes=True)
        if fault.do == "cloudflare":
            status = fault.status or 502
            text = CLOUDFLARE.format(status=status, reason=HTTPStatus(status).phrase)
            extra += [("Content-Type", "text/html; charset=UTF-8"), ("Server", "cloudflare")]
            return reply(request, status, extra, text.encode(), fault)
        if fault.do == "unhealthy":
            extra.append(("Content-Type", "text/plain"))
            return reply(request, 503, extra, b"no healthy upstream", fault)
        if fault.do == "portal":
            extra.append(("Content-Type", "text/html"))
            return reply(request, 200, extra, PORTAL.encode(), fault)
        if fault.do == "redirect":
            extra.append(("Location", fault.text or "/"))
            return reply(request, fault.status or 307, extra, b"", fault)
        if fault.do == "huge":
            return self._huge(request, fault.after)
        if fault.do != "error":
            return None
        status = fault.status or 500
        if status == 401 and request.repository is not None:
            self._emulator.counters.challenges[request.kind] += 1
            extra += self._emulator.challenger.headers(request, self._realm(request))
        if fault.text is not None:
            extra.append(("Content-Type", "text/plain; charset=utf-8"))
            return reply(request, status, extra, fault.text.encode(), fault)
        return refusal(request, status, *CODES.get(status, ("UNKNOWN", "unknown error")), extra)

    def _huge(self, request: Request, size: int) -> Answer:
        """A JSON text of so many bytes, of which one piece at a time is in memory."""
        first, last = b'{"token":"', b'"}'

        def body() -> Iterator[Step]:
            yield first
            left = max(0, size - len(first) - len(last))
            while left:
                yield b"a" * min(left, 1 << 16)
                left -= min(left, 1 << 16)
            yield last

        head = head_of(request, 200, [("Content-Type", "application/json")], size, "length")
        return Answer(head, body(), closes=closes(request, "length"))

    def _realm(self, request: Request) -> str:
        """The realm that the request is sent to."""
        here = self._origin(request) if request.side == "registry" else self._emulator.url
        other = self._emulator.settings.other_front or self._emulator.other_url
        return self._emulator.settings.realm.format(registry=here, other=other)

    def _origin(self, request: Request) -> str:
        """The beginning of the URL that the client asked for, as it knows it."""
        scheme = "https" if self._emulator.settings.tls else "http"
        return f"{scheme}://{request.header('host')}"

    def _right(
        self, request: Request, path: str, fault: Fault | None, flips: list[Fault]
    ) -> Answer:
        emulator, settings = self._emulator, self._emulator.settings
        if request.side == "store":
            return emulator.store.answer(request, fault, flips)
        if request.kind == "token GET":
            return emulator.challenger.token(
                request, self._origin(request) + request.target, self._realm(request), fault
            )
        if path.startswith("/v2/"):
            if self._limited(request):
                wait = settings.retry_after
                headers = [] if wait is None else [("Retry-After", str(wait))]
                return _plain_error(request, 429, RATE_LIMITED, headers)
            if settings.moved and request.side == "registry":
                where = (settings.other_front or emulator.other_url) + request.target
                return reply(request, 307, [("Location", where)], b"", fault)
        if request.repository in settings.gated and not self._opens(request):
            return _plain_error(request, 401, GATED.format(name=request.repository))
        if request.repository is not None:
            refused = emulator.challenger.refusal(request, self._realm(request))
            if refused is not None:
                return refused
        if request.kind in ("manifest GET", "manifest HEAD"):
            return self._manifest(request, fault)
        return self._blob(request, fault, flips)

    def _opens(self, request: Request) -> bool:
        """Whether a request has a token that opens what it asks for."""
        tokens = self._emulator.settings.gated[str(request.repository)]
        return request.header("authorization") in [f"Bearer {token}" for token in tokens]

    def _limited(self, request: Request) -> bool:
        """Whether the address has asked too often."""
        settings, now = self._emulator.settings, self._emulator.reactor.seconds()
        if settings.per_ip is None:
            return False
        times = self._asked[request.peer]
        while times and times[0] <= now - settings.per_ip_seconds:
            times.popleft()
        if len(times) >= settings.per_ip:
            return True
        times.append(now)
        return False

    def _blob(self, request: Request, fault: Fault | None, flips: list[Fault]) -> Answer:
        emulator, settings = self._emulator, self._emulator.settings
        digest = str(request.digest)
        if request.digest is not None and (
            digest not in emulator.blobs
            or (settings.private and not emulator.holds(str(request.repository), digest))
        ):
            return refusal(request, 404, "BLOB_UNKNOWN", "blob unknown to registry")
        redirects = {"blob GET": settings.redirect, "blob HEAD": settings.head_redirects}
        if request.kind not in redirects:
            return reply(request, 404, [("Content-Type", "text/plain")], b"404 page not found\n")
        away = redirects[request.kind]
        if digest in emulator.children and request.method == "GET":
            away = away and settings.redirect_children
        if not away:
            return emulator.store.blob(request, fault, flips)
        where = emulator.signed(digest, request.method)
        headers = [("Content-Type", "text/html; charset=utf-8")]
        if fault is None or fault.do != "no-location":
            headers.append(("Location", where))
        text = f'<a href="{where.replace("&", "&amp;")}">Temporary Redirect</a>.\n\n'
        return reply(request, 307, headers, text.encode(), fault)

    def _manifest(self, request: Request, fault: Fault | None) -> Answer:
        settings = self._emulator.settings
        name, agent = f"{request.repository}:{request.reference}", request.header("user-agent")
        if request.method == "HEAD" and not settings.head_manifests:
            return refusal(request, 405, "UNSUPPORTED", "The operation is unsupported.")
        if str(request.reference).startswith("sha256:") and not settings.manifests_by_digest:
            return refusal(request, 500, "UNKNOWN", "unknown error")
        found = self._variant(request, name)
        if found is None or name in settings.sharded:
            return self._unknown(request, name)
        if too_old(agent, found.requires):
            text = [("Content-Type", "text/plain; charset=utf-8")]
            return reply(request, 412, text, TOO_OLD.encode(), fault)
        body = found.manifest_bytes
        if settings.bytes_by_agent:
            body = _for_agent(body, agent)
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if settings.etags:
            tag = f'"{digest_of(body)[7:47]}"'
            headers.append(("ETag", tag))
            if tag in request.header("if-none-match"):
                return reply(request, 304, headers, b"", fault)
        if request.method == "HEAD" and settings.head_digest:
            headers.append(("ollama-content-digest", digest_of(body).removeprefix("sha256:")))
        return reply(request, 200, headers, body, fault, "chunked")

    def _variant(self, request: Request, name: str) -> Model | ManifestList | None:
        """The manifest or the list, whichever the request accepts; None if neither is known."""
        emulator = self._emulator
        if str(request.reference).startswith("sha256:"):
            known: list[Model | ManifestList] = [
                *emulator.models.values(),
                *emulator.lists.values(),
            ]
            return next((one for one in known if one.digest == request.reference), None)
        everybody = emulator.settings.list_to_everybody
        if name in emulator.lists and (everybody or LIST in request.header("accept")):
            return emulator.lists[name]
        return emulator.models.get(name)

    def _unknown(self, request: Request, name: str) -> Answer:
        emulator = self._emulator
        if not emulator.settings.huggingface:
            return refusal(request, 404, "MANIFEST_UNKNOWN", "manifest unknown")
        if name in emulator.settings.sharded:
            return _plain_error(request, 400, SHARDED)
        if any(each.rpartition(":")[0] == request.repository for each in emulator.models):
            return _plain_error(request, 400, UNKNOWN_QUANTISATION)
        headers = []
        if emulator.settings.challenge != "off":
            headers = emulator.challenger.headers(request, self._realm(request))
        return _plain_error(request, 401, UNKNOWN_USER, headers)


def _plain_error(
    request: Request, status: int, text: str, headers: list[tuple[str, str]] | None = None
) -> Answer:
    """An error as hf.co words it."""
    json_type = ("Content-Type", "application/json; charset=utf-8")
    return reply(request, status, [*(headers or ()), json_type], compact({"error": text}))


def _for_agent(body: bytes, agent: str) -> bytes:
    """A manifest's bytes for a User-Agent, as hf.co's differ: Ollama's are those of the model."""
    if agent.startswith("ollama/"):
        return body
    manifest = json.loads(body)
    if "llama-cpp" in agent:
        manifest["ggufFile"] = {"rfilename": "model.gguf"}
        return compact(manifest)
    return json.dumps(manifest).encode()
