"""
Who may do what else than pull.
"""

from __future__ import annotations

from typing import Any

from yukari.errors import RegistryError
from yukari.registry import clients


async def check_admin(request: Any) -> None:
    """
    `RegistryError` where a request comes neither to the admins' port nor from this machine, or
    has no user and password of ADMIN_AUTH_FILE where there is one.
    """
    if not (request.site.is_admins or _is_local(request)):
        raise RegistryError("DENIED", "this is for the cache's own machine and its ADMIN_BIND", 403)
    passwords = request.site.passwords
    if passwords is not None:
        user, password = request.getUser(), request.getPassword()
        if not await passwords.accept(user, password):
            raise RegistryError("UNAUTHORIZED", "this needs a user of ADMIN_AUTH_FILE", 401)


def _is_local(request: Any) -> bool:
    if request.getHeader(b"x-forwarded-for") or request.getHeader(b"forwarded"):
        return False  # a proxy on this machine passes on whom it likes
    address = clients.address(request)
    return address is None or address.is_loopback
