"""
Parsers of single settings: text in, a value out, `InvalidSetting` for what cannot be read.

The values that are more than a number or a word have modules of their own beside this one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from constantly import NamedConstant
from twisted.logger import LogLevel

from yukari.config.setting import InvalidSetting
from yukari.config.units import FreeSpace, parse_bytes
from yukari.config.urls import RegistryUrl

TIGRIS = "tigris"
"""The value of STORAGE when models are stored in an S3 bucket, not in a directory."""
_LEVELS = {
    "DEBUG": LogLevel.debug,
    "INFO": LogLevel.info,
    "WARN": LogLevel.warn,
    "ERROR": LogLevel.error,
}
_SWITCH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def parse_level(text: str) -> NamedConstant:
    """One of `twisted.logger.LogLevel`."""
    try:
        return _LEVELS[text.upper()]
    except KeyError:
        raise InvalidSetting("expected DEBUG, INFO, WARN or ERROR") from None


def one_of(*words: str) -> Callable[[str], str]:
    """Return a parser of one of these words, in whatever case it is written."""
    expected = f"expected {', '.join(words[:-1])} or {words[-1]}"

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise InvalidSetting(expected)
        return text.lower()

    return parse


def parse_switch(text: str) -> bool:
    """Yes or no, in the usual ways to write them."""
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise InvalidSetting("expected 1, true, yes, on, 0, false, no or off") from None


def parse_bucket(text: str) -> str:
    """A bucket's name, by the loosest rule among S3 stores; the store itself may be stricter."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", text):
        raise InvalidSetting("expected a bucket's name: letters, digits, '.', '_' and '-'")
    return text


def parse_endpoint(text: str) -> str:
    """An S3 endpoint: a URL without a path and without a slash at its end."""
    url = RegistryUrl.parse(text, "https://s3.example.com")
    if url.prefix != "/":
        raise InvalidSetting("expected an http or https URL without a path")
    return url.url.rstrip("/")


def parse_count(text: str) -> int:
    """A whole number above 0."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise InvalidSetting("expected a whole number above 0")
    return int(text)


def parse_spool_max(text: str) -> int:
    """Bytes above 0."""
    count = parse_bytes(text)
    if count <= 0:
        raise InvalidSetting("expected bytes above 0, such as 500GB or 500GiB")
    return count


def parse_store_max(text: str) -> FreeSpace:
    """Bytes or a percentage, above 0."""
    most = FreeSpace.parse(text)
    if not (most.bytes or most.percent):
        raise InvalidSetting("expected bytes above 0, such as 500GB, or a percentage such as 80%")
    return most


def parse_storage(text: str) -> str:
    """A directory's path, as it was given, or `TIGRIS`, in whatever case it is written."""
    return TIGRIS if text.lower() == TIGRIS else parse_directory(text)


def parse_directory(text: str) -> str:
    """A directory's path, as it was given."""
    if "://" in text:
        raise InvalidSetting("expected a directory, not a URL; TIGRIS_BUCKET names a bucket")
    return _path(text, "a directory")


def parse_file(text: str) -> str:
    """A file's path, as it was given."""
    return _path(text, "a file")


def _path(text: str, what: str) -> str:
    if not text.strip() or "\0" in text:
        raise InvalidSetting(f"expected {what}")
    return text
