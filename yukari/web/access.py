"""Access: which clients may pull, and which may use the admin endpoints."""

from __future__ import annotations

import re
import socket
from typing import Any, Optional

from yukari.config.networks import Address, Networks
from yukari.errors import RegistryError
from yukari.web import clients

_PASSED_ON = (b"x-forwarded-for", b"x-real-ip", b"forwarded", b"via")
_BY_BROWSERS = (b"origin", b"accept-language")
_OWN_HOST = re.compile(rb"(?:(?i:localhost)|[0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")

_LOCAL_NAME = re.compile(
    r"(?:\[[0-9a-f:.]+\]|[0-9.]+|[a-z0-9_-]+|[a-z0-9_.-]+\.(?:localhost|local|internal|home\.arpa))"
    r"\.?(?::[0-9]+)?",
    re.IGNORECASE,
)
"""A host that no other site can be: an address, a name without a dot, a name for local use."""


def check_own_name(request: Any) -> None:
    """
    Raise `RegistryError` if a browser asks by a name that may be another site's.

    To its browser, a page whose own name was pointed here (DNS rebinding) is of the same site. It
    cannot ask by https: there is no certificate for its name here. By http, browsers do not say
    which site a page is of, so they are recognized by their User-Agent too, and by the language
    that they always name: in some of them a page may choose the User-Agent.
    """
    by_browser = (request.getHeader(b"user-agent") or b"").startswith(b"Mozilla/") or any(
        name.lower() in _BY_BROWSERS or name.lower().startswith(b"sec-fetch-")
        for name, _ in request.requestHeaders.getAllRawHeaders()
    )
    if not by_browser or clients.is_secure(request):
        return
    host = clients.host(request)
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    if name.lower() != socket.gethostname().lower() and not _LOCAL_NAME.fullmatch(host):
        raise RegistryError(
            "DENIED",
            "in a browser, ask for this by https, an address, or a name of the local network",
            403,
        )


def check_same_site(request: Any) -> None:
    """Raise `RegistryError` if a browser sends this for a page of another site."""
    if _is_cross_site(request):
        raise RegistryError("DENIED", "pages of other sites may not pull", 403)


def _is_cross_site(request: Any) -> bool:
    sites = request.requestHeaders.getRawHeaders(b"sec-fetch-site", [])
    return any(b"cross-site" in site.lower() for site in sites)


def check_may_pull(request: Any) -> None:
    """Raise `RegistryError` if this client is not in ALLOW."""
    allow: Optional[Networks] = request.site.allow
    if allow is None:
        return
    address = clients.address(request)
    if not is_allowed(address, allow):
        raise RegistryError("DENIED", f"{address} may not pull here: it is not in ALLOW", 403)


def is_allowed(address: Optional[Address], allow: Optional[Networks]) -> bool:
    """Whether a client may pull; a Unix socket's own permissions say who may open it."""
    return allow is None or address is None or address in allow


async def check_admin(request: Any, *, own_page: bool = False) -> None:
    """
    Raise `RegistryError` unless an admin may have sent this request.

    It must arrive on the admins' port or from this machine, and have a user and password of
    ADMIN_AUTH_FILE if there is one; without passwords, a browser must ask as `check_own_name` says.
    A page must not have made it, except one of this cache's own with ``own_page``.
    """
    if request.site.passwords is None:
        check_own_name(request)
    origin = request.requestHeaders.getRawHeaders(b"origin", [])
    is_others = origin and not (own_page and origin == [_own_origin(request)])
    # Another site's link may lead here, but may not change anything. Some browsers send no Origin.
    if is_others or (request.method not in (b"GET", b"HEAD") and _is_cross_site(request)):
        raise RegistryError("DENIED", "pages of other sites may not ask for this", 403)
    if not request.site.is_admins:
        _check_local(request)
    passwords = request.site.passwords
    if passwords is not None:
        user, password = request.getUser(), request.getPassword()
        if not await passwords.accept(user, password, clients.address(request)):
            raise RegistryError("UNAUTHORIZED", "this needs a user of ADMIN_AUTH_FILE", 401)


def _own_origin(request: Any) -> bytes:
    """What browsers call the site that this request was sent to."""
    scheme = "https" if clients.is_secure(request) else "http"
    return f"{scheme}://{clients.host(request).lower()}".encode("latin-1")


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
