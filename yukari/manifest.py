"""
A model's manifest: the bytes as they arrived, and what they name.

The bytes are the identity (a model's local ID is their sha256), so they are
kept and served unchanged; parsing only reads which blobs they stand on.

Since Ollama 0.40 a tag can stand for a list of manifests, one for each runner
(`ManifestList`). Which of the two a client understands is its `Variant`.

Fields are read as leniently as Ollama reads them (Go's ``encoding/json``):
absent and null are the same, names may have either case, and unknown ones are
ignored. What Ollama does not look at (the schema's version, a layer's size)
may be anything of its kind.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Optional, Protocol, TypeVar, Union

from attrs import evolve, field, frozen

from yukari.descriptors import Descriptor, packed
from yukari.names import Digest, InvalidName
from yukari.spans import Span

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
"""The media type of a manifest that names none, and of every model Ollama publishes."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
"""The media type of a manifest that OCI tools publish."""

MANIFEST_LIST = "application/vnd.ollama.manifest.list.v2+json"
"""The media type of a list of manifests, one for each runner."""

MANIFEST_TYPES = frozenset({DOCKER_MANIFEST, OCI_MANIFEST, MANIFEST_LIST})
"""The media types that manifests are sent with; replies with any other type say octet-stream."""

RUNNERS = ("llamacpp", "ggml", "mlx")
"""The order in which Ollama 0.40 chooses a child of a list; on Apple's processors mlx is first."""

MAX_BYTES = 8 * 1024 * 1024
"""Bytes of a manifest at most. One of 12,000 layers, which exists, has three megabytes."""

LARGE = 32 * 1024
"""
Bytes of a manifest beyond which it is parsed in a thread, and alone, and stays in a file: a few
hundred layers. Thousands of clients may be slow to read as many different ones.
"""

MAX_LAYERS = 20_000
"""Layers at most of a manifest, and of a list with all its children."""

MAX_CHILDREN = 256
"""Manifests at most of a list: there are a handful of runners."""

MAX_TYPE = 255
"""Characters at most of a media type that is looked at: two names of 127."""

MAX_VALUES = 8 * MAX_LAYERS
"""
Values at most in a manifest's JSON, counted by its brackets and commas; four a layer are usual. An
empty object of two bytes takes two hundred in Python.
"""

MAX_WIDE = 2 * 1024 * 1024
"""
Bytes of a manifest at most in which there may be characters beyond U+FFFF: with one of them, each
character takes four bytes in Python.
"""
_WIDE = [bytes([first]) for first in range(0xF0, 0xF5)]
"""The first bytes of such characters."""

SIZE_UNKNOWN = 0
"""The size of a blob whose manifest gives none. An empty blob has it too, and is asked for."""

_FIELDS = {
    name.lower(): name
    for name in (
        ("schemaVersion", "mediaType", "config", "layers", "manifests")
        + ("digest", "size", "runner", "format")
    )
}
"""The fields that are read, by their names in lower case."""


class InvalidManifest(ValueError):
    """Bytes that are no manifest; the text says why."""


class Variant(Enum):
    """The answer that a tag has for a client, by what the client accepts."""

    PLAIN = "plain"
    """A `Manifest`; Ollama up to 0.39 and every other client."""
    LIST = "list"
    """A `ManifestList` if the registry has one, else a `Manifest`; Ollama 0.40 and later."""


