"""The stylesheet, the script and the icon of the pages."""

from __future__ import annotations

from hashlib import sha256
from pkgutil import get_data

from attrs import frozen
from twisted.web.resource import Resource
from twisted.web.server import Request

from yukari.web.replies import ReadOnly, reply


@frozen
class Asset:
    """A file that browsers keep for as long as its ``tag`` is in its URL."""

    content_type: str
    body: bytes
    tag: str


def _read(name: str, content_type: str) -> Asset:
    body = get_data("yukari.web.page", name)
    assert body is not None
    return Asset(content_type, body, sha256(body).hexdigest()[:12])


ASSETS = tuple(
    (name, _read(name, content_type))
    for name, content_type in (
        ("style.css", "text/css; charset=utf-8"),
        ("script.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    )
)


class AssetFile(ReadOnly):
    """The resource of one asset."""

    isLeaf = True

    def __init__(self, asset: Asset) -> None:
        super().__init__()
        self._asset = asset

    async def reply_to(self, request: Request) -> None:
        request.setHeader(b"cache-control", b"public, max-age=31536000, immutable")
        reply(request, 200, self._asset.content_type, self._asset.body)


def put_assets(parent: Resource) -> None:
    """Put all assets below ``parent``."""
    for name, asset in ASSETS:
        parent.putChild(name.encode(), AssetFile(asset))
