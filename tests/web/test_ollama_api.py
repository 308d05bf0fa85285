"""Ollama's own API: what a client that watches a pull gets."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.library.pulls import Pull
from yukari.names import Repository, Tag
from yukari.web.ollama_api import PROGRESS_EVERY, SILENCE, OllamaApi


@define
class Recorded:
    """A reply of lines, kept here."""

    lines: list[Any] = field(factory=list)

    async def line(self, content: Any) -> None:
        self.lines.append(content["status"])


class WatchedPullTests(SynchronousTestCase):
    def test_a_pull_that_gets_nothing_still_sends_lines(self) -> None:
        """``yukari warm`` gave up models of a registry that asks to wait, after five minutes."""
        clock, lines, nothing = Clock(), Recorded(), None
        pull = Pull(Repository.parse("library/m"), Tag("latest"))
        api: Any = OllamaApi(nothing, nothing, nothing, clock)  # type: ignore[arg-type]
        watching = Deferred.fromCoroutine(api._watch(pull, lines))
        clock.pump([PROGRESS_EVERY] * int(2 * SILENCE / PROGRESS_EVERY))
        self.assertEqual(lines.lines, ["pulling manifest"] * 2)
        pull.is_done = True
        clock.advance(PROGRESS_EVERY)
        self.successResultOf(watching)
        self.assertEqual(lines.lines[-1], "success")
