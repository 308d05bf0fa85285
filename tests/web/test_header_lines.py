"""How much memory a request's head may take, however few bytes it has."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.sending.doubles import NAME, Talk
from yukari.web import site
from yukari.web.header_lines import LINE_COST, MAX_LINES
from yukari.web.request_head import MAX_FIELDS, USUAL_LINES

MANIFEST = f"/v2/{NAME}/manifests/latest"


def lines(count: int) -> bytes:
    """So many header lines, of which none has a value."""
    return b"Host: h\r\n" + b"".join(b"X-%d:\r\n" % each for each in range(count - 1))


class HeadTests(SynchronousTestCase):
    """480 lines of five bytes took 100 KB of a connection: 2,000 connections had 250 MB."""

    def statuses(self, *talks: Talk) -> list[list[int]]:
        return [[reply.status for reply in talk.replies()] for talk in talks]

    def test_as_many_lines_as_any_client_sends_are_taken(self) -> None:
        talk = Talk()
        talk.say(b"GET /healthz HTTP/1.1\r\n" + lines(MAX_LINES) + b"\r\n")
        self.assertEqual(self.statuses(talk), [[200]])
        self.assertEqual(talk.channel.site.held, 0)

    def test_more_lines_are_refused_before_the_head_ends(self) -> None:
        talk = Talk()
        talk.say(b"GET /healthz HTTP/1.1\r\n" + lines(MAX_LINES + 2))
        self.assertEqual(self.statuses(talk), [[431]])

    def test_many_lines_of_many_requests_are_refused_until_some_have_ended(self) -> None:
        """Requests that wait keep theirs, and so do heads that never end."""
        self.patch(site, "MAX_HELD", 10 * LINE_COST)
        waiting, other, later = Talk(), Talk(), Talk()
        waiting.shelf.gate = Deferred()
        other.channel.site = later.channel.site = waiting.channel.site
        head = f"GET {MANIFEST} HTTP/1.1\r\n".encode() + lines(USUAL_LINES + 6) + b"\r\n"
        waiting.say(head)
        other.say(head)
        self.assertEqual(self.statuses(waiting, other), [[], [503]])
        gate, waiting.shelf.gate = waiting.shelf.gate, None
        assert gate is not None
        gate.callback(None)
        self.assertEqual(waiting.channel.site.held, 0)
        later.say(head)
        self.assertEqual(self.statuses(waiting, later), [[404], [404]])

    def test_a_client_that_leaves_takes_its_lines_along(self) -> None:
        talk = Talk()
        talk.say(b"GET /healthz HTTP/1.1\r\n" + lines(USUAL_LINES + 6))
        self.assertGreater(talk.channel.site.held, 0)
        talk.wire.leave()
        self.assertEqual(talk.channel.site.held, 0)

    def test_cookies_are_not_read(self) -> None:
        """Each of 4,000 in a header took 200 bytes while the request waited."""
        talk = Talk()
        talk.shelf.gate = Deferred()
        talk.ask(MANIFEST, "Cookie: " + "; ".join(f"{each}=" for each in range(500)))
        (request,) = talk.channel.requests
        self.assertEqual(request.received_cookies, {})
        talk.wire.leave()

    def test_a_form_is_left_to_the_page_that_reads_it(self) -> None:
        """Twisted would make 20,000 fields of 64 KB, for whoever sends them wherever."""
        talk = Talk()
        talk.shelf.gate = Deferred()
        body = "&".join(f"{each}=" for each in range(500))
        talk.say(
            f"POST /store/x HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode()
        )
        (request,) = talk.channel.requests
        talk.say(body.encode())
        self.assertEqual(request.args, {})

    def test_a_query_of_many_fields_is_refused(self) -> None:
        """Each was parsed, though no path looks at more than three."""
        for count, status in ((MAX_FIELDS, 200), (MAX_FIELDS + 1, 400)):
            for mark in "&;":
                talk = Talk()
                talk.ask("/healthz?" + mark.join(f"{each}=" for each in range(count)))
                self.assertEqual(self.statuses(talk), [[status]])
