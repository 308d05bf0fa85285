"""
Pulls from hosts that are slow to answer, or serve few connections, against stock Ollama's.

Simulated over the real scheduler. A stock client has sixteen parts of at least
100 MB; what it gets in a time from upstream it must get through a cache in little
more, and no part of it may wait longer for its next byte than it bears.
"""

from __future__ import annotations

from itertools import product
from math import inf

from twisted.trial.unittest import SynchronousTestCase

from tests.fills.one_by_one import OneByOne
from tests.fills.simulated import MB, Host, Pull

RATES = ((inf, 2 * MB), (inf, 20 * MB), (2 * MB, inf), (20 * MB, 100 * MB))
"""Of one connection and of all together."""
SIZES = (3 * MB, 30 * MB, 300 * MB)
BOUNDS = ((32, 64), (8, 16), (2, 2))
"""UPSTREAM_CONNECTIONS: for one blob and in all."""
FEW = 3
"""Connections with which the parts of a large blob must take turns."""


class DelayTests(SynchronousTestCase):
    def assert_as_good(self, delay: float, allowed: float) -> int:
        """
        Whatever the rate, the size and the bound, a pull takes at most 1.2 times what it takes
        directly on as many connections, and ``allowed`` seconds. Returns the number of cells.
        """
        cells = 0
        for (each, line), size, (per_blob, in_all) in product(RATES, SIZES, BOUNDS):
            host = Host(delay, each, line)
            direct = host.direct(size, per_blob)
            if direct > 200:
                continue
            cells += 1
            pull = Pull(host, size, per_blob, in_all).run()
            cell = f"{host}, {size} bytes, {per_blob}/{in_all}: {direct:.1f} s directly"
            self.assertLessEqual(pull.seconds, 1.2 * direct + allowed, cell)
            self.assertLessEqual(pull.stalled, 5.0 if per_blob > FEW else 30.0, cell)
        return cells

    def test_a_network_that_is_near_or_far(self) -> None:
        for delay in (0.02, 0.1, 0.3):
            # A host that nobody knows is asked for little at first: that takes a few round trips.
            self.assertGreater(self.assert_as_good(delay, 0.2 + 5 * delay), 30)

    def test_a_host_that_needs_a_second(self) -> None:
        for delay in (0.6, 1.0):
            self.assertGreater(self.assert_as_good(delay, 0.5), 30)

    def test_a_host_that_needs_some_seconds(self) -> None:
        for delay in (2.5, 5.0):
            self.assertGreater(self.assert_as_good(delay, 0.5), 30)

    def test_a_host_that_needs_longer_than_many_clients_wait(self) -> None:
        for delay in (8.0, 12.0):
            self.assertGreater(self.assert_as_good(delay, 0.5), 30)

    def test_a_delay_that_is_never_the_same(self) -> None:
        for least, more in ((0.05, 5.0), (1.0, 4.0), (2.5, 9.5)):
            for size in SIZES:
                host = Host(least, 20 * MB, 100 * MB, jitter=more)
                direct = Host(least + more, 20 * MB, 100 * MB).direct(size)
                pull = Pull(host, size).run()
                self.assertLessEqual(pull.seconds, 1.2 * direct + 1.0, (host, size))
                self.assertLessEqual(pull.stalled, 5.0, (host, size))

    def test_host_that_sends_headers_long_before_bodies_is_asked_for_few_long_ranges(self) -> None:
        """As a proxy that scans files: each range was dropped as silent, or taken for slow."""
        for scans, size in product((1.0, 2.5, 8.0, 25.0), SIZES):
            host = Host(0.05, 20 * MB, 100 * MB, scans=scans)
            pull = Pull(host, size).run()
            self.assertLessEqual(pull.seconds, 1.2 * host.direct(size) + 0.5, (host, size))
            self.assertLess(len(pull.scene.source.asked), 30, (host, size))

    def test_host_that_scans_is_not_known_by_how_soon_small_blobs_come(self) -> None:
        """After a config in no time a layer was asked for in 4 KB, and dropped after 3 s."""
        for seconds, size in product((2.5, 8.0, 25.0), SIZES):
            for host in (Host(seconds, 20 * MB, 100 * MB), Host(0.05, 20 * MB, scans=seconds)):
                pull = Pull(host, size)
                pace = pull.scene.source.pace_now
                since = pace.begin(0.0)
                pace.headers_after(0.02)
                pace.has_sent = pace.ranges = True
                pace.end(0.02)
                pace.measured(500, 0.02, since=since, whole=True)
                pull.run()
                self.assertLessEqual(pull.seconds, 1.2 * host.direct(size) + 0.5, (host, size))

    def test_a_cache_upstream_that_loads_the_whole_first(self) -> None:
        for delay, size in product((0.05, 1.0), SIZES):
            host = Host(delay, 20 * MB, gathers=True)
            pull = Pull(host, size).run()
            self.assertLessEqual(pull.seconds, 1.2 * host.direct(size) + 0.5, (host, size))
            self.assertLessEqual(pull.stalled, 5.0, (host, size))

    def test_host_that_reads_up_to_each_part_is_asked_for_all_in_one_piece(self) -> None:
        """As a proxy that scans: sixteen ranges were asked for at once, and waited for each."""
        for reads, (each, line) in product(
            (5 * MB, 20 * MB), ((20 * MB, inf), (inf, 20 * MB), (5 * MB, 100 * MB))
        ):
            for size in (30 * MB, 150 * MB, 300 * MB):
                host = Host(0.02, each, line, reads=reads)
                pull = Pull(host, size).run()
                self.assertLessEqual(pull.seconds, 1.2 * host.direct(size) + 0.6, (host, size))
                self.assertLessEqual(pull.stalled, 5.0, (host, size))

    def test_long_requests_to_a_host_whose_connections_are_slow_are_shared(self) -> None:
        """Of a late first answer follows one request for the blob, which took one connection."""
        for delay in (0.5, 0.8):
            host = Host(delay, 2 * MB)
            for size in (30 * MB, 300 * MB):
                pull = Pull(host, size).run()
                self.assertLess(pull.seconds, host.direct(size) / 2, (host, size))

    def test_requests_that_a_host_loses_are_made_again_soon_and_few_more_at_once(self) -> None:
        """Each was waited for, and then the blob paused; and small ones were made again."""
        host = Host(0.02, 100 * MB, 400 * MB, loses=5)
        self.assertLess(Pull(host, 30 * MB).run().seconds, 6.0)

    def test_few_requests_are_made_to_a_host_that_is_slow_to_answer(self) -> None:
        for delay in (2.5, 5.0, 8.0, 12.0):
            pull = Pull(Host(delay, 20 * MB, 100 * MB), 300 * MB).run()
            self.assertLess(len(pull.scene.source.asked), 30, delay)


