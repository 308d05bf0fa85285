"""
The details of a model: from its config, its small layers, and the header of its weights.

The shapes are those of Ollama's own API. Whatever is too large, absent or damaged is left out:
details are never a reason to fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional, TypeVar

from attrs import define

from yukari.descriptors import Descriptor, of_types
from yukari.library.models.gguf import GgufHeader, InvalidGguf, read_header
from yukari.manifest import Manifest
from yukari.names import Digest
from yukari.storage.ports import BlobFile, Store
from yukari.texts import cut

MAX_SMALL = 1024 * 1024
"""Bytes of a config, template, licence and the like that are read at most."""
TITLE_WITHIN = 1024
"""Bytes of a licence in which its title is looked for."""
MAX_TITLE = 60
"""Characters of it that are kept."""
MAX_LAYERS = 64
"""Small layers that are read of one model."""
MAX_TEXT = 200
"""Characters of a config's text that are kept: a listing has those of all models."""
MAX_TEXTS = 16
"""Texts of a config's list that are kept."""
_TYPE = "application/vnd.ollama.image."

T = TypeVar("T")


@define(eq=False, repr=False)
class Details:
    """Reads stored models."""

    _store: Store

    async def summaries(self, manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
        """
        Return the ``details`` of models in a listing, and each one's ``license`` in a few words.

        {} until config and licence are stored; OSError if they are not readable.
        """
        return await self._summaries(manifests, await self._configs(manifests))

    async def _summaries(
        self, manifests: Sequence[Manifest], configs: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        licences = [_first(each.blobs, f"{_TYPE}license") for each in manifests]
        titles = await self._of_each(filter(None, licences), _title)
        return [
            _summary(config, "" if licence is None else titles.get(licence.digest))
            for config, licence in zip(configs, licences)
        ]

    async def show(self, manifest: Manifest) -> dict[str, Any]:
        """Return what ``/api/show`` tells of a model, but for when it was modified."""
        (config,) = await self._configs([manifest])
        (details,) = await self._summaries([manifest], [config])
        shown: dict[str, Any] = {
            "details": details,
            "model_info": None,  # Clients in Python need the key; Ollama takes {} for a header.
            "capabilities": _texts(config, "capabilities") or [],
            **{key: _text(config, key) for key in _COPIED if isinstance(config.get(key), str)},
        }
        for kind, texts in (await self._texts(manifest)).items():
            shown[kind] = _parameters(texts[-1]) if kind == "parameters" else "\n".join(texts)
        weights = _first(manifest.blobs, f"{_TYPE}model")
        header = None if weights is None else await self._header(weights)
        if header is not None:
            _add_header(shown, header)
        if not shown["capabilities"]:
            shown["capabilities"] = _guessed(header, manifest, shown.get("template", ""))
        return shown

    async def _configs(self, manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
        """The configs of models, {} for one that is not stored, is damaged or too large."""
        configs = [each.config for each in manifests]
        found = await self._of_each((c for c in configs if c and c.size <= MAX_SMALL), _config)
        return [{} if each is None else found.get(each.digest, {}) for each in configs]

    async def _texts(self, manifest: Manifest) -> dict[str, list[str]]:
        """The texts of a model by their kind: licences, template, system message, parameters."""
        texts_of = of_types(manifest.blobs, _KINDS)
        blobs = [blob for blob in texts_of if blob.size <= MAX_SMALL][:MAX_LAYERS]
        texts = await self._of_each(blobs, lambda file: _start(file, MAX_SMALL))
        found: dict[str, list[str]] = {}
        for blob in blobs:
            if blob.digest in texts:
                found.setdefault(_KINDS[blob.media_type], []).append(texts[blob.digest])
        return found

    async def _header(self, weights: Descriptor) -> Optional[GgufHeader]:
        def header(file: BlobFile) -> GgufHeader:
            return read_header(lambda start, end: file.read(start, end - start))

        try:
            return (await self._of_each([weights], header)).get(weights.digest)
        except InvalidGguf:
            return None

    async def _of_each(
        self, blobs: Iterable[Descriptor], work: Callable[[BlobFile], T]
    ) -> dict[Digest, T]:
        """Return what ``work`` returns, in a disk thread, of each of these blobs that is stored."""
        digests = list({blob.digest for blob in blobs})
        found = zip(digests, await self._store.each_blob(digests, work))
        return {digest: each for digest, each in found if each is not None}


_COPIED = ("renderer", "parser", "requires", "remote_host", "remote_model")
"""Texts of a config that are shown as they are."""
_KINDS = {
    f"{_TYPE}license": "license",
    f"{_TYPE}template": "template",
    f"{_TYPE}system": "system",
    f"{_TYPE}params": "parameters",
}


def _start(file: BlobFile, most: int) -> str:
    """The text in the first ``most`` bytes of a blob."""
    return file.read(0, most).decode("utf-8", "replace")


def _title(file: BlobFile) -> str:
    return licence_title(_start(file, TITLE_WITHIN))


def _config(file: BlobFile) -> dict[str, Any]:
    try:
        found = json.loads(file.read(0, MAX_SMALL))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _summary(config: dict[str, Any], licence: Optional[str]) -> dict[str, Any]:
    if not config or licence is None:
        return {}
    return {
        "parent_model": "",
        "format": _text(config, "model_format"),
        "family": _text(config, "model_family"),
        "families": _texts(config, "model_families"),
        "parameter_size": _text(config, "model_type"),
        "quantization_level": _text(config, "file_type"),
        **({"license": licence} if licence else {}),
    }


def licence_title(text: str) -> str:
    """Return the first line of a licence, with its version if the next line has that."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line.strip("*#= ") for line in lines if line.strip("*#= ")][:2]
    if len(lines) == 2 and lines[1].lower().startswith("version "):
        lines[0] += f" {lines[1].split()[1].strip(',;')}"
    return lines[0][:MAX_TITLE] if lines else ""


def _add_header(shown: dict[str, Any], header: GgufHeader) -> None:
    info = dict(header.values)
    for key in ("general.name", "tokenizer.chat_template"):
        info.pop(key, None)
    info.setdefault("general.parameter_count", header.parameters)
    if isinstance(info.get("general.architecture"), str):
        # Without it `ollama show` up to 0.9 ends with a traceback of its own.
        shown["model_info"] = info
    details = shown["details"]
    details.setdefault("format", "gguf")
    if not details.get("family"):
        details["family"] = header.architecture
    if details.get("quantization_level") in (None, "", "unknown"):
        details["quantization_level"] = header.quantisation


def _parameters(text: str) -> str:
    """Parameters as Ollama shows them: a name and a value on each line."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    lines = []
    for name, value in found.items():
        for each in value if isinstance(value, list) else [value]:
            lines.append(f"{cut(name, MAX_TEXT):<30} {json.dumps(each)}")
    return "\n".join(lines)


def _guessed(header: Optional[GgufHeader], manifest: Manifest, template: str) -> list[str]:
    """Return a model's capabilities, by the signs that Ollama goes by."""
    if header is None:
        return []
    if header.of_architecture("pooling_type") is not None:
        return ["embedding"]
    found = ["completion"]
    if ".Tools" in template:
        found.append("tools")
    if ".Suffix" in template:
        found.append("insert")
    projector = _first(manifest.blobs, f"{_TYPE}projector")
    if projector is not None or header.of_architecture("vision.block_count") is not None:
        found.append("vision")
    return found


def _first(blobs: Sequence[Descriptor], media_type: str) -> Optional[Descriptor]:
    return next(of_types(blobs, (media_type,)), None)


def _text(config: dict[str, Any], key: str) -> str:
    found = config.get(key)
    return cut(found, MAX_TEXT) if isinstance(found, str) else ""


def _texts(config: dict[str, Any], key: str) -> Optional[list[str]]:
    found = config.get(key)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        return None
    return [cut(each, MAX_TEXT) for each in found[:MAX_TEXTS]]
