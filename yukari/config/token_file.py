"""Tokens in files, by which registries such as Hugging Face's know their users."""

from __future__ import annotations

import os
import re

from attrs import field, frozen

from yukari.config.files import read_file
from yukari.config.urls import InvalidSetting

LARGEST = 16 * 1024
"""Bytes of a token's file at most: what is sent has to fit into one header."""
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]+")
"""The characters of a Bearer token (RFC 6750, section 2.1)."""


@frozen
class BearerToken:
    """A token, which it does not show, and the path of the file that it was read from."""

    path: str
    value: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> BearerToken:
        """Read the token in the file at this path; `ValueError` says what is wrong with it."""
        path = os.path.abspath(os.path.expanduser(text))
        try:
            content = read_file(path, LARGEST).strip()
        except OSError as error:
            raise InvalidSetting(f"expected a token's file: {error.strerror}") from None
        if not _TOKEN.fullmatch(content):
            raise InvalidSetting("expected a file that has a token, on one line, and nothing else")
        return cls(path, content.decode("ascii"))
