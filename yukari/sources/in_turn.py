"""Questions to a registry that wait for their turn, and are asked again if they lose it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from yukari.demand import CLIENT, DEMAND
from yukari.errors import RegistryError
from yukari.names import Repository
from yukari.net.http import within
from yukari.sources.circuit import Circuits
from yukari.sources.questions import Questions, Turn
from yukari.sources.registry import Registry

ASKED_FOR = 4
"""
For how long a question may wait for its turn, as a factor of the time within which a reply must
begin: longer than hundreds of models take of a registry that takes as long as it may for each.
"""

P = ParamSpec("P")
T = TypeVar("T")


class Asking(Protocol):
    """What asks the questions."""

    registry: Registry
    circuits: Circuits
    questions: Questions


A = TypeVar("A", bound=Asking)
Asked = Callable[Concatenate[A, Repository, P], Coroutine[Any, Any, T]]
"""A question about a repository."""


def in_turn(ask: Asked[A, P, T]) -> Asked[A, P, T]:
    """
    Make a question wait for its turn, which it has until its reply has been read.

    One that lost its turn because others waited is asked again.
    """

    @wraps(ask)
    async def asking(self: A, name: Repository, /, *args: P.args, **keywords: P.kwargs) -> T:
        until = self.registry.clock.seconds() + ASKED_FOR * self.registry.headers_within
        again = False
        while True:
            turn = await _turn(self, name, until, again=again)
            answered = False
            try:
                asked = Deferred.fromCoroutine(ask(self, name, *args, **keywords))
                turn.interrupt = asked.cancel
                answer = await asked
                answered = True
                self.circuits.asked_to_wait(0.0)
                return answer
            except CancelledError:
                if not turn.is_lost:
                    raise
                again = True
            except RegistryError as error:
                answered = error.status == 404
                if error.status in (404, 429):
                    self.circuits.asked_to_wait(error.retry_after or 0.0)
                raise
            finally:
                self.questions.end(turn, answered=answered)

    return asking


async def _turn(asking: Asking, name: Repository, until: float, *, again: bool) -> Turn:
    """Wait for a turn ``until`` then, by the clock, and while anybody wants the answer."""
    clock, demand = asking.registry.clock, DEMAND.get()
    waiting = asking.questions.begin(name, CLIENT.get(), again=again)
    turn = within(max(0.0, until - clock.seconds()), waiting, clock)
    if demand is not None:
        demand.withdraw(turn)
    try:
        return await turn
    except TimeoutError:
        host = asking.registry.url.host
        raise RegistryError(
            "UNAVAILABLE", f"upstream {host} is slow, and many questions wait for it", 503
        ) from None
    finally:
        if demand is not None:
            demand.keep()
