"""Models on disk as a store has them: blobs, and manifests by the hundred thousand."""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256
from pathlib import Path

from attrs import frozen

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.ollama.image.model"
MIB = 1 << 20


@frozen
class Blob:
    """A blob: its digest in hex and its size in bytes."""

    hex: str
    size: int

    @property
    def digest(self) -> str:
        return f"sha256:{self.hex}"

    @property
    def file_name(self) -> str:
        return f"sha256-{self.hex}"


def write_blob(directory: Path, size: int, seed: int = 0) -> Blob:
    """A file of ``size`` bytes under its digest's name."""
    directory.mkdir(parents=True, exist_ok=True)
    making = directory / f"making-{seed}"
    seen = sha256()
    base = bytearray(sha256(str(seed).encode()).digest() * (MIB // 32))
    with making.open("wb") as opened:
        for start in range(0, size, MIB):
            base[:8] = start.to_bytes(8, "big")
            piece = base[: min(MIB, size - start)]
            opened.write(piece)
            seen.update(piece)
    blob = Blob(seen.hexdigest(), size)
    making.rename(directory / blob.file_name)
    return blob


def sparse_blob(directory: Path, size: int) -> Blob:
    """A file of ``size`` zeros that takes no room."""
    directory.mkdir(parents=True, exist_ok=True)
    seen, zeros = sha256(), bytes(16 * MIB)
    for start in range(0, size, len(zeros)):
        seen.update(memoryview(zeros)[: size - start])
    blob = Blob(seen.hexdigest(), size)
    with (directory / blob.file_name).open("wb") as opened:
        opened.truncate(size)
    return blob


def manifest_of(layers: list[Blob], config: Blob, mark: str = "") -> bytes:
    """A manifest as Ollama publishes them; ``mark`` makes it another one."""
    described = [
        {"mediaType": LAYER, "digest": layer.digest, "size": layer.size} for layer in layers
    ]
    content = {
        "schemaVersion": 2,
        "mediaType": DOCKER,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
        "layers": described,
        **({"annotations": {"mark": mark}} if mark else {}),
    }
    return json.dumps(content, separators=(",", ":")).encode()


def store_manifest(store: Path, host: str, name: str, body: bytes, age: float = 0.0) -> None:
    """Put a manifest where a directory store has it; ``name`` is ``NAMESPACE/MODEL:TAG``."""
    path, tag = name.split(":")
    target = store / "manifests" / host / path / tag
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(body)
    if age:
        checked = time.time() - age
        os.utime(target, (checked, checked))


def many_models(store: Path, host: str, count: int, age: float = 0.0) -> list[str]:
    """``count`` models of a hundred tags each, all on the same two blobs; their names."""
    layer = write_blob(store / "blobs", 1000, seed=1)
    config = write_blob(store / "blobs", 500, seed=2)
    names = [f"library/model{at // 100}:tag{at % 100}" for at in range(count)]
    for name in names:
        store_manifest(store, host, name, manifest_of([layer], config, mark=name), age)
    return names
