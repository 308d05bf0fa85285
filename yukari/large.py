"""
Large manifests: what bounds the memory that they take.

A manifest may have 8 MiB, and takes several times that while it is parsed. So its bytes are in a
file but while they are read, few of a registry arrive at the same time, and one is parsed at a
time: by one `LargeManifests`, whoever reads it and wherever it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Optional, TypeVar, Union

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore
from twisted.python.failure import Failure

from yukari.manifest import LARGE, AnyManifest, Body, InvalidManifest, bodies_of, with_bodies
from yukari.memory import Memory
from yukari.tasks import Coalescer
from yukari.threads import InThread

MAX_ARRIVING = 2
"""
Large manifests of one registry that may arrive in memory at once. Of a bucket only one may: it has
them all at hand.
"""
PARSED = 24 * 1024 * 1024
"""Bytes of memory that the largest takes while it is parsed: its bytes, its text, its values."""
MAX_LEAVING = 4
"""Large manifests that are sent to a bucket at once: some 0.7 MB of each wait for the socket."""

M = TypeVar("M", bound=AnyManifest)
T = TypeVar("T")


class IsLarge(Exception):
    """A manifest is large, and has to be read in the turn of a large one."""


def is_large(found: AnyManifest) -> bool:
    """Whether a manifest, or a list with the children it has inline, is large."""
    return sum(map(len, bodies_of(found))) > LARGE


def turns_to_arrive() -> DeferredSemaphore:
    """Return the turns of the large manifests that one place sends."""
    return DeferredSemaphore(MAX_ARRIVING)


@define(eq=False, repr=False)
class LargeManifests:
    """
    Turns of large manifests; ``keep`` puts bytes into a file if it can, ``give_back`` gives freed
    memory back to the system. Both block.
    """

    _keep: Callable[[Sequence[Body]], Sequence[Body]] = lambda bodies: bodies
    _give_back: Callable[[], object] = lambda: None
    _memory: Memory = field(factory=Memory)
    """Shared with what else goes past the disk; what is being parsed comes first."""
    from_store: DeferredLock = field(factory=DeferredLock, init=False)
    """The turn of those that a bucket sends: no registry's slow ones keep them waiting."""
    to_store: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(MAX_LEAVING), init=False)
    """The turns of those that are sent to a bucket."""
    _parsing: DeferredLock = field(factory=DeferredLock, init=False)
    _claims: bool = field(default=False, init=False)
    """Whether its part of the memory is taken, which it keeps until none waits to be parsed."""
    _once: Coalescer = field(factory=Coalescer, init=False)

    def kept(self, found: M) -> M:
        """Return a manifest without its bytes in memory if it is large. Blocks."""
        return with_bodies(found, self._keep(bodies_of(found))) if is_large(found) else found

    async def parsed(
        self, in_thread: InThread, bodies: list[bytes], parse: Callable[[bytes], M]
    ) -> M:
        """
        Return what ``parse`` makes of the only one of ``bodies``, which is taken out.

        A large one waits its turn for a thread, and comes without its bytes in memory.
        `InvalidManifest`; OSError if neither a disk nor memory has room for them.
        """
        if len(bodies[0]) <= LARGE:
            found = self._tried(parse, bodies)
        else:
            found = await self.alone(in_thread, self._tried, parse, bodies)
        if isinstance(found, Exception):
            raise found
        return found

    def _tried(self, parse: Callable[[bytes], M], bodies: list[bytes]) -> Union[M, Exception]:
        """
        As `parsed`, but return an error instead of raising it. Blocks.

        What an error was raised in lives as long as the error, and with it the body, several times.
        """
        try:
            return self.kept(parse(bodies.pop()))
        except InvalidManifest as error:
            return InvalidManifest(str(error))
        except OSError as error:
            return OSError(error.errno, error.strerror)

    async def in_turn(
        self,
        in_thread: InThread,
        small_only: Callable[[Callable[[], T]], T],
        work: Callable[[], T],
        key: Optional[Hashable] = None,
    ) -> T:
        """
        Call ``work`` in a thread by ``small_only``; if that raises `IsLarge`, as `alone`.

        Then it is done once for all who ask by the same ``key``, if there is one.
        """
        try:
            found: T = await in_thread(small_only, work)
            return found
        except IsLarge:
            pass
        if key is None:
            return await self.alone(in_thread, work)
        return await self._once.run(key, self.alone, in_thread, work)

    async def alone(self, in_thread: InThread, work: Callable[..., T], *arguments: Any) -> T:
        """
        Call ``work`` in a thread while no other large manifest is parsed.

        If this is cancelled, the thread finishes its work before it is another one's turn.
        """
        await self._parsing.acquire()
        if not self._claims:
            self._claims = True
            self._memory.claim(PARSED)
        answer: Deferred[T] = Deferred()

        def ended(result: Any) -> None:
            self._parsing.release()
            if not self._parsing.locked:
                self._claims = False
                self._memory.release(PARSED)
            if not answer.called:
                answer.callback(result)
            elif isinstance(result, Failure):
                result.trap(Exception)

        in_thread(self._work, work, *arguments).addBoth(ended)
        return await answer

    def _work(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return work(*arguments)
        finally:
            # Many times its bytes, which others would have to find between what is still in use.
            self._give_back()
