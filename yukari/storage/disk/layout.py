"""
Where a directory keeps its manifests, as either kind of Ollama has it.

::

    manifests/HOST/NAMESPACE/MODEL/TAG      the manifest itself; Ollama up to 0.39
    manifests-v2/HOST/NAMESPACE/MODEL/TAG   a link to a manifest or list in blobs/; 0.40 and later
    blobs/sha256-HEX                        every manifest, list and layer

The hosts are spelt differently: ``registry.ollama.ai`` and ``ollama.com`` are one
registry, so are ``hf.co`` and ``huggingface.co``, and a ``:`` is ``%3A`` in ``manifests-v2``.
All spellings are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Optional

from attrs import field, frozen

from yukari.names import AS_LLAMA_CPP, DEFAULT, Digest, InvalidName, Repository, Tag
from yukari.storage.ports import NEVER_CHECKED

_SPELLINGS = (
    (("registry.ollama.ai", "ollama.com"), ("ollama.com", "registry.ollama.ai")),
    (("hf.co", "huggingface.co"), ("hf.co", "huggingface.co")),
)
"""
The hosts of each registry that has several: in ``manifests``, and in ``manifests-v2``. Ollama
writes the first of each: up to 0.39 into ``manifests``, from 0.40 on into ``manifests-v2``.
"""
_TREES = ("manifests", "manifests-v2")
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
    """
    The paths below the directory ``path`` of what registries have.

    ``host`` is the host of the default registry, ``others`` are the hosts of the others.
    """

    path: str
    host: str
    others: tuple[str, ...] = ()
    registries: tuple[str, ...] = field(init=False)
    """As `Repository` has them, in their order."""
    _plain: dict[str, tuple[str, ...]] = field(init=False, hash=False)
    _linked: dict[str, tuple[str, ...]] = field(init=False, hash=False)
    blobs: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        hosts = {DEFAULT: self.host, **{host: host for host in self.others}}
        plain, linked = {}, {}
        for registry, host in hosts.items():
            plain[registry], linked[registry] = _directories(self.path, host)
        object.__setattr__(self, "registries", tuple(sorted(hosts)))
        object.__setattr__(self, "_plain", plain)
        object.__setattr__(self, "_linked", linked)
        object.__setattr__(self, "blobs", os.path.join(self.path, "blobs"))

    def plain(self, registry: str) -> tuple[str, ...]:
        """
        Return the directories of a registry's plain manifests; new ones are stored in the first.

        It is empty for a registry that is not mirrored.
        """
        return self._plain.get(registry, ())

    def linked(self, registry: str) -> tuple[str, ...]:
        """Return the directories of a registry's links; otherwise as `plain`."""
        return self._linked.get(registry, ())

    @property
    def directories(self) -> Iterator[str]:
        """Iterate over the directories of all mirrored registries."""
        for registry in self.registries:
            yield from self._plain[registry]
            yield from self._linked[registry]

    @property
    def trees(self) -> tuple[str, ...]:
        """The directories whose subdirectories are those of hosts, mirrored or not."""
        tops = self.path, _for_llama_cpp(self.path)
        return tuple(os.path.join(top, tree) for top in tops for tree in _TREES)

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


def _for_llama_cpp(path: str) -> str:
    """Where manifests for llama.cpp are: Ollama would not take these for its own."""
    return os.path.join(path, "yukari", "llama-cpp")


def _directories(path: str, host: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The directories of a host's plain manifests, and of its links."""
    if host.endswith(AS_LLAMA_CPP):
        path = _for_llama_cpp(path)
        host = host.removesuffix(AS_LLAMA_CPP)
    spellings = next((each for each in _SPELLINGS if host in each[0]), ((host,), (host,)))
    return (
        tuple(
            os.path.join(path, _TREES[0], each)
            for host in spellings[0]
            for each in dict.fromkeys((host, host.replace(":", "%3A")))
        ),
        tuple(os.path.join(path, _TREES[1], each.replace(":", "%3A")) for each in spellings[1]),
    )


def tag_path(directory: str, name: Repository, tag: Tag) -> str:
    """The file of a tag in one of the `Layout`'s directories."""
    return os.path.join(directory, name.namespace, name.model, tag.name)
