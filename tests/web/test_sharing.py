"""What each of thousands of waiting requests keeps in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.sending.doubles import Growing, Talk

SHARED = 30
"""Names of attributes that CPython shares between the objects of a class."""


class WaitingTests(SynchronousTestCase):
    """A request for a blob that has not arrived, on a connection that has had another before."""

    def setUp(self) -> None:
        self.talk = Talk()
        self.blob = Growing(b"abc" * 100, here=10, in_file=False)
        for blob in (Growing(b"other", in_file=False), self.blob):
            self.talk.ask(self.talk.shelf.put(blob), "User-Agent: ollama/0.34.4")
        self.assertEqual(self.blob.waiters, 1)

    def test_its_objects_have_no_table_of_names_of_their_own(self) -> None:
        """With more attributes than Python shares, two tables took 3 KB of each connection."""
        (request,) = self.talk.channel.requests
        for each in (self.talk.channel, request):
            self.assertLessEqual(len(vars(each)), SHARED, sorted(vars(each)))

    def test_it_has_one_timer(self) -> None:
        """Idle, stalled, late: three timers took 1.2 KB of each connection."""
        self.assertEqual(len(self.talk.clock.getDelayedCalls()), 1)

    def test_it_keeps_no_headers(self) -> None:
        """They took 1.5 KB, after the reply's had left and nobody read them any more."""
        (request,) = self.talk.channel.requests
        self.assertEqual(list(request.requestHeaders.getAllRawHeaders()), [])
        self.assertEqual(list(request.responseHeaders.getAllRawHeaders()), [])

    def test_it_is_answered_all_the_same(self) -> None:
        self.blob.grow(300)
        self.assertEqual([len(each.body) for each in self.talk.replies()], [5, 300])
