"""
Which byte of a blob is fetched next, and which never again: a fill's core, without I/O.

Every byte of the blob is in one of four states: *free*, *asked for* (it belongs
to one `Claim`), *arrived* (received, not yet on the spool) or *covered* (on the
spool). ``taken`` holds the last three, so a claim can only be made of free
bytes, and no byte is asked for twice unless its connection broke before it came.
"""

from __future__ import annotations

from typing import Optional

from attrs import define, field

from yukari.spans import Span, SpanSet


@define(eq=False, repr=False)
class Claim:
    """
    Bytes asked for on one connection: ``cursor`` is the next to arrive, ``end`` where they end.
    """

    cursor: int
    end: int


@define(eq=False, repr=False)
class Plan:
    """
    The states of all bytes of a blob of ``size`` bytes; ``covered`` says where it starts from.
    """

    size: int
    covered: SpanSet = field(factory=SpanSet)
    taken: SpanSet = field(init=False)
    claims: set[Claim] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self.taken = SpanSet.of(self.covered)

    @property
    def whole(self) -> bool:
        """Whether every byte is covered."""
        return self.covered.total == self.size

    @property
    def free(self) -> int:
        """How many bytes nobody has asked for."""
        return self.size - self.taken.total

    @property
    def under_way(self) -> int:
        """How many bytes have been asked for and have not arrived."""
        return sum(claim.end - claim.cursor for claim in self.claims)

    def wanted(self, position: int) -> Optional[int]:
        """
        Return the byte to ask for if somebody reads at ``position``: the first free one from there.

        None if some before it are on their way, or none is free.
        """
        free = self.taken.until(position)
        if free >= self.size:
            return None
        for claim in self.claims:
            if position < claim.end <= free and claim.cursor < claim.end:
                return None
        return free

    def front(self) -> Optional[int]:
        """Return the first free byte; None if there is none."""
        first = self.taken.until(0)
        return first if first < self.size else None

    def claim(self, start: int, length: int) -> Claim:
        """
        Ask for the free bytes from ``start``, at most ``length`` of them, up to the next one taken.

        ``start`` must be free (ValueError).
        """
        gap = self.taken.gap(start, min(self.size, start + length))
        if gap is None or gap.start != start:
            raise ValueError(f"byte {start} is taken")
        self.taken.add(gap.start, gap.end)
        claim = Claim(gap.start, gap.end)
        self.claims.add(claim)
        return claim

    def claim_around(self, start: int, span: Span) -> Claim:
        """As `claim`, of ``span`` from ``start`` on, and what is before it there if all is free."""
        free = self.taken.gap(span.start, span.end)
        first = span.start if free and free.start == span.start and free.end > start else start
        return self.claim(first, span.end - first)

    def halve(self, claim: Claim) -> Span:
        """Free the second half of what has not come of a claim, and return it."""
        middle, end = (claim.cursor + claim.end + 1) // 2, claim.end
        claim.end = middle
        self.taken.remove(middle, end)
        return Span(middle, end)

    def arrived(self, claim: Claim, count: int) -> Optional[Span]:
        """
        Return where ``count`` bytes belong that came for ``claim``; None if beyond its end.
        """
        start, end = claim.cursor, min(claim.cursor + count, claim.end)
        claim.cursor = end
        return Span(start, end) if start < end else None

    def admit(self, start: int, end: int) -> list[Span]:
        """
        Take bytes that nobody has claimed, of a reply that ignored Range.

        Returns the free ones among them, which count as arrived from then on.
        """
        spans = []
        while (gap := self.taken.gap(start, end)) is not None:
            self.taken.add(gap.start, gap.end)
            spans.append(gap)
            start = gap.end
        return spans

    def release(self, claim: Claim) -> None:
        """Free what did not come of a claim whose connection has ended."""
        if claim in self.claims:
            self.claims.discard(claim)
            self.taken.remove(claim.cursor, claim.end)

    def forget(self, span: Span) -> None:
        """Free bytes that had arrived or were covered, and are there no more."""
        self.covered.remove(span.start, span.end)
        self.taken.remove(span.start, span.end)

    def cover(self, span: Span) -> None:
        """Note that arrived bytes are on the spool."""
        self.covered.add(span.start, span.end)
