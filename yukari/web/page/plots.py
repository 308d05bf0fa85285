"""Bars, as the rectangles that SVG draws: a page may have no style of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from attrs import frozen

from yukari.library.status import StoreStatus
from yukari.library.traffic import Moved, Period

WIDTH = 1000.0
HEIGHT = 100.0


@frozen
class Bar:
    """A rectangle on a ground of `WIDTH` by `HEIGHT`, its kind, and what it stands for."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    at: float = 0.0
    amount: int = 0


@frozen
class Plot:
    """What moved in each of some periods of time, and in all of them."""

    bars: tuple[Bar, ...]
    total: Moved
    highest: int

    @property
    def saved(self) -> int:
        """Bytes that clients got and that did not come from upstream for them."""
        return max(0, self.total.sent - self.total.received)


def plot(periods: Sequence[Period]) -> Plot:
    """Draw two bars for each period: what was sent, and before it what was received."""
    highest = max([1, *(max(each.sent, each.received) for each in periods)])
    step = WIDTH / max(1, len(periods))
    bars = []
    for at, period in enumerate(periods):
        for kind, amount, shift in (("sent", period.sent, 0.1), ("received", period.received, 0.5)):
            height = HEIGHT * amount / highest
            if amount:
                height = max(1.0, height)
                x = step * (at + shift)
                bars.append(
                    Bar(
                        kind,
                        round(x, 1),
                        round(HEIGHT - height, 1),
                        round(step * 0.38, 1),
                        round(height, 1),
                        period.at,
                        amount,
                    )
                )
    total = Moved(sum(each.sent for each in periods), sum(each.received for each in periods))
    return Plot(tuple(bars), total, highest)


def disk_bar(store: Optional[StoreStatus]) -> tuple[Bar, ...]:
    """Draw what a store's bytes are for, one behind the other."""
    if store is None:
        return ()
    held, room = store.held, store.room
    models = held.stored - held.shared - held.superseded - held.unneeded
    parts = [
        ("models", max(0, models)),
        ("shared", held.shared),
        ("superseded", held.superseded),
        ("unneeded", held.unneeded),
    ]
    if store.front is None:
        parts.append(("coming", room.on_their_way))
    if room.free is not None:
        free = room.free
        if room.bound is not None:
            free = max(0, min(free, room.bound - held.stored - room.on_their_way))
        parts.append(("free", free))
    return tuple(_in_a_row(parts))


def front_bar(store: Optional[StoreStatus]) -> tuple[Bar, ...]:
    """Draw what the bytes of the disk in front of a bucket are for; () if there is none."""
    if store is None or store.front is None:
        return ()
    front = store.front
    parts = [("kept", front.kept), ("coming", store.room.on_their_way), ("free", front.free)]
    return tuple(_in_a_row(parts))


def _in_a_row(parts: Sequence[tuple[str, int]]) -> Iterable[Bar]:
    x, whole = 0.0, max(1, sum(amount for _, amount in parts))
    for kind, amount in parts:
        width = WIDTH * amount / whole
        yield Bar(kind, round(x, 1), 0.0, round(width, 1), HEIGHT, amount=amount)
        x += width
