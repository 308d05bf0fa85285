"""
How many bytes one request asks of a host: long enough to keep the line busy, short enough to turn.

A Range in flight cannot be shortened without throwing bytes away, so it is
about two seconds' worth at the rate measured there, less where a round trip is
short. The numbers come from a simulation of these rules against Ollama's
clients, whose strictest gives up on a part that gets no byte for five seconds.
"""

from __future__ import annotations

from math import inf
from typing import Optional

from attrs import define, field

from yukari.net.budget import ConnectionBudget, HostLimit
from yukari.net.host_line import HostLine
from yukari.net.throttle import Line
from yukari.sources.blocks import Blocks
from yukari.sources.host_facts import (
    EACH_CONNECTION,
    THE_HOSTS_LIMIT,
    THE_LINE,
    THE_RATE,
    HostFacts,
)
from yukari.sources.in_order import InOrder

FIRST = 16 * 1024
"""
Bytes of the first requests to a host: 64 of them are two seconds' worth of a line of half a
megabyte a second.
"""
LARGEST = 64 * 1024 * 1024
"""Bytes of the longest request to a host that answers quickly."""
LEAST = 4 * 1024
"""Bytes of the shortest request: few enough for a slow line that many share."""
CRUMB = 64 * 1024
"""A request is not made shorter than so many bytes only because little of the blob is left."""
GROWTH = 16
"""The most by which a request may exceed the longest one that has arrived whole, as a factor."""
QUICK_GROWTH = 64
"""
As `GROWTH`, of one of at most `CRUMB` bytes whose body took so little time that the next lasts
`ROUND_TRIPS` at most.
"""
SECONDS = 2.0
SHORTEST_SECONDS = 0.5
"""
What a request should take: `SECONDS`, or less where a round trip is short, for a prefix that grows
steadily is hashed as it grows.
"""
SECONDS_SHARED = 2.5
"""
Seconds within which every reader gets a turn if more of them wait than there are connections; but a
request brings bytes for at least as long as it waits for the first of them.
"""
ROUND_TRIPS = 4
"""
A request is never shorter than this many round trips' time is worth, not even near a blob's end.
"""
ROUND_TRIPS_ENOUGH = 20
"""Round trips' time for which a request should last: its header is then a twentieth of it."""
RATED_EVERY = 0.1
"""Seconds over which bytes are counted for a rate, at least."""
OF_LATE = 2.0
"""Seconds for which such a rate, and the last look at the line, are reported."""
_MEMORY = 0.8
"""The weight of earlier measurements at each new one."""
ORDINARY = 0.3
"""
Seconds to a first byte that are a network's. They count as time of the transfer, so that a first
short request is not taken for a fast line; what is beyond them is the host's own delay.
"""
LATE_BODY = 1.5
"""Seconds from a header to its body from which on they are the host's, and not a slow line's."""
SLOW_TO_ANSWER = 1.0
"""Seconds to a first byte from which on a host is asked for few long ranges."""
LATENCIES = 6
"""A request to such a host should take so many times what its first byte takes."""
LEAST_LATENCIES = 2
"""As `LATENCIES`, however many wait: it then brings bytes for longer than it waits for them."""
CLIENTS_WAIT = 25.0
"""
Seconds within which each of several waiting readers gets a turn of such a host: a client gives a
part up after 30 s.
"""
ANSWER_LEAST = 2.0
"""Seconds that a known host has for a first byte at least, however quick it was."""
LOST_SHARE = 0.05
"""The weight of each request in what is lost on average."""
STOCK_PARTS = 16
STOCK_LEAST = LARGEST
"""
While a slow host's rate is unknown a blob is asked for in parts like stock Ollama's: at most so
many, of at least so many bytes;
"""
LEAST_UNHEARD = 8 * 1024 * 1024
"""or a quarter each time that one was waited for in vain, to so many bytes at the least."""
MUCH = 512 * 1024
"""
Bytes of the shortest request whose reply tells how soon the next is to be expected: what scans
before it sends is quick with small blobs.
"""
LONGEST = 1024 * 1024 * 1024
"""Bytes of the longest request, to a host that is slow to answer."""
FIRST_ANSWER = 28.0
"""
Seconds that a host which was never heard may take to its first byte. Ollama waits 30 s for a reply,
and is to be told why there is none.
"""


