"""
Pages from templates: everything is escaped, and nothing in them runs but the one script of ours.

Jinja2 and not ``twisted.web.template``: a page of fifty models takes it a tenth of the time, in
which the reactor serves nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, Any, Optional

from attrs import define, field
from twisted.web.server import Request

from yukari import __version__
from yukari.tasks import Coalescer
from yukari.threads import InThread
from yukari.web.page.assets import ASSETS
from yukari.web.replies import reply

if TYPE_CHECKING:
    from jinja2 import Environment, Template

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    b" form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a browser may do for a page: nothing that is inline, and nothing elsewhere."""
HEADERS = (
    (b"Content-Security-Policy", POLICY),
    (b"Referrer-Policy", b"same-origin"),
    (b"Cache-Control", b"no-store"),
    (b"Vary", b"Accept, Authorization"),
)
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def size(count: Optional[float]) -> str:
    """Return bytes as people read them: ``4.1 GB``, of 10**9; an em dash for None."""
    if count is None:
        return "\N{EM DASH}"
    amount, unit = float(count), 0
    while amount >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    shown = f"{amount:.0f}" if unit == 0 or amount >= 99.95 else f"{amount:.1f}"
    return f"{shown} {_UNITS[unit]}"


def duration(seconds: Optional[float]) -> str:
    """Return a time's length as people say it: ``3 min``; an em dash for None."""
    if seconds is None:
        return "\N{EM DASH}"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def ago(now: float) -> Callable[[Optional[float]], str]:
    """Return a function that says how long before ``now`` something was; ``never`` for None."""

    def said(at: Optional[float]) -> str:
        if not at:
            return "never"
        return "just now" if now - at < 60 else f"{duration(now - at)} ago"

    return said


def moment(at: float) -> str:
    """Return a time of the epoch as ``datetime`` attributes have it."""
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="seconds")


def clock(at: float) -> str:
    """Return a time of the epoch as people read it: ``27 Nov, 14:05 UTC``."""
    said = datetime.fromtimestamp(at, timezone.utc)
    return f"{said.day} {said:%b, %H:%M} UTC"


@cache
def _environment() -> Environment:
    # Imported lazily (0.1 s, 3 MB): most daemons are never looked at.
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("yukari.web.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(size=size, duration=duration, moment=moment, clock=clock)
    made.globals.update(version=__version__, assets={name: each.tag for name, each in ASSETS})
    return made


def _load(name: str) -> Template:
    return _environment().get_template(name)


@define(eq=False, repr=False)
class Pages:
    """The templates; ``in_thread`` calls a blocking function in a disk thread."""

    _in_thread: InThread
    _now: Callable[[], float] = time.time
    _known: dict[str, Template] = field(factory=dict, init=False)
    _loading: Coalescer = field(factory=Coalescer, init=False)

    async def reply(
        self, request: Request, name: str, context: Mapping[str, Any], status: int = 200
    ) -> None:
        """Send the page that the template ``name`` makes of ``context``."""
        template = self._known.get(name)
        if template is None:
            template = await self._loading.run(name, self._load, name)
        now = self._now()
        body = template.render(now=now, ago=ago(now), **context)
        for header in HEADERS:
            request.setHeader(*header)
        reply(request, status, "text/html; charset=utf-8", body.encode())

    async def _load(self, name: str) -> Template:
        # The first takes 0.1 s, half of it for Jinja2; each of the others some 10 ms.
        template: Template = await self._in_thread(_load, name)
        self._known[name] = template
        return template
