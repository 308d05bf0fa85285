"""
Whether it is worth asking upstream at all: a circuit that opens when it keeps failing.

While it is open, questions are answered at once with what went wrong last, and
one question at a time is let through to find out whether upstream is back.

An upstream to which no connection can be made is down for everybody. One that does not answer, or
breaks off, may do so at one repository's fault: that counts for this repository alone.
"""

from __future__ import annotations

from typing import Optional

from attrs import define, evolve, field, frozen
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime

from yukari.errors import RegistryError
from yukari.names import Repository
from yukari.tasks import backoff

FAILURES = 3
"""Failures in a row that open a circuit."""
REST_FIRST = 1.0
REST_LONGEST = 5.0
"""Seconds between two probes, doubling from the first to the longest."""

MAX_REPOSITORIES = 1000
"""Repositories whose failures are remembered."""


@frozen
class Reachability:
    """Whether upstream answers, else its last failure and the seconds until it is asked again."""

    reachable: bool = True
    error: Optional[str] = None
    asked_again_in: Optional[float] = None
    wait: float = 0.0
    """Seconds for which it still wishes to be left alone (429 with Retry-After)."""
    answered: bool = False
    """Whether it has answered since the start."""


@define(eq=False, repr=False)
class Circuit:
    """
    Counts failures in a row; ``enter`` before a question, ``succeeded`` or ``failed`` after it.
    """

    _clock: IReactorTime
    _failures: int = field(default=0, init=False)
    _error: Optional[RegistryError] = field(default=None, init=False)
    _probe_at: float = field(default=0.0, init=False)
    _probing: bool = field(default=False, init=False)

    @property
    def is_open(self) -> bool:
        """Whether questions are being answered without asking."""
        return self._failures >= FAILURES

    @property
    def state(self) -> Reachability:
        """The state of upstream, as far as it is known."""
        if not self.is_open:
            return Reachability()
        rest = max(0.0, self._probe_at - self._clock.seconds())
        return Reachability(False, str(self._error), rest)

    def enter(self) -> None:
        """Raise the last failure if it is too soon to ask again."""
        if not self.is_open:
            return
        if self._probing or self._clock.seconds() < self._probe_at:
            assert self._error is not None
            # Raised again and again, it must not gather a traceback of them all.
            raise self._error.with_traceback(None)
        self._probing = True

    def succeeded(self) -> None:
        """Upstream answered, whatever it said."""
        self._failures = 0
        self._probing = False

    def failed(self, error: RegistryError) -> None:
        """Note that upstream did not answer, or not as a registry does."""
        self._failures += 1
        self._probing = False
        self._error = error
        rest = backoff(self._failures - FAILURES + 1, REST_FIRST, REST_LONGEST)
        self._probe_at = self._clock.seconds() + rest

    def left(self) -> None:
        """The question was given up before there was an answer."""
        self._probing = False


@define(eq=False, repr=False)
class Circuits:
    """A circuit for all of upstream, and one for each repository that fails by itself."""

    _clock: IReactorTime
    whole: Circuit = field(init=False)
    _wait_until: float = field(default=0.0, init=False)
    _answered: bool = field(default=False, init=False)
    _own: LRUCache[Repository, Circuit] = field(
        factory=lambda: LRUCache(MAX_REPOSITORIES), init=False
    )

    def __attrs_post_init__(self) -> None:
        self.whole = Circuit(self._clock)

    @property
    def state(self) -> Reachability:
        """The state of upstream, as far as it is known."""
        wait = max(0.0, self._wait_until - self._clock.seconds())
        return evolve(self.whole.state, wait=wait, answered=self._answered)

    def asked_to_wait(self, seconds: float) -> None:
        """Note that upstream wishes to be left alone for so long from now, 0 for no such wish."""
        self._wait_until = self._clock.seconds() + seconds

    def enter(self, name: Repository) -> None:
        """Raise the last failure if asking for the repository again is not due."""
        self.whole.enter()
        own = self._own.get(name)
        if own is not None:
            try:
                own.enter()
            except RegistryError:
                self.whole.left()
                raise

    def succeeded(self, name: Repository) -> None:
        """Upstream answered, whatever it said."""
        self._answered = True
        self.whole.succeeded()
        self._own.pop(name, None)

    def unreachable(self, name: Repository, error: RegistryError) -> None:
        """No connection could be made."""
        self.whole.failed(error)
        if (own := self._own.get(name)) is not None:
            own.left()

    def failed(self, name: Repository, error: RegistryError) -> None:
        """Note that a connection was made, and no answer arrived."""
        self.whole.succeeded()
        self._own.setdefault(name, Circuit(self._clock)).failed(error)

    def left(self, name: Repository) -> None:
        """The question was given up before there was an answer."""
        self.whole.left()
        if (own := self._own.get(name)) is not None:
            own.left()
