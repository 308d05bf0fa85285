"""The key by which this cache is known upstream, made at first need."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from yukari.config.keys import SigningKey
from yukari.net.http import within
from yukari.tasks import Coalescer
from yukari.threads import InThread

_log = Logger()

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems that have no hard links."""


FOUND_WITHIN = 10.0
"""Seconds that a disk has to answer."""


class KeyUnusable(Exception):
    """This cache has no key to sign with; the log says why."""


@define(eq=False, repr=False)
class OwnKey:
    """
    The key in the file at ``path``, of mode 0600.

    A file that is there is never written to, whatever it holds.
    """

    path: str
    _in_thread: InThread
    _clock: IReactorTime
    _key: Optional[SigningKey] = field(default=None, init=False)
    _finding: Coalescer = field(factory=Coalescer, init=False)
    _logged: str = field(default="", init=False)

    async def get(self) -> SigningKey:
        """
        `KeyUnusable` if the file cannot be read or made, or holds something else; if it is another
        user's, a key for this run.
        """
        if self._key is None:
            finding = Deferred.fromCoroutine(self._finding.run(None, self._find))
            try:
                self._key = await within(FOUND_WITHIN, finding, self._clock)
            except TimeoutError:
                raise KeyUnusable("the disk with this cache's own key does not answer") from None
            except PermissionError as error:
                _log.warn(
                    "{path}: {reason}: until the daemon ends, requests upstream are signed by a"
                    " key that is not kept",
                    path=self.path,
                    reason=error.strerror,
                )
                self._key = SigningKey.make()[0]
            except (OSError, ValueError) as error:
                self._log_once(str(getattr(error, "strerror", None) or error))
                raise KeyUnusable("this cache cannot use its own key, its log says why") from None
        return self._key

    async def _find(self) -> SigningKey:
        found: SigningKey = await self._in_thread(read_or_make, self.path)
        return found

    def _log_once(self, reason: str) -> None:
        if reason != self._logged:
            self._logged = reason
            _log.error(
                "{path}: {reason}: requests upstream are not signed; if the file is no key of"
                " yours, move it away and a new one is made",
                path=self.path,
                reason=reason,
            )


class BorrowedKey:
    """
    The daemon's own key if it has one already, else one for this once.

    The daemon makes its key itself, so that it is the daemon's user's and not ours.
    """

    def __init__(self, path: str) -> None:
        self.note = ""
        """Why it is not the daemon's own key, "" if it is."""
        try:
            self._key = SigningKey.read(path)
        except FileNotFoundError:
            self._key = SigningKey.make()[0]
            self.note = "a new key; the daemon makes one of its own"
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self._key, self.note = SigningKey.make()[0], f"a new key; {path}: {reason}"

    async def get(self) -> SigningKey:
        """Return the key, as `OwnKey.get` does."""
        return self._key


def read_or_make(path: str) -> SigningKey:
    """The key in a file, which is made whole or not at all; `OSError` or `ValueError`. Blocks."""
    try:
        return SigningKey.read(path)
    except FileNotFoundError:
        pass
    made = f"{path}.new"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with suppress(FileNotFoundError):
        os.unlink(made)  # Of a process that died here.
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(SigningKey.make()[1])
            file.flush()
            os.fsync(descriptor)
        _put(made, path)
    finally:
        with suppress(OSError):
            os.unlink(made)
    return SigningKey.read(path)


def _put(made: str, path: str) -> None:
    """Give a file its name, unless something else has it by now."""
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not os.path.lexists(path):
            os.rename(made, path)
