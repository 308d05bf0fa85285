"""Things that go wrong with single requests."""

from __future__ import annotations

import random

from attrs import define, field

from tests.emulator.counters import Request


@define
class Fault:
    """
    Something that goes wrong with the requests it meets.

    ``on`` is a kind (``manifest``, ``blob``, ``store``, ``token``, ``any``) or a
    kind and a method (``blob HEAD``). ``do`` is one of:

    ``drop``            close without an answer
    ``silence``         never answer (until `Emulator.release`)
    ``delay``           answer ``seconds`` later
    ``cut``             close after ``after`` bytes of the body; with ``reset``, by RST
    ``stall``           say no more after ``after`` bytes of the body (until `Emulator.release`)
    ``slow``            send the body at ``rate`` bytes per second
    ``error``           answer ``status``: JSON, or ``text`` as it is
    ``cloudflare``      answer ``status`` (502) with Cloudflare's HTML
    ``unhealthy``       answer 503, "no healthy upstream"
    ``redirect``        answer ``status`` (307) with ``text`` as Location
    ``huge``            answer 200 with ``after`` bytes of JSON
    ``portal``          answer 200 with a captive portal's HTML
    ``flip``            the blob's byte at offset ``at`` is wrong
    ``truncate``        a whole answer of only the first ``after`` bytes
    ``ignore-range``    answer 200 with all of the blob
    ``content-range``   claim a Content-Range that is ``at`` bytes off
    ``no-length``       leave Content-Length out
    ``no-location``     leave Location out

    ``digest``, ``agent`` (a part of the User-Agent) and ``reference`` (a tag)
    narrow what it meets. It passes by the first ``skip`` requests that it
    meets, happens ``times`` times (for ever if None), each with ``probability``.
    What would come after the end of a blob's answer does not happen to it.
    """

    on: str
    do: str
    after: int = 0
    at: int = 0
    status: int = 0
    text: str | None = None
    seconds: float = 0.0
    rate: float | None = None
    retry_after: int | None = None
    reset: bool = False
    digest: str | None = None
    reference: str | None = None
    agent: str | None = None
    skip: int = 0
    times: int | None = None
    probability: float = 1.0
    happened: int = 0

    def __attrs_post_init__(self) -> None:
        if self.do not in _DEEDS:
            raise ValueError(f"fault {self.do!r}: expected one of {', '.join(sorted(_DEEDS))}")

    def meets(self, request: Request) -> bool:
        """Whether this request is one of those meant."""
        return (
            self.on in ("any", request.kind, request.kind.split()[0])
            and self.digest in (None, request.digest)
            and self.reference in (None, request.reference)
            and (self.agent is None or self.agent in request.header("user-agent"))
        )


_DEEDS = frozenset(
    ("drop", "silence", "delay", "cut", "stall", "slow", "error", "cloudflare", "unhealthy")
    + ("portal", "redirect", "huge", "flip", "truncate", "ignore-range", "content-range")
    + ("no-length", "no-location")
)


@define
class Faults:
    """The faults in force; which happens is decided by one seeded generator."""

    random: random.Random
    standing: list[Fault] = field(factory=list)

    def add(self, fault: Fault) -> Fault:
        self.standing.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        self.standing.remove(fault)

    def clear(self) -> None:
        self.standing.clear()

    def drawn(self, request: Request) -> tuple[Fault | None, list[Fault]]:
        """The one fault that changes this answer, and every flip of its blob's bytes."""
        found: Fault | None = None
        flips = []
        for fault in self.standing:
            if (found and fault.do != "flip") or not fault.meets(request):
                continue
            if fault.times is not None and fault.happened >= fault.times:
                continue
            if fault.skip:
                fault.skip -= 1
            elif fault.probability >= 1 or self.random.random() < fault.probability:
                if fault.do == "flip":
                    flips.append(fault)
                else:
                    fault.happened += 1
                    found = fault
        return found, flips
