"""``PUT /store/archive``: an archive of models is imported while it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from yukari.errors import RegistryError, too_many
from yukari.library.models.shown_names import ShownNames
from yukari.library.upkeep.management import Management
from yukari.storage.ports import NoRoom
from yukari.tasks import Waiters
from yukari.web.access import check_admin
from yukari.web.json_api import Body
from yukari.web.replies import reply_json
from yukari.web.upload import Upload

if TYPE_CHECKING:
    from yukari.library.models.importing import Importer

log = Logger()

PATH = b"/store/archive"
MAX_IMPORTS = 4
"""Archives that are imported at the same time; each has a thread."""


@define(eq=False, repr=False)
class _Import:
    """One archive on its way in."""

    upload: Upload
    importer: Importer
    error: Optional[Exception] = None
    is_done: bool = False
    ended: Waiters = field(factory=Waiters)


@frozen(eq=False, repr=False)
class Imports:
    """Begins an import as soon as a request's headers are there, and answers at its end."""

    _management: Management
    _names: ShownNames
    _reactor: Any
    _pool: ThreadPool = field(factory=lambda: ThreadPool(0, MAX_IMPORTS, "import"), init=False)
    _running: set[_Import] = field(factory=set, init=False)

    def start(self) -> None:
        """Accept imports from now on."""
        self._pool.start()

    async def stop(self) -> None:
        """End the imports in progress; a repeated import skips what they have stored."""
        for each in list(self._running):
            each.upload.finish(broken=True)
            await each.ended.wait()
        self._pool.stop()

    def takes(self, method: bytes, path: bytes) -> bool:
        """Whether a request's body is an archive."""
        return method == b"PUT" and path.partition(b"?")[0] == PATH

    def begin(self, request: Any) -> Upload:
        """Return what the body is to be written to."""
        # Imported lazily (10 ms): most daemons never get an archive.
        from yukari.library.models.importing import Importer

        management, library = self._management, self._management.library
        upload = Upload(self._reactor, request.channel.hold)
        importer = Importer(
            management.library.store,
            self._names,
            self._reactor,
            reserve=management.collector.reserve,
            hold=library.in_use.hold,
            skips=library.fills.__contains__,
            blob_stored=library.events.blob_stored,
            tag_stored=library.events.tag_stored,
        )
        request.imported = made = _Import(upload, importer)
        self._running.add(made)
        Deferred.fromCoroutine(self._run(made, request)).addErrback(
            lambda failure: log.failure("importing", failure)
        )
        return upload

    async def _run(self, made: _Import, request: Any) -> None:
        from yukari.library.models.archive import BadArchive

        try:
            if len(self._running) > MAX_IMPORTS:
                raise too_many("too many imports at once", 10)
            try:
                await check_admin(request)
            except RegistryError as error:
                # Whoever may not do this has sent nothing that is worth reading.
                request.channel.refuse((error.status, b"Refused"))
                raise
            await deferToThreadPool(self._reactor, self._pool, made.importer.read, made.upload)
        except BadArchive as error:
            made.error = RegistryError("MANIFEST_INVALID", str(error), 400)
        except NoRoom as error:
            made.error = RegistryError("UNAVAILABLE", str(error), 507)
        except (RegistryError, OSError) as error:
            made.error = error
        except Exception as error:
            made.error = error
            log.failure("importing")
        finally:
            self._running.discard(made)
            made.upload.discard()
            made.is_done = True
            made.ended.fire()

    async def answer(self, request: Any, _: Body) -> None:
        """Answer a request whose body has arrived whole."""
        made: _Import = request.imported
        made.upload.finish()
        if not made.is_done:
            await made.ended.wait()
        if made.error is not None:
            raise made.error
        importer = made.importer
        reply_json(
            request,
            200,
            {
                "models": importer.models,
                "written": importer.written,
                "skipped": importer.skipped,
            },
        )
