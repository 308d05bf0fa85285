"""What another process can order: faults, settings and models, by HTTP on the registry's port."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import asdict
from twisted.internet.defer import Deferred

from tests.emulator.answers import Answer, reply
from tests.emulator.counters import Request
from tests.emulator.faults import Fault
from tests.emulator.models import ModelSpec, compact

if TYPE_CHECKING:
    from tests.emulator.emulator import Emulator


class Control:
    """Carries out orders, and tells what is in force and what was counted."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._later: set[Any] = set()

    def stop(self) -> None:
        """Forget the orders whose time has not come."""
        for later in self._later:
            later.cancel()
        self._later.clear()

    def carry_out(self, orders: Mapping[str, Any]) -> None:
        """
        Carry out orders, in this order, each only if it is there.

        ``clear`` (all faults), ``settings`` (names and values of `Settings`),
        ``add`` (a list of `Fault` fields), ``set_model`` (``name``, ``sizes``,
        ``seed``), ``set_list`` (``name``, ``runners`` with their sizes, ``seed``,
        ``inline``), ``set_stub`` (``name``, ``null``), ``delete_model`` (a name),
        ``expire``, ``release``, ``clear_counters``, ``cut`` (every connection), ``down`` (seconds).
        """
        if orders.get("clear"):
            self._emulator.faults.clear()
        for name, value in orders.get("settings", {}).items():
            if not hasattr(self._emulator.settings, name):
                raise ValueError(f"setting {name!r}: there is none of that name")
            setattr(self._emulator.settings, name, value)
        for fault in orders.get("add", ()):
            self._emulator.faults.add(Fault(**fault))
        if "set_model" in orders:
            spec = ModelSpec.of(orders["set_model"])
            self._emulator.add_model(spec.name, spec.sizes, seed=spec.seed)
        if "set_list" in orders:
            self._emulator.add_list(**orders["set_list"])
        if "set_stub" in orders:
            self._emulator.add_stub(**orders["set_stub"])
        if "delete_model" in orders:
            self._emulator.delete_model(orders["delete_model"])
        for order, act in (
            ("expire", self._emulator.expire_urls),
            ("release", self._emulator.release),
            ("clear_counters", self._emulator.counters.clear),
        ):
            if orders.get(order):
                act()
        if orders.get("cut"):
            self._after(0.02, self._emulator.reset_connections)
        if "down" in orders:
            self._after(0.02, lambda: Deferred.fromCoroutine(self._emulator.down()))
            self._after(0.02 + float(orders["down"]), self._emulator.up)

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        """Act when the answer to the order has left."""

        def due() -> None:
            self._later.discard(later)
            act()

        later = self._emulator.reactor.callLater(seconds, due)
        self._later.add(later)

    def answer(self, path: str, request: Request) -> Answer:
        """The answer to a request for ``/_counters`` or ``/_faults``."""
        json_type = [("Content-Type", "application/json")]
        if (request.method, path) == ("GET", "/_counters"):
            return reply(request, 200, json_type, compact(self._emulator.counters.as_json()))
        if (request.method, path) == ("POST", "/_faults"):
            try:
                self.carry_out(json.loads(request.body))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                return reply(request, 400, json_type, compact({"error": str(error)}))
        elif (request.method, path) != ("GET", "/_faults"):
            return reply(request, 404, json_type, b"{}")
        standing = [asdict(fault) for fault in self._emulator.faults.standing]
        shown = {"faults": standing, "settings": asdict(self._emulator.settings)}
        return reply(request, 200, json_type, compact(shown))