class FewConnectionsTests(SynchronousTestCase):
    """A host that serves one or two requests at once, and refuses the others in its way."""

    def test_one_that_says_503_or_sends_nothing_is_seldom_asked_for_more(self) -> None:
        """A 206 without a body counted as an answer: the host seemed to bear ever more."""
        for refuses, bears in product(("503", "empty"), (1, 2)):
            for size in (30 * MB, 90 * MB, 300 * MB):
                host = Host(0.05, 20 * MB, bears=bears, refuses=refuses)
                pull = Pull(host, size).run()
                self.assertLessEqual(pull.seconds, 1.5 * host.direct(size) + 0.3, (host, size))
                self.assertLess(pull.refused, 16, (host, size))

    def test_one_that_is_slow_to_answer_too_is_asked_for_long_ranges_soon(self) -> None:
        """
        Each request doubled the one before, after a pause for the refusals; a refusal that overtook
        the first answer made the host seem quick.
        """
        for delay, refuses in product((0.5, 2.0), ("503", "empty")):
            host = Host(delay, 20 * MB, bears=1, refuses=refuses)
            pull = Pull(host, 30 * MB).run()
            self.assertLessEqual(pull.seconds, host.direct(30 * MB) + 2.6, host)
            self.assertLess(len(pull.scene.source.asked), 14, host)

    def test_one_that_lets_connections_hang_costs_the_time_to_notice_it(self) -> None:
        for bears, size in product((1, 2), (30 * MB, 90 * MB, 300 * MB)):
            host = Host(0.05, 20 * MB, bears=bears, refuses="hang")
            pull = Pull(host, size).run()
            self.assertLessEqual(pull.seconds, 1.5 * host.direct(size) + 3.0, (bears, size))
            self.assertLess(pull.refused, 16, (bears, size))

    def test_model_comes_one_request_by_the_other_with_few_more_than_a_stock_client_makes(
        self,
    ) -> None:
        """Each blob was asked for in a few bytes, then in parts, which waited for each other."""
        for delay, refuses in product((0.5, 2.0, 8.0), (None, "503", "empty")):
            host = OneByOne((30 * MB, 300_000, 11), delay, refuses).run()
            more = 1 if refuses is None else 2
            self.assertLessEqual(host.seconds, host.direct + more * delay + 0.9, (delay, refuses))

    def test_model_of_a_host_that_is_quick_and_serves_one_at_a_time(self) -> None:
        """Many requests waited for each other, 1.6 to 3.2 times as long as one takes directly."""
        models = (30 * MB, 300_000, 11), (11, 300, 8000, 300_000, 30 * MB), (60 * MB, 40 * MB, 11)
        for sizes, delay in product(models, (0.02, 0.05, 0.1, 0.2, 0.3)):
            model = OneByOne(sizes, delay).run()
            self.assertLessEqual(model.seconds, 1.2 * model.direct + 0.8, (sizes, delay))

    def test_model_of_one_that_refuses_others_meanwhile_is_asked_for_when_it_is_free(self) -> None:
        for delay, refuses in product((0.02, 0.05, 0.1, 0.3), ("503", "empty")):
            model = OneByOne((30 * MB, 300_000, 11), delay, refuses).run()
            self.assertLessEqual(model.seconds, 1.2 * model.direct + 0.5, (delay, refuses))

    def test_what_was_learnt_serves_the_next_blob(self) -> None:
        first = Pull(Host(0.05, 20 * MB, bears=2), 90 * MB).run()
        second = Pull(Host(0.05, 20 * MB, bears=2), 90 * MB)
        second.scene.source.pace_now = first.scene.source.pace_now
        second.run()
        self.assertLessEqual(second.refused, 2)
