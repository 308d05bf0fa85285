"""How fast something goes, of late and from its beginning."""

from __future__ import annotations

from collections import deque

from attrs import define, field

WINDOW = 10.0
"""Seconds that "of late" goes back."""
TOLD = 10.0
"""Seconds between two lines in the log."""


@define(eq=False)
class Progress:
    """The progress of what began at ``began_at``; times are seconds of the caller's clock."""

    began_at: float
    _told_at: float = field(init=False)
    _samples: deque[tuple[float, int]] = field(factory=deque, init=False)

    def __attrs_post_init__(self) -> None:
        self._told_at = self.began_at

    def note(self, now: float, count: int) -> None:
        """Note how many bytes have arrived by ``now``."""
        self._samples.append((now, count))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()

    def is_to_be_told(self, now: float) -> bool:
        """Whether a line in the log is due; it is taken to be written then."""
        due = now - self._told_at >= TOLD
        if due:
            self._told_at = now
        return due

    def rate(self, now: float, count: int, *, of_late: bool) -> float:
        """Return bytes a second if ``count`` have come by ``now``: of late, or from the start."""
        then, before = self.began_at, 0
        if of_late and len(self._samples) > 1:
            then, before = self._samples[0]
        return (count - before) / (now - then) if now > then else 0.0
