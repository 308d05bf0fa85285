"""The message in the body of an error, if it can be shown to people."""

from __future__ import annotations

import json


def error_text(body: bytes) -> str:
    """Return the message in an error's body, on one line; "" if there is none to show."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "" if "<" in text else " ".join(text.split())[:300]
    if isinstance(found, dict):
        errors = found.get("errors")
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            found = errors[0]
        for key in ("message", "error"):
            if isinstance(found.get(key), str):
                return " ".join(found[key].split())[:300]
    return ""
