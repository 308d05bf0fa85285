"""
Where the bucket is: from the variables that AWS's own tools read.

If none is set it is Tigris, as in the original Yukari.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import frozen

TIGRIS_ENDPOINT = "https://t3.storage.dev"
TIGRIS_INSIDE_FLY = "https://fly.storage.tigris.dev"
"""The same store, closer to what runs on Fly."""
TIGRIS_REGION = "auto"

_PRIVATE = (".local", ".internal", ".svc", ".lan", ".home.arpa")
_DNS_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


class InvalidPlace(ValueError):
    """A value that cannot be an endpoint; the text is one line that names the variable."""


def is_public(hostname: str) -> bool:
    """Whether ``hostname`` may be public: not an address, a single label or a private domain."""
    name = hostname.lower().rstrip(".")
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        private = name.endswith(_PRIVATE) or name.endswith(".svc.cluster.local")
        return "." in name and not private and not name.endswith(".localhost")
    return False


@frozen
class BucketPlace:
    """A bucket and its endpoint, a URL without a path."""

    endpoint: str
    region: str
    bucket: str
    path_style: bool
    """``endpoint/bucket/key`` and not ``bucket.endpoint/key``."""

    @classmethod
    def of(cls, bucket: str, environment: Mapping[str, str]) -> BucketPlace:
        """From ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL`` and ``AWS_REGION``; `InvalidPlace`."""
        inside_fly = any(environment.get(name) for name in ("FLY_APP_NAME", "FLY_MACHINE_ID"))
        endpoint = TIGRIS_INSIDE_FLY if inside_fly else TIGRIS_ENDPOINT
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            if given := environment.get(name, "").strip():
                endpoint = endpoint_of(name, given)
                break
        region = (
            environment.get("AWS_REGION", "").strip()
            or environment.get("AWS_DEFAULT_REGION", "").strip()
            or TIGRIS_REGION
        )
        return cls(endpoint, region, bucket, needs_path_style(endpoint, bucket))

    def at(self, endpoint: str) -> BucketPlace:
        """Return the same bucket at another endpoint."""
        return BucketPlace(
            endpoint, self.region, self.bucket, needs_path_style(endpoint, self.bucket)
        )

    @property
    def host(self) -> tuple[str, int]:
        """The host (IPv6 without brackets) and the port that its requests go to."""
        parts = urlsplit(self.endpoint)
        name = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return name if self.path_style else f"{self.bucket}.{name}", port

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.bucket}"


def endpoint_of(name: str, text: str) -> str:
    """Return the endpoint in ``text`` without a trailing slash; `InvalidPlace` names ``name``."""
    try:
        parts = urlsplit(text)
        good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment or "@" in parts.netloc)
            and text.isascii()
            and not re.search(r"[\s\\]", text)
        )
    except ValueError:
        good = False
    if not good:
        shown = ascii(re.sub(r"//\S*@", "//***@", text))[:120]
        raise InvalidPlace(
            f"{name} {shown}: expected an http or https URL without a path, a user or a query"
        )
    return f"{parts.scheme}://{parts.netloc.lower()}"


def needs_path_style(endpoint: str, bucket: str) -> bool:
    """Whether ``bucket.endpoint`` cannot resolve, or cannot be covered by a certificate."""
    return not is_public(urlsplit(endpoint).hostname or "") or not _DNS_BUCKET.fullmatch(bucket)
