"""The document of pins and copies, which people may have written."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.memory import MemoryStore
from tests.storage.strategies import result_of
from yukari.library.upkeep.marks import DOCUMENT, MAX_SHOWN, Marks
from yukari.names import DEFAULT, Repository, Tag

NAME, LATEST = Repository(DEFAULT, "library", "m"), Tag("latest")


class MarksTests(SynchronousTestCase):
    def marks(self, pin: str) -> Marks:
        """The marks of a document with one pin, as JSON."""
        store = MemoryStore()
        body = f'{{"pins": {{"{NAME}:{LATEST}": {pin}, "\\udfff": {{}}}}}}'.encode()
        result_of(store.inventory.save(DOCUMENT, body, None))
        made = Marks(store.inventory, Clock(), lambda: 7.0)
        result_of(made.refresh())
        return made

    def test_pin_of_any_shape_pins_and_can_be_shown(self) -> None:
        """One with half a character in it was the end of every list of models."""
        by: Any
        for by in ('"\\ud800"', '"' + "x" * 9999 + '"', "[1]", "null", "{}", "1e999"):
            for at in ('"x"', "1e999", "-1e999", "NaN", "null", "[]", "-5", str(10**400)):
                marks = self.marks(f'{{"by": {by}, "at": {at}}}')
                pin = marks.pin(NAME, LATEST)
                assert pin is not None
                self.assertEqual(pin.at, 0.0)
                for key, text in marks.pinned().items():
                    (key + text + pin.by).encode()
                    self.assertLessEqual(max(len(key), len(text), len(pin.by)), MAX_SHOWN)
        self.assertEqual(getattr(self.marks('{"at": 5}').pin(NAME, LATEST), "at", None), 5)
