"""
Bring a store of before ``manifests-v2`` to today's layout, while it is in use.

It kept every manifest a second time, ``yukari/manifests/HOST/NAMESPACE/MODEL/sha256-HEX``; today
these are blobs. Each file is moved in one step, so that a kill at any time leaves the rest for the
next start. Blocks: for a disk thread, one at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.config.files import read_file
from yukari.manifest import MAX_BYTES
from yukari.names import DEFAULT, Digest, InvalidName, Repository
from yukari.storage.disk.atomic import is_fault
from yukari.storage.disk.layout import Layout
from yukari.storage.disk.manifests import ManifestFiles

_TURN = 0.05
"""Seconds that one step holds a disk thread."""

log = Logger()


@define(eq=False, repr=False)
class Migration:
    """Moves the manifests in ``old``; ``files`` are those of the store's own registry."""

    old: str
    _files: ManifestFiles
    _steps: Optional[Iterator[None]] = field(default=None, init=False)
    moved: int = field(default=0, init=False)
    """Manifests that are blobs now."""

    @property
    def needed(self) -> bool:
        """Whether there is anything to move."""
        return os.path.isdir(self.old)

    def step(self) -> bool:
        """Move files for `_TURN` seconds; False once nothing is left to move. OSError."""
        if self._steps is None:
            self._steps = self._everything()
        until = time.monotonic() + _TURN
        while time.monotonic() < until:
            try:
                next(self._steps)
            except StopIteration:
                log.info("{count} manifests of {old} are blobs now", count=self.moved, old=self.old)
                return False
        return True

    def _everything(self) -> Iterator[None]:
        for host in _names(self.old):
            files = self._files
            if host != files.layout.host:
                files = ManifestFiles(Layout(files.layout.path, host), files.made)
            for namespace in _names(self.old, host):
                for model in _names(self.old, host, namespace):
                    directory = os.path.join(self.old, host, namespace, model)
                    for entry in _names(directory):
                        self._move(os.path.join(directory, entry), files.layout)
                        yield
                    try:
                        name = Repository(DEFAULT, namespace, model)
                    except InvalidName:
                        continue
                    for tag in files.listing.tags(name):
                        files.link(name, tag)
                        yield
                    _remove_empty(directory)
                _remove_empty(os.path.join(self.old, host, namespace))
            _remove_empty(os.path.join(self.old, host))
        _remove_empty(self.old)

    def _move(self, path: str, layout: Layout) -> None:
        """Make one file a blob, if it is what its name says."""
        try:
            digest = Digest.parse(os.path.basename(path))
            body = read_file(path, MAX_BYTES)
        except ValueError:
            return  # It has another name, or is something else than a file.
        except OSError as error:
            if is_fault(error):
                raise
            return
        if Digest.of(body) != digest:
            log.warn(
                "{path} stays where it is: its bytes are {found}", path=path, found=Digest.of(body)
            )
        elif os.path.exists(layout.blob(digest)):
            os.unlink(path)
        else:
            os.rename(path, layout.blob(digest))
            self.moved += 1


def _names(*parts: str) -> list[str]:
    """The names in a directory, sorted; none if there is no such directory."""
    try:
        return sorted(os.listdir(os.path.join(*parts)))
    except OSError as error:
        if is_fault(error):
            raise
        return []


def _remove_empty(path: str) -> None:
    with suppress(OSError):
        os.rmdir(path)
