"""Models, manifest lists, and all that the registry has of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from tests.emulator.content import Content, parse_size

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.ollama.image.model"
LIST = "application/vnd.ollama.manifest.list.v2+json"

RUNNERS = ("llamacpp", "ggml", "mlx")
"""The children a list can have; the first that there is, is what the tag is without lists."""

PLAIN_TAGS = ("llamacpp", "ggml")
"""The children that have a tag of their own, ``TAG-llamacpp`` and ``TAG-ggml``."""


def compact(content: Any) -> bytes:
    """JSON as Go writes it: without spaces."""
    return json.dumps(content, separators=(",", ":")).encode()


def digest_of(body: bytes) -> str:
    """Return ``sha256:HEX``."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def too_old(agent: str, requires: str) -> bool:
    """
    Whether a User-Agent is an Ollama older than the version ``requires``.

    A development build, 0.0.0, passes for the newest.
    """
    found = re.match(r"ollama/(\d+)\.(\d+)\.(\d+)", agent)
    if not requires or found is None or found[0] == "ollama/0.0.0":
        return False
    return [int(part) for part in found.groups()] < [int(part) for part in requires.split(".")]


@frozen
class ModelSpec:
    """A model to make: its name with a tag, the size in bytes of each layer, and the seed."""

    name: str
    sizes: tuple[int, ...]
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """From ``NAMESPACE/MODEL:TAG=SIZE[xCOUNT][,SIZE...][@SEED]``."""
        name, _, rest = text.partition("=")
        layers, _, seed = rest.partition("@")
        sizes: list[int] = []
        for layer in layers.split(","):
            size, _, count = layer.partition("x")
            sizes += [parse_size(size)] * int(count or 1)
        return cls(name, tuple(sizes), int(seed or 0))

    @classmethod
    def of(cls, given: ModelSpec | str | Mapping[str, Any]) -> ModelSpec:
        """From a spec, its text, or ``{"name", "sizes", "seed"}``."""
        if isinstance(given, ModelSpec):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        sizes = tuple(parse_size(str(size)) for size in given["sizes"])
        return cls(given["name"], sizes, given.get("seed", 0))


@frozen
class Model:
    """A model as the registry has it; ``layers`` and ``config`` are of (digest, size)."""

    name: str
    manifest_bytes: bytes = field(repr=False)
    layers: tuple[tuple[str, int], ...]
    config: tuple[str, int]
    _content: Content = field(repr=False)
    requires: str = ""
    """The oldest Ollama that gets it, such as ``0.12.0``; older ones get 412."""

    @property
    def digest(self) -> str:
        """The manifest's own."""
        return digest_of(self.manifest_bytes)

    @property
    def blobs(self) -> tuple[tuple[str, int], ...]:
        """Layers and config, each digest once, in the order that clients pull them."""
        return tuple(dict([*self.layers, self.config]).items())

    @property
    def size(self) -> int:
        """The size of all blobs together, in bytes."""
        return sum(size for _, size in self.blobs)

    def read(self, digest: str, start: int = 0, end: int | None = None) -> bytes:
        """A blob's bytes ``start <= byte < end``."""
        return self._content.read(digest, start, end)


@frozen
class ManifestList:
    """A model with a manifest for each of several runners; ``children`` by runner, in order."""

    name: str
    manifest_bytes: bytes = field(repr=False)
    children: dict[str, Model]
    requires: str = field(default="", init=False)
    """Nobody is too old for a list: its clients look into the config themselves."""

    @property
    def digest(self) -> str:
        """The list's own."""
        return digest_of(self.manifest_bytes)

    @property
    def plain(self) -> Model:
        """What the tag is for clients that do not accept lists."""
        return next(self.children[runner] for runner in RUNNERS if runner in self.children)