@define(eq=False, repr=False)
class HostPace:
    """
    What was measured of one host, for all fills that use it.

    ``bound`` is how many bytes a second one connection has of a bounded line while all are at
    work. A turn on that line brings a short request whole, which says nothing of how long a
    longer one takes.
    """

    bound: float = inf
    budget: Optional[ConnectionBudget] = None
    """The budget of requests to this host; None for the scheduler's own."""
    patience: float = FIRST_ANSWER
    """Seconds that its first reply may take to its first byte."""
    limit: HostLimit = field(factory=HostLimit)
    """How many requests at once it bears."""
    line: HostLine = field(factory=HostLine)
    """The connections to it."""
    active: int = 0
    """Requests under way now, from being sent on."""
    ranges: bool = False
    """Whether it has answered a Range with 206."""
    blocks: Blocks = field(factory=Blocks)
    """The blocks that it sends for a Range within them."""
    has_sent: bool = False
    """Whether any body has begun to come from it."""
    ends_bodies: bool = True
    """Whether its bodies without a length end behind their last byte."""
    has_brought_much: bool = False
    """Whether it has answered a request for `MUCH`."""
    serves_several: Optional[bool] = None
    """Whether it serves several requests at once, as of ``judged_at``; None for not known."""
    judged_at: float = 0.0
    in_order: InOrder = field(factory=InOrder)
    """Whether a blob comes as soon if it is asked for in one piece."""
    round_trip: Optional[float] = None
    """Seconds from a request to its reply's header, smoothed."""
    body_delay: float = 0.0
    """
    Seconds between a reply's header and its body, smoothed: some proxies send the one at once and
    the other when all is scanned. 0 for fewer than `LATE_BODY`. They count as the round trip's.
    """
    least_wait: float = 0.0
    """Seconds to a first byte at the least, of late."""
    longest_wait: float = 0.0
    """At the most, of late."""
    _lost: float = 0.0
    """Seconds for which a request is waited for in vain, on average: they count as a round trip."""
    _unheard: int = STOCK_LEAST
    """Bytes of a part while its rate is unknown."""
    longest: int = 0
    _longest_quick: int = 0
    """Bytes of the longest request whose body took next to no time, compared with its header."""
    _measured: int = 0
    _longest_body: float = 0.0
    """Seconds that one of them took from its header to its end, at the most."""
    _received: int = 0
    """Bytes that say how much the connections bring, since the last look at that."""
    _rated: int = 0
    """Bytes since `_rated_at`."""
    _rated_at: float = -inf
    _rate_of_late: float = 0.0
    _bytes: float = 0.0
    _bytes_of_all: float = 0.0
    """Bytes that all requests in progress brought in that time, if each is like this one."""
    _seconds: float = 0.0
    _request_seconds: float = 0.0
    _counted_at: float = 0.0

    def rate(self, requests: int = 1) -> Optional[float]:
        """
        Bytes a second of one of so many requests, None before the first measurement.

        More than there were when it was measured may share a line: then each has that much less,
        until it is measured anew.
        """
        if not self._seconds:
            return None
        return min(self._bytes, self._bytes_of_all / max(1, requests)) / self._seconds

    def begin(self, now: float, *, is_read: bool = False) -> float:
        """
        A request is sent, at ``now`` seconds; returns what `measured` wants to know of that time.
        ``is_read`` says whether clients read the blob.
        """
        if is_read:
            self.line.waited_for(now)
        self._count(now)
        self.active += 1
        return self._request_seconds

    def end(self, now: float) -> None:
        """It is over."""
        self._count(now)
        self.active -= 1

    def _count(self, now: float) -> None:
        self._request_seconds += self.active * max(0.0, now - self._counted_at)
        self._counted_at = now

    def received(self, now: float, count: int, *, is_read: bool, held: bool) -> None:
        """
        ``count`` bytes of a blob have arrived; ``is_read`` if clients read that blob, ``held`` if
        this connection must pause now because of our disk, our memory, or UPSTREAM_RATE.
        """
        self._received += count
        looked = self.line.received(now, is_read=is_read, held=held)
        useful, flight = self.limit.useful, self.line.flight
        if held or self.is_slow_to_answer:
            useful.held(now)
            self._received = 0
        elif looked:
            queues = flight.queues or flight.loses
            if not flight.is_steady:
                useful.passed_over(now)
            elif not useful.is_new or queues or not flight.tells:
                received, heard = self._received, flight.heard if flight.tells else inf
                useful.look(now, self.limit.active, received, queues=queues, heard=heard)
            elif flight.has_room or flight.wants_proof:
                useful.begin(flight.heard, is_proved=flight.has_room)
            self._received = 0
        self._rated += count
        seconds = now - self._rated_at
        if seconds >= RATED_EVERY:
            kept = _MEMORY if seconds < OF_LATE else 0.0
            self._rate_of_late = kept * self._rate_of_late + (1 - kept) * self._rated / seconds
            self._rated_at, self._rated = now, 0

    def facts(self, host: str, now: float, throttle: Optional[Line]) -> HostFacts:
        """Return what is known of the way to ``host``; ``throttle`` is UPSTREAM_RATE's line."""
        flight, useful = self.line.flight, self.limit.useful
        is_busy = now - self._rated_at < OF_LATE
        bound_by = None
        if throttle is not None and throttle.is_waited_for:
            bound_by = THE_RATE
        elif is_busy and self.limit.is_known and self.limit.active >= self.limit.bears:
            bound_by = THE_HOSTS_LIMIT
        elif is_busy and (flight.queues or useful.more_bring_more is False):
            bound_by = THE_LINE
        elif is_busy and useful.more_bring_more:
            bound_by = EACH_CONNECTION
        return HostFacts(
            host,
            self.limit.active,
            self._rate_of_late if is_busy else 0.0,
            flight.trips.base,
            flight.trips.now if is_busy else None,
            bound_by,
        )

    def headers_after(self, seconds: float) -> None:
        """A reply's header took ``seconds``."""
        self.lost(0.0)
        seconds += self.body_delay
        seen = self.round_trip
        self.round_trip = seconds if seen is None else 0.7 * seen + 0.3 * seconds
        least = seconds if seen is None else self.least_wait
        self.least_wait = min(seconds, least + 0.1 * (seconds - least))
        self.longest_wait = max(seconds, 0.98 * self.longest_wait)

    def body_after(self, seconds: float) -> None:
        """The first byte of a body came so many ``seconds`` after its header."""
        before = self.body_delay
        if self.round_trip is None or max(seconds, before) < LATE_BODY:
            return
        after = seconds if not before else 0.7 * before + 0.3 * seconds
        self.body_delay = after if after >= LATE_BODY else 0.0
        change = self.body_delay - before
        self.round_trip = max(0.0, self.round_trip + change)
        self.least_wait = max(0.0, self.least_wait + change)
        self.longest_wait = max(self.longest_wait, self.round_trip)

    def lost(self, seconds: float) -> None:
        """A request was waited for in vain for so long, and is made once more."""
        self._lost += LOST_SHARE * (seconds - self._lost)
        if seconds:
            self._unheard = max(LEAST_UNHEARD, self._unheard // 4)

    def waited_in_vain(self, seconds: float) -> None:
        """Note that no header arrived in ``seconds``, and wait longer for the next."""
        self.longest_wait = min(self.patience / 2, max(self.longest_wait, seconds))

    @property
    def delay(self) -> float:
        """Seconds that it takes of its own before each first byte, beyond a network's."""
        return max(0.0, self.least_wait - ORDINARY)

    @property
    def answers_within(self) -> float:
        """Seconds within which a first byte is to be expected, by what it took before."""
        if self.round_trip is None:
            return max(ANSWER_LEAST, self.patience)
        return max(ANSWER_LEAST, 2 * self.longest_wait + 1.0)

    @property
    def is_slow_to_answer(self) -> bool:
        """Whether it is asked for few long ranges rather than for many short ones."""
        return self.round_trip is not None and self.round_trip >= SLOW_TO_ANSWER

    def measured(
        self, count: int, seconds: float, *, since: float, whole: bool, body: float = inf
    ) -> None:
        """
        A request brought ``count`` bytes in ``seconds`` from being sent, when `begin` returned
        ``since``; ``body`` of them from its header on. ``whole`` if that was all of it.
        """
        is_quick = QUICK_GROWTH * body <= ROUND_TRIPS * (self.round_trip or 0.0)
        if whole and is_quick and count <= CRUMB:
            self._longest_quick = max(self._longest_quick, count)
        seconds = max(seconds, 1e-6)
        others = max(1.0, (self._request_seconds - since) / seconds)
        self._measured += 1
        self.in_order.body(count, body)
        self._longest_body = max(self._longest_body, body)
        seconds = max(seconds - self.delay, min(seconds, ORDINARY))
        self._bytes = self._bytes * _MEMORY + count
        self._bytes_of_all = self._bytes_of_all * _MEMORY + count * others
        self._seconds = self._seconds * _MEMORY + seconds
        if whole:
            self.longest = max(self.longest, count)
            self.has_brought_much = self.has_brought_much or count >= MUCH

    def length(
        self,
        left: int,
        connections: int,
        crowding: float,
        at_once: int = 1,
        under_way: Optional[int] = None,
        *,
        is_read: bool = False,
    ) -> int:
        """
        How many bytes the next request should ask for.

        ``left`` bytes of the blob nobody has asked for, ``connections`` can be
        used for it, ``crowding`` readers wait for each connection, and
        ``at_once`` requests will be under way when those that can begin have.
        ``under_way`` bytes of it are asked for, None if other blobs use the connections too;
        ``is_read`` says whether clients read it.
        """
        latency = (self.round_trip or 0.0) + self._lost
        if self.in_order.is_needed:
            return self.length_unheard(left, 1)
        if self.is_slow_to_answer and not self.has_brought_much:
            return self.length_unheard(left, connections)
        enough = SECONDS  # a host that nobody knows may be far
        if self.round_trip is not None:
            enough = max(SHORTEST_SECONDS, ROUND_TRIPS_ENOUGH * latency)
        enough = max(min(SECONDS, enough), LATENCIES * latency)
        crowding = max(crowding, 1e-9)
        turn = max(SECONDS_SHARED / crowding, latency)
        if self.is_slow_to_answer:
            shared = CLIENTS_WAIT / crowding - latency
            turn = max(turn, LEAST_LATENCIES * latency, min(LATENCIES * latency, shared))
        seconds = min(enough, turn)
        first = FIRST if left > MUCH else left
        wanted = max(LEAST, first / max(1.0, crowding))
        rate = self.rate(max(self.active + 1, connections, at_once))
        if rate is not None:
            least = ROUND_TRIPS * latency * rate
            if under_way is not None:
                # What lasts longer than all the rest would be waited for at the end.
                least = min(least, (left + under_way) / connections)
            # Each request more may be the one that is waited for in vain.
            share = max(left / connections, CRUMB, least, ROUND_TRIPS * self._lost * rate)
            wanted = min(seconds * rate, GROWTH * max(self.longest, FIRST // GROWTH))
            if self.limit.is_known:
                # With few requests their headers' time counts, and is no measure of the rate.
                wanted = max(wanted, QUICK_GROWTH * self._longest_quick / max(1.0, crowding))
                wanted = max(wanted, seconds * self.in_order.rate)
            wanted = min(wanted, share)
            most = LONGEST if self.is_slow_to_answer else LARGEST
            wanted = max(LEAST, min(most, wanted))
            is_new = self._measured < connections and connections * self._longest_body <= seconds
            if is_new and is_read:
                # So few short ones tell how far the host is, not what all can bring together.
                wanted = max(wanted, FIRST / max(1.0, crowding))
        return int(min(wanted, max(LEAST, seconds * self.bound)))

    def length_unheard(self, left: int, connections: int) -> int:
        """As `length`, while the first reply is late and nothing is known of the rate."""
        wanted = max(left / connections, self._unheard)
        return int(min(wanted, LONGEST, max(LEAST, SECONDS * self.bound)))
