"""The HTTP client by which the verbs ask a running cache. It blocks, and needs no reactor."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Optional, Union
from urllib.parse import unquote, urlsplit

from attrs import define, field

from yukari import __version__
from yukari.config.setting import without_secrets

DEFAULT = "http://localhost:9200"
WITHIN = 300.0
"""Seconds of silence after which the cache is given up."""
IMPORTED_WITHIN = 24 * 3600.0
"""The same while an archive is imported: its blobs may go into a bucket over a slow line."""
MAX_REPLY = 64 * 1024 * 1024
"""Bytes of a reply, or of one line of it, at most."""
IS_IT_ONE = "is this a Yukari?"
"""Ends the errors of a host that does not answer as a cache does."""


class CacheError(Exception):
    """An error to show to a person; ``status`` is HTTP's, 0 if there was no reply."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@define(eq=False, repr=False)
class Cache:
    """
    The cache at a URL, which may have a user and password.

    Its methods raise `CacheError` and nothing else.
    """

    url: str
    _headers: dict[str, str] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        wrong = f"{without_secrets(self.url)}: expected a URL such as {DEFAULT}"
        try:
            parts = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError:  # Its text may have a part of a password.
            raise CacheError(wrong) from None
        more = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or more:
            raise CacheError(wrong)
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            token = base64.b64encode(user.encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._headers["User-Agent"] = f"yukari/{__version__}"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.url = f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")

    def ask(
        self,
        method: str,
        path: str,
        body: Union[dict[str, Any], Iterator[bytes], None] = None,
        headers: Optional[Mapping[str, str]] = None,
        *,
        also: Collection[int] = (),
        within: float = WITHIN,
    ) -> Any:
        """
        Return the JSON that the cache answers, None for an empty answer.

        A status from 300 on is an error, except for those in ``also``.
        """
        with self.open(method, path, body, headers, also=also, within=within) as response:
            text = self.read(response, MAX_REPLY)
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            raise CacheError(f"{self.url}{path}: not JSON: {IS_IT_ONE}") from None

    def lines(
        self, method: str, path: str, body: Optional[dict[str, Any]] = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the objects that the cache answers line by line."""
        with self.open(method, path, body) as response:
            while True:
                line = self._read_line(response)
                if not line:
                    return
                try:
                    found = json.loads(line)
                except ValueError:
                    found = None
                if not isinstance(found, dict):
                    raise CacheError(f"{self.url}{path}: not an object of JSON: {IS_IT_ONE}")
                if "error" in found:
                    raise CacheError(str(found["error"]), response.status)
                yield found

    def models(self, *wanted: str) -> Iterator[dict[str, Any]]:
        """Yield these columns, or all, of what the cache knows of its models, in their order."""
        columns: list[str] = []
        for line in self._pages(wanted):
            columns = line.get("columns", columns)
            for row in line.get("rows", ()):
                yield dict(zip(columns, row))

    def rows(self, *wanted: str) -> list[list[Any]]:
        """Return these columns of the models, in their order: half the work of `models`."""
        rows: list[list[Any]] = []
        for line in self._pages(wanted):
            rows += line.get("rows", ())
        return rows

    def _pages(self, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        asked = f"?columns={','.join(wanted)}" if wanted else ""
        return self.lines("GET", f"/store/models{asked}")

    def open(
        self,
        method: str,
        path: str,
        body: Union[dict[str, Any], Iterator[bytes], None] = None,
        headers: Optional[Mapping[str, str]] = None,
        *,
        also: Collection[int] = (),
        within: float = WITHIN,
    ) -> HTTPResponse:
        """Send a request, and return the reply; which statuses are errors: see `ask`."""
        sent: dict[str, str] = {**self._headers, **(headers or {})}
        content: Any = body
        if isinstance(body, dict):
            content = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = self._connection(within)
        try:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.request(
                method, path, content, sent, encode_chunked=not isinstance(body, (dict, type(None)))
            )
            response = connection.getresponse()
        except BrokenPipeError:
            # The cache has refused before it read everything, and says why.
            response = self._refused(connection)
        except (OSError, HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None
        if response.status >= 300 and response.status not in also:
            message = _message(self.read(response, 64 * 1024))
            said = f"{self.url}{path}: {response.status} {response.reason}: {IS_IT_ONE}"
            raise CacheError(message or said, response.status)
        return response

    def _refused(self, connection: HTTPConnection) -> HTTPResponse:
        try:
            return connection.getresponse()
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None

    def _connection(self, within: float) -> HTTPConnection:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return HTTPSConnection(host, port, timeout=within, context=context)
        return HTTPConnection(host, port, timeout=within)

    def read(self, response: HTTPResponse, limit: int) -> bytes:
        """Return ``limit`` bytes of a reply; fewer only at its end. `CacheError`."""
        try:
            return response.read(limit)
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None

    def _read_line(self, response: HTTPResponse) -> bytes:
        try:
            return response.readline(MAX_REPLY)
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> CacheError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return CacheError(
                f"{self.url}: its certificate is not trusted: {error.verify_message.rstrip('.')};"
                " SSL_CERT_FILE names a file of root certificates"
            )
        if isinstance(error, ssl.SSLError):
            return CacheError(f"{self.url}: no TLS there: is it http://?")
        if isinstance(error, (socket.timeout, TimeoutError)):
            return CacheError(f"{self.url} does not answer")
        if isinstance(error, ConnectionRefusedError):
            return CacheError(
                f"{self.url}: connection refused: is the cache running? --cache names another"
            )
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return CacheError(f"{self.url}: {why}")


def _message(body: bytes) -> str:
    """Return the message of an error, Ollama's way or a registry's; "" if it is in neither."""
    try:
        found = json.loads(body)
        if isinstance(found.get("errors"), list):
            return str(found["errors"][0]["message"])
        return str(found["error"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""