class Catalog:
    """The models, lists and blobs that the registry has."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.models: dict[str, Model] = {}
        """By ``NAMESPACE/MODEL:TAG``; of a list its plain child."""
        self.lists: dict[str, ManifestList] = {}
        self.children: set[str] = set()
        """The digests of all manifests that lists refer to."""
        self.blobs: set[str] = set()

    def add_model(
        self, name: str, sizes: Sequence[int], *, seed: int = 0, requires: str = ""
    ) -> Model:
        """
        Make the model ``NAMESPACE/MODEL:TAG``, or put another in its place.

        Layers of one seed, place and size are the same blob in every model.
        ``requires`` is the oldest Ollama that may have it.
        """
        return self._kept(name, self._generated(name, sizes, seed, requires))

    set_model = add_model

    def add_model_of(self, name: str, bodies: Sequence[bytes], config: bytes = b"{}") -> Model:
        """Make a model whose layers are these bytes."""
        layers = [(self.content.put(body), len(body)) for body in bodies]
        return self._kept(name, self._made(name, layers, config))

    def add_stub(self, name: str, *, null: bool = False) -> Model:
        """Make a cloud model: a config that names a host, and ``"layers":[]`` or ``null``."""
        described = {
            "model_format": "",
            "model_family": "emulated",
            "model_families": ["emulated"],
            "remote_host": "https://ollama.com:443",
            "remote_model": name.rpartition("/")[2],
            "capabilities": ["completion", "tools", "thinking"],
            "context_length": 131072,
            "embedding_length": 2880,
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
        }
        made = self._made(name, [], compact(described))
        if null:
            body = made.manifest_bytes.replace(b'"layers":[]', b'"layers":null')
            made = evolve(made, manifest_bytes=body)
        return self._kept(name, made)

    def add_list(
        self,
        name: str,
        runners: Mapping[str, Sequence[int]],
        *,
        seed: int = 0,
        requires: str = "",
        inline: bool = False,
    ) -> ManifestList:
        """
        Make a model with a child for each runner, whose layers have these sizes.

        Each child differs from the others in every layer. An ``inline`` list
        holds the children themselves instead of their digests.
        """
        children, entries = {}, []
        for at, (runner, sizes) in enumerate(runners.items()):
            kind = {"runner": runner, "format": "safetensors" if runner == "mlx" else "gguf"}
            child = self._generated(name, sizes, seed + (at << 10), requires, kind)
            children[runner] = child
            if inline:
                entries.append(json.loads(child.manifest_bytes))
            else:
                digest = self.content.put(child.manifest_bytes)
                entries.append({"mediaType": MANIFEST, "digest": digest, **kind})
        body = compact({"schemaVersion": 2, "mediaType": LIST, "manifests": entries})
        made = ManifestList(name, body, children)
        for tag in PLAIN_TAGS:
            if tag in children:
                self._kept(f"{name}-{tag}", evolve(children[tag], name=f"{name}-{tag}"))
        self._kept(name, made.plain)
        self.lists[name] = made
        for child in children.values():
            self.blobs.update(digest for digest, _ in child.blobs)
            if not inline:
                self.children.add(child.digest)
                self.blobs.add(child.digest)
        return made

    def _generated(
        self,
        name: str,
        sizes: Sequence[int],
        seed: int,
        requires: str,
        kind: Mapping[str, str] | None = None,
    ) -> Model:
        layers = [
            (self.content.generate(size, (seed << 20) + at), size) for at, size in enumerate(sizes)
        ]
        described: dict[str, Any] = {
            "model_format": "gguf",
            "model_family": "emulated",
            "seed": seed,
        }
        if requires:
            described["requires"] = requires
        described["rootfs"] = {"type": "layers", "diff_ids": [digest for digest, _ in layers]}
        return evolve(self._made(name, layers, compact(described), kind), requires=requires)

    def _made(
        self,
        name: str,
        layers: list[tuple[str, int]],
        config: bytes,
        kind: Mapping[str, str] | None = None,
    ) -> Model:
        kept = (self.content.put(config), len(config))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": kept[0], "size": kept[1]},
            "layers": [
                {"mediaType": LAYER, "digest": digest, "size": size} for digest, size in layers
            ],
            **(kind or {}),
        }
        return Model(name, compact(manifest), tuple(layers), kept, self.content)

    def _kept(self, name: str, model: Model) -> Model:
        self.lists.pop(name, None)
        self.models[name] = model
        self.blobs.update(digest for digest, _ in model.blobs)
        return model

    def set_manifest(self, name: str, body: bytes) -> None:
        """Answer the manifest with these bytes, whatever they are; its blobs stay."""
        self.models[name] = evolve(self.models[name], manifest_bytes=body)

    def delete_model(self, name: str, *, blobs: bool = True) -> None:
        """Forget the model and, unless another has them, its blobs."""
        gone = self._digests(name)
        if name in self.lists:
            for tag in PLAIN_TAGS:
                self.models.pop(f"{name}-{tag}", None)
            del self.lists[name]
        del self.models[name]
        if blobs:
            self.blobs -= gone.difference(*(self._digests(other) for other in self.models))

    def holds(self, repository: str, digest: str) -> bool:
        """Whether a model of ``NAMESPACE/MODEL`` has this blob."""
        names = (name for name in self.models if name.rpartition(":")[0] == repository)
        return any(digest in self._digests(name) for name in names)

    def _digests(self, name: str) -> set[str]:
        """All blobs of a model: those of every child, and the children themselves."""
        models = [self.models[name]]
        found = set()
        if name in self.lists:
            models += self.lists[name].children.values()
            found = {model.digest for model in models} & self.children
        return found | {digest for model in models for digest, _ in model.blobs}
