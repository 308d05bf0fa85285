"""
A fill's states, and what each event makes of them: one table, for all that can happen.

    QUEUED ──> FILLING ──> PUBLISHING ──> DONE
     │ ^         │ ^           │
     │ └SUSPENDED┘ └───────────┘ wrong digest, once
     └─> DIRECT ──> DONE, SUSPENDED
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class State(enum.Enum):
    """The state of a fill."""

    QUEUED = "queued"
    """It waits for its spool."""
    FILLING = "filling"
    PUBLISHING = "publishing"
    """All bytes are here: they are checked and stored."""
    DIRECT = "direct"
    """The blob goes into the store past the disk, which has no room for it."""
    SUSPENDED = "suspended"
    """Given up for now."""
    DONE = "done"


class Event(enum.Enum):
    """An event of a fill."""

    WANTED = "wanted"
    """Somebody asks for the blob, or it is time to retry."""
    OPENED = "opened"
    """Its spool is open."""
    NO_ROOM = "no room"
    """It cannot have a spool, but the store can take the blob without one."""
    WRITE_FAILED = "write failed"
    COMPLETE = "complete"
    """All bytes are here and have been hashed."""
    WRONG = "wrong"
    """The bytes that arrived are wrong or lost, and were discarded: it is fetched once more."""
    STORED = "stored"
    FAILED = "failed"
    """It cannot continue for now."""


class Effect(enum.Enum):
    """An action of a fill when it enters a state."""

    FORGET_FAILURES = "forget failures"
    SUBMIT = "submit"
    """Ask the scheduler for connections."""
    WITHDRAW = "withdraw"
    """Give up the connections: no more are needed."""
    BREAK_READERS = "break readers"
    HASH = "hash"
    """Hash what is there, and let readers have it."""
    PUBLISH = "publish"
    SEND_DIRECT = "send direct"
    END = "end"
    """Report to the keeper, and close the spool, or release it if it is empty."""


class ImpossibleEvent(Exception):
    """An event that cannot happen in that state."""


_E, _S, _F = Event, State, Effect
_FAILED = (_S.SUSPENDED, (_F.WITHDRAW, _F.BREAK_READERS, _F.END))
_STORED = (_S.DONE, (_F.WITHDRAW, _F.END))

TRANSITIONS: Mapping[tuple[State, Event], tuple[State, tuple[Effect, ...]]] = {
    (_S.QUEUED, _E.WANTED): (_S.QUEUED, (_F.SUBMIT,)),
    (_S.QUEUED, _E.OPENED): (_S.FILLING, (_F.HASH,)),
    (_S.QUEUED, _E.NO_ROOM): (_S.DIRECT, (_F.WITHDRAW, _F.BREAK_READERS, _F.SEND_DIRECT)),
    (_S.QUEUED, _E.FAILED): _FAILED,
    (_S.FILLING, _E.WANTED): (_S.FILLING, ()),
    (_S.FILLING, _E.WRITE_FAILED): (
        _S.QUEUED,
        (_F.WITHDRAW, _F.BREAK_READERS, _F.SUBMIT),
    ),
    (_S.FILLING, _E.COMPLETE): (_S.PUBLISHING, (_F.PUBLISH,)),
    (_S.FILLING, _E.FAILED): _FAILED,
    (_S.PUBLISHING, _E.WANTED): (_S.PUBLISHING, ()),
    (_S.PUBLISHING, _E.WRONG): (_S.QUEUED, (_F.WITHDRAW, _F.SUBMIT)),
    (_S.PUBLISHING, _E.STORED): _STORED,
    (_S.PUBLISHING, _E.FAILED): _FAILED,
    (_S.DIRECT, _E.WANTED): (_S.DIRECT, ()),
    (_S.DIRECT, _E.STORED): _STORED,
    (_S.DIRECT, _E.FAILED): _FAILED,
    (_S.SUSPENDED, _E.WANTED): (_S.QUEUED, (_F.FORGET_FAILURES, _F.SUBMIT)),
    (_S.DONE, _E.WANTED): (_S.DONE, ()),
}


def follow(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after an event and what to do on entering it; `ImpossibleEvent`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ImpossibleEvent(f"{event.value} while {state.value}") from None
