"""The viewer of a page, and the address by which they came."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from yukari.errors import RegistryError
from yukari.web import clients
from yukari.web.access import check_admin, check_own_name


@frozen
class Viewer:
    """Somebody who may pull, and perhaps more."""

    is_admin: bool
    may_sign_in: bool
    """Whether a password would make them an admin."""
    sees_models: bool
    """Whether they came by a name that no page of another site can have, or are admins."""
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


def has_own_name(request: Any) -> bool:
    """Whether a browser asks by a name that no other site can have."""
    try:
        check_own_name(request)
    except RegistryError:
        return False
    return True


async def viewer_of(request: Any) -> Viewer:
    """Return who sent a request; it is answered in any case."""
    is_admin, may_sign_in = False, False
    try:
        await check_admin(request)
        is_admin = True
    except RegistryError as error:
        may_sign_in = error.status == 401
    host = clients.host(request)
    shown = host if clients.is_host(host) else "this.host"
    sees_models = is_admin or has_own_name(request)
    return Viewer(is_admin, may_sign_in, sees_models, shown, clients.is_secure(request))
