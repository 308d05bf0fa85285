"""
The errors that clients are sent.

One exception, `RegistryError`, stands for every reply that is not the thing
asked for. Ollama prints the text of a 403, 412, 429 and 5xx as it stands,
turns any 404 into "file does not exist" and throws a 401's body away
(ollama's ``server/download.go`` and ``server/images.go``): messages are short
and say what to do, and what a person must read goes out as 403 or 503.
"""

from __future__ import annotations

import json
from typing import Optional

from attrs import define

LOOP_DETECTED = 508
"""The status with which a cache answers a request of its own."""


@define(eq=False)
class RegistryError(Exception):
    """
    A reply in the distribution specification's error form.

    ``code`` is one of that specification's (``BLOB_UNKNOWN``, ``DENIED``, ...),
    ``status`` the HTTP status, ``retry_after`` whole seconds for a header of
    that name.
    """

    code: str
    message: str
    status: int
    retry_after: Optional[int] = None

    def __str__(self) -> str:
        return self.message

    def body(self) -> bytes:
        """The JSON that the client gets."""
        error = {"code": self.code, "message": self.message, "detail": None}
        return json.dumps({"errors": [error]}).encode()


def name_invalid(message: str) -> RegistryError:
    return RegistryError("NAME_INVALID", message, 400)


def manifest_unknown(name: object, reference: object) -> RegistryError:
    return RegistryError("MANIFEST_UNKNOWN", f"no model {name}:{reference} upstream or here", 404)


def blob_unknown(digest: object) -> RegistryError:
    return RegistryError("BLOB_UNKNOWN", f"no blob {digest} upstream or here", 404)


def denied(what: object, proxy: Optional[object] = None, *, has_key: bool = False) -> RegistryError:
    """
    Return the error for what upstream refuses; it does not say whether that is private or missing.

    ``proxy`` is one that may have refused it in upstream's place; ``has_key`` says that the
    operator's key was refused as well.
    """
    said = f"{what} does not exist or is private upstream; "
    if has_key:
        said += "the key of this cache's UPSTREAM_KEY may not pull it either"
    else:
        said += "to pull it, its operator must set UPSTREAM_KEY to a key that may"
    if proxy is not None:
        said += f"; or the proxy {proxy} refused it"
    return RegistryError("DENIED", said, 403)


def denied_by(host: str, what: object, said: str, *, has_key: bool) -> RegistryError:
    """As `denied`, for a registry beside the default one; ``said`` is its own text."""
    if has_key:
        advice = "the key or token that this cache has for it may not pull it either"
    else:
        advice = "to pull it, this cache needs a key or a token for that registry"
    says = f"{host} says: {said}; " if said else ""
    return RegistryError(
        "DENIED", f"{says}{what} does not exist or is private there; {advice}", 403
    )


def only_by_key(what: object) -> RegistryError:
    """Return the error for what only the operator's key or token opens."""
    return RegistryError(
        "DENIED",
        f"{what} is private upstream: only this cache's UPSTREAM_KEY, or its token, may pull it,"
        " and it is kept from clients; PRIVATE_MODELS=everyone would give it to all who may pull",
        403,
    )


def too_many(message: str, retry_after: Optional[float] = None) -> RegistryError:
    """``retry_after`` is in seconds; None if nobody knows."""
    wait = None if retry_after is None else round(retry_after)
    return RegistryError("TOOMANYREQUESTS", message, 429, wait)


def upstream_unreachable(message: str) -> RegistryError:
    return RegistryError("UNAVAILABLE", message, 502)


def looped() -> RegistryError:
    return RegistryError(
        "UNAVAILABLE",
        "this cache is its own upstream: the registry's name leads to it;"
        " its operator should set UPSTREAM_ADDRESS to where the registry is",
        502,
    )


def upstream_silent(message: str) -> RegistryError:
    return RegistryError("UNAVAILABLE", message, 504)


def no_room(retry_after: int) -> RegistryError:
    """Return the error for a request that waits while others find no room to connect."""
    return RegistryError(
        "UNAVAILABLE",
        "this cache has no room for more connections, and upstream is slow: try again",
        503,
        retry_after,
    )
