"""What the catalog may lack because it could not be read: no blob may go meanwhile."""

from __future__ import annotations

from typing import Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.storage.inventory import Inventory

log = Logger()


class Unread(OSError):
    """A blob may be needed though the catalog knows nobody who stands on it."""


@define(eq=False, repr=False)
class Gaps:
    """
    Whether the catalog may lack something that is stored.

    Only a look through the store that reads everything closes a gap: what can be read again by now
    may still not be in the catalog.
    """

    _inventory: Inventory
    why: Optional[Exception] = field(default=None, init=False)
    """The last reason why it may; None if it has everything."""
    _since_look: Optional[Exception] = field(default=None, init=False)
    """The same since the present look began, or the last one."""

    def begin_look(self) -> None:
        """Forget what a look will find again."""
        self._since_look = None
        self._inventory.unread()

    def end_look(self) -> None:
        """A look has gone through everything."""
        self.why = self._since_look

    def add(self, error: Exception) -> None:
        """Note that something could not be read, or written into the catalog."""
        self.why = self._since_look = error

    def is_all_read(self) -> bool:
        """Whether everything could be read since the present look began, or the last one."""
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
