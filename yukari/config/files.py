"""
Small files that settings name: certificates, passwords, keys.

They are read with care: a FIFO would block for ever, and a device may have no end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import field, frozen
from OpenSSL.crypto import FILETYPE_PEM, X509, load_certificate
from OpenSSL.crypto import Error as CryptoError
from OpenSSL.SSL import Error as SSLError

from yukari.config.setting import InvalidSetting

LARGEST = 16 * 1024 * 1024
"""Bytes at most; the file of all the system's roots has 0.2 MB."""

_END = b"-----END CERTIFICATE-----"
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


_BY_OPENSSL = {
    "no start line": "there is no key or certificate in PEM form",
    "key values mismatch": "the key is not that of the certificate",
    "bad password read": "the key has a passphrase",
    "bad decrypt": "the key has a passphrase",
}
"""Plain words for the reasons that OpenSSL gives."""


def reason_of(error: Exception) -> str:
    """Return why a certificate or a key cannot be used, on one line."""
    of_openssl = error.args[0] if error.args else None
    if isinstance(error, (SSLError, CryptoError)) and isinstance(of_openssl, list):
        reasons = dict.fromkeys(each[-1] for each in of_openssl)
        return ", ".join(_BY_OPENSSL.get(each, each) for each in reasons)
    return " ".join(str(error).split()) or type(error).__name__


def absolute_path(text: str) -> str:
    """Return the path that a setting names; `ValueError` if it names none."""
    if not text.strip():
        raise ValueError("expected a file")
    return os.path.abspath(os.path.expanduser(text))


def check_file(path: str, largest: int = LARGEST) -> None:
    """Raise `ValueError` if it is not a regular file or too large, `OSError` if it is missing."""
    if "\0" in path:
        raise ValueError("expected a path without a NUL")
    found = os.stat(path)
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise ValueError(f"expected a file, this is {kind}")
    if found.st_size > largest:
        raise ValueError(f"expected a file of at most {largest} bytes")


def read_file(path: str, largest: int = LARGEST) -> bytes:
    """Return the whole content; `OSError` or `ValueError` as `check_file`."""
    check_file(path, largest)
    with open(path, "rb") as file:
        text = file.read(largest + 1)
    if len(text) > largest:
        raise ValueError(f"expected a file of at most {largest} bytes")
    return text


@contextmanager
def expecting(what: str) -> Iterator[None]:
    """Turn an `OSError` into an `InvalidSetting` that says that ``what`` was expected."""
    try:
        yield
    except OSError as error:
        raise InvalidSetting(f"expected {what}: {error.strerror}") from None


@frozen
class Roots:
    """The root certificates of a PEM file."""

    path: str
    certificates: tuple[X509, ...] = field(eq=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Roots:
        """Read the file at this path; ValueError says what is wrong with it."""
        path = absolute_path(text)
        with expecting("a file of certificates"):
            content = read_file(path)
        try:
            blocks = [part for part in content.split(_END) if b"-----BEGIN CERT" in part]
            found = tuple(load_certificate(FILETYPE_PEM, part + _END) for part in blocks)
        except Exception:
            raise ValueError("expected certificates in PEM form, one is broken") from None
        if not found:
            raise ValueError("expected certificates in PEM form, there is none")
        return cls(path, found)
