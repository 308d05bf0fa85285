"""The statuses of requests that are refused before a resource sees them."""

from __future__ import annotations

BAD_REQUEST = 400, b"Bad Request"
REQUEST_TIMEOUT = 408, b"Request Timeout"
TOO_LARGE = 413, b"Content Too Large"
TOO_MANY = 429, b"Too Many Requests"
BUSY = 503, b"Service Unavailable"
HEADERS_TOO_LARGE = 431, b"Request Header Fields Too Large"
