"""
Where a fill's bytes come from: anything that answers a Range of one digest.

The upstream registry is one (`yukari.sources.upstream`), an S3 bucket another.
"""

from __future__ import annotations

from typing import Optional, Protocol

from attrs import frozen

from yukari.errors import RegistryError
from yukari.names import Repository
from yukari.net.bodies import Body
from yukari.net.throttle import Paced
from yukari.sources.pace import HostPace
from yukari.spans import Span


class SourceFailed(Exception):
    """
    This request failed; another may succeed. ``retry_after`` is in seconds, if the source sent it.

    ``busy`` means that the source wants fewer requests. ``moved`` means that the blob has to be
    located again; it says nothing about the number of requests. ``broken`` means that the source
    blames itself (500), however many requests it has.
    """

    def __init__(
        self,
        message: str,
        retry_after: Optional[float] = None,
        *,
        busy: bool = False,
        moved: bool = False,
        broken: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.busy = busy
        self.moved = moved
        self.broken = broken


class SourceRefused(Exception):
    """The source does not have the blob or will not give it: no use asking again now."""

    def __init__(self, error: RegistryError) -> None:
        super().__init__(str(error))
        self.error = error


@frozen
class Answer:
    """
    A reply whose body is about to arrive.

    ``span`` is what the body holds. ``asked`` is true if that is a part of the requested span.
    Otherwise the source has ignored the Range and sends the blob from its first byte.
    """

    span: Span
    asked: bool
    pace: HostPace
    body: Body
    paced: Optional[Paced] = None
    """The body, if its rate is bounded by a line that others share."""
    has_length: bool = True
    """Whether the reply says how long its body is."""


class BlobSource(Protocol):
    """One blob at one place upstream."""

    @property
    def pace(self) -> HostPace:
        """The measurements of the host that the next request is likely to go to."""

    @property
    def ranges(self) -> bool:
        """Whether that host is known to honour Range, so that several connections can be used."""

    async def fetch(self, span: Span) -> Answer:
        """
        Ask for ``span``; raises `SourceFailed` or `SourceRefused`. Cancelling drops the
        connection.
        """

    def add_repository(self, name: Repository) -> None:
        """Add a repository that has the blob, to be asked if the earlier ones refuse it."""

    def retry(self) -> None:
        """Forget what was refused: the next `fetch` asks everywhere anew."""

    def move_on(self, *, soon: bool = False) -> bool:
        """
        Ask another place from now on; ``soon`` means only one with another host. Return False if
        each has had its time since the last `retry`.
        """

    def describe(self) -> str:
        """Return where the bytes of late came from, for people to read."""

    async def set_aside(self, *, alone: bool) -> bool:
        """
        The bytes of late had another digest. Return whether their copy is gone from here.

        ``alone`` says that all of the blob came from here since it was last asked for this.
        """


class KeptSource(BlobSource, Protocol):
    """One blob in a store."""

    @property
    def there(self) -> bool:
        """Whether the store is known to have it; that may change at any time."""
