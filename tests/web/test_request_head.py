"""A request means the same whether its head arrives in one piece or in several."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.sending.doubles import Talk
from yukari.web.request_head import MAX_HEAD, read_head
from yukari.web.site import RegistryRequest

LINES = (
    b"Host: h",
    b"host:h",
    b"Host: a:9200 \t",
    b"Host: a b",
    b"Host : h",
    b"User-Agent: ollama/0.12.6 (amd64 linux)",
    b"X-Twice: 1",
    b"x-twice: \t2",
    b"X-Empty:",
    b"X-High: \xe9\xff",
    b"X-Tab: a\tb",
    b"X-Null: \x00",
    b"X-Feed: a\nContent-Length: 5",
    b"X-Return: a\rb",
    b"X-Vertical: a\x0bb",
    b"Bad Name: 1",
    b"\xe9: 1",
    b": 1",
    b"no colon",
    b" folded",
    b"\tfolded",
    b"",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"content-length: 5",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Connection: close",
    b"X-Long: " + b"a" * MAX_HEAD,
)
TARGETS = (
    b"/v2/",
    b"/healthz?a=1&a=2",
    b"http://other/healthz",
    b"*",
    b"/\xb0",
    b"/\xb1",
    b"/a\x7f",
)


class Recorded(RegistryRequest):
    """A request whose channel notes what it asks for."""

    def process(self) -> None:
        headers = sorted(
            (name, tuple(values)) for name, values in self.requestHeaders.getAllRawHeaders()
        )
        self.channel.seen.append((self.method, self.uri, self.path, self.clientproto, headers))
        super().process()


def outcome(*pieces: bytes) -> tuple[list[Any], bytes, bool]:
    """What was asked, what came back but for what differs by chance, and whether it was closed."""
    talk = Talk()
    talk.channel.requestFactory = Recorded
    talk.channel.seen = seen = []
    for piece in pieces:
        if talk.wire.connected and not talk.wire.disconnecting:
            talk.say(piece)
    written = re.sub(rb"\r\n(Date|X-Request-Id): [^\r]*", rb"\r\n\1", talk.wire.value())
    return seen, written, talk.wire.disconnecting


def heads() -> st.SearchStrategy[bytes]:
    first = st.builds(
        lambda *parts: b" ".join(parts),
        st.sampled_from((b"GET", b"GET", b"HEAD", b"get", b"G(T", b"")),
        st.sampled_from(TARGETS),
        st.sampled_from((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.1 x")),
    )
    lines = st.lists(st.sampled_from(LINES) | st.binary(max_size=12), max_size=4)
    return st.builds(
        lambda first, host, lines: b"\r\n".join([first, *host, *lines, b"", b""]),
        first,
        st.sampled_from(([b"Host: h"], [b"Host: h"], [])),
        lines,
    )


GET = b"GET /healthz HTTP/1.1\r\nHost: h\r\n"


class ReadAtOnceTests(SynchronousTestCase):
    @given(heads(), st.sampled_from((b"", b"", b"hello", GET + b"\r\n")))
    # One for each rule, for chance may pass it by.
    @example(GET + b"X-Twice: 1\r\nx-twice: \t2 \r\n\r\n", b"")
    @example(GET + b" folded\r\n\r\n", b"")
    @example(GET + b"X-Feed: a\nContent-Length: 5\r\n\r\n", b"hello")
    @example(GET + b"Content-Length: 5\r\n\r\n", b"hello")
    @example(GET + b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n")
    @example(GET + b"Expect: 100-continue\r\n\r\n", b"")
    @example(GET + b"Bad Name: 1\r\n\r\n", b"")
    @example(GET + b"no colon\r\n\r\n", b"")
    @example(GET + b"\r\n", GET + b"\r\n")
    def test_what_is_asked_does_not_depend_on_how_it_arrives(
        self, head: bytes, more: bytes
    ) -> None:
        """Catches a head that is read at once and by Twisted's reader means something else."""
        self.assertEqual(outcome(head, more), outcome(head[:1], head[1:], more))

    def test_a_clients_usual_head_is_read_at_once(self) -> None:
        """Catches a rule so strict that every hit takes the long way."""
        head = read_head(
            b"GET /v2/library/m/manifests/latest HTTP/1.1\r\nHost: registry.ollama.ai\r\n"
            b"User-Agent: ollama/0.12.6 (amd64 linux) Go/go1.24.1\r\n"
            b"Accept: application/vnd.docker.distribution.manifest.v2+json\r\n"
            b"Accept-Encoding: gzip\r\n\r\n"
        )
        assert head is not None
        self.assertEqual(head[:3], (b"GET", b"/v2/library/m/manifests/latest", b"HTTP/1.1"))
        self.assertEqual(head[3].getRawHeaders(b"accept-encoding"), [b"gzip"])
