"""Errors of S3."""

from __future__ import annotations

from typing import Optional

UNREACHABLE = "Unreachable"
"""The code of a request that got no reply; its status is 0."""
NO_CREDENTIALS = "NoCredentials"
"""The code if the credentials chain ends without any; nothing was sent."""

_PASSING = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_WRONG_SETTING = frozenset(
    {
        NO_CREDENTIALS,
        "AccessDenied",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "InvalidToken",
        "NoSuchBucket",
        "PermanentRedirect",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)


class S3Error(OSError):
    """
    A request that failed: S3's ``code``, the HTTP ``status`` (0 if no reply arrived) and its
    ``message`` on one line. ``retry_after`` is in seconds, if S3 named a time.

    An OSError, because that is what storing fails with.
    """

    def __init__(
        self, code: str, status: int, message: str, retry_after: Optional[float] = None
    ) -> None:
        self.code = code
        self.status = status
        self.message = " ".join(message.split())[:300]
        self.retry_after = retry_after
        said = f"{code}: {self.message}" if self.message else code
        super().__init__(f"S3 answered {status} {said}" if status else f"S3: {self.message}")

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later, with nothing changed."""
        if self.code == NO_CREDENTIALS or self.status == 501:
            return False
        return self.code in _PASSING or self.status in (0, 408, 429) or self.status >= 500

    @property
    def unanswered(self) -> bool:
        """Whether no reply arrived, so that S3 may have done what was asked."""
        return self.status == 0

    @property
    def unsupported(self) -> bool:
        """Whether this S3 lacks what was asked of it, such as conditional puts."""
        return self.status == 501 or self.code == "NotImplemented"

    @property
    def wrong_setting(self) -> bool:
        """Whether somebody has to change a setting, a key, a bucket or a clock."""
        return not self.passing and (
            self.code in _WRONG_SETTING or self.status in (301, 400, 401, 403, 404)
        )


class BeingRemoved(S3Error):
    """Another daemon is removing an object just now: put it again later."""

    def __init__(self, key: str) -> None:
        super().__init__("OperationAborted", 409, f"another daemon is removing {key} just now")
