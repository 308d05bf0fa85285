"""
Where a directory keeps its manifests, as either kind of Ollama has it.

::

    manifests/HOST/NAMESPACE/MODEL/TAG      the manifest itself; Ollama up to 0.39
    manifests-v2/HOST/NAMESPACE/MODEL/TAG   a link to a manifest or list in blobs/; 0.40 and later
    blobs/sha256-HEX                        every manifest, list and layer

The hosts are spelt differently: ``registry.ollama.ai`` and ``ollama.com`` are one
registry, and a ``:`` is ``%3A`` in ``manifests-v2``. All spellings are read.
"""

from __future__ import annotations

import os
import re
from typing import Optional

from attrs import field, frozen

from yukari.names import Digest, InvalidName, Repository, Tag
from yukari.storage.ports import NEVER_CHECKED

_OLLAMAS_OWN = ("registry.ollama.ai", "ollama.com")
"""The default registry's host, as Ollama up to 0.39 and as 0.40 writes it."""
_DOS_EPOCH = 315_532_800.0
"""The earliest time on vfat and exfat, in seconds of the epoch."""
_TIME_ZONES = 86_400.0
_SHADOW = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"sha256[-:][0-9a-f]{64}")


def is_model(name: Repository, tag: str) -> bool:
    """Whether this may be a model; a conversion by Ollama 0.40 leaves shadows that are none."""
    return not (name.path == "library/llamacpp" and _SHADOW.fullmatch(tag))


def checked_at(found: os.stat_result) -> float:
    """Return when a manifest was checked, by its file's mtime."""
    seconds = found.st_mtime_ns / 1e9
    never = seconds <= 0 or abs(seconds - _DOS_EPOCH) <= _TIME_ZONES
    return NEVER_CHECKED if never else seconds


def is_blob(file_name: str) -> bool:
    """Whether a file of this name in ``blobs`` is a whole blob."""
    return _BLOB.fullmatch(file_name) is not None


@frozen
class Layout:
    """The paths below the directory ``path`` of what the registry ``host`` has."""

    path: str
    host: str
    plain: tuple[str, ...] = field(init=False)
    """Directories of the plain manifests; what is stored goes into the first."""
    linked: tuple[str, ...] = field(init=False)
    """The same of the links."""
    blobs: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        hosts = _OLLAMAS_OWN if self.host in _OLLAMAS_OWN else (self.host,)
        plain = [os.path.join(self.path, "manifests", host) for host in hosts]
        linked = [
            os.path.join(self.path, "manifests-v2", host.replace(":", "%3A"))
            for host in reversed(hosts)
        ]
        object.__setattr__(self, "plain", tuple(plain))
        object.__setattr__(self, "linked", tuple(linked))
        object.__setattr__(self, "blobs", os.path.join(self.path, "blobs"))

    def blob(self, digest: Digest) -> str:
        """The path of a blob."""
        return os.path.join(self.blobs, digest.file_name)

    def blob_paths(self, digest: Digest) -> tuple[str, str]:
        """Where a blob may be: early versions of Ollama wrote ``sha256:HEX``."""
        return self.blob(digest), os.path.join(self.blobs, str(digest))

    def blob_linked(self, path: str, target: str) -> Optional[Digest]:
        """The blob that the link at ``path`` names by its ``target``; None for anything else."""
        named = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if os.path.dirname(named) != self.blobs:
            return None
        try:
            return Digest.parse(os.path.basename(named))
        except InvalidName:
            return None


def tag_path(directory: str, name: Repository, tag: Tag) -> str:
    """The file of a tag in one of the `Layout`'s directories."""
    return os.path.join(directory, name.namespace, name.model, tag.name)
