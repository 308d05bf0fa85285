"""
Authorization of the admin endpoints.
"""

from __future__ import annotations

import re
from typing import Any

from yukari.errors import RegistryError
from yukari.web import clients

_PASSED_ON = (b"x-forwarded-for", b"x-real-ip", b"forwarded", b"via")
_OWN_HOST = re.compile(rb"(?:(?i:localhost)|[0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")


def check_same_site(request: Any) -> None:
    """Raise `RegistryError` if a browser sends this for a page of another site."""
    if request.getHeader(b"sec-fetch-site") == b"cross-site":
        raise RegistryError("DENIED", "pages of other sites may not pull", 403)


async def check_admin(request: Any) -> None:
    """
    Raise `RegistryError` unless an admin may have sent this request.

    It must arrive on the admins' port or from this machine, and have a user and password of
    ADMIN_AUTH_FILE if there is one.
    """
    if request.requestHeaders.hasHeader(b"origin"):
        raise RegistryError("DENIED", "pages of other sites may not ask for this", 403)
    if not request.site.is_admins:
        _check_local(request)
    passwords = request.site.passwords
    if passwords is not None:
        user, password = request.getUser(), request.getPassword()
        if not await passwords.accept(user, password, clients.address(request)):
            raise RegistryError("UNAUTHORIZED", "this needs a user of ADMIN_AUTH_FILE", 401)


def _check_local(request: Any) -> None:
    proxied = any(map(request.requestHeaders.hasHeader, _PASSED_ON))  # proxies pass on others
    address = clients.address(request)
    if proxied or not (address is None or address.is_loopback):
        raise RegistryError("DENIED", "this is for the cache's own machine and its ADMIN_BIND", 403)
    # A page's own host name that resolves to this machine would open it to that page (DNS
    # rebinding).
    host = request.getHeader(b"host")
    if address is not None and host and not _OWN_HOST.fullmatch(host):
        raise RegistryError("DENIED", "ask by localhost or an address, not by another name", 403)
