"""The page of one model: its layers, licence, template, and the versions that are kept."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.web.server import Request

from yukari.errors import RegistryError, name_invalid
from yukari.library.catalog.file import CatalogFile
from yukari.manifest import Manifest
from yukari.names import Digest, InvalidName, Repository, Tag
from yukari.web.page.base import DONE, Page, Query
from yukari.web.page.viewer import Viewer

MAX_LAYERS = 200
"""Layers that are shown."""
MAX_SHARERS = 5
"""Other models that are shown beside a layer that they share."""
MAX_TEXT = 20_000
"""Characters of a licence or a template that are shown."""
TEXTS = {
    "license": "Licence",
    "template": "Template",
    "system": "System message",
    "parameters": "Parameters",
}
_KINDS = "application/vnd.ollama.image."


@frozen
class Layer:
    """A blob of the model, and some of the other models that stand on it too."""

    kind: str
    digest: Digest
    size: int
    is_here: bool
    shared_with: tuple[tuple[str, str], ...]
    """Names as Ollama shows them, and the paths of their pages."""


class ModelPage(Page):
    """``/models/[HOST/]NAMESPACE/MODEL/TAG``."""

    async def show(self, request: Request, viewer: Viewer) -> None:
        parts = self.parts
        name, tag = _named(request)
        management = parts.management
        if parts.names.registries.find(name.host or parts.names.registry) is None:
            raise RegistryError("NAME_UNKNOWN", f"this cache does not mirror {name.host}", 404)
        management.library.rules.check(name)
        await management.index.settled()
        await parts.refresh()
        found = await management.catalog.run(CatalogFile.find, name, tag)
        shown = parts.names.show(str(name), str(tag))
        if not found:
            raise RegistryError("NAME_UNKNOWN", f"{shown} is not stored here", 404)
        before = await management.catalog.run(CatalogFile.find, name, tag, superseded=True)
        rows = await parts.rows([found[0], *before])
        stored = await management.library.store.get_manifest(name, tag)
        manifest = stored.manifest if stored is not None else None
        layers: list[Layer] = []
        details: dict[str, Any] = {}
        if isinstance(manifest, Manifest):
            layers = await self._layers(name, tag, manifest)
            details = await management.details.show(manifest)
        context = {
            "viewer": viewer,
            "token": parts.token.text if viewer.is_admin else "",
            "upstreams": [parts.status.upstream(name.host)],
            "row": rows[0],
            "done": DONE.get(Query.of(request).text("done")) if viewer.is_admin else None,
            "whole_name": f"{name}:{tag}",
            "pull_name": f"{parts.names.registries.path_for_clients(name)}:{tag}",
            "own_bytes": await management.catalog.run(CatalogFile.own_bytes, name, tag),
            "layers": layers[:MAX_LAYERS],
            "more_layers": max(0, len(layers) - MAX_LAYERS),
            "capabilities": details.get("capabilities", []),
            "texts": [
                (title, details[key][:MAX_TEXT], len(details[key]) > MAX_TEXT)
                for key, title in TEXTS.items()
                if details.get(key)
            ],
            "versions": rows[1:],
        }
        await parts.pages.reply(request, "model.html", context)

    async def _layers(self, name: Repository, tag: Tag, manifest: Manifest) -> list[Layer]:
        parts = self.parts
        run, library = parts.management.catalog.run, parts.management.library
        sharers = await run(CatalogFile.shared_with, name, tag, MAX_SHARERS)
        found = []
        for blob in manifest.blobs[: MAX_LAYERS + 1]:
            kind = blob.media_type.removeprefix(_KINDS)
            if manifest.config is not None and blob.digest == manifest.config.digest:
                kind = "config"
            others = tuple(
                (parts.names.show(*each), f"/models/{each[0]}/{each[1]}")
                for each in sharers.get(blob.digest, ())
                if library.rules.allow(Repository.parse(each[0]))
            )
            size = await library.store.blob_size(blob.digest)
            found.append(Layer(kind, blob.digest, blob.size, size is not None, others))
        return found


def _named(request: Request) -> tuple[Repository, Tag]:
    parts = [part.decode("latin-1") for part in request.postpath or ()]
    if len(parts) not in (3, 4):
        raise RegistryError("UNSUPPORTED", "there is nothing at this path", 404)
    try:
        return Repository.parse("/".join(parts[:-1])), Tag(parts[-1])
    except InvalidName as error:
        raise name_invalid(str(error)) from None
