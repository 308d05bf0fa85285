"""
What botocore knows of S3: how to write and sign a request, and what a reply means.

Nothing here touches the network: botocore's own client writes the request, and a ``before-send``
handler takes it from there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Optional
from urllib.parse import urlsplit

from attrs import define, field, frozen
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest, HeadersDict
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.parsers import ResponseParserError, ResponseParserFactory
from botocore.session import Session
from botocore.utils import parse_timestamp

from yukari import __version__
from yukari.s3.credentials import AccessKeys
from yukari.s3.errors import S3Error
from yukari.s3.location import BucketPlace

_NOT_OURS = frozenset({"content-length", "expect", "transfer-encoding", "user-agent"})
"""Headers that Twisted writes itself, or that nothing needs."""
_OF_AWS_TOOLS = ("amz-sdk-", "x-amzn-trace-id")

_WITHOUT_A_BODY = {
    301: ("PermanentRedirect", "the bucket is elsewhere"),
    400: ("BadRequest", ""),
    401: ("Forbidden", ""),
    403: ("Forbidden", ""),
    404: ("NotFound", ""),
    412: ("PreconditionFailed", ""),
}
"""The code of a reply to HEAD, by its status alone."""


@frozen
class Signed:
    """A request ready to be sent; ``body`` is what botocore wrote, None for none."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: Optional[bytes]


class _Written(Exception):
    """Carries a request out of botocore."""

    def __init__(self, request: Any) -> None:
        super().__init__("written")
        self.request = request


class _BodyUnsigned(S3SigV4Auth):
    """
    Signs without a hash of the body, which is produced while it is sent; its MD5 is compared with
    the ETag afterwards.
    """

    def payload(self, request: AWSRequest) -> str:
        return "UNSIGNED-PAYLOAD"


def _take(request: Any, **_: Any) -> None:
    raise _Written(request)


@define(eq=False, repr=False)
class Signing:
    """Requests to one place, and what their replies mean."""

    _session: Session
    place: BucketPlace
    _client: Any = field(init=False)
    _parser: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        style = "path" if self.place.path_style else "virtual"
        self._client = self._session.create_client(
            "s3",
            region_name=self.place.region,
            endpoint_url=self.place.endpoint,
            config=Config(
                signature_version=UNSIGNED,
                s3={"addressing_style": style},
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._client.meta.events.register("before-send.s3", _take)
        parsers = ResponseParserFactory()
        parsers.set_parser_defaults(timestamp_parser=_timestamp)
        self._parser = parsers.create_parser("rest-xml")

    def request(
        self,
        keys: AccessKeys,
        operation: str,
        parameters: dict[str, Any],
        *,
        streamed: bool = False,
    ) -> Signed:
        """Return a signed request; ``streamed`` if the caller adds the body."""
        written = self._write(operation, parameters)
        auth = _BodyUnsigned if streamed else S3SigV4Auth
        auth(_keys(keys), "s3", self.place.region).add_auth(written)
        headers = [(name, _text(value)) for name, value in written.headers.items()]
        headers.append(("User-Agent", f"yukari/{__version__}"))
        headers.append(("Accept-Encoding", "identity"))
        return Signed(written.method, written.url, tuple(headers), written.data or None)

    def presign(self, keys: AccessKeys, key: str, seconds: int) -> str:
        """Return a URL by which anybody can GET ``key`` for so many seconds."""
        written = self._write("get_object", {"Key": key})
        for name in list(written.headers.keys()):
            del written.headers[name]
        S3SigV4QueryAuth(_keys(keys), "s3", self.place.region, expires=seconds).add_auth(written)
        return str(written.url)

    def _write(self, operation: str, parameters: dict[str, Any]) -> AWSRequest:
        try:
            getattr(self._client, operation)(Bucket=self.place.bucket, **parameters)
        except _Written as written:
            taken = written.request
        headers = {}
        for name, value in taken.headers.items():
            lower = name.lower()
            if lower not in _NOT_OURS and not lower.startswith(_OF_AWS_TOOLS):
                headers[name] = _text(value)
        body = taken.body
        if body is not None and not isinstance(body, (bytes, str)):
            body = body.read()
        return AWSRequest(
            method=taken.method,
            url=taken.url,
            headers=headers,
            data=body.encode() if isinstance(body, str) else body,
        )

    def parse(
        self, operation: str, status: int, headers: dict[str, str], body: bytes
    ) -> dict[str, Any]:
        """Return a reply's content, by the names in S3's documentation; `S3Error`."""
        # Complete and Copy answer 200 before they have finished; an error may follow in the body.
        failed = status >= 300 or _is_error(body)
        model = self._client.meta.service_model.operation_model(
            self._client.meta.method_to_api_mapping[operation]
        )
        told = {
            "status_code": 500 if failed and status < 300 else status,
            "headers": HeadersDict(headers),
            "body": body,
        }
        try:
            parsed: dict[str, Any] = self._parser.parse(told, model.output_shape)
        except (ResponseParserError, ValueError, KeyError) as error:
            if not failed:
                raise S3Error("Unreadable", 500, f"a reply that is none: {error}") from None
            parsed = {}
        if failed:
            raise self._error(status, parsed.get("Error", {}), body)
        return parsed

    def _error(self, status: int, error: dict[str, Any], body: bytes) -> S3Error:
        code, message = error.get("Code") or "", error.get("Message") or ""
        if not code or code.isdigit():
            code, message = _WITHOUT_A_BODY.get(status, (f"HTTP{status}", ""))
        if not message and body and b"<Error" not in body:
            message = body[:200].decode("utf-8", "replace")
        return S3Error(code, status, message)

    @property
    def host(self) -> str:
        """The endpoint's host name."""
        return urlsplit(self.place.endpoint).hostname or ""


def _timestamp(text: str) -> datetime:
    """
    Parse a time, faster than botocore, whose parser takes most of the time of reading a listing.
    """
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        found: datetime = parse_timestamp(text)
        return found


def _is_error(body: bytes) -> bool:
    start = body.lstrip()[:200]
    if start.startswith(b"<?xml"):
        start = start[start.find(b"?>") + 2 :].lstrip()
    return start.startswith(b"<Error")


def _keys(keys: AccessKeys) -> ReadOnlyCredentials:
    return ReadOnlyCredentials(keys.access, keys.secret, keys.token)


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
