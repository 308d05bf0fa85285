"""Readers are served in turn over their clients."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.fills.turns import MAX_KNOWN, Queues, Turns


def serve(queues: Queues) -> tuple[object, int]:
    """Serve the first; the client and the position."""
    first = queues.first()
    assert first is not None
    queues.remove(first.position)
    queues.turns.served(first.client)
    return first.client, first.position


class QueuesTests(SynchronousTestCase):
    def test_readers_of_one_client_are_served_as_they_came(self) -> None:
        queues = Queues(Turns())
        for position in (30, 10, 20):
            queues.put(position, "a")
        self.assertEqual([serve(queues)[1] for _ in range(3)], [30, 10, 20])

    def test_reader_of_another_client_waits_for_one_and_not_for_thousands(self) -> None:
        queues = Queues(Turns())
        for position in range(2000):
            queues.put(position, "crowd")
        for _ in range(10):
            serve(queues)
        queues.put(9999, "other")
        self.assertIn(("other", 9999), [serve(queues) for _ in range(2)])

    def test_client_that_had_nothing_for_long_has_saved_nothing_up(self) -> None:
        """Else one that comes back would keep out all others for as long."""
        queues = Queues(Turns())
        for position in range(2000):
            queues.put(position, "crowd")
        for _ in range(500):
            serve(queues)
        for position in range(3000, 3100):
            queues.put(position, "other")
        served = Counter(serve(queues)[0] for _ in range(100))
        self.assertEqual(served, {"crowd": 50, "other": 50})

    def test_failed_request_is_made_good_first(self) -> None:
        queues = Queues(Turns())
        for position in (1, 2, 3):
            queues.put(position, "a")
        serve(queues)
        queues.put_first({1: "a"})
        self.assertEqual(serve(queues), ("a", 1))

    @given(st.dictionaries(st.integers(0, 5), st.integers(1, 30), min_size=2))
    def test_clients_whose_readers_wait_are_served_equally_often(
        self, waiting: dict[int, int]
    ) -> None:
        queues = Queues(Turns())
        left = Counter(waiting)
        for client, readers in waiting.items():
            for each in range(readers):
                queues.put(client * 100 + each, client)
        served: Counter[object] = Counter()
        while +left:
            client, _ = serve(queues)
            served[client] += 1
            left[client] -= 1  # type: ignore[index]
            counts = [served[each] for each in (*+left, client)]
            self.assertLessEqual(max(counts) - min(counts), 1)
        self.assertIsNone(queues.first())

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 3))))
    def test_what_comes_and_goes_leaves_nothing(self, steps: list[tuple[bool, int, int]]) -> None:
        queues, there = Queues(Turns()), set[int]()
        for comes, position, client in steps:
            if comes:
                queues.put(position, client)
                there.add(position)
            else:
                queues.remove(position)
                there.discard(position)
            first = queues.first()
            self.assertEqual(first is None, not there)
            self.assertTrue(first is None or first.position in there)
        for position in there:
            queues.remove(position)
        self.assertEqual((queues._of, queues._queues), ({}, {}))

    def test_clients_of_long_ago_are_forgotten(self) -> None:
        turns = Turns()
        for client in range(3 * MAX_KNOWN):
            turns.served(client)
            turns.served("busy")
        self.assertLessEqual(len(turns._had), MAX_KNOWN + 1)
