"""A blob's way into the store past a disk that has no room for it, as its fill sees it."""

from __future__ import annotations

from typing import Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from yukari.names import Digest
from yukari.sources.base import BlobSource, SourceFailed, SourceRefused
from yukari.storage.ports import DirectUpload, WrongDigest

log = Logger()


def log_no_room(digest: Digest, error: Exception, *, direct: bool, again: bool) -> None:
    """Say once why a blob has no spool, and what follows: whether the store is sent it directly."""
    say = log.debug if again else log.error if isinstance(error, OSError) else log.warn
    message = "{digest}: cannot be stored on this disk: {error}"
    if direct:
        message = (
            "{digest}: {error}: it goes straight into the bucket, as fast as that takes it,"
            " and clients get it from upstream meanwhile"
        )
    say(message, digest=str(digest), error=str(error))


def log_wrong(digest: Digest, source: BlobSource, found: object, attempt: int) -> None:
    """Report that what ``source`` sent of late has another digest."""
    log.error(
        "{digest}: {source} sent {found}: thrown away, attempt {attempt}",
        digest=str(digest),
        source=source.describe(),
        found=str(found),
        attempt=attempt,
    )


@define(eq=False, repr=False)
class DirectTransfer:
    """One `DirectUpload` and its result."""

    _digest: Digest
    upload: DirectUpload
    wrong: Optional[Digest] = field(default=None, init=False)
    """The digest of what arrived, if it was not the blob's."""
    refused: Optional[Exception] = field(default=None, init=False)
    """Why upstream will not give the blob."""
    wait: float = field(default=0.0, init=False)
    """Seconds for which upstream wished to be left alone when this transfer failed."""
    _running: Optional[Deferred[bool]] = field(default=None, init=False)

    def run(self) -> Deferred[bool]:
        """Run the upload; fires with whether the blob is stored, and fails only if cancelled."""
        self._running = Deferred.fromCoroutine(self._run())
        return self._running

    async def _run(self) -> bool:
        try:
            await self.upload.run()
            return True
        except SourceRefused as refused:
            self.refused = refused.error
        except WrongDigest as wrong:
            self.wrong = wrong.found
        except (SourceFailed, OSError) as failed:
            self.wait = (failed.retry_after or 0.0) if isinstance(failed, SourceFailed) else 0.0
            log.warn("{digest}: not stored: {error}", digest=str(self._digest), error=str(failed))
        except CancelledError:
            raise
        except Exception:
            log.failure("{digest}: not stored", digest=str(self._digest))
        return False

    def stop(self) -> None:
        """Cancel the upload, if it is under way."""
        if self._running is not None:
            self._running.cancel()
