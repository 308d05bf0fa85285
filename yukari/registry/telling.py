"""
What the daemon tells of itself: ``/readyz`` and ``/metrics``.
"""

from __future__ import annotations

from twisted.web.server import Request

from yukari.metrics import PrometheusMetrics
from yukari.readiness import Readiness
from yukari.registry.resources import ReadOnly, check_admin, reply, reply_json


class Ready(ReadOnly):
    """``/readyz``: 200 where the daemon can serve, else 503, either with the reasons in JSON."""

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self._readiness = readiness

    async def reply_to(self, request: Request) -> None:
        reasons = await self._readiness.reasons()
        reply_json(request, 503 if reasons else 200, {"ready": not reasons, "reasons": reasons})


class Numbers(ReadOnly):
    """``/metrics``: what was counted, for admins."""

    def __init__(self, metrics: PrometheusMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    async def reply_to(self, request: Request) -> None:
        check_admin(request)
        reply(request, 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics.text())
