"""A client of one bucket, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from attrs import frozen
from botocore.exceptions import BotoCoreError
from botocore.session import Session
from twisted.internet.defer import Deferred
from twisted.web.iweb import IPolicyForHTTPS

from yukari.config.files import Roots
from yukari.config.proxies import Proxies
from yukari.metrics import Metrics
from yukari.net.agent import Connections
from yukari.net.host_line import HostLine
from yukari.net.trust import trust
from yukari.s3.client import S3Client
from yukari.s3.credentials import Credentials
from yukari.s3.location import BucketPlace, InvalidPlace, endpoint_of
from yukari.s3.signing import Signing


@frozen
class OpenedBucket:
    """A client, its connections, what they bring, and the bucket as our clients reach it."""

    client: S3Client
    connections: Connections
    line: HostLine
    seen: Signing


def open_bucket(
    reactor: Any,
    bucket: str,
    environment: Mapping[str, str],
    in_thread: Callable[..., Deferred[Any]],
    *,
    connections: int = 64,
    proxies: Optional[Proxies] = None,
    presign_endpoint: Optional[str] = None,
    metrics: Optional[Metrics] = None,
) -> OpenedBucket:
    """
    Return a client of ``bucket``, set up by AWS's environment variables; it sends nothing yet.

    `InvalidPlace` names the variable that is wrong.
    """
    place = BucketPlace.of(bucket, environment)
    policy = _policy(environment.get("AWS_CA_BUNDLE", ""))
    try:
        session = _session(environment)
        styles = session.get_scoped_config().get("s3")
        if isinstance(styles, dict) and styles.get("addressing_style") in ("path", "virtual"):
            path_style = styles["addressing_style"] == "path"
            place = BucketPlace(place.endpoint, place.region, bucket, path_style)
        signing = seen = Signing(session, place)
        if presign_endpoint:
            endpoint = endpoint_of("PRESIGN_ENDPOINT", presign_endpoint)
            seen = Signing(session, place.at(endpoint))
    except BotoCoreError as error:
        raise InvalidPlace(f"TIGRIS_BUCKET {bucket}: {error}") from None
    pool = Connections(reactor, connections, policy, proxies=proxies or Proxies())
    credentials = Credentials(session, in_thread)
    client = S3Client(signing, credentials, pool.agent, reactor, metrics=metrics or Metrics())
    return OpenedBucket(client, pool, pool.lines.of(place.host), seen)


def _session(environment: Mapping[str, str]) -> Session:
    """Return botocore's session, with an empty CA bundle variable as unset and not as a file."""
    session = Session()
    if not (session.get_config_variable("ca_bundle") or "").strip():
        more = environment.get("REQUESTS_CA_BUNDLE", "").strip()
        session.set_config_variable("ca_bundle", more or True)
    return session


def _policy(bundle: str) -> Optional[IPolicyForHTTPS]:
    """Trust in the certificates of a PEM file, None for the system's."""
    if not bundle.strip():
        return None
    try:
        return trust(Roots.parse(bundle.strip()), system=False)
    except ValueError as error:
        raise InvalidPlace(f"AWS_CA_BUNDLE {bundle}: {error}") from None
