"""
The proof that a form was filled in on one of our own pages.

A page of another site can make a browser send a form here, with the password that it remembers;
it cannot read the token that our forms carry.
"""

from __future__ import annotations

import re
from hmac import compare_digest
from secrets import token_urlsafe

from attrs import field, frozen

from yukari.errors import RegistryError

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


@frozen
class FormToken:
    """The token of this process; forms of an earlier one are refused."""

    text: str = field(factory=lambda: token_urlsafe(24), repr=False)

    def check(self, sent: str) -> None:
        """Raise `RegistryError` unless ``sent`` is the token."""
        if not _TOKEN.fullmatch(sent) or not compare_digest(sent, self.text):
            raise RegistryError("DENIED", "this page is too old: reload it and try again", 403)