class KeptBytes(Protocol):
    """The bytes of a large manifest: a span of a file, which takes no memory as a rule."""

    @property
    def span(self) -> Span:
        """Their place in the file."""

    @property
    def in_memory(self) -> int:
        """The number of them in memory, because no file takes them."""

    def read(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes of the file from ``offset``. Blocks; OSError."""

    def share(self) -> Any:
        """Return the file as a `BlobFile`, to be closed separately."""

    def __len__(self) -> int: ...

    def __bytes__(self) -> bytes:
        """Read them. Blocks; OSError."""


Body = Union[bytes, KeptBytes]
"""A manifest's bytes; its digest is theirs, so they take no part in comparisons."""


@frozen
class Manifest:
    """A manifest's bytes, their digest, its media type and the blobs it stands on."""

    body: Body = field(repr=False, eq=False)
    digest: Digest
    media_type: str
    blobs: Sequence[Descriptor] = field(repr=False)
    """The layers in their order and then the config, each digest once; packed if they are many."""
    config: Optional[Descriptor] = None
    """The config, which is one of ``blobs``, if there is one."""

    @classmethod
    def parse(cls, body: bytes) -> Manifest:
        """Return the manifest in ``body``; `InvalidManifest` for a list and all else."""
        parsed = parse_manifest(body)
        if isinstance(parsed, ManifestList):
            raise InvalidManifest("a list of manifests: expected a manifest")
        return parsed


@frozen
class Child:
    """One manifest of a list: the one at ``digest`` among the blobs, for one runner."""

    digest: Digest
    runner: str
    inline: Optional[Manifest] = field(default=None, repr=False)
    """The manifest itself if the list has it whole; then no blob of this digest exists upstream."""


@frozen
class ManifestList:
    """A list's bytes, their digest, its media type and its children in their order."""

    body: Body = field(repr=False, eq=False)
    digest: Digest
    media_type: str
    children: tuple[Child, ...]

    def by_preference(self) -> list[Child]:
        """Return the children in the order in which Ollama chooses among them."""
        return sorted(self.children, key=lambda child: _preference(child.runner))


AnyManifest = Union[Manifest, ManifestList]
"""A manifest or a list: the meaning of a tag or a digest."""

M = TypeVar("M", bound=AnyManifest)


def manifests_in(found: AnyManifest) -> list[Manifest]:
    """Return the manifest itself, or those children of a list that the list has inline."""
    if isinstance(found, Manifest):
        return [found]
    return [child.inline for child in found.children if child.inline is not None]


def bodies_of(found: AnyManifest) -> list[Body]:
    """Return the bytes of a manifest, or those of a list and of the children it has inline."""
    inline = manifests_in(found) if isinstance(found, ManifestList) else []
    return [found.body, *(child.body for child in inline)]


def with_bodies(found: M, bodies: Iterable[Body]) -> M:
    """Return the same with other ``bodies``, in the order of `bodies_of`."""
    each = iter(bodies)
    own = next(each)
    if isinstance(found, Manifest):
        return evolve(found, body=own)
    return evolve(
        found, body=own, children=tuple(_with_body(child, each) for child in found.children)
    )


def _with_body(child: Child, bodies: Iterator[Body]) -> Child:
    if child.inline is None:
        return child
    return evolve(child, inline=evolve(child.inline, body=next(bodies)))


def stands_on(found: AnyManifest) -> set[Digest]:
    """Return the digests without which it is not whole: its own, its blobs' or its children's."""
    needs = {found.digest}
    if isinstance(found, ManifestList):
        needs.update(child.digest for child in found.children)
    for manifest in manifests_in(found):
        needs.update(blob.digest for blob in manifest.blobs)
    return needs


def parse_manifest(body: bytes) -> AnyManifest:
    """Return the manifest or the list in ``body``; `InvalidManifest` says why it is neither."""
    if len(body) > MAX_BYTES:
        raise InvalidManifest(f"a manifest of {len(body)} bytes: expected at most {MAX_BYTES}")
    if sum(map(body.count, (b"{", b"[", b","))) > MAX_VALUES:
        raise InvalidManifest(f"more than {MAX_VALUES} values")
    if len(body) > MAX_WIDE and any(first in body for first in _WIDE):
        raise InvalidManifest(f"characters beyond U+FFFF in more than {MAX_WIDE} bytes")
    try:
        # As Go reads it: in UTF-8, with a replacement for what is none.
        content = json.loads(
            body.decode("utf-8", "replace"), object_pairs_hook=_fields, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidManifest("not a JSON object")
    if not content.keys() & {"schemaVersion", "layers", "config", "manifests"}:
        raise InvalidManifest("it has neither schemaVersion nor layers, config or manifests")
    version = content.get("schemaVersion")
    if version is not None and not _is_integer(version):
        raise InvalidManifest(f"schemaVersion {_shown(version)}: expected a number")
    media_type = _media_type("mediaType", content, DOCKER_MANIFEST)
    if media_type == MANIFEST_LIST:
        return ManifestList(body, Digest.of(body), media_type, _children(content))
    blobs, config = _blobs(content)
    if not blobs and content.get("manifests"):
        raise InvalidManifest(f"a list of the type {media_type}: expected {MANIFEST_LIST}")
    if not blobs:
        # Nobody can run it, and it must not take the place of a model that can be run.
        raise InvalidManifest("it names no blob")
    return Manifest(body, Digest.of(body), media_type, blobs, config)


def _refuse(constant: str) -> None:
    """ValueError: JSON has no NaN and no Infinity, though Python reads them."""
    raise ValueError(f"{constant} is no number")


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields, by the names that are read here."""
    return {_FIELDS.get(name.lower(), name): value for name, value in pairs}


def _is_integer(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and -(2**63) <= found < 2**63


def _shown(found: Any) -> str:
    """Return a value for a message, short; a nested one by its kind, as it may be too deep."""
    if isinstance(found, (list, dict)):
        return f"a {type(found).__name__}"
    return ascii(found)[:40]


def _media_type(where: str, content: dict[str, Any], default: str) -> str:
    """The media type; the ``default`` for one that is too long or that no header can have."""
    named = content.get("mediaType") or default
    if not isinstance(named, str):
        raise InvalidManifest(f"{where}: expected text")
    if len(named) > MAX_TYPE or not (named.isascii() and named.isprintable()):
        return default
    return sys.intern(named)  # Thousands of layers have the same.


def _blobs(content: dict[str, Any]) -> tuple[Sequence[Descriptor], Optional[Descriptor]]:
    """The blobs that a manifest names, each once, and which of them is its config."""
    layers = content.get("layers")
    if layers is None:
        layers = []
    if not isinstance(layers, list):
        raise InvalidManifest("layers: expected a list")
    if len(layers) > MAX_LAYERS:
        raise InvalidManifest(f"{len(layers)} layers: expected at most {MAX_LAYERS}")
    named = [_descriptor(f"layer {at}", layer) for at, layer in enumerate(layers)]
    found = content.get("config")
    config: Optional[Descriptor] = None
    # Go writes an empty descriptor if there is no config, and Ollama skips it.
    if found is not None and _digest_of("config", found):
        config = _descriptor("config", found)
        named.append(config)
    once: dict[Digest, Descriptor] = {}
    for blob in named:
        known = once.setdefault(blob.digest, blob)
        if known.size != blob.size:
            once[blob.digest] = evolve(known, size=SIZE_UNKNOWN)
    return packed(once.values()), config and once[config.digest]


def _digest_of(where: str, found: Any) -> str:
    """The digest that an object names, "" for none."""
    if not isinstance(found, dict):
        raise InvalidManifest(f"{where}: expected an object")
    digest = found.get("digest")
    if digest is None:
        return ""
    if not isinstance(digest, str):
        raise InvalidManifest(f"{where}: expected a digest")
    return digest


def _parsed_digest(where: str, text: str) -> Digest:
    try:
        # Ollama takes hex of either case and means the same blob.
        return Digest.parse(text.lower())
    except InvalidName as error:
        raise InvalidManifest(f"{where}: {error}") from None


def _descriptor(where: str, found: Any) -> Descriptor:
    digest = _digest_of(where, found)
    if not digest:
        raise InvalidManifest(f"{where}: expected a digest")
    size = found.get("size")
    if size is None:
        size = SIZE_UNKNOWN
    elif not _is_integer(size):
        raise InvalidManifest(f"{where}: size {_shown(size)}: expected a count of bytes")
    media_type = _media_type(f"{where}: mediaType", found, "application/octet-stream")
    return Descriptor(_parsed_digest(where, digest), max(SIZE_UNKNOWN, size), media_type)


def _children(content: dict[str, Any]) -> tuple[Child, ...]:
    """The manifests that a list has; those of types that Ollama skips are left out."""
    entries = content.get("manifests")
    if not isinstance(entries, list):
        raise InvalidManifest("manifests: expected a list")
    if len(entries) > MAX_CHILDREN:
        raise InvalidManifest(f"{len(entries)} manifests: expected at most {MAX_CHILDREN}")
    entries.reverse()
    # Taken out one by one: with a manifest inline each takes several times the memory of its bytes.
    found = [_child(f"manifest {at}", entries.pop()) for at in range(len(entries))]
    children = tuple(child for child in found if child is not None)
    if not children:
        raise InvalidManifest("it lists no manifest")
    count = sum(len(child.inline.blobs) for child in children if child.inline is not None)
    if count > MAX_LAYERS:
        raise InvalidManifest(f"{count} layers: expected at most {MAX_LAYERS}")
    return children


def _child(where: str, entry: Any) -> Optional[Child]:
    digest = _digest_of(where, entry)
    media_type = _media_type(f"{where}: mediaType", entry, DOCKER_MANIFEST)
    if media_type == MANIFEST_LIST:
        raise InvalidManifest(f"{where}: a list within a list")
    if media_type != DOCKER_MANIFEST:
        return None
    runner = entry.get("runner") or ""
    if not isinstance(runner, str):
        raise InvalidManifest(f"{where}: runner: expected text")
    try:
        blobs, config = _blobs(entry)
    except InvalidManifest as error:
        raise InvalidManifest(f"{where}: {error}") from None
    if not blobs:
        return Child(_parsed_digest(where, digest), runner)
    # Such a child has no bytes of its own upstream: these are made once, here.
    kept = {key: value for key, value in entry.items() if key != "digest"}
    body = json.dumps(kept, separators=(",", ":")).encode()
    manifest = Manifest(body, Digest.of(body), media_type, blobs, config)
    return Child(manifest.digest, runner, manifest)


def _preference(runner: str) -> int:
    known = runner.lower()
    return RUNNERS.index(known) if known in RUNNERS else len(RUNNERS)
