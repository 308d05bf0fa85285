"""
Pages of names: ``n`` and ``last`` of ``/v2/_catalog`` and ``tags/list``.

By the distribution specification, a page holds at most ``n`` names that sort after ``last``, and a
Link header names the next page if there is one.
"""

from __future__ import annotations

from typing import Any, Optional
from urllib.parse import urlencode

from attrs import frozen

from yukari.errors import RegistryError

MAX_PAGE = 1000
"""Names on a page at most, whatever ``n`` is."""


@frozen
class Page:
    """A requested page: at most ``most`` names after ``last``."""

    most: int
    last: str

    @classmethod
    def asked_by(cls, request: Any) -> Page:
        """Parse a request's query; `RegistryError` if ``n`` is not a count."""
        n = _one(request, b"n")
        if n is None:
            return cls(MAX_PAGE, _one(request, b"last") or "")
        if not n.isascii() or not n.isdigit() or int(n[:9]) == 0:
            raise RegistryError(
                "PAGINATION_NUMBER_INVALID", f"n {n[:20]!a}: expected a number above 0", 400
            )
        return cls(min(MAX_PAGE, int(n[:9])), _one(request, b"last") or "")

    def cut(self, names: list[str], request: Any) -> list[str]:
        """
        Return the first ``most`` of ``names``, which sort after ``last``; a Link says if there are
        more.
        """
        page = names[: self.most]
        if len(names) > len(page):
            query = urlencode({"n": self.most, "last": page[-1]})
            link = f'<{request.path.decode("latin-1")}?{query}>; rel="next"'
            request.setHeader(b"link", link.encode("latin-1"))
        return page


def _one(request: Any, name: bytes) -> Optional[str]:
    values = request.args.get(name)
    return values[0].decode("latin-1") if values else None
