"""Gaps in the catalog: no blob is removed while something that is stored could not be read."""

from __future__ import annotations

from typing import Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.storage.inventory import Inventory

log = Logger()


class Unread(OSError):
    """A blob may be needed even if the catalog knows no manifest that names it."""


@define(eq=False, repr=False)
class Gaps:
    """
    Whether the catalog may lack something that is stored.

    Only a look through the store that reads everything closes a gap: what can be read again by now
    may still not be in the catalog.
    """

    _inventory: Inventory
    why: Optional[Exception] = field(default=None, init=False)
    """The last reason for a gap; None if there is none."""
    _since_look: Optional[Exception] = field(default=None, init=False)
    """The last reason since the latest look began; None if there has been none."""

    def begin_look(self) -> None:
        """Begin anew: the look finds the gaps that remain."""
        self._since_look = None
        self._inventory.unread()

    def end_look(self) -> None:
        """Keep only the gaps found since the look began: it has read everything else."""
        self.why = self._since_look

    def add(self, error: Exception) -> None:
        """Note that something could not be read, or written into the catalog."""
        self.why = self._since_look = error

    def is_all_read(self) -> bool:
        """Whether nothing has failed to be read since the latest look began."""
        unread = self._inventory.unread()
        if unread is not None:
            if str(unread) != str(self.why):
                log.warn("no blob is removed until this can be read: {error}", error=str(unread))
            self.add(unread)
        return self._since_look is None

    def check(self) -> None:
        """`Unread` if there is a gap."""
        self.is_all_read()
        if self.why is not None:
            raise Unread(f"no blob is removed: {self.why}")
