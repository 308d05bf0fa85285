"""Who looks at a page, and the address by which they came."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from yukari.errors import RegistryError
from yukari.web import clients
from yukari.web.access import check_admin


@frozen
class Viewer:
    """Somebody who may pull, and perhaps more."""

    is_admin: bool
    may_sign_in: bool
    """Whether a password would make them an admin."""
    host: str
    """The cache's address, as they typed it."""
    is_secure: bool

    @property
    def url(self) -> str:
        """The cache's URL, as they typed it."""
        return f"{'https' if self.is_secure else 'http'}://{self.host}"

    @property
    def insecure(self) -> str:
        """The flag that lets Ollama speak plain HTTP, with a space behind it, or nothing."""
        return "" if self.is_secure else "--insecure "


async def viewer_of(request: Any) -> Viewer:
    """Return who sent a request; it is answered in any case."""
    is_admin, may_sign_in = True, False
    try:
        await check_admin(request)
    except RegistryError as error:
        is_admin, may_sign_in = False, error.status == 401
    host = clients.host(request)
    shown = host if clients.is_host(host) else "this.host"
    return Viewer(is_admin, may_sign_in, shown, clients.is_secure(request))
