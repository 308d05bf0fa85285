"""Texts that others wrote, made fit to be stored and shown."""

from __future__ import annotations


def cut(text: str, most: int) -> str:
    """
    Return the first ``most`` characters of a text.

    JSON can name halves of a character (``"\\ud800"``), which no UTF-8 and no database holds: each
    becomes a question mark.
    """
    return text[:most].encode("utf-8", "replace").decode("utf-8")
